//! Defects in what entries and registers mean.

use super::table::{A57, Defect, Edit, Emulator, MAX, NO_CACHES, NO_EPT, NO_NPT, host, unit};

const ENTRY: &str = "arch/aarch64/entry.rs";
const CONFIG: &str = "arch/aarch64/config.rs";
const FAULT: &str = "arch/aarch64/fault.rs";
const EPT: &str = "arch/x86_64/ept/entry.rs";
const NPT: &str = "arch/x86_64/npt/entry.rs";
const OWED: &str = "arch/x86_64/npt/owed.rs";

const IS_LEAF: &str = "        } else if self.is_leaf(level, entry) {
            Entry::Leaf(";

pub const DEFECTS: &[Defect] = &[
    Defect {
        name: "hpfar-trusted",
        rules: &["F8", "H10"],
        edits: &[Edit { file: FAULT, text: "(cause != Cause::Permission && !errata", instead: "(!errata" }],
        host: &[host("everything::faults::a_permission_fault_behind"), unit("f8_hpfar_is_not_trusted")],
        emulator: Emulator::Cannot("QEMU fills HPFAR for every fault"),
    },
    Defect {
        name: "dbm-stays",
        rules: &["W15", "H12"],
        edits: &[Edit {
            file: ENTRY,
            text: "!(MEM_ATTR | READ | WRITE | DBM | EXECUTE_NEVER | DIRTY)",
            instead: "!(MEM_ATTR | READ | WRITE | EXECUTE_NEVER | DIRTY)",
        }],
        host: &[host("everything::protecting::write_protection_holds"), unit("w15_a_write_protected_leaf")],
        emulator: Emulator::Shows(MAX, &["protecting::write_protection_holds_where_the_cpu_notes_writes"]),
    },
    Defect {
        name: "dirt-forgotten",
        rules: &["E6", "W15", "H12"],
        edits: &[Edit {
            file: ENTRY,
            text: "self.encode_flags(flags, self.written(entry))",
            instead: "self.encode_flags(flags, false)",
        }],
        host: &[unit("e6_other_flags_keep_accessed_and_dirty"), unit("becomes_every_other")],
        emulator: Emulator::Cannot("no call of a space tells what is dirty"),
    },
    Defect {
        name: "never-execute-never",
        rules: &["E2"],
        edits: &[Edit {
            file: ENTRY,
            text: "if flags.contains(MappingFlags::EXECUTE) { 0 } else { EXECUTE_NEVER_ALL };",
            instead: "0;",
        }],
        host: &[host("cortex_a57::mapping::"), unit("e2_whatever_is_not_executable")],
        emulator: Emulator::Shows(
            A57,
            &["mapping::every_permission_is_given_by_itself", "mapping::a_device_answers_and_is_never_executed"],
        ),
    },
    Defect {
        name: "write-inverted",
        rules: &["E1"],
        edits: &[Edit {
            file: ENTRY,
            text: "MappingFlags::from_bits_retain((access >> READ.trailing_zeros()) as usize);",
            instead: "MappingFlags::from_bits_retain(((access ^ WRITE) >> READ.trailing_zeros()) as usize);",
        }],
        host: &[host("cortex_a57::mapping::"), unit("e1_write_permission_is_not_inverted")],
        emulator: Emulator::Shows(A57, &["mapping::uncached_memory_holds_what_is_written"]),
    },
    Defect {
        name: "uncached-as-device",
        rules: &["E3"],
        edits: &[Edit {
            file: ENTRY,
            text: "[0, DEVICE, NON_CACHEABLE, STRICT_DEVICE]",
            instead: "[0, DEVICE, DEVICE, STRICT_DEVICE]",
        }],
        host: &[host("cortex_a57::mapping::uncached"), unit("e3_non_cacheable_is_a_type_of_its_own")],
        emulator: Emulator::Shows(A57, &["mapping::uncached_memory_holds_what_is_written"]),
    },
    Defect {
        name: "present-if-readable",
        rules: &["E4"],
        edits: &[Edit {
            file: ENTRY,
            text: IS_LEAF,
            instead: "        } else if self.is_leaf(level, entry) && entry & READ != 0 {
            Entry::Leaf(",
        }],
        host: &[unit("e4_presence_is_not_readability")],
        emulator: Emulator::Cannot("the area answers before the entry is looked at"),
    },
    Defect {
        name: "empty-flags-accepted",
        rules: &["E4"],
        edits: &[Edit { file: ENTRY, text: "if !flags.intersects(access) {", instead: "if flags.is_all() {" }],
        host: &[host("cortex_a57::refusals::"), unit("is_refused_with_a_reason_or_gives_access")],
        emulator: Emulator::Shows(A57, &["refusals::what_no_entry_holds_is_refused"]),
    },
    Defect {
        name: "addresses-beyond-the-cpus",
        rules: &["E7"],
        edits: &[Edit {
            file: ENTRY,
            text: "fn output_bits(&self) -> u32 {
        self.capabilities.physical_bits",
            instead: "fn output_bits(&self) -> u32 {
        self.capabilities.physical_bits.max(52)",
        }],
        host: &[unit("e7_addresses_are_as_wide")],
        emulator: Emulator::Cannot("no scenario knows how wide the board's addresses are"),
    },
    Defect {
        name: "outer-shareable",
        rules: &["E8"],
        edits: &[Edit { file: ENTRY, text: "            | INNER_SHAREABLE\n", instead: "            | 0b10 << 8\n" }],
        host: &[unit("e8_every_leaf_is_inner_shareable"), unit("golden_words::")],
        emulator: NO_CACHES,
    },
    Defect {
        name: "52-bit-addresses",
        rules: &["E9"],
        edits: &[Edit {
            file: CONFIG,
            text: "capabilities.physical_bits.min(MAX_BITS);",
            instead: "capabilities.physical_bits;",
        }],
        host: &[unit("the_output_size_is_the_cpus_up_to_48_bits")],
        emulator: Emulator::Cannot("the board has no memory there"),
    },
    Defect {
        name: "zero-is-a-block",
        rules: &["W4", "W7"],
        edits: &[Edit {
            file: ENTRY,
            text: "        if entry == 0 {
            Entry::Absent
        } else if entry == BUSY",
            instead: "        if entry == BUSY",
        }],
        host: &[host("cortex_a57::unmapping::a_hole_is_mapped_anew"), unit("e4_presence"), unit("w7_address_0")],
        emulator: Emulator::Shows(A57, &["unmapping::a_hole_is_mapped_anew"]),
    },
    Defect {
        name: "frame-zero-is-absent",
        rules: &["W7"],
        edits: &[Edit {
            file: ENTRY,
            text: IS_LEAF,
            instead: "        } else if self.is_leaf(level, entry) && entry & ADDRESS != 0 {
            Entry::Leaf(",
        }],
        host: &[host("cortex_a57::addresses::the_host_frame_at_address_zero"), unit("w7_address_0")],
        emulator: Emulator::Shows(A57, &["addresses::the_host_frame_at_address_zero_is_a_frame"]),
    },
    Defect {
        name: "two-places-choose-the-width",
        rules: &["W12"],
        edits: &[Edit { file: CONFIG, text: "u64::from(64 - self.geometry.input_bits())", instead: "64 - 40" }],
        host: &[host("cortex_a57::addresses::every_width"), unit("vtcr_of_every_width")],
        emulator: Emulator::Shows(A57, &["addresses::every_width_reaches_its_first_and_last_page"]),
    },
    Defect {
        name: "two-places-choose-the-root",
        rules: &["W12"],
        edits: &[Edit {
            file: CONFIG,
            text: "Level(2) => VTCR_EL2::SL0::Granule4KBLevel1,",
            instead: "Level(2) => VTCR_EL2::SL0::Granule4KBLevel0,",
        }],
        host: &[host("cortex_a57::addresses::every_width"), unit("w12_every_width"), unit("vtcr_of_")],
        emulator: Emulator::Shows(A57, &["addresses::every_width_reaches_its_first_and_last_page"]),
    },
    Defect {
        name: "no-low-bits",
        rules: &["F5", "H11"],
        edits: &[Edit { file: FAULT, text: "(page | (offset & 0xfff))", instead: "(page | (offset & 0))" }],
        host: &[host("cortex_a57::faults::a_fault_names_its_address"), unit("f5_the_low_bits")],
        emulator: Emulator::Shows(A57, &["faults::a_fault_names_its_address_to_the_byte_and_its_access"]),
    },
    Defect {
        name: "a-walk-is-an-access",
        rules: &["F6", "H11"],
        edits: &[Edit { file: FAULT, text: "let walk = self.has(STAGE1_WALK);", instead: "let walk = false;" }],
        host: &[host("everything::faults::a_walk_"), unit("f6_a_fault_on_a_walk")],
        emulator: Emulator::Shows(MAX, &["faults::a_walk_into_a_hole_or_a_device_is_the_guests_own_error"]),
    },
    Defect {
        name: "a-strange-syndrome-panics",
        rules: &["F4"],
        edits: &[Edit {
            file: FAULT,
            text: "        status => Decoded::Other { status },",
            instead: "        status => panic!(\"status {status:#x}\"),",
        }],
        host: &[unit("f4_no_register_value_panics")],
        emulator: Emulator::Cannot("QEMU raises no such fault"),
    },
    Defect {
        name: "ept-write-without-read",
        rules: &["E5", "H17"],
        edits: &[Edit {
            file: EPT,
            text: "!readable && (flags.contains(MappingFlags::WRITE) || !execute_only)",
            instead: "!readable && !execute_only",
        }],
        host: &[unit("ept::entry::tests::every_flag_set::")],
        emulator: NO_EPT,
    },
    Defect {
        name: "ept-large-leaf-without-the-capability",
        rules: &["E5", "H17"],
        edits: &[Edit {
            file: EPT,
            text: "Level(2) => self.capabilities.features.contains(Features::LEAF_1G),",
            instead: "Level(2) => true,",
        }],
        host: &[unit("ept::entry::tests::faults_of_others::e5_")],
        emulator: NO_EPT,
    },
    Defect {
        name: "ept-marks-forgotten",
        rules: &["E6", "H19"],
        edits: &[Edit {
            file: EPT,
            text: "entry & !(ACCESS | MEMORY_TYPE | IGNORE_PAT) |",
            instead: "entry & !(ACCESS | MEMORY_TYPE | IGNORE_PAT | ACCESSED | DIRTY) |",
        }],
        host: &[unit("ept::entry::tests::faults_of_others::e6_")],
        emulator: NO_EPT,
    },
    Defect {
        name: "ept-device-executable",
        rules: &["E2"],
        edits: &[Edit {
            file: EPT,
            text: "} else if flags.contains(device_code) {",
            instead: "} else if flags.is_all() {",
        }],
        host: &[unit("ept::entry::tests::faults_of_others::e2_")],
        emulator: NO_EPT,
    },
    Defect {
        name: "ept-kept-address-reachable",
        rules: &["H19"],
        edits: &[Edit {
            file: EPT,
            text: "let kept = (entry & !ACCESS) ^ ADDRESS;",
            instead: "let kept = entry & !ACCESS;",
        }],
        host: &[unit("ept::entry::tests::kinds::")],
        emulator: NO_EPT,
    },
    Defect {
        name: "npt-not-for-users",
        rules: &["H17"],
        edits: &[Edit { file: NPT, text: "address | PRESENT | USER |", instead: "address | PRESENT |" }],
        host: &[unit("npt::entry::tests::")],
        emulator: NO_NPT,
    },
    Defect {
        name: "npt-device-executable",
        rules: &["E2"],
        edits: &[Edit {
            file: NPT,
            text: "} else if flags.contains(device_code) {",
            instead: "} else if flags.is_all() {",
        }],
        host: &[unit("npt::entry::tests::faults_of_others::e1_e2_")],
        emulator: NO_NPT,
    },
    Defect {
        name: "npt-dirt-forgotten",
        rules: &["E6", "W15"],
        edits: &[Edit {
            file: NPT,
            text: "entry & !(WRITE | NO_EXECUTE | slot_bits(level)) |",
            instead: "entry & !(WRITE | NO_EXECUTE | ACCESSED | DIRTY | slot_bits(level)) |",
        }],
        host: &[unit("npt::entry::tests::faults_of_others::e6_")],
        emulator: NO_NPT,
    },
    Defect {
        name: "npt-no-flush",
        rules: &["T3"],
        edits: &[Edit { file: OWED, text: "NOTHING => Some(u64::from(asid.0)),", instead: "NOTHING => None," }],
        host: &[unit("npt::owed::tests::")],
        emulator: NO_NPT,
    },
];
