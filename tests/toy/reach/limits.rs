//! A limit is what a guest can have held for itself, in however many areas, and whatever it may do there.

use stage2::{Limits, space::Resource};

use super::*;

/// How many frames the guest may have.
const LIMIT: usize = 4;

/// So many areas of so many pages that come from a source, in a guest that has a limit. They do not touch.
struct Stage {
    board: Board,
    space: GuestSpace<Host>,
    image: Arc<Image>,
    size: usize,
}

impl Stage {
    fn new(areas: usize, size: usize, flags: MappingFlags) -> Self {
        let (board, (image, pager)) = (Board::new(), image());
        let space = machine::space(&board, true);
        let stage = Self { board, space, image, size };
        for area in 0..areas {
            stage.space.map_from(stage.area(area), &pager, area * size * PAGE, flags).unwrap();
        }
        stage.space.set_limits(Limits { frames: Some(LIMIT), ..Limits::default() });
        stage
    }

    fn area(&self, area: usize) -> stage2::GuestPhysRange {
        super::super::range(area * (self.size + 1) * PAGE, self.size * PAGE)
    }

    fn page(&self, number: usize) -> GuestPhysAddr {
        self.area(number / self.size).start + number % self.size * PAGE
    }

    fn read(&self, gpa: GuestPhysAddr) -> Result<Outcome, Error> {
        let fault = Fault { gpa, access: Access::Read, cause: Cause::Translation, origin: Origin::Instruction };
        self.space.fault(CpuId(0), fault)
    }

    #[track_caller]
    fn comes(&self, number: usize) {
        assert_eq!(self.read(self.page(number)), Ok(Outcome::Resolved), "page {number}");
        assert_eq!(self.space.load(self.page(number)), Ok(twin::brought(number)), "page {number}");
        self.is_within();
    }

    #[track_caller]
    fn is_refused(&self, number: usize) {
        let asked = self.image.asked();
        let page = self.page(number);
        let refused = |result: Result<(), Error>| match result {
            Err(Error::Limit { what: Resource::Frames, limit: LIMIT, .. }) => {}
            other => panic!("page {number}: {other:?}"),
        };
        refused(self.read(page).map(drop));
        refused(self.space.load::<u64>(page).map(drop));
        assert_eq!(self.image.asked(), asked, "it is not asked for in vain");
        self.is_within();
    }

    #[track_caller]
    fn is_within(&self) {
        let held = held(&self.board, [&self.space]);
        assert!(held <= LIMIT, "{held} frames are held");
    }
}

#[test]
fn many_areas_have_no_more_than_one_would() {
    for flags in [READ, RW] {
        for size in [1, 2, 3] {
            let stage = Stage::new(8, size, flags);
            (0..LIMIT).for_each(|number| stage.comes(number));
            assert_eq!(held(&stage.board, [&stage.space]), LIMIT);
            (LIMIT..8 * size).for_each(|number| stage.is_refused(number));
            // What came stays.
            (0..LIMIT).for_each(|number| assert_eq!(stage.space.load(stage.page(number)), Ok(twin::brought(number))));
        }
    }
}

#[test]
fn what_is_unmapped_makes_room_for_other_areas() {
    for flags in [READ, RW] {
        let stage = Stage::new(8, 1, flags);
        (0..LIMIT).for_each(|number| stage.comes(number));
        for gone in 0..LIMIT {
            stage.is_refused(LIMIT + gone);
            stage.space.unmap(stage.area(gone)).unwrap();
            assert_eq!(held(&stage.board, [&stage.space]), LIMIT - 1);
            stage.comes(LIMIT + gone);
        }
    }
}

/// Private memory and what comes from a source are one guest's alike.
#[test]
fn what_is_read_only_and_what_is_private_share_the_room() {
    let stage = Stage::new(8, 1, READ);
    stage.space.map(super::super::range(BLOCK, 8 * PAGE), LAZY, RW).unwrap();
    stage.space.store(gpa(BLOCK), 1_u64).unwrap();
    stage.space.store(gpa(BLOCK + PAGE), 2_u64).unwrap();
    stage.comes(0);
    stage.comes(1);
    stage.is_refused(2);
    let third = stage.space.store(gpa(BLOCK + 2 * PAGE), 3_u64);
    assert!(matches!(third, Err(Error::Limit { what: Resource::Frames, limit: LIMIT, .. })), "{third:?}");
    assert_eq!(held(&stage.board, [&stage.space]), LIMIT);
    stage.space.unmap(stage.area(0)).unwrap();
    stage.space.store(gpa(BLOCK + 2 * PAGE), 3_u64).unwrap();
    stage.is_refused(2);
    stage.space.unmap(super::super::range(BLOCK, PAGE)).unwrap();
    stage.comes(2);
    stage.is_refused(3);
}
