//! Defects in memory that comes from a source: who asks, who is told, and what is never shown.

use super::table::{A57, Defect, Edit, Emulator, host, toy};

const DESK: &str = "src/source/desk.rs";
const FAULT: &str = "src/space/fault.rs";
const MEMORY: &str = "src/region/memory.rs";
const PAGER: &str = "src/source/pager.rs";
const REGION: &str = "src/region/supply.rs";
const SPACE: &str = "src/space/supply.rs";
const UNMAP: &str = "src/space/unmap.rs";

const BETWEEN: Emulator = Emulator::Cannot("it would need a CPU between two instructions");

pub const DEFECTS: &[Defect] = &[
    Defect {
        name: "a-page-asked-for-twice",
        rules: &["F1"],
        edits: &[Edit {
            file: REGION,
            text: "Entered::First(_) if !is_still_missing() =>",
            instead: "Entered::First(_) if false && !is_still_missing() =>",
        }],
        host: &[toy("sources::races::a_page_that_another_brought_and_took")],
        emulator: BETWEEN,
    },
    Defect {
        name: "the-tables-looked-at-first",
        rules: &["F1", "H26"],
        edits: &[Edit {
            file: SPACE,
            text: "matches!(state.table.find(&self.space.context, self.gpa), Found::Absent(_))",
            instead: "true",
        }],
        host: &[toy("sources::races::a_page_that_another_brought_and_took")],
        emulator: BETWEEN,
    },
    Defect {
        name: "the-region-not-looked-at-again",
        rules: &["F1"],
        edits: &[Edit {
            file: REGION,
            text: "is_missing = matches!(behind(region, page), Behind::Source(..)) && in_tables()",
            instead: "is_missing = in_tables()",
        }],
        host: &[toy("sources::races::a_page_that_another_guest_brought")],
        emulator: BETWEEN,
    },
    Defect {
        name: "two-looks-at-an-inherited-page",
        rules: &["F1"],
        edits: &[Edit {
            file: FAULT,
            text: "        if look.at.is_none() {\n            return Some(Later::Bring(view.clone()));\n        }\n        is_left_to_it = look.is_alone",
            instead: "        is_left_to_it = look.at.is_some() && look.is_alone",
        }],
        host: &[toy("sources::races::a_page_that_comes_while_a_fault_looks")],
        emulator: BETWEEN,
    },
    Defect {
        name: "zeros-instead-of-the-sources",
        rules: &["G4"],
        edits: &[Edit {
            file: REGION,
            text: "        Some((view, page)) => behind(view.region(), page),",
            instead: "        Some(_) => Behind::Nothing,",
        }],
        host: &[toy("sources::snapshots::have_the_source"), host("cortex_a57::sources::a_snapshot_keeps")],
        emulator: Emulator::Shows(A57, &["sources::a_snapshot_keeps_its_source"]),
    },
    Defect {
        name: "a-write-that-does-not-wait",
        rules: &["G4"],
        edits: &[Edit {
            file: MEMORY,
            text: "Given::Zeros if !matches!(supply::behind(this, page), Behind::Nothing) =>",
            instead: "Given::Zeros if false && !matches!(supply::behind(this, page), Behind::Nothing) =>",
        }],
        host: &[toy("sources::snapshots::have_the_source"), host("threads::sources::everything_goes_on")],
        emulator: Emulator::Shows(A57, &["sources::a_snapshot_keeps_its_source"]),
    },
    Defect {
        name: "a-source-sees-old-data",
        rules: &["G4"],
        edits: &[Edit {
            file: MEMORY,
            text: "ok_or(Exhausted::Memory)?.zeroed();
        let bytes",
            instead: "ok_or(Exhausted::Memory)?;
        let bytes",
        }],
        host: &[toy("sources::private::comes_with_the_first_touch")],
        emulator: Emulator::Cannot("the image there writes what it is asked for, and looks at nothing else"),
    },
    Defect {
        name: "told-before-it-is-over",
        rules: &["F8"],
        edits: &[Edit {
            file: PAGER,
            text: "        let was_pending = self.0.desk.fail(ticket);
        if was_pending {
            self.0.source.settled(ticket, Settled::Failed);
        }
        was_pending",
            instead: "        self.0.source.settled(ticket, Settled::Failed);
        self.0.desk.fail(ticket)",
        }],
        host: &[toy("sources::callbacks::come_when_the_ticket_is_over")],
        emulator: BETWEEN,
    },
    Defect {
        name: "told-under-the-spaces-lock",
        rules: &["T10"],
        edits: &[Edit {
            file: UNMAP,
            text: "                    drop(guard);
                    into.areas.end_waits();
",
            instead: "                    into.areas.end_waits();
                    drop(guard);
",
        }],
        host: &[toy("sources::callbacks::are_called_without_any_lock")],
        emulator: Emulator::Cannot("the source there makes no call"),
    },
    Defect {
        name: "unmapping-cancels-nothing",
        rules: &["L4"],
        edits: &[Edit {
            file: UNMAP,
            text: "                    into.areas.end_waits();
",
            instead: "",
        }],
        host: &[toy("sources::private::unmapping_cancels"), host("cortex_a57::sources::unmapping_cancels")],
        emulator: Emulator::Shows(A57, &["sources::unmapping_cancels"]),
    },
    Defect {
        name: "waits-outlive-what-was-finished-late",
        rules: &["L4"],
        edits: &[Edit {
            file: "src/space/exclusive.rs",
            text: "        let_go.end_waits();\n",
            instead: "        drop(let_go);\n",
        }],
        host: &[toy("sources::private::what_is_finished_meanwhile")],
        emulator: BETWEEN,
    },
    Defect {
        name: "any-ticket-will-do",
        rules: &["L4"],
        edits: &[Edit {
            file: DESK,
            text: "self.ticket == ticket && self.stage == Stage::Asked",
            instead: "self.stage == Stage::Asked",
        }],
        host: &[toy("sources::private::unmapping_cancels")],
        emulator: Emulator::Cannot("no answer there comes after a failure"),
    },
    Defect {
        name: "pending-pages-without-limit",
        rules: &["L3"],
        edits: &[Edit {
            file: SPACE,
            text: "untaken < self.context.frames.account().room()",
            instead: "untaken < usize::MAX",
        }],
        host: &[toy("sources::private::what_was_brought_and_not_taken")],
        emulator: Emulator::Cannot("no scenario there has a limit and a source"),
    },
];
