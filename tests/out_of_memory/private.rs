//! Operations on memory of a space's own.

use super::*;

fn linear(to: usize) -> Mapping {
    Mapping::Linear { to: PhysAddr::from_usize(to) }
}

fn lazy_pages<F: Format>(space: &Space<F>) {
    space.map(range(RAM, 4 * PAGE), LAZY, RW).expect("memory");
}

pub(super) fn is_whole(populated: Populated) {
    assert_eq!(populated, Populated::Whole);
}

/// Operations that allocate, on memory of a space's own.
pub(super) fn cases<F: Format>() -> Vec<Case<F>> {
    let case = |name, prepare, operation, keeps| Case { name, prepare, operation, keeps };
    let nothing: fn(&Space<F>) = |_| {};
    vec![
        case("map linear pages", nothing, |s| s.map(range(RAM - PAGE, 2 * PAGE), linear(0), RW), Keeps::Everything),
        case("map linear blocks", nothing, |s| s.map(range(RAM, 2 * BLOCK), linear(BLOCK), RW), Keeps::Everything),
        case("map pages", nothing, |s| s.map(range(RAM - PAGE, 3 * PAGE), PAGES, RW), Keeps::Everything),
        case("map blocks", nothing, |s| s.map(range(RAM, BLOCK + PAGE), BLOCKS, RW), Keeps::Everything),
        case("map lazily", nothing, |s| s.map(range(RAM, PAGE), LAZY, RW), Keeps::Everything),
        case("map into a crowd", crowd, |s| s.map(range(PAGE, PAGE), PAGES, RW), Keeps::Everything),
        case("unmap a middle", two_blocks, |s| s.unmap(range(RAM + PAGE, BLOCK)), Keeps::Everything),
        case("unmap in a crowd", crowd, |s| s.unmap(range(4 * PAGE, 90 * PAGE)), Keeps::Everything),
        case("discard a middle", two_blocks, |s| s.discard(range(RAM + PAGE, BLOCK), Refill::Zeros), Keeps::Everything),
        case("replace a middle", two_blocks, |s| s.replace(range(RAM + PAGE, BLOCK), PAGES, RW), Keeps::Everything),
        case("replace by a linear page", crowd, |s| s.replace(range(RAM, PAGE), linear(0), RW), Keeps::Everything),
        case("protect a middle", two_blocks, |s| s.protect(range(RAM + PAGE, BLOCK), READ), Keeps::Everything),
        case("fault on a page", lazy_pages, |s| fault(s, RAM + PAGE, Access::Write), Keeps::Translations),
        case(
            "fault on a block",
            |s| s.map(range(RAM, BLOCK), LAZY_BLOCKS, RW).expect("memory"),
            |s| fault(s, RAM + PAGE, Access::Read),
            Keeps::Translations,
        ),
        case("read", lazy_pages, |s| s.read((RAM + 8).into(), &mut [0; 2 * PAGE]), Keeps::Contents),
        case("write", lazy_pages, |s| s.write((RAM + 8).into(), &[1; 2 * PAGE]), Keeps::Contents),
        case("read a value", lazy_pages, |s| s.read_obj::<u32>(RAM.into()).map(drop), Keeps::Translations),
        case("write a value", lazy_pages, |s| s.write_obj(RAM.into(), 1_u16), Keeps::Translations),
        case("load", lazy_pages, |s| s.load::<u64>(RAM.into()).map(drop), Keeps::Translations),
        case("store", lazy_pages, |s| s.store(RAM.into(), 1_u8), Keeps::Translations),
        case("exchange", lazy_pages, |s| s.compare_exchange(RAM.into(), 0_u64, 1).map(drop), Keeps::Translations),
        case("relocate a page", three_pages, |s| s.relocate(range(RAM, PAGE)).map(drop), Keeps::Everything),
        case("relocate pages", three_pages, |s| s.relocate(range(RAM, 3 * PAGE)).map(drop), Keeps::Contents),
        case("relocate blocks", two_blocks, |s| s.relocate(range(RAM, 2 * BLOCK)).map(drop), Keeps::Contents),
        case(
            "populate pages in two tables",
            |s| s.map(range(RAM + BLOCK - 3 * PAGE, 9 * PAGE), LAZY, RW).expect("memory"),
            |s| s.populate(range(RAM + BLOCK - 3 * PAGE, 9 * PAGE), Access::Write).map(is_whole),
            Keeps::Contents,
        ),
        case(
            "populate a block",
            |s| s.map(range(RAM, BLOCK), LAZY_BLOCKS, RW).expect("memory"),
            |s| s.populate(range(RAM, PAGE), Access::Write).map(is_whole),
            Keeps::Contents,
        ),
        case("list areas", crowd, |s| s.areas().map(drop), Keeps::Everything),
    ]
}
