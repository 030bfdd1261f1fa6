//! The guest uses its memory, or the hypervisor does in its place.

use super::*;

impl Pair {
    pub(super) fn guest(&mut self, cpu: usize, at: usize, does: Does, lucky: bool) {
        let (page, offset) = (at / PAGE, at % PAGE);
        let address = self.twin.base + at;
        let (step, access) = match does {
            Does::Read => (Step::Read(address), Access::Read),
            Does::Write(value) => (Step::Write(address, value), Access::Write),
            Does::Execute => (Step::Execute(address), Access::Execute),
        };
        let came = self.try_until(cpu, step);
        let touched = self.touched(page);
        let Some(expected) = self.twin.page(page).map(|page| page.flags) else {
            return assert_eq!(came, Ok(Attempted::Answer(Outcome::NotMapped)));
        };
        if !expected.contains(access.flag()) {
            return assert_eq!(came, Ok(Attempted::Answer(Outcome::Denied { flags: expected })));
        }
        if out_of_memory(&came, lucky) {
            return assert!(!touched && self.twin.page(page).is_some_and(|page| page.present.is_none()));
        }
        match does {
            Does::Read => assert_eq!(came, Ok(Attempted::Done(self.word(page, offset)))),
            Does::Execute => assert_eq!(came, Ok(Attempted::Done(self.word(page, offset) >> 5 & 0xffff))),
            Does::Write(value) => {
                assert!(matches!(came, Ok(Attempted::Done(_))), "{came:?}");
                self.store(page, offset, value);
            }
        }
    }

    /// The loop that a hypervisor runs around its guest.
    fn try_until(&self, cpu: usize, step: Step) -> Result<Attempted, Error> {
        let seat = Seat { cpu: CpuId(cpu), vcpu: VcpuId(cpu), view: View::Physical };
        for _ in 0..4 {
            let fault = match self.machine.attempt(self.space(), seat, step) {
                Attempt::Done(value) => return Ok(Attempted::Done(value)),
                Attempt::Fault(fault) => fault,
                other => panic!("{other:?}"),
            };
            match self.machine.on(seat.cpu, || self.space().fault(seat.cpu, fault))? {
                Outcome::Resolved | Outcome::Retry => {}
                answer => return Ok(Attempted::Answer(answer)),
            }
        }
        panic!("{step:x?} faults for ever")
    }

    pub(super) fn fault(&mut self, page: usize, (access, cause, origin): (Access, Cause, Origin), lucky: bool) {
        let fault = Fault { gpa: self.twin.gpa(page) + 0x123, access, cause, origin };
        self.machine.switch(self.space(), 0, View::Physical);
        let result = self.space().fault(CpuId(0), fault);
        let populated = self.touched(page);
        // A walk that updates its table has read it.
        let needs = access.flag() | if origin == Origin::GuestWalk { READ } else { MappingFlags::empty() };
        let expected = match self.twin.page(page) {
            None if origin == Origin::GuestWalk => Outcome::Inject,
            None => Outcome::NotMapped,
            Some(there) if origin == Origin::GuestWalk && is_device(there) => Outcome::Inject,
            Some(there) if !there.flags.contains(needs) => Outcome::Denied { flags: there.flags },
            Some(_) if populated || cause == Cause::AccessFlag => Outcome::Resolved,
            Some(there) if there.present.is_some() => Outcome::Retry,
            Some(_) => {
                assert!(out_of_memory(&result, lucky), "{result:?}");
                let named = self.twin.range(&(page..page + 1));
                return assert_eq!(result, Err(Error::NoMemory(named)));
            }
        };
        if self.twin.page(page).is_some_and(|page| page.present.is_none()) && out_of_memory(&result, lucky) {
            return;
        }
        assert_eq!(result, Ok(expected));
    }

    pub(super) fn read(&mut self, at: usize, len: usize, lucky: bool) {
        let mut bytes = vec![0xee; len];
        let result = self.space().read(self.twin.gpa(0) + at, &mut bytes);
        let end = self.accessed(at, len, &result, READ, lucky);
        for index in at..end {
            let word = self.word(index / PAGE, (index % PAGE) & !7);
            assert_eq!(bytes[index - at], word.to_le_bytes()[index % 8], "byte {index:#x}");
        }
        assert!(bytes[end - at..].iter().all(|byte| *byte == 0xee), "what was not read is as it was");
    }

    pub(super) fn write(&mut self, at: usize, bytes: &[u8], lucky: bool) {
        self.note_foreign(at, bytes.len());
        let result = self.space().write(self.twin.gpa(0) + at, bytes);
        let end = self.accessed(at, bytes.len(), &result, MappingFlags::WRITE, lucky);
        for index in at..end {
            let (page, offset) = (index / PAGE, (index % PAGE) & !7);
            let mut word = self.word(page, offset).to_le_bytes();
            word[index % 8] = bytes[index - at];
            self.store(page, offset, u64::from_le_bytes(word));
        }
    }

