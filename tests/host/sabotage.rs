//! Each defect in the invalidations, put in: the scenarios that see it.

use std::panic::{self, AssertUnwindSafe};

use stage2_model::{Barrier, Sabotage};
use stage2_scenarios::{Scenario, Stop, scenarios};

use crate::machine::{Kind, Model};

/// The scenarios that fail, each with the reason in short.
fn failing(kind: Kind, sabotage: Sabotage) -> Vec<(&'static str, String)> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let seen = scenarios::<Model>().iter().filter_map(|scenario| complaint(kind, sabotage, scenario)).collect();
    panic::set_hook(hook);
    seen
}

fn complaint(kind: Kind, sabotage: Sabotage, scenario: &Scenario<Model>) -> Option<(&'static str, String)> {
    let model = Model::sabotaged(kind, sabotage);
    let verdict = panic::catch_unwind(AssertUnwindSafe(|| (scenario.run)(&model)));
    let reason = match (verdict, model.complaints().first()) {
        (Err(_), _) => "a panic".to_owned(),
        (_, Some(rule)) => format!("{rule:?}"),
        (Ok(Err(Stop::Failed(_))), None) => "the guest's own eyes".to_owned(),
        (Ok(Ok(()) | Err(Stop::Skipped(_))), None) => return None,
    };
    Some((scenario.name, reason))
}

#[track_caller]
fn must_be_seen(sabotage: Sabotage) {
    for kind in [Kind::CortexA57, Kind::Everything] {
        let seen = failing(kind, sabotage);
        println!("{sabotage:?} on {kind:?}: seen by {} scenarios", seen.len());
        for (name, reason) in &seen {
            println!("  {name}: {reason}");
        }
        assert!(!seen.is_empty(), "no scenario sees {sabotage:?} on {kind:?}");
    }
}

macro_rules! faults {
    ($($name:ident: $sabotage:expr;)*) => {
        $(#[test]
        fn $name() {
            must_be_seen($sabotage);
        })*
    };
}

faults! {
    no_invalidation: Sabotage::DropTlbi;
    only_stage_2: Sabotage::OnlyStage2;
    only_stage_1: Sabotage::OnlyStage1;
    stage_1_first: Sabotage::SwappedOrder;
    no_barrier_before: Sabotage::DropDsb(Barrier::Publishing);
    no_barrier_between: Sabotage::DropDsb(Barrier::AfterStage2);
    no_barrier_behind: Sabotage::DropDsb(Barrier::AfterStage1);
    no_barrier_at_all: Sabotage::DropDsb(Barrier::Every);
    the_wrong_regime: Sabotage::UseVae2is;
    an_unshifted_operand: Sabotage::UnshiftedOperand;
    this_cpu_only: Sabotage::LocalOnly;
    the_wrong_vmid: Sabotage::WrongVmid;
    a_denial_that_stays: Sabotage::DropDenialInvalidation;
}

/// Level hints are there where `FEAT_TTL` is.
#[test]
fn the_wrong_level() {
    let seen = failing(Kind::Everything, Sabotage::WrongLevel);
    assert!(!seen.is_empty());
}

/// Without a defect no scenario fails, and the model has no complaint.
#[test]
fn no_complaint_without_a_defect() {
    for scenario in scenarios::<Model>() {
        let model = Model::new(Kind::CortexA57);
        let verdict = (scenario.run)(&model);
        assert!(!matches!(verdict, Err(Stop::Failed(_))), "{}: {verdict:?}", scenario.name);
        assert_eq!(model.complaints(), [], "{}", scenario.name);
    }
}
