//! Defects in what a space owes the allocator: freed where time is short, lost, or in the way of what would fit.

use super::table::{Defect, Edit, Emulator, toy};

const DEBT: &str = "src/space/debt.rs";
const EXCLUSIVE: &str = "src/space/exclusive.rs";
const FAULT: &str = "src/space/fault.rs";
const DISMANTLE: &str = "src/space/dismantle.rs";
const SNAPSHOTTING: &str = "src/space/snapshotting.rs";
const INHERIT: &str = "src/space/inherit.rs";
const RELEASE: &str = "src/space/release.rs";
const RELEASED: &str = "src/region/released.rs";
const UNMAP: &str = "src/space/unmap.rs";

const NO_CLOCK: Emulator = Emulator::Cannot("no scenario there counts what one call frees");

pub const DEFECTS: &[Defect] = &[
    Defect {
        name: "a-fault-frees-a-region",
        rules: &["R14"],
        edits: &[Edit {
            file: DEBT,
            text: "regions.step(&mut { LITTLE });",
            instead: "regions.step(&mut { usize::MAX });",
        }],
        host: &[toy("debt::of_a_fault::a_region_that_it_has"), toy("debt::of_a_fault::a_region_goes_with")],
        emulator: NO_CLOCK,
    },
    Defect {
        name: "finished-late-and-freed-at-once",
        rules: &["R14"],
        edits: &[Edit { file: EXCLUSIVE, text: "        self.debt.add(&mut let_go);\n", instead: "" }],
        host: &[toy("debt::finished_late::by_a_fault"), toy("debt::finished_late::a_region_goes")],
        emulator: NO_CLOCK,
    },
    Defect {
        name: "a-fault-pays-a-part",
        rules: &["R14"],
        edits: &[Edit {
            file: FAULT,
            text: "Later::Settle => self.exclusive_to_answer()",
            instead: "Later::Settle => self.exclusive()",
        }],
        host: &[toy("debt::finished_late::by_a_fault")],
        emulator: NO_CLOCK,
    },
    Defect {
        name: "a-call-pays-all",
        rules: &["R14"],
        edits: &[Edit { file: DEBT, text: "self.pay(&mut { PART });", instead: "self.pay(&mut { usize::MAX });" }],
        host: &[toy("debt::finished_late::private_memory"), toy("debt::finished_late::what_a_dead_lender")],
        emulator: NO_CLOCK,
    },
    Defect {
        name: "no-call-pays",
        rules: &["R14"],
        edits: &[Edit { file: DEBT, text: "        self.pay(&mut { PART });\n", instead: "" }],
        host: &[toy("debt::finished_late::a_change_of_flags")],
        emulator: NO_CLOCK,
    },
    Defect {
        name: "steps-leave-what-is-owed",
        rules: &["R14"],
        edits: &[Edit { file: UNMAP, text: "        self.pay(&mut budget.min(debt::PART));\n", instead: "" }],
        host: &[toy("debt::finished_late::steps_pay")],
        emulator: NO_CLOCK,
    },
    Defect {
        name: "refused-though-a-debt-makes-room",
        rules: &["R14", "C9"],
        edits: &[Edit {
            file: FAULT,
            text: "            Err(error) if self.pays_for(&error, LITTLE) => Ok(Outcome::Retry),\n",
            instead: "            Err(error) if false && self.pays_for(&error, LITTLE) => Ok(Outcome::Retry),\n",
        }],
        host: &[toy("debt::refused::no_page_is_that"), toy("debt::refused::no_page_is_for")],
        emulator: Emulator::Cannot("no scenario there has a limit and a debt"),
    },
    Defect {
        name: "a-call-refused-though-a-debt-makes-room",
        rules: &["R14", "C9"],
        edits: &[Edit {
            file: DEBT,
            text: "Err(error) if self.pays_for(&error, PART) => {}",
            instead: "Err(error) if false && self.pays_for(&error, PART) => {}",
        }],
        host: &[toy("debt::refused::no_call")],
        emulator: Emulator::Cannot("no scenario there has a limit and a debt"),
    },
    Defect {
        name: "a-refused-fault-pays-all",
        rules: &["R14"],
        edits: &[Edit {
            file: FAULT,
            text: "if self.pays_for(&error, LITTLE) =>",
            instead: "if self.pays_for(&error, LITTLE * 1024) =>",
        }],
        host: &[toy("debt::refused::no_page_is_that"), toy("debt::refused::no_page_is_for")],
        emulator: NO_CLOCK,
    },
    Defect {
        name: "a-debt-lost-with-its-space",
        rules: &["R14"],
        edits: &[
            Edit {
                file: DISMANTLE,
                text: "        self.pay(&mut budget);
",
                instead: "",
            },
            Edit {
                file: DISMANTLE,
                text: "if self.debt.is_owed() { Progress::More } else { progress }",
                instead: "progress",
            },
        ],
        host: &[toy("debt::at_the_end::a_space_that_is_dropped"), toy("debt::at_the_end::a_space_that_is_dismantled")],
        emulator: NO_CLOCK,
    },
    Defect {
        name: "a-debt-lost-with-what-is-lost",
        rules: &["R14"],
        edits: &[Edit {
            file: DISMANTLE,
            text: "while self.debt.is_owed() {",
            instead: "while false && self.debt.is_owed() {",
        }],
        host: &[toy("debt::at_the_end::a_space_whose_memory_is_lost")],
        emulator: NO_CLOCK,
    },
    Defect {
        name: "a-permission-that-waits-for-time",
        rules: &["R14", "C3"],
        edits: &[Edit {
            file: EXCLUSIVE,
            text: "            let_go.regions.end(lease);
",
            instead: "            core::mem::forget(lease);
",
        }],
        host: &[toy("debt::finished_late::a_region_can_be_frozen")],
        emulator: NO_CLOCK,
    },
    Defect {
        name: "what-came-meanwhile-in-the-debts-place",
        rules: &["R14"],
        edits: &[Edit {
            file: "src/table/removed.rs",
            text: "        if self.is_empty() {
            core::mem::swap(self, other);
        } else",
            instead: "        if true {
            core::mem::swap(self, other);
        } else",
        }],
        host: &[toy("debt::finished_late::one_after_the_other")],
        emulator: NO_CLOCK,
    },
    Defect {
        name: "frozen-in-steps-and-paid-for-still",
        rules: &["R14", "C8"],
        edits: &[Edit {
            file: SNAPSHOTTING,
            text: "let is_done = draft.unpay_some(self.space.accounts(), &mut next, &mut { entries });",
            instead: "let is_done = draft.unpay_some(self.space.accounts(), &mut next, &mut 0) || true;",
        }],
        host: &[toy("sources::snapshots::that_go_in_steps_take")],
        emulator: NO_CLOCK,
    },
    Defect {
        name: "all-off-the-account-in-one-step",
        rules: &["R14"],
        edits: &[Edit {
            file: SNAPSHOTTING,
            text: "&mut next, &mut { entries });",
            instead: "&mut next, &mut { entries.max(usize::MAX) });",
        }],
        host: &[toy("sources::snapshots::that_go_in_steps_take")],
        emulator: NO_CLOCK,
    },
    Defect {
        name: "asked-for-a-guest-at-rest",
        rules: &["R14", "C8"],
        edits: &[Edit {
            file: "src/space/supply.rs",
            text: "            state.check_rest().is_ok()
                && state.has",
            instead: "            state.has",
        }],
        host: &[toy("sources::snapshots::that_go_in_steps_have_no")],
        emulator: Emulator::Cannot("it would need a CPU between two instructions"),
    },
    Defect {
        name: "a-release-in-one-step",
        rules: &["R14"],
        edits: &[Edit {
            file: RELEASE,
            text: "self.0.step(&mut budget);",
            instead: "budget = usize::MAX;
        self.0.step(&mut budget);",
        }],
        host: &[toy("steps::release::")],
        emulator: NO_CLOCK,
    },
    Defect {
        name: "a-released-region-freed-whole",
        rules: &["R14"],
        edits: &[Edit { file: RELEASED, text: "self.whole.push(region);", instead: "drop(region);" }],
        host: &[toy("steps::release::what_nothing"), toy("steps::release::what_is_unmapped")],
        emulator: NO_CLOCK,
    },
    Defect {
        name: "a-release-that-looks-at-no-page",
        rules: &["R14"],
        edits: &[Edit {
            file: RELEASED,
            text: "let pages = region.end_handle();",
            instead: "let pages = region.end_handle().end..0;",
        }],
        host: &[toy("steps::release::what_no_mapping")],
        emulator: NO_CLOCK,
    },
    Defect {
        name: "waits-looked-for-in-one-go",
        rules: &["R14", "R5"],
        edits: &[Edit {
            file: "src/pages/end.rs",
            text: "pub(super) const MOST_LOOKS: usize = 256;",
            instead: "pub(super) const MOST_LOOKS: usize = usize::MAX;",
        }],
        host: &[toy("sources::let_go::is_looked_through")],
        emulator: NO_CLOCK,
    },
    Defect {
        name: "a-look-for-waits-that-begins-again",
        rules: &["R14", "R5"],
        edits: &[Edit { file: INHERIT, text: "*from = Some(rest.start);", instead: "*from = Some(0);" }],
        host: &[toy("sources::let_go::is_looked_through")],
        emulator: NO_CLOCK,
    },
    Defect {
        name: "off-the-account-and-looked-at-again",
        rules: &["R14"],
        edits: &[Edit {
            file: "src/pages/end.rs",
            text: "node.is_sole() && *next <= last",
            instead: "(true || node.is_sole()) && *next <= last",
        }],
        host: &[toy("sources::let_go::by_a_snapshot")],
        emulator: NO_CLOCK,
    },
    Defect {
        name: "a-debt-that-is-paid-with-its-lock-held",
        rules: &["R14", "S5"],
        edits: &[Edit {
            file: DEBT,
            text: "        let _ = rest.step(context, None, budget);
",
            instead: "        let held = self.owed.write();
        let _ = rest.step(context, None, budget);
        drop(held);
",
        }],
        host: &[toy("sources::let_go::to_be_paid_later")],
        emulator: NO_CLOCK,
    },
    Defect {
        name: "a-debt-in-the-way-of-what-becomes-private",
        rules: &["R14", "C9"],
        edits: &[Edit {
            file: DEBT,
            text: "Error::Region { cause, .. } => in_use(cause),",
            instead: "Error::Region { cause, .. } => in_use(cause) && false,",
        }],
        host: &[toy("debt::private::of_the_same_space")],
        emulator: NO_CLOCK,
    },
];
