//! Defects in the sequences that make CPUs forget.

use super::table::{A57, A57_PAIR, Defect, EVERY_SWITCH_FLUSHES, Edit, Emulator, NO_CACHES, ORDER, host, unit};

const TLB: &str = "arch/aarch64/tlb.rs";
const OPERAND: &str = "arch/aarch64/operand.rs";
const EXECUTOR: &str = "arch/aarch64/executor.rs";

/// The heart of every invalidation of a range.
const BOTH_STAGES: &str = "        stage2();
        self.barrier(domain, Kind::All);
        self.complete(domain, stage1);
";

pub const DEFECTS: &[Defect] = &[
    Defect {
        name: "no-tlbi",
        rules: &["H1"],
        edits: &[Edit {
            file: TLB,
            text: "&mut || self.both_stages(domain, &mut stage2, Tlbi::Vmalle1is));",
            instead: "&mut || {
            let _ = &mut stage2;
            self.barrier(domain, Kind::All);
        });",
        }],
        host: &[host("cortex_a57::relocating::a_moved_"), host("cortex_a57::unmapping::unmapped_memory")],
        emulator: Emulator::Shows(
            A57,
            &["relocating::a_moved_page_is_not_seen_where_it_was", "unmapping::unmapped_memory_is_gone_at_once"],
        ),
    },
    Defect {
        name: "only-ipas2e1is",
        rules: &["T2", "H1"],
        edits: &[Edit {
            file: TLB,
            text: BOTH_STAGES,
            instead: "        stage2();\n        let _ = stage1;\n        self.barrier(domain, Kind::All);\n",
        }],
        host: &[host("cortex_a57::relocating::a_moved_"), host("cortex_a57::unmapping::unmapped_memory")],
        emulator: Emulator::Shows(
            A57,
            &["relocating::a_moved_page_is_not_seen_where_it_was", "unmapping::unmapped_memory_is_gone_at_once"],
        ),
    },
    Defect {
        name: "only-vmalle1is",
        rules: &["T2", "H1"],
        edits: &[Edit {
            file: TLB,
            text: BOTH_STAGES,
            instead: "        let _ = stage2;\n        self.complete(domain, stage1);\n",
        }],
        host: &[host("cortex_a57::relocating::a_moved_")],
        emulator: Emulator::Shows(A57, &["relocating::a_moved_table_of_the_guests_is_not_walked_where_it_was"]),
    },
    Defect {
        name: "wrong-order",
        rules: &["T2", "H1"],
        edits: &[Edit {
            file: TLB,
            text: BOTH_STAGES,
            instead: "        self.complete(domain, stage1);
        stage2();
        self.barrier(domain, Kind::All);
",
        }],
        host: &[host("cortex_a57::relocating::a_moved_"), unit("of_a_page_is_stage_2_then_stage_1")],
        emulator: ORDER,
    },
    Defect {
        name: "no-dsb-before",
        rules: &["T2", "H1"],
        edits: &[Edit {
            file: TLB,
            text: "            self.barrier(entries.0, entries.1);\n",
            instead: "            let _ = entries;\n",
        }],
        host: &[host("cortex_a57::relocating::a_moved_"), host("cortex_a57::unmapping::unmapped_memory")],
        emulator: ORDER,
    },
    Defect {
        name: "no-dsb-between",
        rules: &["T2", "H1"],
        edits: &[Edit {
            file: TLB,
            text: BOTH_STAGES,
            instead: "        stage2();\n        self.complete(domain, stage1);\n",
        }],
        host: &[host("cortex_a57::relocating::a_moved_"), host("cortex_a57::unmapping::unmapped_memory")],
        emulator: ORDER,
    },
    Defect {
        name: "no-dsb-behind",
        rules: &["T2", "H1"],
        edits: &[Edit {
            file: TLB,
            text: "            self.executor.execute(Op::Tlbi(last, 0));\n            self.barrier(domain, Kind::All);\n",
            instead: "            self.executor.execute(Op::Tlbi(last, 0));\n",
        }],
        // Where caches are cleaned, their barrier is one for the invalidation too.
        host: &[
            host("everything::relocating::a_moved_"),
            host("everything::unmapping::"),
            unit("of_a_page_is_stage_2"),
        ],
        emulator: ORDER,
    },
    Defect {
        // The executor of the host's tests is the model's, which can be told to do the same.
        name: "vae2is",
        rules: &["T1", "H1"],
        edits: &[
            Edit {
                file: "tests/host/machine.rs",
                text: "            sabotage: None,\n",
                instead: "            sabotage: Some(Sabotage::UseVae2is),\n",
            },
            Edit { file: EXECUTOR, text: "\"tlbi ipas2e1is, {}\"", instead: "\"tlbi vae2is, {}\"" },
            Edit { file: EXECUTOR, text: "\"tlbi ipas2le1is, {}\"", instead: "\"tlbi vae2is, {}\"" },
        ],
        host: &[host("cortex_a57::relocating::a_moved_")],
        emulator: Emulator::Shows(A57, &["relocating::a_moved_table_of_the_guests_is_not_walked_where_it_was"]),
    },
    Defect {
        name: "unshifted-operand",
        rules: &["T1", "H28"],
        edits: &[
            Edit {
                file: OPERAND,
                text: "(tlbi, self.next | ttl, self.stride)",
                instead: "(tlbi, self.next << PAGE_SHIFT | ttl, self.stride)",
            },
            Edit { file: OPERAND, text: "            | self.next;", instead: "            | self.next << PAGE_SHIFT;" },
        ],
        host: &[host("cortex_a57::relocating::a_moved_"), unit("the_operand_is_the_page_number")],
        emulator: Emulator::Shows(A57, &["relocating::a_moved_table_of_the_guests_is_not_walked_where_it_was"]),
    },
    Defect {
        name: "local",
        rules: &["T4", "H1"],
        edits: &[
            Edit {
                file: TLB,
                text: "|(tlbi, operand)| self.executor.execute(Op::Tlbi(tlbi, operand)));",
                instead: "|(_, operand)| self.executor.execute(Op::Tlbi(Tlbi::Ipas2e1, operand)));",
            },
            Edit { file: TLB, text: "stage2, Tlbi::Vmalle1is));", instead: "stage2, Tlbi::Vmalle1));" },
        ],
        host: &[host("cortex_a57::two_cpus::the_other_cpu_")],
        emulator: Emulator::Shows(
            A57_PAIR,
            &[
                "two_cpus::the_other_cpu_sees_a_moved_page_where_it_is",
                "two_cpus::the_other_cpu_loses_what_is_unmapped",
            ],
        ),
    },
    Defect {
        name: "wrong-vmid",
        rules: &["T5", "H2"],
        edits: &[Edit {
            file: TLB,
            text: "let foreign = vmid(current) != vmid(root.vttbr) || control != root.vtcr;",
            instead: "let foreign = vmid(current) > 0xffff;",
        }],
        host: &[host("cortex_a57::lifetime::"), unit("another_vmid::")],
        emulator: EVERY_SWITCH_FLUSHES,
    },
    Defect {
        name: "walks-in-flight-under-another-vmid",
        rules: &["H2"],
        edits: &[Edit {
            file: TLB,
            text: "            // barrier for stores would not wait for them.
            self.barrier(Domain::InnerShareable, Kind::All);",
            instead: "            self.barrier(Domain::InnerShareable, Kind::Stores);",
        }],
        host: &[host("cortex_a57::lifetime::"), unit("another_vmid::")],
        emulator: ORDER,
    },
    Defect {
        name: "no-publication",
        rules: &["W9", "H5"],
        edits: &[Edit {
            file: TLB,
            text: "        self.barrier(Domain::InnerShareable, Kind::Stores);\n    }",
            instead: "    }",
        }],
        host: &[host("cortex_a57::faults::a_hole_that_was_touched_can_be_mapped"), unit("publication_is_one")],
        emulator: ORDER,
    },
    Defect {
        name: "a-hint-of-the-wrong-level",
        rules: &["H4"],
        edits: &[Edit {
            file: OPERAND,
            text: "3_u64.saturating_sub(level.into())",
            instead: "2_u64.saturating_sub(level.into())",
        }],
        host: &[host("everything::relocating::a_moved_"), unit("of_a_block_hints_at_its_level")],
        emulator: Emulator::Cannot("QEMU ignores the hint"),
    },
    Defect {
        name: "a-range-that-skips-pages",
        rules: &["H4"],
        edits: &[Edit {
            file: OPERAND,
            text: "units << unit_shift(scale))\n",
            instead: "(units + 1) << unit_shift(scale))\n",
        }],
        host: &[host("everything::unmapping::"), unit("small_ranges_are_covered_exactly")],
        emulator: Emulator::Cannot("stage 1 goes whole behind it, and in QEMU that makes data fresh"),
    },
    Defect {
        name: "data-not-cleaned",
        rules: &["G6", "H14"],
        edits: &[Edit {
            file: TLB,
            text: "let cleaned = !forced || content == Content::Uncached;",
            instead: "let cleaned = forced && content == Content::Uncached;",
        }],
        host: &[host("cortex_a57::faults::lazy_memory_is_zero"), unit("caches::")],
        emulator: NO_CACHES,
    },
];
