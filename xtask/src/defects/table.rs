//! What a defect is, and all of them.

use std::fmt;

use super::{
    ahead, areas, audit, blocks, debt, discards, formats, invalidation, limits, loans, overtaken, sharing, sources,
    space, walker,
};

/// A defect: a change of the sources that makes them wrong.
#[derive(Debug)]
pub struct Defect {
    pub name: &'static str,
    /// What it is a defect against: lines of `docs/pitfalls.md` (`A1` and the like), rules of `docs/hardware.md` (`H1`).
    pub rules: &'static [&'static str],
    pub edits: &'static [Edit],
    /// At least one of the tests that these filters choose must fail.
    pub host: &'static [Test],
    pub emulator: Emulator,
}

/// A text that occurs once in a file, and what stands there instead.
#[derive(Debug)]
pub struct Edit {
    pub file: &'static str,
    pub text: &'static str,
    pub instead: &'static str,
}

/// Who catches it in an emulator.
#[derive(Clone, Copy, Debug)]
pub enum Emulator {
    /// At least one of these scenarios; a suite that does not come to its end counts too.
    Shows(Board, &'static [&'static str]),
    /// Nothing, for this reason.
    Cannot(&'static str),
}

/// Tests of one program, chosen as `cargo test` does: by a part of their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Test {
    pub suite: Suite,
    pub filter: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suite {
    /// The crate's own.
    Unit,
    /// A file in `tests/`.
    Program(&'static str),
}

impl Suite {
    pub fn arguments(self) -> Vec<&'static str> {
        match self {
            Self::Unit => vec!["--lib"],
            Self::Program(name) => vec!["--test", name],
        }
    }
}

/// A board of QEMU's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Board {
    pub model: &'static str,
    pub cpus: usize,
}

impl fmt::Display for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.model, self.cpus)
    }
}

pub const A57: Board = Board { model: "cortex-a57", cpus: 1 };
pub const A57_PAIR: Board = Board { model: "cortex-a57", cpus: 2 };
pub const MAX: Board = Board { model: "max", cpus: 1 };
pub const MAX_PAIR: Board = Board { model: "max", cpus: 2 };

pub const fn unit(filter: &'static str) -> Test {
    Test { suite: Suite::Unit, filter }
}

/// The scenarios on the model of the hardware.
pub const fn host(filter: &'static str) -> Test {
    Test { suite: Suite::Program("host"), filter }
}

/// The architecture that the crate has never heard of.
pub const fn toy(filter: &'static str) -> Test {
    Test { suite: Suite::Program("toy"), filter }
}

/// Areas alone.
pub const fn set(filter: &'static str) -> Test {
    Test { suite: Suite::Program("memory_set"), filter }
}

/// The scenarios on the model of EPT and NPT.
pub const fn x86(filter: &'static str) -> Test {
    Test { suite: Suite::Program("x86_64"), filter }
}

/// What a hypervisor brings or may replace.
pub const fn parts(filter: &'static str) -> Test {
    Test { suite: Suite::Program("parts"), filter }
}

// Why an emulator does not show a defect: each was measured.

pub const ORDER: Emulator =
    Emulator::Cannot("QEMU executes the sequence whole: nothing walks or speculates in between");
pub const EVERY_SWITCH_FLUSHES: Emulator = Emulator::Cannot("QEMU forgets all translations at every change of VMID");
pub const NO_DENIALS: Emulator = Emulator::Cannot("QEMU caches no denial");
pub const NO_CONFLICTS: Emulator = Emulator::Cannot("QEMU knows no conflict of two translations");
pub const NO_CACHES: Emulator = Emulator::Cannot("QEMU has no caches, and caches no walks");
pub const NO_TABLES: Emulator = Emulator::Cannot("there is no page table in it");
pub const BROADCAST: Emulator = Emulator::Cannot("the suite at EL2 has broadcasts, which never fail");
pub const ONLY_COST: Emulator = Emulator::Cannot("it costs time and nothing else");
pub const NO_LATE_WRITES: Emulator = Emulator::Cannot("in QEMU no write lands after the invalidation");
pub const NO_EPT: Emulator = Emulator::Cannot("QEMU has no EPT");
pub const NO_NPT: Emulator = Emulator::Cannot("the virt board's CPUs have no NPT");

impl Defect {
    pub fn board(&self) -> Option<Board> {
        match self.emulator {
            Emulator::Shows(board, _) => Some(board),
            Emulator::Cannot(_) => None,
        }
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.name, self.rules.join(", "))?;
        self.host.iter().try_for_each(|test| write!(f, "\n  host: {}", test.filter))?;
        match self.emulator {
            Emulator::Shows(board, scenarios) => write!(f, "\n  {board}: {}", scenarios.join(", ")),
            Emulator::Cannot(reason) => write!(f, "\n  emulator: {reason}"),
        }
    }
}

/// All defects, in the order in which they are put in.
pub fn all() -> impl Iterator<Item = &'static Defect> {
    [
        invalidation::DEFECTS,
        formats::DEFECTS,
        walker::DEFECTS,
        space::DEFECTS,
        areas::DEFECTS,
        sources::DEFECTS,
        ahead::DEFECTS,
        limits::DEFECTS,
        loans::DEFECTS,
        blocks::DEFECTS,
        discards::DEFECTS,
        debt::DEFECTS,
        sharing::DEFECTS,
        overtaken::DEFECTS,
        audit::DEFECTS,
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;
    use crate::workspace::root;

    #[test]
    fn every_text_stands_once_in_its_file() {
        let mut stale = Vec::new();
        for (defect, edit) in all().flat_map(|defect| defect.edits.iter().map(move |edit| (defect, edit))) {
            let contents = fs::read_to_string(root().join(edit.file)).expect(edit.file);
            if contents.matches(edit.text).count() != 1 {
                stale.push(format!("{}: in {}:\n{}", defect.name, edit.file, edit.text));
            }
            assert_ne!(edit.text, edit.instead, "{}", defect.name);
        }
        assert!(stale.is_empty(), "{}", stale.join("\n"));
    }

    #[test]
    fn no_two_defects_have_one_name() {
        let names: BTreeSet<&str> = all().map(|defect| defect.name).collect();
        assert_eq!(names.len(), all().count());
    }

    #[test]
    fn every_defect_has_a_catcher() {
        for defect in all() {
            assert!(!defect.host.is_empty() && !defect.rules.is_empty() && !defect.edits.is_empty(), "{}", defect.name);
        }
    }
}
