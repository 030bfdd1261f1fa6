//! The scenarios on the model of the hardware: each on several kinds of CPU, and each fault in the invalidations seen
//! by at least one of them.
#![allow(unused_crate_dependencies, reason = "shared by all test programs")]

#[path = "host/machine.rs"]
mod machine;
#[path = "host/sabotage.rs"]
mod sabotage;
#[path = "host/threads.rs"]
mod threads;
#[path = "host/twin.rs"]
mod twin;
#[path = "host/worlds.rs"]
mod worlds;

use machine::{Kind, Model};
use stage2_scenarios::{Stop, Verdict, for_each_scenario};

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
        hold_what_is_left_of_a_snapshot(Model::new(Kind::CortexA57), Model::check);
    }

    #[test]
    fn without_extensions() {
        hold(400, 1, || Model::new(Kind::CortexA57), Model::check);
    }

    #[test]
    fn with_every_extension() {
        hold(400, 2, || Model::new(Kind::Everything), Model::check);
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

/// A CPU without any extension, and with errata.
mod cortex_a57 {
    const KIND: crate::Kind = crate::Kind::CortexA57;
    super::for_each_scenario!(tests);
}

/// A CPU that notes accesses and writes, with 16-bit VMIDs.
mod neoverse_n1 {
    const KIND: crate::Kind = crate::Kind::NeoverseN1;
    super::for_each_scenario!(tests);
}

/// A CPU with every extension.
mod everything {
    const KIND: crate::Kind = crate::Kind::Everything;
    super::for_each_scenario!(tests);
}
