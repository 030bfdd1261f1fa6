//! Defects in a space: its answers, its lock, its accesses, its end.

use super::table::{
    A57, A57_PAIR, BROADCAST, Defect, EVERY_SWITCH_FLUSHES, Edit, Emulator, NO_DENIALS, ONLY_COST, host, parts, toy,
};

const ACCESS: &str = "src/space/window.rs";
const DISMANTLE: &str = "src/space/dismantle.rs";
const EDIT: &str = "src/space/edit.rs";
const FAULT: &str = "src/space/fault.rs";
const POPULATE: &str = "src/space/populate.rs";
const SPACE: &str = "src/space/mod.rs";

pub const DEFECTS: &[Defect] = &[
    Defect {
        name: "a-denial-stays",
        rules: &["F7", "H3"],
        edits: &[Edit {
            file: FAULT,
            text: "if fault.cause == Cause::Permission && self.context",
            instead: "if false && fault.cause == Cause::Permission && self.context",
        }],
        host: &[
            host("cortex_a57::faults::a_denial_that_the_cpu_remembers"),
            host("cortex_a57::two_cpus::the_other_cpu_follows"),
        ],
        emulator: NO_DENIALS,
    },
    Defect {
        name: "an-unjustified-denial-is-an-error",
        rules: &["F7"],
        edits: &[Edit {
            file: POPULATE,
            text: "            self.forget_denial(fault);
            return Some(Outcome::Retry);",
            instead: "            self.forget_denial(fault);
            return Some(Outcome::Denied { flags: position.flags(&self.context)? });",
        }],
        host: &[host("cortex_a57::faults::a_permission_fault_that"), toy("that_deny_what_the_entry_allows")],
        emulator: Emulator::Shows(A57, &["faults::a_permission_fault_that_the_entry_does_not_justify_is_no_error"]),
    },
    Defect {
        name: "a-second-fault-replaces-the-frame",
        rules: &["F1"],
        edits: &[
            Edit {
                file: POPULATE,
                text: "        let Some(most) = position.absent(&self.context) else {",
                instead: "        if fault.cause == Cause::Translation && position.flags(&self.context).is_some() {
            return None;
        }
        let Some(most) = position.absent(&self.context) else {",
            },
            Edit {
                file: FAULT,
                text: "            (Found::Leaf { leaf, .. }, _) => {
",
                instead:
                    "            (Found::Leaf { .. }, Backend::Private(_)) if fault.cause == Cause::Translation => {
                Later::Populate(Level::PAGE, area.flags())
            }
            (Found::Leaf { leaf, .. }, _) => {
",
            },
            Edit {
                file: "src/table/install.rs",
                text: "let replaced = slot.replace(context.format.absent(), context.format.leaf(level, leaf));",
                instead: "let replaced = slot.replace(slot.load(), context.format.leaf(level, leaf));",
            },
        ],
        host: &[host("cortex_a57::faults::a_second_fault"), toy("on_a_present_page_keep_its_frame")],
        emulator: Emulator::Shows(A57, &["faults::a_second_fault_keeps_the_frame"]),
    },
    Defect {
        name: "lazy-memory-is-built-at-once",
        rules: &["F2"],
        edits: &[Edit {
            file: EDIT,
            text: "(populate == Populate::Now).then_some(Fill::Own(leaf, flags))",
            instead: "Some(Fill::Own(leaf, flags)).filter(|_| populate != Populate::Now || true)",
        }],
        host: &[toy("of_a_lazy_area_builds_no_table"), host("cortex_a57::faults::a_lazy_area")],
        emulator: Emulator::Shows(A57, &["faults::a_lazy_area_builds_no_tables"]),
    },
    Defect {
        name: "faults-one-after-the-other",
        rules: &["F3"],
        edits: &[Edit {
            file: FAULT,
            text: "        match self.answer_at_once(&state, cpu, fault) {",
            instead: "        drop(state);
        let answer = self.answer_at_once(&self.state.exclusive(), cpu, fault);
        let state = self.state.shared(cpu);
        match answer {",
        }],
        host: &[toy("do_not_wait_for_each_other")],
        emulator: ONLY_COST,
    },
    Defect {
        name: "an-area-that-changed-meanwhile",
        rules: &["L4"],
        edits: &[Edit { file: POPULATE, text: "        if !still {", instead: "        if !still && false {" }],
        host: &[toy("map_nothing_where_the_area_went_meanwhile")],
        emulator: Emulator::Cannot("the other CPU would have to come between two instructions"),
    },
    Defect {
        name: "a-gigabyte-for-one-fault",
        rules: &["L3"],
        edits: &[Edit {
            file: POPULATE,
            text: "const LARGEST_LAZY: Level = Level(1);",
            instead: "const LARGEST_LAZY: Level = Level(2);",
        }],
        host: &[toy("populate_a_small_block_where_a_large_one_fits")],
        emulator: Emulator::Cannot("the board has no such block of memory"),
    },
    Defect {
        name: "misaligned-is-aligned",
        rules: &["W1"],
        edits: &[Edit { file: SPACE, text: "} else if misaligned {", instead: "} else if misaligned && false {" }],
        host: &[host("cortex_a57::refusals::a_bad_range"), toy("refuses_and_names_what_is_wrong_with_a_range")],
        emulator: Emulator::Shows(A57, &["refusals::a_bad_range_is_refused_everywhere"]),
    },
    Defect {
        name: "protect-over-a-hole",
        rules: &["W3"],
        edits: &[Edit {
            file: EDIT,
            text: "        if part.start > start {",
            instead: "        if part.start > start.max(part.start) {",
        }],
        host: &[host("cortex_a57::refusals::a_hole_is_named"), toy("names_the_hole_and_changes_nothing")],
        emulator: Emulator::Shows(A57, &["refusals::a_hole_is_named"]),
    },
    Defect {
        name: "an-address-beyond-the-width-aliases",
        rules: &["W6"],
        edits: &[Edit {
            file: "src/space/query.rs",
            text: "        if gpa.as_usize() >= self.context.limit() {
            return None;
        }
",
            instead: "        let gpa = GuestPhysAddr::from_usize(gpa.as_usize() & (self.context.limit() - 1));
",
        }],
        host: &[host("cortex_a57::addresses::every_width")],
        emulator: Emulator::Shows(A57, &["addresses::every_width_reaches_its_first_and_last_page"]),
    },
    Defect {
        name: "an-overlap-without-a-name",
        rules: &["A8"],
        edits: &[Edit {
            file: EDIT,
            text: "            Some(other) => Err(Error::Overlap { range, with: other.va_range() }),",
            instead: "            Some(_) => Err(Error::Overlap { range, with: range }),",
        }],
        host: &[host("cortex_a57::refusals::an_overlap_names_both"), toy("names_both_ranges_of_an_overlap")],
        emulator: Emulator::Shows(A57, &["refusals::an_overlap_names_both_ranges"]),
    },
    Defect {
        name: "an-offset-underflows",
        rules: &["A6"],
        edits: &[Edit {
            file: "src/backend/mod.rs",
            text: "to.as_usize().wrapping_sub(from.as_usize())",
            instead: "to.as_usize() - from.as_usize()",
        }],
        host: &[host("cortex_a57::addresses::host_addresses_may_be_above_and_below")],
        emulator: Emulator::Cannot("the program there is built for release, where it wraps as it should"),
    },
    Defect {
        name: "an-access-runs-past-its-page",
        rules: &["G1"],
        edits: &[Edit {
            file: ACCESS,
            text: "let len = range.end.min(page.end) - range.start;",
            instead: "let len = range.end.max(page.start) - range.start;",
        }],
        host: &[toy("ends_where_the_mapping_ends"), toy("is_zero_until_it_is_written")],
        emulator: Emulator::Shows(A57, &["guest_memory::access_ends_where_the_guests_ends"]),
    },
    Defect {
        name: "devices-are-memory",
        rules: &["G5"],
        edits: &[Edit {
            file: ACCESS,
            text: "if flags.contains(MappingFlags::DEVICE) {",
            instead: "if flags.is_all() {",
        }],
        host: &[toy("is_what_the_guest_may_do_and_no_device")],
        emulator: Emulator::Shows(A57, &["guest_memory::access_ends_where_the_guests_ends"]),
    },
    Defect {
        name: "the-hypervisor-may-everything",
        rules: &["G5"],
        edits: &[Edit { file: ACCESS, text: "if !flags.contains(access.flag()) {", instead: "if flags.is_empty() {" }],
        host: &[host("cortex_a57::guest_memory::access_ends_where"), toy("is_what_the_guest_may_do_and_no_device")],
        emulator: Emulator::Shows(A57, &["guest_memory::access_ends_where_the_guests_ends"]),
    },
    Defect {
        name: "an-address-is-a-pointer",
        rules: &["G2"],
        edits: &[Edit {
            file: "src/frame.rs",
            text: "let address = H::phys_to_virt(at).as_usize();",
            instead: "let address = at.as_usize();",
        }],
        host: &[parts("a_handlers_frames_are_reached_where_it_says")],
        emulator: Emulator::Cannot("EL2 reaches all of the board's memory where it stands"),
    },
    Defect {
        name: "a-fresh-mapping-is-invalidated",
        rules: &["T7"],
        edits: &[Edit {
            file: EDIT,
            text: "                table.graft(&self.context, built);\n",
            instead: "                table.graft(&self.context, built);
                let _ = self.context.shootdown.invalidate_all();
",
        }],
        host: &[toy("needs_no_invalidation")],
        emulator: ONLY_COST,
    },
    Defect {
        name: "an-identifier-not-flushed",
        rules: &["T9", "H6"],
        edits: &[Edit { file: "src/shootdown.rs", text: "        invalidate.invalidate_all(root);\n", instead: "" }],
        host: &[host("cortex_a57::lifetime::")],
        emulator: EVERY_SWITCH_FLUSHES,
    },
    Defect {
        name: "virtual-cpus-not-kept-apart",
        rules: &["T9", "H6"],
        edits: &[Edit {
            file: "src/shootdown.rs",
            text: "        if owed.other_vcpu {",
            instead: "        if owed.other_vcpu && false {",
        }],
        host: &[host("cortex_a57::lifetime::two_virtual_cpus"), toy("separates_virtual_cpus")],
        emulator: Emulator::Cannot("QEMU forgets all translations when the guest's own registers change"),
    },
    Defect {
        name: "a-shootdown-waits-for-cpus-outside",
        rules: &["T10", "H20"],
        edits: &[Edit {
            file: "src/cpus.rs",
            text: "        self.in_guest.load(Ordering::Acquire) && self.flushed.load(Ordering::Acquire) < generation.0",
            instead: "        self.flushed.load(Ordering::Acquire) < generation.0",
        }],
        host: &[toy("shootdown::interrupts_only_cpus_in_the_guest")],
        emulator: BROADCAST,
    },
    Defect {
        name: "a-cpu-that-owes-does-not-pay",
        rules: &["T4", "H16", "H20"],
        edits: &[Edit {
            file: "src/shootdown.rs",
            text: "            && let Err(unreachable) = self.pay(cpu, generation)\n",
            instead: "            && let Err(unreachable) = { self.cpus.flushed(cpu, generation); Ok(()) }\n",
        }],
        host: &[toy("shootdown::interrupts_only_cpus_in_the_guest")],
        emulator: BROADCAST,
    },
    Defect {
        name: "freed-while-a-cpu-is-inside",
        rules: &["L1", "H24"],
        edits: &[Edit {
            file: DISMANTLE,
            text: "if let Some(cpu) = self.context.shootdown.inside() {",
            instead: "if let Some(cpu) = self.context.shootdown.inside().filter(|cpu| cpu.0 == usize::MAX) {",
        }],
        host: &[toy("leaks_rather_than_frees_under_a_cpu_in_the_guest")],
        emulator: Emulator::Cannot("no scenario may free what its own guest runs on"),
    },
    Defect {
        name: "dropped-without-a-flush",
        rules: &["L1", "T6", "H24"],
        edits: &[Edit {
            file: DISMANTLE,
            text: "        self.context.shootdown.invalidate_all().map_err(",
            instead: "        Ok::<(), crate::invalidate::Unreachable>(()).map_err(",
        }],
        host: &[
            toy("gives_everything_back_after_everything_was_forgotten"),
            host("cortex_a57::lifetime::a_dropped_space"),
        ],
        emulator: EVERY_SWITCH_FLUSHES,
    },
    Defect {
        name: "a-guest-enters-while-it-is-frozen",
        rules: &["H12", "H20"],
        edits: &[Edit {
            file: "src/cpus.rs",
            text: "        if self.closed.load(Ordering::Acquire) {",
            instead: "        if self.closed.load(Ordering::Acquire) && cpu.0 == usize::MAX {",
        }],
        host: &[toy("rest::nothing_changes_meanwhile"), host("cortex_a57::steps::")],
        emulator: Emulator::Shows(A57, &["steps::a_guest_at_rest_is_frozen_in_steps"]),
    },
    Defect {
        name: "what-was-frozen-is-not-forgotten",
        rules: &["H12", "T6"],
        edits: &[Edit {
            file: "src/table/freeze.rs",
            text: "        self.pending = progress.into_pending(Edit::Split);
",
            instead: "        let _ = progress.into_pending(Edit::Split);
",
        }],
        host: &[toy("rest::"), host("cortex_a57::snapshots::")],
        emulator: Emulator::Shows(A57_PAIR, &["snapshots::the_other_cpu_loses_its_leave_to_write"]),
    },
    Defect {
        name: "readers-starve-the-writer",
        rules: &["L6"],
        edits: &[Edit {
            file: "src/lock.rs",
            text: "        self.writers.claim();\n        for stripe in self.stripes.iter() {\n",
            instead: "        while self.stripes.iter().any(|stripe| stripe.0.load(Ordering::Relaxed) != 0) {}
        self.writers.claim();
        for stripe in self.stripes.iter() {
",
        }],
        host: &[parts("a_waiting_writer_keeps_new_readers_out")],
        emulator: ONLY_COST,
    },
    Defect {
        name: "a-device-under-the-guests-tables-is-emulated",
        rules: &["F6", "H11"],
        edits: &[Edit {
            file: FAULT,
            text: "        Origin::GuestWalk => Outcome::Inject,",
            instead: "        Origin::GuestWalk => Outcome::NotMapped,",
        }],
        host: &[host("cortex_a57::faults::a_walk_into_a_hole")],
        emulator: Emulator::Shows(A57_PAIR, &["faults::a_walk_into_a_hole_or_a_device_is_the_guests_own_error"]),
    },
];
