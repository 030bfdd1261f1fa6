//! Defects in the walker: what is mapped, cut, taken away and given back.

use super::table::{
    A57, A57_PAIR, BROADCAST, Defect, Edit, Emulator, MAX_PAIR, NO_CACHES, NO_CONFLICTS, NO_LATE_WRITES, ONLY_COST,
    host, toy,
};

const BUILD: &str = "src/table/build.rs";
const CUT: &str = "src/table/cut.rs";
const EDIT: &str = "src/table/edit.rs";
const FLUSH: &str = "src/table/flush.rs";
const NODE: &str = "src/table/node.rs";
const PAGE: &str = "src/table/page.rs";
const RELOCATE: &str = "src/table/relocate.rs";
const REMOVED: &str = "src/table/removed.rs";
const WALK: &str = "src/table/walk.rs";

pub const DEFECTS: &[Defect] = &[
    Defect {
        name: "freed-before-the-flush",
        rules: &["T6", "H22"],
        edits: &[
            Edit {
                file: FLUSH,
                text: "        self.invalidate()?;
        let Some(Pending {",
                instead: "        let scope = self.pending.as_ref();
        let scope = scope.map(|pending| Scope { range: pending.range, entries: pending.changed });
        let Some(Pending {",
            },
            Edit {
                file: FLUSH,
                text: "                self.context.discard_cuts(self.cuts);
            }
        }
        Ok(())",
                instead: "                self.context.discard_cuts(self.cuts);
            }
            removed.free(self.context, &mut { usize::MAX });
        }
        scope.map_or(Ok(()), |scope| self.context.shootdown.invalidate(scope))",
            },
        ],
        host: &[host("cortex_a57::unmapping::unmapped_memory"), toy("frees_nothing_before_the_invalidation")],
        emulator: Emulator::Shows(MAX_PAIR, &["qemu::no_freed_frame_was_written"]),
    },
    Defect {
        name: "a-table-that-goes-like-a-leaf",
        rules: &["T6", "H4"],
        edits: &[Edit {
            file: EDIT,
            text: "progress.mark(chunk.span, Changed::Tables);",
            instead: "progress.mark(chunk.span, Changed::MixedLeaves);",
        }],
        host: &[host("cortex_a57::unmapping::"), toy("covers_the_whole_span_of_a_table_that_goes")],
        emulator: NO_CACHES,
    },
    Defect {
        name: "copied-before-the-invalidation",
        rules: &["H9"],
        edits: &[
            Edit {
                file: RELOCATE,
                text: "        let old = slot.swap(context.format.busy());\n",
                instead: "        let old = slot.swap(context.format.busy());
        if let Entry::Leaf(leaf) = context.format.decode(level, old) {
            // SAFETY: none.
            unsafe { context.copy_frames(leaf.at, frames.at(), frames.pages()) };
        }
",
            },
            Edit {
                file: RELOCATE,
                text: "        unsafe { context.copy_frames(old_leaf.at, frames.at(), frames.pages()) };\n",
                instead: "",
            },
        ],
        host: &[toy("keeps_what_another_cpu_writes_until_it_is_told"), host("relocating::")],
        emulator: Emulator::Shows(MAX_PAIR, &["two_cpus::a_count_goes_on_while_its_page_moves"]),
    },
    Defect {
        name: "moved-without-a-break",
        rules: &["W9", "H7"],
        edits: &[Edit {
            file: RELOCATE,
            text: "let old = slot.swap(context.format.busy());",
            instead: "let old = slot.load();",
        }],
        host: &[host("cortex_a57::relocating::a_moved_")],
        emulator: NO_CONFLICTS,
    },
    Defect {
        name: "another-memory-type-without-a-break",
        rules: &["W9", "H7"],
        edits: &[Edit {
            file: EDIT,
            text: "            Change::Break => {
                progress.mark(span, Changed::Leaves(level));
                return mark;
            }
",
            instead: "            Change::Break => {}\n",
        }],
        host: &[toy("invalidates_what_it_restricts_and_nothing_else"), host("cortex_a57::protecting::")],
        emulator: NO_CONFLICTS,
    },
    Defect {
        name: "a-block-goes-whole",
        rules: &["W2", "H8"],
        edits: &[Edit {
            file: CUT,
            text: "|| !edit.changes(&leaf) {",
            instead: "|| !edit.changes(&leaf) || edit == Edit::Unmap {",
        }],
        host: &[host("cortex_a57::unmapping::"), toy("splits_the_block")],
        emulator: Emulator::Shows(
            A57,
            &["unmapping::the_middle_of_a_block_goes_and_the_rest_stays", "unmapping::both_ends_may_cut_a_block"],
        ),
    },
    Defect {
        name: "a-hole-ends-the-range",
        rules: &["W3"],
        edits: &[
            Edit {
                file: EDIT,
                text: "            Visit::Entries(chunk) => {
                context.edit_entries(",
                instead: "            Visit::Entries(chunk)
                if chunk.part.start == range.start && chunk.slot().load() == context.format.absent() =>
            {
                Step::Stop
            }
            Visit::Entries(chunk) => {
                context.edit_entries(",
            },
            Edit {
                file: EDIT,
                text: "            context.edit_entries(&pages, edit, cuts, progress);\n",
                instead: "            if pages.slot().load() != context.format.absent() {
                context.edit_entries(&pages, edit, cuts, progress);
            }
",
            },
        ],
        host: &[host("cortex_a57::unmapping::a_range_may_span"), toy("of_what_begins_with_a_hole")],
        emulator: Emulator::Shows(A57, &["unmapping::a_range_may_span_areas_and_holes"]),
    },
    Defect {
        name: "empty-tables-stay",
        rules: &["W5"],
        edits: &[Edit {
            file: EDIT,
            text: "span == part || self.is_sole(self.below(level, span.start, table), part)",
            instead: "span == part && self.is_sole(self.below(level, span.start, table), part)",
        }],
        host: &[host("cortex_a57::unmapping::empty_tables_go"), toy("leaves_room_for_a_block")],
        emulator: Emulator::Shows(A57, &["unmapping::empty_tables_go_and_a_block_takes_their_place"]),
    },
    Defect {
        name: "a-page-leaves-an-empty-table",
        rules: &["W5"],
        edits: &[Edit {
            file: PAGE,
            text: "edit == Edit::Unmap && context.is_absent_around(node.entries, index, index)",
            instead: "edit == Edit::Unmap && node.entries.len() == 1",
        }],
        host: &[toy("leaves_room_for_a_block"), toy("single_page::takes_the_table")],
        emulator: ONLY_COST,
    },
    Defect {
        name: "a-page-goes-before-the-flush",
        rules: &["T6", "H22"],
        edits: &[
            Edit {
                file: PAGE,
                text: "        if let Err(unreachable) = progress.settle(context, pending, Edit::Unmap) {",
                instead: "        slot.store(context.format.absent());
        if let Err(unreachable) = progress.settle(context, pending, Edit::Unmap) {",
            },
        ],
        host: &[toy("single_page::is_invalidated"), toy("single_page::that_a_cpu")],
        emulator: NO_CACHES,
    },
    Defect {
        name: "a-page-is-broken-in-place",
        rules: &["W9", "H7"],
        edits: &[Edit {
            file: PAGE,
            text: "            if progress.has_marks && edit != Edit::Unmap {
                return None;
            }
",
            instead: "",
        }],
        host: &[toy("single_page::changes_as_the_format_says")],
        emulator: NO_CONFLICTS,
    },
    Defect {
        name: "nine-bits-of-root-index",
        rules: &["W6"],
        edits: &[Edit {
            file: "src/geometry.rs",
            text: "& (self.entries(level) - 1)",
            instead: "& ((1 << self.index_bits) - 1)",
        }],
        host: &[host("cortex_a57::addresses::every_width"), host("cortex_a57::addresses::a_range_may_span")],
        emulator: Emulator::Shows(A57, &["addresses::every_width_reaches_its_first_and_last_page"]),
    },
    Defect {
        name: "one-page-of-root",
        rules: &["W13"],
        edits: &[Edit {
            file: WALK,
            text: "for entry in &node.entries[first..] {",
            instead: "for entry in node.entries[first..].iter().take(512) {",
        }],
        host: &[host("everything::addresses::a_range_may_span")],
        emulator: Emulator::Shows(MAX_PAIR, &["addresses::a_range_may_span_the_whole_root"]),
    },
    Defect {
        name: "what-was-built-leaks",
        rules: &["W8", "A3"],
        edits: &[Edit {
            file: BUILD,
            text: "        removed.free(self.context, &mut { usize::MAX });\n",
            instead: "",
        }],
        host: &[host("cortex_a57::out_of_memory::to_map_"), toy("a_mapping_is_whole_or_not_there")],
        emulator: Emulator::Shows(A57, &["out_of_memory::to_map_pages"]),
    },
    Defect {
        name: "a-split-without-memory-loops",
        rules: &["W11"],
        edits: &[Edit {
            file: CUT,
            text: "            match self.cut(span, slot.level, &leaf, range, edit) {\n",
            instead: "            let cut = loop {
                if let Ok(cut) = self.cut(span, slot.level, &leaf, range, edit) {
                    break Ok(cut);
                }
            };
            match cut {
",
        }],
        host: &[toy("cutting_a_block_happens_or_does_not")],
        emulator: Emulator::Shows(A57, &["out_of_memory::to_unmap_parts_of_two_blocks"]),
    },
    Defect {
        name: "a-table-linked-unfilled",
        rules: &["W9"],
        edits: &[Edit {
            file: NODE,
            text: "let owned = tables.take(pages)?.zeroed();",
            instead: "let owned = tables.take(pages)?;",
        }],
        host: &[host("cortex_a57::unmapping::a_hole_is_mapped_anew"), host("cortex_a57::lifetime::")],
        emulator: Emulator::Shows(A57, &["faults::frames_of_a_former_guest_are_zero"]),
    },
    Defect {
        name: "a-marked-frame-forgotten",
        rules: &["W14"],
        edits: &[Edit {
            file: REMOVED,
            text: "Entry::Leaf(leaf) | Entry::Marked(Marked::Leaf(leaf)) if leaf.owner == Owner::Space => {
                Piece::Frames(",
            instead: "Entry::Leaf(leaf) if leaf.owner == Owner::Space => {
                Piece::Frames(",
        }],
        host: &[host("cortex_a57::unmapping::unmapped_memory"), toy("unmap::")],
        emulator: Emulator::Shows(A57, &["unmapping::unmapped_memory_is_gone_at_once"]),
    },
    Defect {
        name: "a-block-beyond-the-budget-forgotten",
        rules: &["W14", "L3"],
        edits: &[Edit {
            file: REMOVED,
            text: "return Next::Frames(Frameset { at: leaf.at, pages });",
            instead: "continue;",
        }],
        host: &[toy("steps::dismantle::frees_no_more"), host("cortex_a57::steps::what_is_freed")],
        emulator: Emulator::Shows(A57, &["steps::what_is_freed_in_steps_is_gone_at_once"]),
    },
    Defect {
        name: "a-link-in-a-frame",
        rules: &["R15", "H47"],
        edits: &[
            Edit {
                file: REMOVED,
                text: "            self.waiting.push(piece);\n        } else {",
                instead: "            if let Piece::Frames(Frameset { at, .. }) = &piece {
                // SAFETY: none.
                unsafe { context.frames.pointer(*at).cast().write(*at) }
            }
            self.waiting.push(piece);\n        } else {",
            },
            Edit {
                file: REMOVED,
                text: "Some(Piece::Frames(frames)) => self.frames = Some(frames),",
                instead: "Some(Piece::Frames(Frameset { at, pages })) => {
                        // SAFETY: none.
                        let at = unsafe { context.frames.pointer(at).cast().read() };
                        self.frames = Some(Frameset { at, pages });
                    }",
            },
        ],
        host: &[
            toy("late_writes::in_pages_that_went_free_exactly_those"),
            toy("late_writes::in_the_middles_of_blocks_free_nothing_else"),
        ],
        emulator: NO_LATE_WRITES,
    },
    Defect {
        name: "a-dead-entry-that-changed-is-passed-over",
        rules: &["R15", "H47"],
        edits: &[
            Edit {
                file: REMOVED,
                text: "            let mut freed = 0;\n",
                instead: "            let mut freed = 0;
            let words: SmallVec<[u64; 32]> =
                entries[self.next..].iter().map(|entry| entry.load(Ordering::Acquire)).collect();
",
            },
            Edit {
                file: REMOVED,
                text: "                if raw & !address != kind {",
                instead: "                let (now, raw) = (raw, words[freed]);
                if raw & !address != kind {",
            },
            Edit {
                file: REMOVED,
                text: "                unsafe { context.free_frames(at, pages) };",
                instead: "                if now == raw {
                    unsafe { context.free_frames(at, pages) };
                }",
            },
        ],
        host: &[toy("late_writes::of_a_walker::")],
        emulator: NO_CACHES,
    },
    Defect {
        name: "freed-under-the-lock",
        rules: &["L6"],
        edits: &[Edit {
            file: "src/space/unmap.rs",
            text: "flush.detach(&mut into.memory)",
            instead: "flush.finish()",
        }],
        host: &[toy("steps::unmap::")],
        emulator: ONLY_COST,
    },
    Defect {
        name: "an-invalidation-for-every-page",
        rules: &["T7"],
        edits: &[Edit {
            file: FLUSH,
            text: "            self.context.shootdown.invalidate(Scope { range: pending.range, entries: pending.changed })?;\n",
            instead: "            for page in (pending.range.start.as_usize()..pending.range.end.as_usize()).step_by(0x1000) {
                let range = GuestPhysRange::from_start_size(page.into(), 0x1000);
                self.context.shootdown.invalidate(Scope { range, entries: pending.changed })?;
            }
",
        }],
        host: &[toy("invalidates_once_however_large_the_range")],
        emulator: ONLY_COST,
    },
    Defect {
        name: "a-failed-invalidation-ignored",
        rules: &["T8", "H23"],
        edits: &[
            Edit {
                file: FLUSH,
                text: "        self.invalidate()?;
        let Some(Pending {",
                instead: "        let _ = self.invalidate();
        let Some(Pending {",
            },
            Edit {
                file: FLUSH,
                text: "            self.invalidate()?;
            *self.pending",
                instead: "            let _ = self.invalidate();
            *self.pending",
            },
            Edit {
                file: PAGE,
                text: "        context.shootdown.invalidate(scope)?;\n",
                instead: "        let _ = context.shootdown.invalidate(scope);\n",
            },
        ],
        host: &[toy("shootdown::that_fails"), toy("single_page::that_")],
        emulator: BROADCAST,
    },
    Defect {
        name: "frames-not-zeroed",
        rules: &["G4"],
        edits: &[Edit {
            file: BUILD,
            text: "        let frames = frames.zeroed();\n",
            instead: "",
        }],
        host: &[host("cortex_a57::faults::"), toy("is_zero_until_it_is_written")],
        emulator: Emulator::Shows(A57, &["faults::lazy_memory_is_zero_and_keeps_what_is_written"]),
    },
    Defect {
        name: "a-frame-mapped-before-it-is-cleaned",
        rules: &["G6", "H14"],
        edits: &[Edit {
            file: BUILD,
            text: "        self.synchronize(&leaf, frames.pages() * PAGE_SIZE_4K);\n",
            instead: "",
        }],
        host: &[host("cortex_a57::faults::lazy_memory_is_zero"), host("cortex_a57::mapping::")],
        emulator: NO_CACHES,
    },
    Defect {
        name: "a-moved-frame-not-cleaned",
        rules: &["G6", "H14"],
        edits: &[Edit {
            file: RELOCATE,
            text: "        context.synchronize(&new_leaf, size);\n",
            instead: "",
        }],
        host: &[host("cortex_a57::relocating::")],
        emulator: NO_CACHES,
    },
    Defect {
        name: "what-hardware-notes-in-a-sweep-is-lost",
        rules: &["W15", "H12"],
        edits: &[Edit {
            file: WALK,
            text: "self.format.fields(level).hardware == 0",
            instead: "self.format.fields(level).hardware != 1",
        }],
        host: &[toy("hardware::notes_nothing_that_an_edit")],
        emulator: Emulator::Cannot("the CPU would have to note it between two instructions"),
    },
    Defect {
        name: "two-cpus-replace-a-frame",
        rules: &["F1", "H25"],
        edits: &[Edit {
            file: "src/table/install.rs",
            text: "let replaced = slot.replace(context.format.absent(), context.format.leaf(level, leaf));",
            instead: "let replaced = slot.replace(slot.load(), context.format.leaf(level, leaf));",
        }],
        host: &[toy("leave_a_frame_that_came_meanwhile")],
        emulator: Emulator::Shows(A57_PAIR, &["two_cpus::both_cpus_populate_the_same_pages"]),
    },
];
