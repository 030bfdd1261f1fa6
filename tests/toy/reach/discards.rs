//! Memory that goes, from areas that stay.

use stage2::{
    region::RegionError,
    space::{Progress, Refill},
};

use super::*;

impl World {
    /// At once, or in steps.
    pub(super) fn discard(&mut self, guest: usize, (start, most): (usize, usize), how: (usize, usize)) -> Verdict {
        let is_mapped = |slot: Option<Slot>| slot.is_some_and(|slot| slot.stand != Stand::Borrowed);
        let Some(pages) = self.twin.run(guest, start, most, is_mapped) else { return Ok(()) };
        let refill = if how.0.is_multiple_of(2) { Refill::Zeros } else { Refill::Source };
        let in_steps = how.1.is_multiple_of(3);
        self.note(format!("guest {guest}: discard {pages:?}: {refill:?}{}", if in_steps { ", in steps" } else { "" }));
        let space = &self.spaces[guest];
        let discarded = if in_steps {
            space.discard_in_steps(span(&pages), refill).map(|mut discarding| {
                for _ in 0..how.1 % 5 {
                    let _ = discarding.step(1);
                }
            })
        } else {
            space.discard(span(&pages), refill)
        };
        discarded.map_err(|error| format!("discard: {error}"))?;
        for page in pages {
            let slot = self.twin.slot(guest, page);
            if let Stand::Shared(..) = slot.stand {
                continue;
            }
            let origin = slot.origin.filter(|_| refill == Refill::Source);
            let stand = if origin == slot.origin { slot.stand } else { Stand::Private };
            let cell = self.twin.cell(origin.map_or(Holds::Zeros, Holds::Missing));
            self.twin.guests[guest].slots[page] = Some(Slot { cell, stand, own: Own::No, origin });
        }
        Ok(())
    }

    /// With all guests named, or all but one.
    pub(super) fn punch(&mut self, number: usize, (start, most): (usize, usize)) -> Verdict {
        let Some(handle) = self.any_handle(number, |_, region| !self.twin.regions[region].frozen) else {
            return Ok(());
        };
        let region = self.twin.handles[handle];
        let size = self.twin.regions[region].cells.len();
        let pages = start % size..(start % size + 1 + most % 4).min(size);
        let unnamed = if most % 3 == 0 { Some(start % self.spaces.len()) } else { None };
        let but = unnamed.map_or_else(String::new, |guest| format!(", guest {guest} is not named"));
        self.note(format!("handle {handle}: discard {pages:?}{but}"));
        let named = self.spaces.iter().enumerate().filter(|(guest, _)| Some(*guest) != unnamed);
        let discarded = self.handles[handle].region().discard_in_steps(
            pages.start * PAGE,
            pages.len() * PAGE,
            named.map(|(_, space)| &**space),
        );
        let discarded = discarded.map(|mut discarding| while discarding.step(start % 3 + 1) == Progress::More {});
        let cells = &self.twin.regions[region].cells[pages.clone()];
        let shows = |slot: &Slot| matches!(slot.stand, Stand::Shared(..)) && cells.contains(&slot.cell);
        let is_shown = unnamed.is_some_and(|guest| self.twin.guests[guest].slots.iter().flatten().any(shows));
        match discarded {
            Ok(()) if !is_shown => {}
            Err(RegionError::ShownElsewhere { .. }) if is_shown => return Ok(()),
            other => return Err(format!("discard: {other:?}")),
        }
        for page in pages {
            let (old, origin) = (self.twin.regions[region].cells[page], self.twin.regions[region].origins[page]);
            let new = self.twin.cell(origin.map_or(Holds::Zeros, Holds::Missing));
            self.twin.regions[region].cells[page] = new;
            let slots = self.twin.guests.iter_mut().flat_map(|guest| guest.slots.iter_mut().flatten());
            slots.filter(|slot| slot.cell == old).for_each(|slot| slot.cell = new);
        }
        Ok(())
    }

    /// By private memory, or by a part of a region; what is borrowed there is returned.
    pub(super) fn replace(
        &mut self,
        guest: usize,
        (start, most): (usize, usize),
        (number, from): (usize, usize),
        how: usize,
    ) -> Verdict {
        let handle = self.any_handle(number, |_, _| true).filter(|_| !how.is_multiple_of(3));
        let region = handle.map(|handle| self.twin.handles[handle]);
        let size = region.map_or(PAGES, |region| self.twin.regions[region].cells.len());
        let from = from % size;
        let pages = start..(start + most.min(size - from)).min(PAGES);
        let inherits = region.is_some_and(|region| self.twin.regions[region].frozen);
        let mapping = match handle.map(|handle| (handle, self.handles[handle].region().clone())) {
            None => {
                self.note(format!("guest {guest}: replace {pages:?} by private memory"));
                LAZY
            }
            Some((handle, region)) => {
                let by = if inherits { "copy-on-write" } else { "shared" };
                self.note(format!("guest {guest}: replace {pages:?} {by} by handle {handle}, from page {from} on"));
                let offset = from * PAGE;
                if inherits { Mapping::CopyOnWrite { region, offset } } else { Mapping::Shared { region, offset } }
            }
        };
        let replaced = self.spaces[guest].replace(span(&pages), mapping, RW);
        replaced.map_err(|error| format!("replace: {error}"))?;
        let window = self.new_window();
        for (index, page) in pages.enumerate() {
            let (cell, stand, origin) = match region {
                None => (self.twin.cell(Holds::Zeros), Stand::Private, None),
                Some(region) => {
                    let twin::Region { cells, origins, .. } = &self.twin.regions[region];
                    let stand = if inherits { Stand::Inherited } else { Stand::Shared(region, window) };
                    (cells[from + index], stand, origins[from + index].filter(|_| inherits))
                }
            };
            self.twin.guests[guest].slots[page] = Some(Slot { cell, stand, own: Own::No, origin });
        }
        Ok(())
    }
}
