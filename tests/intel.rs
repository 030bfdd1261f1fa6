//! The scenarios on the model of EPT: each on several kinds of CPU, and each fault seen by at least one of them.
#![allow(unused_crate_dependencies, reason = "shared by all test programs")]

#[path = "host/intel/faults.rs"]
mod faults;
#[path = "host/intel/machine.rs"]
mod machine;
#[path = "host/intel/sabotage.rs"]
mod sabotage;

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
