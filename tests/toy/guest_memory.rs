//! The hypervisor reads and writes the memory of a guest.

use super::*;

#[test]
fn is_zero_until_it_is_written_and_crosses_pages_and_areas() {
    let space = Board::new().space();
    space.map(range(0, 2 * PAGE), LAZY, RW).unwrap();
    space.map(range(2 * PAGE, BLOCK), BLOCKS, RW).unwrap();
    let mut bytes = [0xff; 3 * PAGE];
    space.read(gpa(1), &mut bytes).unwrap();
    assert!(bytes.iter().all(|&byte| byte == 0));
    let pattern: Vec<u8> = (0..3 * PAGE).map(|at| at as u8 ^ (at >> 8) as u8).collect();
    space.write(gpa(PAGE - 3), &pattern).unwrap();
    space.read(gpa(PAGE - 3), &mut bytes).unwrap();
    assert_eq!(bytes[..], pattern[..]);
}

#[test]
fn ends_where_the_mapping_ends() {
    let space = Board::new().space();
    space.map(range(0, PAGE), PAGES, RW).unwrap();
    let mut bytes = [0; 16];
    let hole = stage2::GuestPhysRange::from_start_size(gpa(PAGE), 8);
    assert_eq!(space.read(gpa(PAGE - 8), &mut bytes), Err(Error::NotMapped(hole)));
    assert_eq!(space.write(gpa(PAGE - 8), &bytes), Err(Error::NotMapped(hole)));
    assert!(matches!(space.read(gpa(usize::MAX - 3), &mut bytes), Err(Error::Overflow { .. })));
    assert!(matches!(space.read(gpa((1 << 34) - 8), &mut bytes), Err(Error::BeyondInput { .. })));
}

#[test]
fn is_what_the_guest_may_do_and_no_device() {
    let space = Board::new().space();
    space.map(range(0, PAGE), PAGES, READ).unwrap();
    space.map(range(PAGE, PAGE), PAGES, MappingFlags::EXECUTE).unwrap();
    let device = RW | MappingFlags::DEVICE;
    space.map(range(2 * PAGE, PAGE), Mapping::Linear { to: PhysAddr::from_usize(0) }, device).unwrap();
    assert!(matches!(space.write_obj(gpa(0), 1_u32), Err(Error::Denied { flags: READ, .. })));
    assert!(matches!(space.read_obj::<u32>(gpa(PAGE)), Err(Error::Denied { .. })));
    assert!(matches!(space.read_obj::<u32>(gpa(2 * PAGE)), Err(Error::NotMemory(_))));
}

/// What `read` reported to be left began before what it was asked for.
#[test]
fn that_cannot_be_had_is_named_from_the_first_byte_on_that_is_left() {
    let board = Board::new();
    let space = board.space();
    space.map(range(PAGE, 3 * PAGE), LAZY, RW).unwrap();
    board.allow(Some(0));
    let whole = range(PAGE + 0x123, 2 * PAGE);
    assert_eq!(space.read(whole.start, &mut [0; 2 * PAGE]), Err(Error::NoMemory(whole)));
    assert_eq!(space.write(whole.start, &[1; 2 * PAGE]), Err(Error::NoMemory(whole)));
    board.allow(None);
    space.write_obj(gpa(PAGE), 1_u8).unwrap();
    board.allow(Some(0));
    let rest = range(2 * PAGE, PAGE + 0x123);
    assert_eq!(space.write(whole.start, &[2; 2 * PAGE]), Err(Error::NoMemory(rest)));
    board.allow(None);
    assert_eq!(space.read_obj(gpa(2 * PAGE - 1)), Ok(2_u8));
    assert_eq!(space.read_obj(gpa(2 * PAGE)), Ok(0_u8));
}

#[test]
fn has_atomic_words_that_must_be_aligned() {
    let space = Board::new().space();
    space.map(range(0, PAGE), LAZY, RW).unwrap();
    space.store(gpa(8), 7_u64).unwrap();
    assert_eq!(space.compare_exchange(gpa(8), 7_u64, 9), Ok(Ok(7)));
    assert_eq!(space.compare_exchange(gpa(8), 7_u64, 11), Ok(Err(9)));
    assert_eq!(space.load::<u16>(gpa(8)), Ok(9));
    assert!(matches!(space.load::<u32>(gpa(6)), Err(Error::Unaligned(_))));
}
