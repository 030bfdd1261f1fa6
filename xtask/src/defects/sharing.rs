//! Defects in memory that is shared, inherited, frozen, or limited.

use super::table::{A57, A57_PAIR, Defect, Edit, Emulator, MAX, NO_LATE_WRITES, host, toy, unit};

const BOOK: &str = "src/region/book.rs";
const COPY: &str = "src/space/copy.rs";
const FREEZE: &str = "src/table/freeze.rs";
const LIMITS: &str = "src/space/limits.rs";
const NODE: &str = "src/pages/node.rs";
const REMOVED: &str = "src/table/removed.rs";
const SLOT: &str = "src/pages/slot.rs";
const SNAPSHOT: &str = "src/space/snapshot.rs";

pub const DEFECTS: &[Defect] = &[
    Defect {
        name: "copied-without-an-invalidation",
        rules: &["C1", "H9"],
        edits: &[Edit {
            file: COPY,
            text: "claim.invalidate().map_err(|cause| Error::Invalidation { range, cause })?;",
            instead: "",
        }],
        host: &[host("cortex_a57::copying::"), host("worlds_are_what_their_twins_are::without_extensions")],
        emulator: Emulator::Shows(A57_PAIR, &["copying::the_other_cpu_reads_the_copy"]),
    },
    Defect {
        name: "a-snapshot-that-is-still-written",
        rules: &["C2"],
        edits: &[Edit {
            file: FREEZE,
            text: "let flags = Owner::Frozen.limit(leaf.flags);",
            instead: "let flags = leaf.flags;",
        }],
        host: &[host("cortex_a57::snapshots::")],
        emulator: Emulator::Shows(A57, &["snapshots::a_fork_has_what_was_written_before"]),
    },
    Defect {
        name: "frozen-while-it-is-written",
        rules: &["C3"],
        edits: &[Edit {
            file: BOOK,
            text: "if self.writable > 0 || self.writers > 0 {",
            instead: "if self.writers > 0 {",
        }],
        host: &[host("cortex_a57::shared::a_region_is_frozen"), host("worlds_are_what_their_twins_are")],
        emulator: Emulator::Shows(A57, &["shared::a_region_is_frozen_for_good"]),
    },
    Defect {
        name: "a-page-taken-from-under-a-handle",
        rules: &["C4"],
        edits: &[Edit { file: SLOT, text: "self.0.sharers.fetch_add(1, Ordering::Relaxed);", instead: "" }],
        host: &[
            unit("a_page_that_two_trees_name_is_taken_by_neither"),
            host("cortex_a57::snapshots::a_guest_goes_back"),
            host("worlds_are_what_their_twins_are"),
        ],
        emulator: Emulator::Shows(A57, &["snapshots::a_guest_goes_back_to_its_snapshot"]),
    },
    Defect {
        name: "a-page-taken-while-another-guest-has-it",
        rules: &["C5"],
        edits: &[Edit {
            file: NODE,
            text: "frees && record.is_alone() && record.at()",
            instead: "frees && record.at()",
        }],
        host: &[unit("a_page_that_two_trees_name_is_taken_by_neither"), toy("reach::snapshots_and_forks_hold")],
        emulator: Emulator::Cannot("no scenario has three guests that go one after the other"),
    },
    Defect {
        name: "freed-while-another-guest-maps-it",
        rules: &["C5", "H22"],
        edits: &[Edit {
            file: NODE,
            text: "        if let Record::Own(frame) = self.what {\n            // SAFETY: no leaf",
            instead: "        if let Some(frame) = self.what.frame() {\n            // SAFETY: no leaf",
        }],
        host: &[
            unit("the_last_that_lets_go_of_a_page_frees_it"),
            toy("reach::snapshots_and_forks_hold"),
            host("worlds_are_what_their_twins_are"),
        ],
        emulator: Emulator::Shows(A57, &["snapshots::a_fork_is_forked"]),
    },
    Defect {
        name: "what-a-snapshot-stands-on-forgotten",
        rules: &["C6"],
        edits: &[Edit { file: SNAPSHOT, text: "self.region.fill(|all| *all = pages);", instead: "drop(pages);" }],
        host: &[host("cortex_a57::snapshots::a_fork_is_forked"), host("worlds_are_what_their_twins_are")],
        emulator: Emulator::Shows(A57, &["snapshots::a_fork_is_forked"]),
    },
    Defect {
        name: "a-link-in-a-regions-frame",
        rules: &["R15", "H47"],
        edits: &[Edit {
            file: "src/pages/end.rs",
            text: "                    drop(records.take_out(index));\n",
            instead: "                    let gone = records.take_out(index);
                    if let Some(next) = records.pages.get_mut(index + 1)
                        && let Some(at) = next.at()
                    {
                        let link = records.keeper.pointer(at).cast();
                        // SAFETY: none.
                        #[allow(unsafe_code)]
                        unsafe {
                            link.write(at);
                            drop(gone);
                            *next = super::node::Record::Own(link.read());
                        }
                    }
",
        }],
        host: &[
            toy("late_writes::in_a_region_that_was_mapped_for_the_last_time"),
            toy("late_writes::in_what_a_snapshot_left"),
        ],
        emulator: NO_LATE_WRITES,
    },
    Defect {
        name: "a-limit-that-unmapping-does-not-give-back",
        rules: &["C7"],
        edits: &[
            Edit { file: REMOVED, text: "context.frames.account().give_back(some);", instead: "" },
            Edit {
                file: REMOVED,
                text: "context.frames.account().give_back(before - *budget);",
                instead: "let _ = before;",
            },
        ],
        host: &[host("cortex_a57::limits::"), host("worlds_are_what_their_twins_are")],
        emulator: Emulator::Shows(MAX, &["limits::a_guest_gets_as_many_frames_as_it_may"]),
    },
    Defect {
        name: "a-snapshot-that-stays-on-the-account",
        rules: &["C7"],
        edits: &[Edit {
            file: SNAPSHOT,
            text: "        context.frames.account().give_back(bytes / PAGE_SIZE_4K);\n",
            instead: "        let _ = bytes;\n",
        }],
        host: &[host("cortex_a57::limits::a_snapshot_takes"), host("worlds_are_what_their_twins_are")],
        emulator: Emulator::Shows(MAX, &["limits::a_snapshot_takes_frames_off_the_account"]),
    },
    Defect {
        name: "a-copy-on-no-account",
        rules: &["C8"],
        edits: &[Edit { file: COPY, text: "            charge.keep();\n", instead: "            drop(charge);\n" }],
        host: &[host("cortex_a57::limits::a_copy_counts"), host("worlds_are_what_their_twins_are")],
        emulator: Emulator::Shows(MAX, &["limits::a_copy_counts_and_so_does_a_page_that_is_taken"]),
    },
    Defect {
        name: "tables-without-a-limit",
        rules: &["C8"],
        edits: &[Edit {
            file: "src/account.rs",
            text: "filter(|&room| room >= 0)",
            instead: "filter(|&room| room >= 0 || self.what == Resource::TableFrames)",
        }],
        host: &[host("cortex_a57::limits::a_guest_gets_as_many_tables"), host("worlds_are_what_their_twins_are")],
        emulator: Emulator::Shows(MAX, &["limits::a_guest_gets_as_many_tables_as_it_may"]),
    },
    Defect {
        name: "refused-what-another-cpu-brings",
        rules: &["C9"],
        edits: &[Edit {
            file: LIMITS,
            text: "Verdict::Answer(outcome) => return Ok(outcome),",
            instead: "Verdict::Answer(_) => return Err(error),",
        }],
        host: &[toy("limits::a_page_that_another_cpu")],
        emulator: Emulator::Cannot("the other CPU would have to come between two instructions"),
    },
];
