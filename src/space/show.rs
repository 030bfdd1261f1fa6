//! The map as text.

use core::fmt::{self, Write as _};

use arrayvec::ArrayString;
use page_table_multiarch::MappingFlags;

use super::{Area, AreaKind, GuestSpace};
use crate::{
    addr::{GuestPhysAddr, GuestPhysRange},
    format::Owner,
    lock::LockFamily,
    platform::Platform,
    table::Run,
};

/// The map as text: each area, and below it the runs of populated memory.
///
/// No lock is held while it is written: under changes it shows each part as it is when its turn comes.
impl<P: Platform, L: LockFamily> fmt::Display for GuestSpace<P, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut from = GuestPhysAddr::from_usize(0);
        while let Some(area) = self.area_behind(from) {
            writeln!(f, "{area}")?;
            let mut runs = Runs { pending: None };
            self.each_run(area.range, |run| runs.add(f, run))?;
            runs.flush(f)?;
            from = area.range.end;
        }
        Ok(())
    }
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", Span(self.range), Letters(self.flags))?;
        match self.kind {
            AreaKind::Linear(to) => write!(f, " linear to {:#x}", to.as_usize()),
            AreaKind::Private => write!(f, " private"),
            AreaKind::Borrowed => write!(f, " borrowed"),
            AreaKind::CopyOnWrite(offset) => write!(f, " copy-on-write from {offset:#x}"),
            AreaKind::Shared(offset) => write!(f, " shared from {offset:#x}"),
        }
    }
}

/// A run of leaves of one size, side by side for the guest and, where `to` is given, for the host.
#[derive(Clone, Copy)]
struct Merged {
    range: GuestPhysRange,
    leaf_size: usize,
    flags: MappingFlags,
    owner: Owner,
}

/// Merges leaves into runs while they are shown.
struct Runs {
    pending: Option<Merged>,
}

impl Runs {
    fn add(&mut self, f: &mut fmt::Formatter<'_>, run: Run) -> fmt::Result {
        let new =
            Merged { range: run.range, leaf_size: run.range.size(), flags: run.leaf.flags, owner: run.leaf.owner };
        match &mut self.pending {
            Some(last)
                if (last.range.end, last.leaf_size, last.flags, last.owner)
                    == (new.range.start, new.leaf_size, new.flags, new.owner) =>
            {
                last.range.end = new.range.end;
            }
            _ => {
                self.flush(f)?;
                self.pending = Some(new);
            }
        }
        Ok(())
    }

    fn flush(&mut self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(run) = self.pending.take() else { return Ok(()) };
        let count = run.range.size() / run.leaf_size;
        let owner = match run.owner {
            Owner::Space => "own",
            Owner::Foreign => "foreign",
            Owner::Shared => "shared",
            Owner::Frozen => "frozen",
            Owner::OnLoan => "on loan",
            Owner::Borrowed => "borrowed",
        };
        writeln!(f, "  {} {} {count} × {} {owner}", Span(run.range), Letters(run.flags), Bytes(run.leaf_size))
    }
}

/// A range with its size.
struct Span(GuestPhysRange);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, end) = (self.0.start.as_usize(), self.0.end.as_usize());
        write!(f, "{start:#014x}..{end:#014x} {:>8}", Bytes(self.0.size()))
    }
}

/// A size in the largest unit that divides it.
struct Bytes(usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, unit) = match self.0.trailing_zeros() {
            30.. if self.0 > 0 => (self.0 >> 30, "GiB"),
            20..30 => (self.0 >> 20, "MiB"),
            10..20 => (self.0 >> 10, "KiB"),
            _ => (self.0, "B"),
        };
        // The longest number, and its unit: without heap, since a space is shown where memory ran out, too.
        let mut text = ArrayString::<24>::new();
        write!(text, "{count} {unit}")?;
        f.pad_integral(true, "", &text)
    }
}

/// Flags as letters.
struct Letters(MappingFlags);

impl fmt::Display for Letters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = [
            (MappingFlags::READ, 'r'),
            (MappingFlags::WRITE, 'w'),
            (MappingFlags::EXECUTE, 'x'),
            (MappingFlags::DEVICE, 'd'),
            (MappingFlags::UNCACHED, 'u'),
        ];
        for (flag, letter) in letters {
            write!(f, "{}", if self.0.contains(flag) { letter } else { '-' })?;
        }
        Ok(())
    }
}