    pub(super) fn exchange(&mut self, at: usize, value: u64, lucky: bool) {
        self.note_foreign(at, 8);
        let result = self.space().compare_exchange(self.twin.gpa(0) + at, 0, value);
        let end = self.accessed(at, 8, &result.map(drop), MappingFlags::WRITE, lucky);
        if end > at {
            let was = self.word(at / PAGE, at % PAGE);
            assert_eq!(result, Ok(if was == 0 { Ok(0) } else { Err(was) }));
            if was == 0 {
                self.store(at / PAGE, at % PAGE, value);
            }
        }
    }

    /// Notes what is in foreign memory before it may change.
    fn note_foreign(&mut self, at: usize, len: usize) {
        for at in (at / 8 * 8..at + len).step_by(8) {
            let Some(Page { behind: Behind::Linear(hpa), .. }) = self.twin.page(at / PAGE) else { continue };
            let word = hpa + at % PAGE;
            if word < DEVICES {
                let machine = &self.machine;
                self.twin.foreign.entry(word).or_insert_with(|| machine.peek(PhysAddr::from_usize(word)));
            }
        }
    }

    /// Judges an access of the hypervisor's, page by page: where it ended.
    fn accessed(
        &mut self,
        at: usize,
        len: usize,
        result: &Result<(), Error>,
        need: MappingFlags,
        lucky: bool,
    ) -> usize {
        let mut done = at;
        while done < at + len {
            let page = done / PAGE;
            let gpa = self.twin.gpa(0);
            let rest = stage2::GuestPhysRange { start: gpa + done, end: gpa + at + len };
            self.touched(page);
            let expected = match self.twin.page(page) {
                None => Error::NotMapped(rest),
                Some(page) if page.flags.contains(MappingFlags::DEVICE) => Error::NotMemory(rest),
                Some(page) if !page.flags.contains(need) => Error::Denied { range: rest, flags: page.flags },
                Some(page) if page.present.is_none() && !lucky => match result {
                    Err(Error::NoMemory(named)) if *named == rest => return done,
                    other => panic!("{other:?}"),
                },
                Some(_) => {
                    done = at + len.min((page + 1) * PAGE - at);
                    continue;
                }
            };
            assert_eq!(*result, Err(expected));
            return done;
        }
        assert_eq!(*result, Ok(()));
        done
    }

    /// Takes over the leaf that a touch of a page brought, if it brought one: whether it did.
    fn touched(&mut self, page: usize) -> bool {
        let seen = self.seen();
        let Some(Page { flags, behind: Behind::Private(policy), present: None, .. }) = self.twin.page(page).cloned()
        else {
            return false;
        };
        let Some(new) = seen[page] else { return false };
        let most = if policy == LeafPolicy::Pages { 1 } else { BLOCK };
        assert!(new.leaf.pages <= most, "{new:?}");
        let taken = self.twin.own_frames();
        for number in new.leaf.range() {
            let there = self.twin.page(number).expect("a leaf lies in its area");
            assert_eq!((there.flags, there.behind, there.present), (flags, Behind::Private(policy), None));
            let now = seen[number].expect("a leaf is all there");
            assert!(!taken.contains(&now.hpa), "page {number} has the frame of another");
            self.twin.adopt(number, now);
        }
        true
    }

    /// What the twin says of a word.
    fn word(&self, page: usize, offset: usize) -> u64 {
        match self.twin.page(page) {
            Some(Page { behind: Behind::Linear(hpa), .. }) if *hpa >= DEVICES => {
                stage2_model::arm::device_value((hpa + offset) as u64)
            }
            Some(Page { behind: Behind::Linear(hpa), .. }) => match self.twin.foreign.get(&(hpa + offset)) {
                Some(stored) => *stored,
                None => self.machine.peek(PhysAddr::from_usize(hpa + offset)),
            },
            Some(Page { words, .. }) => words.get(&offset).copied().unwrap_or(0),
            None => panic!("page {page} is not mapped"),
        }
    }

    fn store(&mut self, page: usize, offset: usize, value: u64) {
        let page = self.twin.pages[page].as_mut().expect("a page to store to");
        match page.behind {
            Behind::Linear(hpa) if hpa >= DEVICES => {}
            Behind::Linear(hpa) => drop(self.twin.foreign.insert(hpa + offset, value)),
            Behind::Private(_) => drop(page.words.insert(offset, value)),
        }
    }
}

/// What came of a guest's try.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Attempted {
    Done(u64),
    Answer(Outcome),
}
