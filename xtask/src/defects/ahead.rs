//! Defects in what is brought before a guest touches it: populated, or offered by a source.

use super::table::{Defect, Edit, Emulator, toy};

const DESK: &str = "src/source/desk.rs";
const POPULATING: &str = "src/space/populating.rs";
const OFFER: &str = "src/space/offer.rs";
const PAGER: &str = "src/source/pager.rs";
const SLOT: &str = "src/pages/slot.rs";

const BETWEEN: Emulator = Emulator::Cannot("it would need a CPU between two instructions");
const NO_LIMIT: Emulator = Emulator::Cannot("no scenario there has a limit and a source");

pub const DEFECTS: &[Defect] = &[
    Defect {
        name: "a-batch-for-an-area-that-went",
        rules: &["L4"],
        edits: &[Edit {
            file: POPULATING,
            text: "        if !still {
            return nothing;
        }
",
            instead: "        let _ = still;
",
        }],
        host: &[toy("populate::pages_of_an_area_that_went")],
        emulator: BETWEEN,
    },
    Defect {
        name: "pages-that-lost-stay-on-the-account",
        rules: &["C7"],
        edits: &[Edit { file: POPULATING, text: "charge.keep_some(installed.0);", instead: "charge.keep();" }],
        host: &[toy("populate::pages_that_came_meanwhile")],
        emulator: BETWEEN,
    },
    Defect {
        name: "another-pages-ticket-counted",
        rules: &["L3"],
        edits: &[Edit {
            file: POPULATING,
            text: "Outcome::NotYet(ticket) if Some(ticket.offset()) == offset =>",
            instead: "Outcome::NotYet(ticket) if offset.is_some() =>",
        }],
        host: &[toy("sources::populate::where_a_pager_has_no_room")],
        emulator: Emulator::Cannot("no pager there is full"),
    },
    Defect {
        name: "an-offer-wakes-nobody",
        rules: &["F8"],
        edits: &[Edit {
            file: PAGER,
            text: "entry: self.0.desk.take_one(owner, &(0..1)) }",
            instead: "entry: None.filter(|_: &Entry<Owner>| owner.is(owner)) }",
        }],
        host: &[toy("sources::offer::a_page_that_is_waited_for"), toy("sources::offer::a_fault_that_is_about_to_ask")],
        emulator: BETWEEN,
    },
    Defect {
        name: "an-offer-on-no-account",
        rules: &["C8"],
        edits: &[Edit { file: SLOT, text: "            content.paid = paid;\n", instead: "            drop(paid);\n" }],
        host: &[toy("sources::offer::a_page_that_was_offered"), toy("sources::offer::at_a_limit")],
        emulator: NO_LIMIT,
    },
    Defect {
        name: "an-offer-amid-a-snapshot",
        rules: &["C2"],
        edits: &[Edit { file: OFFER, text: "            state.check_rest()?;\n", instead: "" }],
        host: &[toy("sources::offer::while_a_snapshot_is_taken")],
        emulator: Emulator::Cannot("nothing is offered there while a snapshot is taken"),
    },
    Defect {
        name: "every-place-taken-ahead",
        rules: &["L3"],
        edits: &[Edit {
            file: DESK,
            text: "            Demand::Ahead => kept(slots.len()),",
            instead: "            Demand::Ahead => kept(slots.len()) / usize::MAX,",
        }],
        host: &[toy("sources::populate::a_fault_is_asked_for_at_once")],
        emulator: Emulator::Cannot("no pager there has as few places as pages"),
    },
    Defect {
        name: "populated-as-if-it-were-missed",
        rules: &["L3"],
        edits: &[Edit { file: POPULATING, text: "fault.gpa, Demand::Ahead)", instead: "fault.gpa, Demand::Now)" }],
        host: &[toy("sources::populate::a_fault_is_asked_for_at_once")],
        emulator: Emulator::Cannot("no pager there has as few places as pages"),
    },
    Defect {
        name: "failures-in-the-way-of-what-is-ahead",
        rules: &["L3"],
        edits: &[Edit {
            file: DESK,
            text: "let pending = || slots.iter().flatten().filter(|entry| entry.stage == Stage::Asked)",
            instead: "let pending = || slots.iter().flatten()",
        }],
        host: &[toy("sources::populate::failures_are_no_pages")],
        emulator: Emulator::Cannot("no source fails there"),
    },
];
