//! Defects in the limit of areas.

use super::table::{Defect, Edit, Emulator, toy, unit};

const CONVERT: &str = "src/space/convert.rs";
const EXCLUSIVE: &str = "src/space/exclusive.rs";
const FORECAST: &str = "src/set/forecast.rs";
const LIMITS: &str = "src/space/limits.rs";
const RECLAIM: &str = "src/space/reclaim.rs";
const NO_SCENARIO: Emulator = Emulator::Cannot("no scenario has a limit of areas");

pub const DEFECTS: &[Defect] = &[
    Defect {
        name: "taken-back-from-the-middle-without-a-limit",
        rules: &["R9"],
        edits: &[Edit {
            file: RECLAIM,
            text: "        borrower.check_areas(place, areas.len(), 1, || areas.len_without(parts.iter().copied()))?;\n",
            instead: "",
        }],
        host: &[toy("areas_limit::several::what_is_taken_back")],
        emulator: NO_SCENARIO,
    },
    Defect {
        name: "made-private-without-a-limit",
        rules: &["R9"],
        edits: &[
            Edit { file: CONVERT, text: "        self.check_private_areas(&guard, range)?;\n", instead: "" },
            Edit { file: CONVERT, text: "            self.check_private_areas(&state, range)?;\n", instead: "" },
        ],
        host: &[
            toy("areas_limit::memory_that_becomes_a_regions_and_private_again"),
            toy("areas_limit::random::operations_are_refused_where_the_twin_would_have_too_many"),
        ],
        emulator: NO_SCENARIO,
    },
    Defect {
        name: "areas-that-go-and-stay-on-the-account",
        rules: &["R9"],
        edits: &[Edit {
            file: EXCLUSIVE,
            text: "accounts.areas().note(areas.len());",
            instead: "let account = accounts.areas();\n        account.note(account.used().max(areas.len()));",
        }],
        host: &[
            toy("areas_limit::an_unmap"),
            toy("areas_limit::a_limit_below_what_is_there"),
            toy("areas_limit::threads::never_have_more_than_the_limit"),
        ],
        emulator: NO_SCENARIO,
    },
    Defect {
        name: "one-area-more-than-the-limit",
        rules: &["R9"],
        edits: &[Edit { file: LIMITS, text: "account.fits(after - now)", instead: "account.fits(after - now - 1)" }],
        host: &[
            toy("areas_limit::a_mapping"),
            toy("areas_limit::random::operations_are_refused_where_the_twin_would_have_too_many"),
        ],
        emulator: NO_SCENARIO,
    },
    Defect {
        name: "refused-what-makes-no-area",
        rules: &["R9"],
        edits: &[Edit {
            file: LIMITS,
            text: "if after <= now || account.fits(after - now)",
            instead: "if account.fits(after.saturating_sub(now))",
        }],
        host: &[toy("areas_limit::a_limit_below_what_is_there"), toy("areas_limit::an_unmap")],
        emulator: NO_SCENARIO,
    },
    Defect {
        name: "areas-that-would-be-one-are-counted-as-two",
        rules: &["R9"],
        edits: &[Edit { file: FORECAST, text: "len - usize::from(is_joined)", instead: "len" }],
        host: &[
            unit("set::forecast::tests::of_a_replacement_is_what_comes_of_it"),
            toy("areas_limit::a_mapping"),
            toy("areas_limit::a_replacement"),
        ],
        emulator: NO_SCENARIO,
    },
];
