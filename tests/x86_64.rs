//! The scenarios on the model of EPT and NPT: each on several kinds of CPU, and each fault seen by at least one of them.
#![allow(unused_crate_dependencies, reason = "shared by all test programs")]

#[path = "host/x86_64/faults.rs"]
mod faults;
#[path = "host/x86_64/machine.rs"]
mod machine;
#[path = "host/x86_64/sabotage.rs"]
mod sabotage;
#[path = "host/worlds.rs"]
mod worlds;

use machine::{Kind, Model};
use stage2::{Error, LeafPolicy, Mapping, MappingFlags, Populate};
use stage2_scenarios::{Came, Guest, Machine, Marks, Setting, Stop, Tag, Verdict, for_each_scenario, gpa, range};

/// Runs a scenario on a machine of its own. The model's own complaints count too.
fn run(kind: Kind, scenario: fn(&Model) -> Verdict) {
    let model = Model::new(kind);
    let verdict = scenario(&model);
    model.check();
    match verdict {
        Ok(()) => {}
        Err(Stop::Skipped(reason)) => println!("skipped: {reason}"),
        Err(Stop::Failed(story)) => panic!("{story}"),
    }
}

/// Random stories of several guests, regions and snapshots.
mod worlds_are_what_their_twins_are {
    use crate::{
        machine::{Kind, Model},
        worlds::{hold, hold_what_is_left_of_a_snapshot},
    };

    #[test]
    fn where_a_share_is_refused_of_what_is_left_of_a_snapshot() {
        hold_what_is_left_of_a_snapshot(Model::new(Kind::Skylake), Model::check);
    }

    #[test]
    fn on_intels_tables() {
        hold(400, 3, || Model::new(Kind::Skylake), Model::check);
    }

    #[test]
    fn on_amds_tables() {
        hold(400, 4, || Model::new(Kind::Milan), Model::check);
    }
}

macro_rules! tests {
    ($($group:ident { $($name:ident,)* })*) => {
        $(mod $group {
            $(#[test]
            fn $name() {
                crate::run(super::KIND, stage2_scenarios::$group::$name);
            })*
        })*
    };
}

/// A CPU with everything that Bochs' has.
mod skylake {
    const KIND: crate::Kind = crate::Kind::Skylake;
    super::for_each_scenario!(tests);
}

/// A CPU without leaves of 1 GiB, accessed and dirty, execute-only.
mod sandy_bridge {
    const KIND: crate::Kind = crate::Kind::SandyBridge;
    super::for_each_scenario!(tests);
}

/// Large leaves are never executed.
mod guarded {
    const KIND: crate::Kind = crate::Kind::Guarded;
    super::for_each_scenario!(tests);
}

/// AMD's tables, tags and flushes.
mod milan {
    const KIND: crate::Kind = crate::Kind::Milan;
    super::for_each_scenario!(tests);
}

/// The same without leaves of 1 GiB, and with flushes of everything alone.
mod barcelona {
    const KIND: crate::Kind = crate::Kind::Barcelona;
    super::for_each_scenario!(tests);
}

const RAM: usize = 0x4000_0000;
const PAGE: usize = 0x1000;
const BLOCK: usize = 0x20_0000;
const READ: MappingFlags = MappingFlags::READ;
const RW: MappingFlags = READ.union(MappingFlags::WRITE);
const RWX: MappingFlags = RW.union(MappingFlags::EXECUTE);
const PAGES: Mapping = Mapping::Private { populate: Populate::Now, leaf: LeafPolicy::Pages };
const BLOCKS: Mapping = Mapping::Private { populate: Populate::Now, leaf: LeafPolicy::Largest };
const LAZY_BLOCKS: Mapping = Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Largest };

/// H17: where the CPU notes accesses, the walk of the guest's own tables needs to write them.
#[test]
fn the_guests_tables_must_be_writable_where_the_cpu_notes_accesses() {
    const LINEAR: usize = 0x20_0000;
    for (marks, came) in [(Marks::Software, Came::Value(7)), (Marks::Hardware, Came::Denied(READ))] {
        let model = Model::new(Kind::Skylake);
        let guest = Guest::with(&model, Setting { marks, bits: 48, tag: Tag::Fresh }).unwrap();
        guest.map(range(RAM, 8 * PAGE), PAGES, RW).unwrap();
        guest.write_tables(RAM, &[(LINEAR, RAM + 7 * PAGE)]).unwrap();
        guest.write_obj(gpa(RAM + 7 * PAGE), 7_u64).unwrap();
        guest.protect(range(RAM, 4 * PAGE), READ).unwrap();
        assert_eq!(guest.first().through(RAM).loads(LINEAR).unwrap(), came, "{marks:?}");
        guest.protect(range(RAM, 4 * PAGE), RW).unwrap();
        assert_eq!(guest.first().through(RAM).loads(LINEAR).unwrap(), Came::Value(7), "{marks:?}");
        model.check();
    }
}

