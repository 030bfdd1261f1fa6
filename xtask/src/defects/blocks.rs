//! Defects in blocks that several guests reach.

use super::table::{A57, Defect, Edit, Emulator, NO_CACHES, host, toy, unit};

const INHERIT: &str = "src/space/inherit.rs";
const FRAME: &str = "src/pages/frame.rs";
const PAGES: &str = "src/pages/mod.rs";
const POPULATE: &str = "src/region/populate.rs";
const SHARED: &str = "src/space/shared.rs";
const UNSHARE: &str = "src/space/unshare.rs";

const ALIKE: Emulator = Emulator::Cannot("its allocator takes back any pages by one call");
const RARE: Emulator = Emulator::Cannot("no scenario has two CPUs, or a limit, at that moment");

pub const DEFECTS: &[Defect] = &[
    Defect {
        name: "frames-side-by-side-are-a-block",
        rules: &["R19", "R13"],
        edits: &[Edit {
            file: FRAME,
            text: "self.packed & (PAGE_SIZE_4K - 1) >= pages.trailing_zeros() as usize",
            instead: "pages > 0 || self.packed > 0",
        }],
        host: &[
            toy("blocks::of_regions::are_nothing_that_was_allocated_page_by_page"),
            unit("pages::tests::a_block_is_what_was_allocated_at_once_and_is_in_order"),
        ],
        emulator: ALIKE,
    },
    Defect {
        name: "a-block-in-any-order",
        rules: &["R19"],
        edits: &[Edit { file: PAGES, text: "frame.at() == at && frame.is_of_block", instead: "frame.is_of_block" }],
        host: &[unit("pages::tests::a_block_is_what_was_allocated_at_once_and_is_in_order")],
        emulator: RARE,
    },
    Defect {
        name: "a-block-that-reaches-past-its-area",
        rules: &["R19"],
        edits: &[Edit { file: SHARED, text: "            && area.va_range().contains_range(block)\n", instead: "" }],
        host: &[toy("blocks::of_regions::are_mapped_where_addresses_agree")],
        emulator: RARE,
    },
    Defect {
        name: "a-shared-block-for-an-access-that-it-does-not-allow",
        rules: &["R19", "H18"],
        edits: &[Edit {
            file: SHARED,
            text: "\n            && self.fits(BLOCK, area.flags(), fault.access);",
            instead: ";",
        }],
        host: &[toy("blocks::of_regions::do_not_allow_what_only_pages_may")],
        emulator: Emulator::Cannot("on the virt board a large leaf may have all flags"),
    },
    Defect {
        name: "a-shared-block-in-step-in-its-first-page",
        rules: &["R19", "H14"],
        edits: &[Edit {
            file: SHARED,
            text: "self.context.synchronize(&leaf, block.size());",
            instead: "self.context.synchronize_page(&leaf);",
        }],
        host: &[toy("blocks::of_regions::are_in_step_with_the_caches_as_a_whole")],
        emulator: NO_CACHES,
    },
    Defect {
        name: "a-block-laid-over-a-page-that-came-first",
        rules: &["R19"],
        edits: &[Edit {
            file: POPULATE,
            text: "let (Some(at), None) = (block.at, book.pages.next(places.clone())) else",
            instead: "let (Some(at), _) = (block.at, book.pages.next(places.clone())) else",
        }],
        host: &[toy("blocks::of_regions::are_given_up_where_another_cpu_was_first")],
        emulator: RARE,
    },
    Defect {
        name: "a-snapshot-that-forgets-its-blocks",
        rules: &["R19"],
        edits: &[Edit {
            file: INHERIT,
            text: "flat_map(|(at, size)| Frame::all(at, size))",
            instead: "flat_map(|(at, size)| Frame::all(at, size).map(|frame| Frame::page(frame.at())))",
        }],
        host: &[
            toy("blocks::of_snapshots::are_blocks_of_those_that_inherit_them"),
            host("blocks::a_fork_has_blocks_until_it_writes_them"),
        ],
        emulator: Emulator::Shows(A57, &["blocks::a_fork_has_blocks_until_it_writes_them"]),
    },
    Defect {
        name: "a-block-refused-for-a-page-that-others-reach",
        rules: &["R19", "R1"],
        edits: &[Edit {
            file: UNSHARE,
            text: "            span = Context::<P>::page_of(gpa);\n            self.split_at_ends(&mut state.table, span)?;\n",
            instead: "            return Ok(span.end);\n",
        }],
        host: &[toy("blocks::of_snapshots::are_split_where_others_reach_a_part")],
        emulator: RARE,
    },
];
