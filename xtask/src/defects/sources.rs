//! Defects in memory that comes from a source: who asks, who is told, and what is never shown.

use super::table::{A57, Defect, Edit, Emulator, host, toy, unit};

const DESK: &str = "src/source/desk.rs";
const FAULT: &str = "src/space/fault.rs";
const COPY: &str = "src/space/copy.rs";
const KEEPER: &str = "src/pages/keeper.rs";
const PAGER: &str = "src/source/pager.rs";
const ASKER: &str = "src/pages/asker.rs";
const SLOT: &str = "src/pages/slot.rs";
const SPACE: &str = "src/space/supply.rs";
const UNMAP: &str = "src/space/unmap.rs";

const BETWEEN: Emulator = Emulator::Cannot("it would need a CPU between two instructions");

pub const DEFECTS: &[Defect] = &[
    Defect {
        name: "a-page-asked-for-twice",
        rules: &["F1"],
        edits: &[Edit {
            file: SLOT,
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
            text: "matches!(
                    state.table.seek_again(&self.space.context, self.gpa).found(&self.space.context),
                    Found::Absent(_)
                )",
            instead: "true",
        }],
        host: &[toy("sources::races::a_page_that_another_brought_and_took")],
        emulator: BETWEEN,
    },
    Defect {
        name: "the-region-not-looked-at-again",
        rules: &["F1"],
        edits: &[Edit {
            file: ASKER,
            text: "is_missing = in_source() && in_tables()",
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
            text: "None if is_supplied => Some(Later::Bring(self.keep(area.backend()))),",
            instead: "None if is_supplied => None,",
        }],
        host: &[toy("sources::races::a_page_that_comes_while_a_fault_looks")],
        emulator: BETWEEN,
    },
    Defect {
        name: "zeros-instead-of-the-sources",
        rules: &["G4"],
        edits: &[Edit {
            file: "src/space/snapshot.rs",
            text: "                    all.clone()
                }),",
            instead: "                    let _ = &all;
                    None
                }),",
        }],
        host: &[toy("sources::snapshots::have_the_source"), host("cortex_a57::sources::a_snapshot_keeps")],
        emulator: Emulator::Shows(A57, &["sources::a_snapshot_keeps_its_source"]),
    },
    Defect {
        name: "a-write-that-does-not-wait",
        rules: &["G4"],
        edits: &[Edit {
            file: COPY,
            text: "Taken::Nothing if heritage.source(page).is_some() =>",
            instead: "Taken::Nothing if false && heritage.source(page).is_some() =>",
        }],
        host: &[toy("sources::snapshots::have_the_source"), host("threads::sources::everything_goes_on")],
        emulator: Emulator::Shows(A57, &["sources::a_snapshot_keeps_its_source"]),
    },
    Defect {
        name: "a-source-sees-old-data",
        rules: &["G4"],
        edits: &[Edit {
            file: KEEPER,
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
        host: &[toy("sources::private::unmapping_in_steps_cancels")],
        emulator: Emulator::Cannot("what is not told when it is unmapped is told when it is freed"),
    },
    Defect {
        name: "waits-outlive-what-was-finished-late",
        rules: &["L4"],
        edits: &[Edit { file: "src/space/exclusive.rs", text: "areas.give_back(self.accounts());", instead: "" }],
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
        edits: &[Edit { file: SLOT, text: "account.room() == 0 && ", instead: "false && " }],
        host: &[toy("sources::private::what_was_brought_and_not_taken")],
        emulator: Emulator::Cannot("no scenario there has a limit and a source"),
    },
    Defect {
        name: "ranges-of-a-source-that-stay-apart",
        rules: &["R20"],
        edits: &[Edit {
            file: "src/pages/supply.rs",
            text: "        while let Some(next) = ranges.next_if(",
            instead: "        while false && let Some(next) = ranges.next_if(",
        }],
        host: &[unit("supply::tests::")],
        emulator: Emulator::Cannot("no scenario there counts what is on the heap"),
    },
];
