//! Each defect, put in: the scenarios that see it.

use std::panic::{self, AssertUnwindSafe};

use stage2_scenarios::{Scenario, Stop, scenarios};

use crate::{
    faults::Fault,
    machine::{Kind, Model},
};

fn complaint(kind: Kind, fault: Fault, scenario: &Scenario<Model>) -> Option<(&'static str, String)> {
    let model = Model::faulty(kind, fault);
    let verdict = panic::catch_unwind(AssertUnwindSafe(|| (scenario.run)(&model)));
    let reason = match (verdict, model.complaints().first()) {
        (Err(_), _) => "a panic".to_owned(),
        (_, Some(rule)) => format!("{rule:?}"),
        (Ok(Err(Stop::Failed(_))), None) => "the guest's own eyes".to_owned(),
        (Ok(Ok(()) | Err(Stop::Skipped(_))), None) => return None,
    };
    Some((scenario.name, reason))
}

/// The groups in which guest and hypervisor, or two guests, run at once.
const BESIDE: [&str; 4] = ["two_cpus::", "shared::", "copying::", "snapshots::"];

#[track_caller]
fn must_be_seen(kinds: &[Kind], fault: Fault) {
    for &kind in kinds {
        // A guest that can use no memory would keep scenarios waiting for ever where the hypervisor works beside it.
        let ends = |scenario: &&Scenario<Model>| {
            fault != Fault::NotForUsers || !BESIDE.iter().any(|group| scenario.name.starts_with(group))
        };
        let seen: Vec<_> =
            scenarios::<Model>().iter().filter(ends).filter_map(|scenario| complaint(kind, fault, scenario)).collect();
        println!("{fault:?} on {kind:?}: seen by {} scenarios", seen.len());
        for (name, reason) in &seen {
            println!("  {name}: {reason}");
        }
        assert!(!seen.is_empty(), "no scenario sees {fault:?} on {kind:?}");
    }
}

macro_rules! faults {
    ($($name:ident: $kinds:expr, $fault:ident;)*) => {
        $(#[test]
        fn $name() {
            must_be_seen(&$kinds, Fault::$fault);
        })*
    };
}

faults! {
    t4_no_invept: [Kind::Skylake, Kind::SandyBridge, Kind::Milan, Kind::Barcelona], NoInvept;
    t4_invept_on_this_cpu_only: [Kind::Skylake, Kind::SandyBridge, Kind::Milan], LocalOnly;
    t3_invlpg_instead: [Kind::Skylake, Kind::SandyBridge, Kind::Milan], Invlpg;
    t9_no_flush_before_the_first_run: [Kind::Skylake, Kind::SandyBridge, Kind::Milan], NoFirstFlush;
    t6_freed_before_the_shootdown_was_answered: [Kind::Skylake, Kind::Milan], TooEarly;
    h17_entries_that_no_guest_can_use: [Kind::Milan], NotForUsers;
    two_virtual_cpus_that_share_an_asid: [Kind::Milan], NoSwitch;
    e5_write_without_read: [Kind::Skylake, Kind::SandyBridge], WriteOnly;
    e5_a_leaf_that_the_cpu_lacks: [Kind::SandyBridge], LargeLeaf;
    e6_marks_lost_in_protect: [Kind::Skylake, Kind::Milan], MarksLost;
    a_large_leaf_that_is_never_split: [Kind::Guarded], NeverSplit;
}

/// Without a defect no scenario fails, and the model has no complaint.
#[test]
fn no_complaint_without_a_defect() {
    for kind in [Kind::Skylake, Kind::Milan] {
        for scenario in scenarios::<Model>() {
            let model = Model::new(kind);
            let verdict = (scenario.run)(&model);
            assert!(!matches!(verdict, Err(Stop::Failed(_))), "{}: {verdict:?}", scenario.name);
            assert_eq!(model.complaints(), [], "{} on {kind:?}", scenario.name);
        }
    }
}
