use std::{ops::Range, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::addr::GuestPhysRange;

/// What an operation covers, in pages, by the pseudocode of the manual alone: C5.5, and for ranges "the address range
/// is `BaseADDR` <= input < `BaseADDR` + (NUM + 1) * 2^(5 * SCALE + 1) * granule".
fn covered(tlbi: Tlbi, operand: u64, stride: u64) -> (Range<u64>, u64) {
    let bits = |low: u32, high: u32| operand >> low & ((1 << (high - low + 1)) - 1);
    match tlbi {
        Tlbi::Ipas2e1is | Tlbi::Ipas2le1is => {
            let (page, ttl) = (bits(0, 35), bits(44, 47));
            assert!(ttl == 0 || ttl >> 2 == 0b01, "the granule of the hint");
            assert_eq!(bits(36, 43), 0);
            (page..page + stride, ttl & 0b11)
        }
        Tlbi::Ripas2e1is | Tlbi::Ripas2le1is => {
            assert_eq!(bits(46, 47), 0b01, "4 KiB");
            let (base, ttl, num, scale) = (bits(0, 36), bits(37, 38), bits(39, 43), bits(44, 45));
            (base..base + ((num + 1) << (5 * scale + 1)), ttl)
        }
        other => panic!("{other:?} is not by address"),
    }
}

fn check(first: u64, leaves: u64, entries: Changed, features: Features) {
    let level = if let Changed::Leaves(level) = entries { u32::from(level.0) } else { 0 };
    let stride = 1_u64 << (9 * level);
    let pages = first * stride..(first + leaves) * stride;
    let [start, end] = [pages.start, pages.end].map(|page| GuestPhysAddr::from((page << 12) as usize));
    let scope = Scope { range: GuestPhysRange::new(start, end), entries };
    let operations: Vec<_> = operations(scope, features, usize::MAX - 1).unwrap().collect();

    let mut next = pages.start;
    for (tlbi, operand) in &operations {
        let (covers, hint) = covered(*tlbi, *operand, stride);
        assert_eq!(covers.start, next, "no page twice, none left out");
        next = covers.end;
        let hinted = features.contains(Features::TTL) && matches!(entries, Changed::Leaves(_));
        assert_eq!(hint, if hinted { u64::from(3 - level) } else { 0 });
        let last_level = matches!(tlbi, Tlbi::Ipas2le1is | Tlbi::Ripas2le1is);
        assert_eq!(last_level, entries != Changed::Tables);
        let range = matches!(tlbi, Tlbi::Ripas2e1is | Tlbi::Ripas2le1is);
        assert!(!range || features.contains(Features::TLB_RANGE));
    }
    assert_eq!(next, pages.end);
    if !features.contains(Features::TLB_RANGE) {
        assert_eq!(operations.len() as u64, leaves);
    } else if pages.end - pages.start < 1 << 21 {
        assert!(operations.len() <= 5, "one of each scale and an odd page");
    }
}

fn features() -> impl Strategy<Value = Features> {
    (0..4).prop_map(|set| {
        let ttl = if set & 1 != 0 { Features::TTL } else { Features::empty() };
        ttl | if set & 2 != 0 { Features::TLB_RANGE } else { Features::empty() }
    })
}

fn changed() -> impl Strategy<Value = Changed> {
    prop_oneof![
        (0..3_u8).prop_map(|level| Changed::Leaves(Level(level))),
        Just(Changed::MixedLeaves),
        Just(Changed::Tables)
    ]
}

proptest! {
    #[test]
    fn operations_cover_the_range_exactly(
        first in 0..1_u64 << 17, leaves in 1..3000_u64, entries in changed(), features in features()
    ) {
        check(first, leaves, entries, features);
    }

    #[test]
    fn ranges_of_any_size_are_covered_exactly(first in 0..1_u64 << 35, bits in 0..33_u32, less in any::<u64>()) {
        let leaves = (1 << bits) - less % (1 << bits);
        check(first, leaves, Changed::Tables, Features::TLB_RANGE);
    }
}

#[test]
fn small_ranges_are_covered_exactly() {
    for leaves in 1..=200 {
        check(0x12345, leaves, Changed::MixedLeaves, Features::TLB_RANGE);
        check(0x12345, leaves, Changed::Leaves(Level::PAGE), Features::TLB_RANGE | Features::TTL);
    }
}

#[test]
fn the_operand_is_the_page_number() {
    assert_eq!(page(GuestPhysAddr::from(0x4000_1fff)), 0x4_0001);
    assert_eq!(page(GuestPhysAddr::from((1_usize << 48) - 1)), 0xf_ffff_ffff);
}

#[test]
fn a_leaf_of_which_a_part_is_named_goes_whole() {
    let range = GuestPhysRange::new(0x4020_1000.into(), 0x4020_3000.into());
    let scope = Scope { range, entries: Changed::Leaves(Level(1)) };
    let operations: Vec<_> = operations(scope, Features::TLB_RANGE, 64).unwrap().collect();
    assert_eq!(operations, [(Tlbi::Ipas2le1is, 0x4_0200)]);
}

#[test]
fn more_than_the_most_are_none() {
    let scope = |pages: usize| Scope {
        range: GuestPhysRange::new(0.into(), (pages << 12).into()),
        entries: Changed::MixedLeaves,
    };
    assert!(operations(scope(4), Features::empty(), 4).is_some());
    assert!(operations(scope(5), Features::empty(), 4).is_none());
    assert!(operations(scope(5), Features::TLB_RANGE, 4).is_some());
}

#[test]
fn one_operation_takes_all_that_its_fields_can_say() {
    let range = GuestPhysRange::new(0.into(), (1 << (21 + 12)).into());
    let scope = Scope { range, entries: Changed::Tables };
    assert!(operations(scope, Features::TLB_RANGE, 1).is_some());
}
