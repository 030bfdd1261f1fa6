//! Memory that goes, from areas that stay.

use stage2::space::Refill;

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
}