/// E5: the misconfiguration that KVM and Xen guests have met is not even built.
#[test]
fn write_without_read_is_refused_by_name() {
    for kind in [Kind::Skylake, Kind::SandyBridge] {
        let model = Model::new(kind);
        let guest = Guest::new(&model).unwrap();
        for flags in [MappingFlags::WRITE, MappingFlags::WRITE | MappingFlags::EXECUTE] {
            let error = guest.map(range(RAM, PAGE), PAGES, flags).unwrap_err();
            assert!(matches!(error, Error::Flags { flags: named, .. } if named.0 == flags), "{error}");
        }
        let execute_only = guest.map(range(RAM, PAGE), PAGES, MappingFlags::EXECUTE);
        assert_eq!(execute_only.is_ok(), kind == Kind::Skylake);
    }
}

mod large_leaves {
    use super::*;

    /// What a fetch splits, and how: the page alone becomes executable, each other one at its own first fetch.
    #[test]
    fn are_split_by_a_fetch_and_by_nothing_else() {
        let model = Model::new(Kind::Guarded);
        let guest = Guest::new(&model).unwrap();
        guest.map(range(RAM, 2 * BLOCK), BLOCKS, RWX).unwrap();
        guest.write(gpa(RAM + PAGE), &model.code(5)).unwrap();
        guest.write(gpa(RAM + 2 * PAGE), &model.code(6)).unwrap();
        assert_eq!(guest.stores(RAM, 1).unwrap(), Came::Value(1));
        assert_eq!(guest.leaves()[..2], [0, 2], "reads and writes split nothing");
        let frame = guest.frame(RAM + PAGE).unwrap();
        assert_eq!(guest.calls(RAM + PAGE).unwrap(), Came::Value(5));
        assert_eq!(guest.leaves()[..2], [512, 1]);
        assert_eq!(guest.frame(RAM + PAGE).unwrap(), frame, "nothing moved");
        let flags = |at: usize| guest.translate(gpa(at)).unwrap().flags;
        assert_eq!([flags(RAM), flags(RAM + PAGE), flags(RAM + 2 * PAGE), flags(RAM + BLOCK)], [RW, RWX, RW, RW]);
        assert_eq!(guest.calls(RAM + 2 * PAGE).unwrap(), Came::Value(6));
        assert_eq!(guest.leaves()[..2], [512, 1]);
        model.check();
    }

    #[test]
    fn are_not_brought_by_a_fetch() {
        let model = Model::new(Kind::Guarded);
        let guest = Guest::new(&model).unwrap();
        guest.map(range(RAM, 2 * BLOCK), LAZY_BLOCKS, RWX).unwrap();
        assert_eq!(guest.calls(RAM + PAGE).unwrap(), Came::Value(0));
        assert_eq!(guest.leaves()[..2], [1, 0]);
        assert_eq!(guest.loads(RAM + BLOCK).unwrap(), Came::Value(0));
        assert_eq!(guest.leaves()[..2], [1, 1]);
    }

    #[test]
    fn that_cannot_be_split_for_want_of_memory_stay_and_are_split_when_there_is_some() {
        let model = Model::new(Kind::Guarded);
        let guest = Guest::new(&model).unwrap();
        guest.map(range(RAM, BLOCK), BLOCKS, RWX).unwrap();
        guest.write(gpa(RAM + PAGE), &model.code(5)).unwrap();
        let allocated = model.allocated();
        model.allow(Some(0));
        assert!(guest.calls(RAM + PAGE).is_err());
        model.allow(None);
        assert_eq!((guest.leaves()[1], model.allocated()), (1, allocated));
        assert_eq!(guest.calls(RAM + PAGE).unwrap(), Came::Value(5));
        guest.unmap(range(RAM, BLOCK)).unwrap();
        assert_eq!(guest.stats().owned_frames, 0);
        model.check();
    }

    /// A large linear leaf goes all the way down.
    #[test]
    fn of_foreign_memory_are_split_to_the_page() {
        let model = Model::new(Kind::Guarded);
        let guest = Guest::new(&model).unwrap();
        let (page, large) = (model.foreign().as_usize(), 1 << 30);
        let at = 4 * large + page;
        guest.map(range(4 * large, large), Mapping::Linear { to: 0.into() }, RWX).unwrap();
        model.poke(page.into(), 0xb8 | 9 << 8);
        assert_eq!(guest.leaves()[..3], [0, 0, 1]);
        assert_eq!(guest.calls(at).unwrap(), Came::Value(9));
        assert_eq!(guest.leaves()[..3], [512, 511, 0]);
        model.check();
    }
}
