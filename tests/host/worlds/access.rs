//! A guest, or the hypervisor in its place, reads and writes the guest's memory.

use super::*;

impl<M: Machine> World<M> {
    /// A guest loads a word, or stores one.
    pub(super) fn guest(&mut self, guest: usize, cpu: usize, (page, offset): (usize, usize), stored: Option<u64>) {
        let at = gpa(page).as_usize() + offset;
        let step = stored.map_or(Step::Read(at), |value| Step::Write(at, value));
        let came = self.try_until(guest, cpu, step);
        let access = if stored.is_some() { MappingFlags::WRITE } else { READ };
        let Some(there) = self.twin.guests[guest][page] else {
            return assert_eq!(came, Ok(Came::Answer(Outcome::NotMapped)));
        };
        if !there.flags.contains(access) {
            return assert_eq!(came, Ok(Came::Answer(Outcome::Denied { flags: there.flags })));
        }
        if there.is_lent() {
            return assert_eq!(came, Ok(Came::Answer(Outcome::Lent)));
        }
        if self.excused(guest, &came, 1 + self.on_the_way(guest)) {
            return;
        }
        match stored {
            None => assert_eq!(came, Ok(Came::Done(self.twin.word(&there, offset))), "page {page}"),
            Some(value) => {
                assert!(matches!(came, Ok(Came::Done(_))), "{came:?}");
                self.twin.store(guest, page, offset, value);
            }
        }
    }

    /// The loop that a hypervisor runs around its guest.
    fn try_until(&self, guest: usize, cpu: usize, step: Step) -> Result<Came, Error> {
        let (space, cpu) = (&self.spaces[guest], CpuId(cpu));
        let seat = Seat { cpu, vcpu: VcpuId(cpu.0), view: View::Physical };
        for _ in 0..MOST_FAULTS {
            let fault = match self.machine.attempt(space, seat, step) {
                Attempt::Done(value) => return Ok(Came::Done(value)),
                Attempt::Fault(fault) => fault,
                Attempt::Again => continue,
                other => panic!("{other:?}"),
            };
            match self.machine.on(cpu, || space.fault(cpu, fault))? {
                Outcome::Resolved | Outcome::Retry => {}
                Outcome::NotYet(ticket) => self.bring(ticket, gpa(0))?,
                answer => return Ok(Came::Answer(answer)),
            }
        }
        panic!("{step:x?} faults for ever")
    }

    /// The hypervisor reads a word in a guest's place, or writes one.
    pub(super) fn hypervisor(&mut self, guest: usize, (page, offset): (usize, usize), stored: Option<u64>) {
        let (space, at) = (&self.spaces[guest], gpa(page) + offset);
        let result = self.until_there(|| match stored {
            None => space.read_obj::<u64>(at),
            Some(value) => space.write_obj(at, value).map(|()| value),
        });
        let access = if stored.is_some() { MappingFlags::WRITE } else { READ };
        let Some(there) = self.twin.guests[guest][page] else {
            return assert!(matches!(result, Err(Error::NotMapped(_))), "{result:?}");
        };
        if !there.flags.contains(access) {
            return assert!(matches!(result, Err(Error::Denied { .. })), "{result:?}");
        }
        if there.is_lent() {
            return assert!(matches!(result, Err(Error::State { state: PageState::Lent, .. })), "{result:?}");
        }
        if self.excused(guest, &result, 1 + self.on_the_way(guest)) {
            return;
        }
        match stored {
            None => assert_eq!(result, Ok(self.twin.word(&there, offset)), "page {page}"),
            Some(value) => {
                assert_eq!(result, Ok(value));
                self.twin.store(guest, page, offset, value);
            }
        }
    }
}

/// What came of a guest's try.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Came {
    Done(u64),
    Answer(Outcome),
}
