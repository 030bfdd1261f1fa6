//! Defects in memory that goes from areas that stay, and in mappings that take the place of others.

use super::table::{A57, Defect, Edit, Emulator, toy};

const ACCESS: &str = "src/region/access.rs";
const DISCARD: &str = "src/space/discard.rs";
const EDIT: &str = "src/pages/edit.rs";
const FLUSH: &str = "src/table/flush.rs";
const MEMORY: &str = "src/region/memory.rs";
const PUNCH: &str = "src/space/discard_region.rs";
const REPLACE: &str = "src/space/replace.rs";
const SNAPSHOT: &str = "src/space/snapshot.rs";

pub const DEFECTS: &[Defect] = &[
    Defect {
        name: "discarded-and-still-inherited",
        rules: &["R16"],
        edits: &[Edit {
            file: DISCARD,
            text: "inherits().for_each(|part| inherited.cut(&inherit::pages(part), self.accounts()));",
            instead: "",
        }],
        host: &[
            toy("discard::what_was_inherited_is_left_to_others"),
            toy("reach::snapshots_and_forks_hold_what_somebody_reaches"),
        ],
        emulator: Emulator::Shows(A57, &["discarding::a_fork_keeps_what_its_parent_discards"]),
    },
    Defect {
        name: "discarded-for-zeros-and-asked-for-again",
        rules: &["R16"],
        edits: &[Edit {
            file: DISCARD,
            text: "            if refill == Refill::Zeros {",
            instead: "            if refill == Refill::Zeros && false {",
        }],
        host: &[
            toy("discard::a_source_is_asked_again_or_never"),
            toy("reach::snapshots_of_what_comes_from_a_source_hold_what_somebody_reaches"),
        ],
        emulator: Emulator::Cannot("no scenario of a source"),
    },
    Defect {
        name: "a-wait-for-what-was-discarded",
        rules: &["R16"],
        edits: &[Edit { file: DISCARD, text: "        into.areas.end_waits();", instead: "" }],
        host: &[toy("discard::no_cpu_waits_for_it_any_longer")],
        emulator: Emulator::Cannot("no scenario of a source"),
    },
    Defect {
        name: "refused-and-not-put-back",
        rules: &["R16", "R17"],
        edits: &[Edit {
            file: FLUSH,
            text: "self.reap(removed).inspect_err(|_| self.restore())",
            instead: "let result = self.reap(removed);
        core::mem::forget(self);
        result",
        }],
        host: &[
            toy("discard::refused::when_a_cpu_cannot_be_told_nothing_has_changed"),
            toy("replace::refused::while_a_cpu_cannot_be_told"),
        ],
        emulator: Emulator::Cannot("every CPU can be told"),
    },
    Defect {
        name: "a-table-put-back-as-nothing",
        rules: &["R16", "R17"],
        edits: &[Edit {
            file: FLUSH,
            text: "                    Entry::Marked(Marked::Table(table)) => slot.store(context.format.table(table)),
                    _ => {}",
            instead: "                    _ => {}",
        }],
        host: &[
            toy("discard::refused::when_a_cpu_cannot_be_told_nothing_has_changed"),
            toy("replace::refused::while_a_cpu_cannot_be_told"),
        ],
        emulator: Emulator::Cannot("every CPU can be told"),
    },
    Defect {
        name: "a-replacement-that-leaves-a-hole",
        rules: &["R17"],
        edits: &[Edit {
            file: REPLACE,
            text: "        if let Some(built) = built.take() {
            table.graft(&self.context, built);
        }",
            instead: "        drop(guard);
        if let Some(built) = built.take() {
            let mut guard = self.exclusive()?;
            guard.table.graft(&self.context, built);
        }",
        }],
        host: &[toy("replace::no_cpu_finds_a_hole_in_between")],
        emulator: Emulator::Cannot("no CPU touches it at that moment"),
    },
    Defect {
        name: "built-for-a-table-that-goes",
        rules: &["R17"],
        edits: &[Edit {
            file: REPLACE,
            text: "                if level == detached.level() {",
            instead: "                if level >= detached.level() {",
        }],
        host: &[toy("replace::tables_that_change_meanwhile_are_found_again")],
        emulator: Emulator::Cannot("no CPU unmaps at that moment"),
    },
    Defect {
        name: "a-refused-mapping-that-shows-its-region",
        rules: &["R17"],
        edits: &[Edit { file: REPLACE, text: "                view.hide(range);", instead: "" }],
        host: &[toy("replace::refused::while_a_cpu_cannot_be_told")],
        emulator: Emulator::Cannot("every CPU can be told"),
    },
    Defect {
        name: "what-comes-is-lost-where-a-range-ends",
        rules: &["R17"],
        edits: &[Edit {
            file: EDIT,
            text: "                *record = core::mem::take(page);",
            instead: "                drop(core::mem::take(page));
                let _ = record;",
        }],
        host: &[toy("replace::whatever_was_there_the_new_mapping_is"), toy("reach::")],
        emulator: Emulator::Cannot("its pages are shared with others whole"),
    },
    Defect {
        name: "a-handle-reads-what-was-freed",
        rules: &["R18"],
        edits: &[Edit {
            file: ACCESS,
            text: "        self.0.synchronize(bytes, len, Content::Data);
        let result = each(bytes);
        drop(book);",
            instead: "        drop(book);
        self.0.synchronize(bytes, len, Content::Data);
        let result = each(bytes);",
        }],
        host: &[toy("discard_region::stay_while_a_handle_reads_them")],
        emulator: Emulator::Cannot("no handle reads at that moment"),
    },
    Defect {
        name: "a-hole-that-another-space-does-not-know-of",
        rules: &["R18"],
        edits: &[Edit {
            file: MEMORY,
            text: "if !book.cover.agrees(shown, pages.clone()) {",
            instead: "if false && !book.cover.agrees(shown, pages.clone()) {",
        }],
        host: &[toy("discard_region::refused::while_another_space"), toy("reach::regions_hold_what_somebody_reaches")],
        emulator: Emulator::Cannot("no scenario leaves a space out"),
    },
    Defect {
        name: "a-hole-before-all-are-told",
        rules: &["R18"],
        edits: &[Edit {
            file: PUNCH,
            text: "        self.region().prepare_to_lose(&pages, &shown, &mut discarding.pages)?;",
            instead: "        self.region().prepare_to_lose(&pages, &shown, &mut discarding.pages)?;
        self.region().lose(&pages, &mut discarding.pages);",
        }],
        host: &[toy("discard_region::refused::while_a_cpu_of_any")],
        emulator: Emulator::Cannot("every CPU can be told"),
    },
    Defect {
        name: "what-a-region-loses-in-steps-is-freed-at-once",
        rules: &["R14", "R18"],
        edits: &[Edit {
            file: PUNCH,
            text: "        discarding.pages.end_waits();
",
            instead: "        discarding.pages.end_waits();
        discarding.step(usize::MAX);
",
        }],
        host: &[toy("regions::whose_pages_are_discarded_for_all")],
        emulator: Emulator::Cannot("its pages are free soon either way"),
    },
    Defect {
        name: "a-wait-for-what-a-region-loses-in-steps",
        rules: &["R18"],
        edits: &[Edit {
            file: PUNCH,
            text: "        discarding.pages.end_waits();
",
            instead: "",
        }],
        host: &[toy("discard_region::are_asked_for_again_where_a_source")],
        emulator: Emulator::Cannot("no source brings a region's pages later there"),
    },
    Defect {
        name: "tables-that-a-hole-leaves-freed-under-the-locks",
        rules: &["R18"],
        edits: &[Edit {
            file: PUNCH,
            text: "        drop(held);
        discarding.pages",
            instead: "        discarding.step(usize::MAX);
        drop(held);
        discarding.pages",
        }],
        host: &[toy("regions::whose_pages_are_discarded_are_freed_without")],
        emulator: Emulator::Cannot("no other CPU waits for the lock then"),
    },
    Defect {
        name: "a-source-that-goes-under-the-lock",
        rules: &["S5"],
        edits: &[Edit {
            file: SNAPSHOT,
            text: "                    let_go.push(before.clone());",
            instead: "                    let _ = (&before, &let_go);",
        }],
        host: &[toy("callbacks::a_source_goes_without_any_lock")],
        emulator: Emulator::Cannot("no source there takes a lock when it goes"),
    },
];
