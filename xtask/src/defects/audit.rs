//! Defects in what looks the others over.

use super::table::{Defect, Edit, Emulator, toy, unit};

const ACCOUNTS: &str = "src/audit/accounts.rs";
const AREAS: &str = "src/audit/areas.rs";
const ENTRIES: &str = "src/audit/entries.rs";
const FRAMES: &str = "src/audit/frames.rs";
const LOANS: &str = "src/audit/loans.rs";
const REGIONS: &str = "src/audit/regions.rs";

const NO_JUDGE: Emulator = Emulator::Cannot("it changes no guest, and what it overlooks is not there");

pub const DEFECTS: &[Defect] = &[
    Defect {
        name: "an-audit-that-locks-as-it-is-asked",
        rules: &["J8", "L1"],
        edits: &[Edit {
            file: "src/audit/mod.rs",
            text: "    order.sort_unstable_by_key(|&(lock, number, _)| (lock, number));\n",
            instead: "",
        }],
        host: &[toy("audit::locks_in_one_order")],
        emulator: NO_JUDGE,
    },
    Defect {
        name: "an-audit-that-looks-at-no-leaf",
        rules: &["J8"],
        edits: &[Edit {
            file: ENTRIES,
            text: "            self.part(area, part, &Leaf { at, ..*leaf });\n",
            instead: "",
        }],
        host: &[toy("audit::finds_flags"), toy("audit::finds_linear"), toy("audit::finds_another_frame")],
        emulator: NO_JUDGE,
    },
    Defect {
        name: "an-audit-that-trusts-what-is-pending",
        rules: &["J8"],
        edits: &[Edit {
            file: AREAS,
            text: ".is_some_and(|pending| pending.overlaps(range))",
            instead: ".is_some_and(|_| true) || !range.is_empty()",
        }],
        host: &[toy("audit::finds_what_no_operation"), toy("audit::finds_a_table_where")],
        emulator: NO_JUDGE,
    },
    Defect {
        name: "an-audit-of-each-space-alone",
        rules: &["J8"],
        edits: &[Edit {
            file: FRAMES,
            text: "                if claim.start < other.end {",
            instead: "                if claim.start < other.end && claim.space == other.space {",
        }],
        host: &[toy("audit::finds_a_frame_of_two_leaves")],
        emulator: NO_JUDGE,
    },
    Defect {
        name: "an-audit-that-lets-an-account-have-more",
        rules: &["J8", "C7"],
        edits: &[Edit {
            file: ACCOUNTS,
            text: "if counted < found || (counted > found && is_exact) {",
            instead: "if counted < found {",
        }],
        host: &[toy("audit::finds_a_frame_that_is_counted"), unit("audit::tests::frames_and_tables")],
        emulator: NO_JUDGE,
    },
    Defect {
        name: "an-audit-that-lets-a-region-show-less",
        rules: &["J8"],
        edits: &[Edit { file: REGIONS, text: "counted < found || (is_all", instead: "(is_all" }],
        host: &[unit("audit::tests::a_regions_count")],
        emulator: NO_JUDGE,
    },
    Defect {
        name: "an-audit-that-takes-any-loan",
        rules: &["J8"],
        edits: &[Edit {
            file: LOANS,
            text: "if terms.kind != kind || !pages.all(is_there) {",
            instead: "if !pages.all(is_there) {",
        }],
        host: &[toy("audit::finds_memory_on_loan")],
        emulator: NO_JUDGE,
    },
];
