//! Defects in what one space gives another: loans, donations, conversions.

use super::table::{Defect, Edit, Emulator, NO_CACHES, NO_LATE_WRITES, host, toy, x86};

const BOOK: &str = "src/loan/book.rs";
const CONVERT: &str = "src/space/convert.rs";
const DONATE: &str = "src/space/donate.rs";
const HOLDING: &str = "src/loan/holding.rs";
const LOAN: &str = "src/space/loan.rs";
const RECLAIM: &str = "src/space/reclaim.rs";
const SPLIT: &str = "src/table/split.rs";
const TRANSFER: &str = "src/space/transfer.rs";
const UNMAP: &str = "src/space/unmap.rs";
const WITHDRAW: &str = "src/table/withdraw.rs";

const HOST_ONLY: Emulator = Emulator::Cannot("it was put in on the host alone");

pub const DEFECTS: &[Defect] = &[
    Defect {
        name: "lent-without-an-invalidation",
        rules: &["T6", "H22"],
        edits: &[Edit {
            file: WITHDRAW,
            text: "        progress.invalidate(context).inspect_err(",
            instead: "        Ok::<(), Unreachable>(()).inspect_err(",
        }],
        host: &[
            host("cortex_a57::lending::the_other_cpu_loses_what_is_lent"),
            host("cortex_a57::lending::what_is_donated"),
            toy("loans::deaf_cpus"),
        ],
        emulator: HOST_ONLY,
    },
    Defect {
        name: "a-failed-loan-is-lost",
        rules: &["T8"],
        edits: &[Edit {
            file: WITHDRAW,
            text: "            ranges.for_each(|range| self.put_back(context, range, Noted::AsBefore));",
            instead: "            drop(ranges);",
        }],
        host: &[toy("loans::deaf_cpus::lending"), toy("transfers::donate::a_cpu_that_cannot_be_told")],
        emulator: HOST_ONLY,
    },
    Defect {
        name: "two-spaces-locked-as-asked",
        rules: &["L1"],
        edits: &[Edit {
            file: TRANSFER,
            text: "                    let others = other.hold();
                    (self.hold(), others)",
            instead: "                    let mine = self.hold();
                    (mine, other.hold())",
        }],
        host: &[toy("loans::opposite_directions")],
        emulator: HOST_ONLY,
    },
    Defect {
        name: "returned-before-the-flush",
        rules: &["T6"],
        edits: &[Edit {
            file: UNMAP,
            text: "                *removed = core::mem::take(&mut into.areas.areas);
",
            instead: "                into.areas.give_back(self.accounts());
                *removed = core::mem::take(&mut into.areas.areas);
",
        }],
        host: &[toy("loans::deaf_cpus::what_a_borrowers_cpu_still_reaches")],
        emulator: HOST_ONLY,
    },
    Defect {
        name: "unmapped-while-on-loan",
        rules: &["T6"],
        edits: &[Edit {
            file: "src/space/exclusive.rs",
            text: "        Self::check_not_on_loan(&state, range)?;
",
            instead: "",
        }],
        host: &[toy("loans::refusals::every_wrong_transition"), host("cortex_a57::lending::a_wrong_transition")],
        emulator: HOST_ONLY,
    },
    Defect {
        name: "a-dead-lenders-memory-lost",
        rules: &["W14"],
        edits: &[Edit { file: LOAN, text: "|(loan, part)| loan.terms().lender_ends(part)", instead: "drop" }],
        host: &[toy("loans::deaths"), host("cortex_a57::lending::the_end_of_either")],
        emulator: HOST_ONLY,
    },
    Defect {
        name: "a-link-in-a-frame-on-loan",
        rules: &["R15", "H47"],
        edits: &[Edit {
            file: HOLDING,
            text: "        unsafe { self.frames.free(at, page_size / PAGE_SIZE_4K) }\n",
            instead: "        unsafe {
            let mut at = at;
            if let Some((next, _)) = self.memory.at((page + 1) * page_size).filter(|_| self.users[page + 1].claim()) {
                let link = self.frames.pointer(next).cast();
                link.write(next);
                self.frames.free(at, page_size / PAGE_SIZE_4K);
                at = link.read();
            }
            self.frames.free(at, page_size / PAGE_SIZE_4K);
        }
",
        }],
        host: &[toy("late_writes::in_what_a_dead_lender_lent")],
        emulator: NO_LATE_WRITES,
    },
    Defect {
        name: "freed-under-another-borrower",
        rules: &["T6"],
        edits: &[Edit {
            file: HOLDING,
            text: "self.0.compare_exchange(0, FREE, Ordering::Acquire, Ordering::Relaxed).is_ok()",
            instead: "self.0.swap(FREE, Ordering::Acquire) != FREE",
        }],
        host: &[toy("loans::several::a_page_is_freed_once"), toy("loans::several::what_the_last_borrower_returns")],
        emulator: HOST_ONLY,
    },
    Defect {
        name: "its-own-while-another-has-it",
        rules: &["T6"],
        edits: &[Edit {
            file: RECLAIM,
            text: "                let other = lender.loans.first_in(GuestPhysRange { start: gpa, end: part.end }).map(|(_, other)| other);
",
            instead: "                let other: Option<GuestPhysRange> = None;
",
        }],
        host: &[
            toy("loans::several::a_page_is_on_loan_until"),
            host("cortex_a57::lending::two_borrowers_and_the_owner"),
        ],
        emulator: HOST_ONLY,
    },
    Defect {
        name: "what-is-back-is-taken-back-again",
        rules: &["W14"],
        edits: &[Edit {
            file: RECLAIM,
            text: "while let Some(part) = lender.loans.take(loan, range) {",
            instead: "while let Some(part) = lender.loans.take(loan, range).map(|_| range) {",
        }],
        host: &[toy("loans::parts::what_is_left_is_reclaimed")],
        emulator: HOST_ONLY,
    },
    Defect {
        name: "a-lent-blocks-pieces-are-mapped",
        rules: &["T6"],
        edits: &[Edit { file: SPLIT, text: "                    context.lend_all(&cut);\n", instead: "" }],
        host: &[toy("loans::parts::blocks_that_a_parts_ends_cut")],
        emulator: HOST_ONLY,
    },
    Defect {
        name: "a-block-on-loan-marked-as-lent",
        rules: &["H22"],
        edits: &[Edit {
            file: SPLIT,
            text: "_ => slot.change_owner(&context.format, Owner::OnLoan, Owner::Foreign),",
            instead: "_ => {}",
        }],
        host: &[toy("loans::parts::blocks_that_a_parts_ends_cut")],
        emulator: HOST_ONLY,
    },
    Defect {
        name: "a-part-lost-for-want-of-memory",
        rules: &["R8"],
        edits: &[Edit {
            file: RECLAIM,
            text: "            table.discard_split(&borrower.context);
",
            instead: "            drop(table.split(&borrower.context, place));
",
        }],
        host: &[toy("loans::parts::blocks_that_a_parts_ends_cut")],
        emulator: HOST_ONLY,
    },
    Defect {
        name: "a-readers-end-hides-a-writers",
        rules: &["E6"],
        edits: &[Edit {
            file: RECLAIM,
            text: "                    if may_be_written {
",
            instead: "                    if may_be_written && false {
",
        }],
        host: &[x86("skylake::lending::what_several_wrote")],
        emulator: HOST_ONLY,
    },
    Defect {
        name: "a-dead-borrowers-memory-not-returned",
        rules: &["W14"],
        edits: &[Edit {
            file: LOAN,
            text: "        self.areas.iter().for_each(super::shared::give_back);
",
            instead: "",
        }],
        host: &[toy("loans::deaths::of_the_borrower"), host("cortex_a57::lending::the_end_of_either")],
        emulator: HOST_ONLY,
    },
    Defect {
        name: "given-with-what-is-in-it",
        rules: &["G4"],
        edits: &[Edit {
            file: WITHDRAW,
            text: "                frame::zero(&self.frames, page, 1);
",
            instead: "",
        }],
        host: &[host("cortex_a57::lending::what_is_donated"), toy("loans::share::zeroing")],
        emulator: HOST_ONLY,
    },
    Defect {
        name: "a-given-page-not-cleaned",
        rules: &["G6", "H14"],
        edits: &[Edit {
            file: WITHDRAW,
            text: "            if handover == Handover::Zero || purpose != Content::Data {",
            instead: "            if false && purpose != Content::Data {",
        }],
        host: &[toy("transfers::donate::the_giver_is_invalidated"), toy("loans::lend::zeroed_memory_is_clean")],
        emulator: NO_CACHES,
    },
    Defect {
        name: "a-borrower-may-write-what-its-lender-may-not",
        rules: &["G5"],
        edits: &[Edit {
            file: LOAN,
            text: "if !may.contains(flags - memory_type)",
            instead: "if false && !may.contains(flags - memory_type)",
        }],
        host: &[toy("loans::refusals::a_borrower_gets_no_more")],
        emulator: HOST_ONLY,
    },
    Defect {
        name: "a-borrower-executes",
        rules: &["G5"],
        edits: &[Edit {
            file: LOAN,
            text: "flags & (MappingFlags::EXECUTE | MappingFlags::DEVICE)",
            instead: "flags & MappingFlags::DEVICE",
        }],
        host: &[
            host("cortex_a57::lending::a_borrower_never_executes"),
            toy("loans::refusals::a_borrower_gets_no_more"),
        ],
        emulator: HOST_ONLY,
    },
    Defect {
        name: "a-borrowers-writes-not-noted",
        rules: &["E6"],
        edits: &[Edit {
            file: RECLAIM,
            text: "if written { Noted::Written }",
            instead: "if written && false { Noted::Written }",
        }],
        host: &[x86("skylake::lending::what_comes_back_counts_as_written")],
        emulator: HOST_ONLY,
    },
    Defect {
        name: "pages-given-as-a-block",
        rules: &["A4"],
        edits: &[Edit { file: DONATE, text: "seams: Seams::Kept", instead: "seams: Seams::Forgotten" }],
        host: &[toy("transfers::donate::pages_side_by_side")],
        emulator: HOST_ONLY,
    },
    Defect {
        name: "a-region-taken-from-its-other-guests",
        rules: &["T6"],
        edits: &[Edit {
            file: "src/region/book.rs",
            text: "            (mappings, handles) => Err(RegionError::InUse { mappings, handles }),",
            instead: "            _ => Ok(()),",
        }],
        host: &[
            toy("transfers::convert::a_region_becomes_private"),
            host("cortex_a57::lending::private_memory_becomes_shared"),
        ],
        emulator: HOST_ONLY,
    },
    Defect {
        name: "what-others-populated-is-lost",
        rules: &["W14"],
        edits: &[Edit {
            file: CONVERT,
            text: "        unmapped.graft(&self.context, table);
",
            instead: "",
        }],
        host: &[toy("transfers::convert::what_others_populated")],
        emulator: HOST_ONLY,
    },
    Defect {
        name: "mapped-before-nothing-fails",
        rules: &["R8"],
        edits: &[Edit {
            file: LOAN,
            text: "        self.split_at_ends(&mut lender.table, range)?;
",
            instead: "        supplement.graft(&self.context, &mut lender.table);
        let supplement = Supplement::nothing();
        self.split_at_ends(&mut lender.table, range)?;
",
        }],
        host: &[toy("transfers::refused::for_lack_of_memory")],
        emulator: HOST_ONLY,
    },
    Defect {
        name: "left-and-taken-before-a-page-refuses",
        rules: &["R8"],
        edits: &[Edit {
            file: TRANSFER,
            text: "            let mut missing = self.missing(&giver, range)?;
",
            instead: "            self.unshare(&mut giver, range)?;
            let mut missing = self.missing(&giver, range)?;
",
        }],
        host: &[toy("snapshots::that_are_gone_stay_so_where_another")],
        emulator: HOST_ONLY,
    },
    Defect {
        name: "left-and-taken-before-a-page-comes",
        rules: &["R8"],
        edits: &[Edit {
            file: TRANSFER,
            text: "if giver.inherited.is_some() && missing.sourced().is_none() {",
            instead: "if giver.inherited.is_some() {",
        }],
        host: &[toy("snapshots::that_are_gone_stay_so_where_another")],
        emulator: HOST_ONLY,
    },
    Defect {
        name: "returned-shared-again-and-kept",
        rules: &["R20"],
        edits: &[Edit { file: LOAN, text: "            self.end_left_behind(&mut lender, range);
", instead: "" }],
        host: &[toy("left_behind::of_shared_memory")],
        emulator: HOST_ONLY,
    },
    Defect {
        name: "over-though-there-is-a-handle",
        rules: &["R20"],
        edits: &[Edit {
            file: BOOK,
            text: "loan.owners() == entries()",
            instead: "loan.owners() >= entries()",
        }],
        host: &[toy("left_behind::are_not_over_while_there_is")],
        emulator: HOST_ONLY,
    },
    Defect {
        name: "left-and-taken-in-vain",
        rules: &["R8"],
        edits: &[Edit {
            file: CONVERT,
            text: "        self.check_convertible(&guard, range)?;
        self.unshare(&mut guard, range)?;
",
            instead: "        self.unshare(&mut guard, range)?;
        self.check_convertible(&guard, range)?;
",
        }],
        host: &[toy("snapshots::that_are_gone_stay_so")],
        emulator: HOST_ONLY,
    },
    Defect {
        name: "brought-before-the-limit-is-looked-at",
        rules: &["R8"],
        edits: &[Edit {
            file: CONVERT,
            text: "            self.check_room_for_sourced(&state, range)?;
",
            instead: "            let _ = self.check_room_for_sourced(&state, range);
",
        }],
        host: &[toy("sources::regions::what_may_not_become_private")],
        emulator: HOST_ONLY,
    },
];
