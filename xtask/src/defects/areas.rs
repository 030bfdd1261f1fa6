//! Defects in the set of areas.

use super::table::{Defect, Edit, NO_TABLES, set, unit};

const AREAS: &str = "src/set/areas.rs";
const GAP: &str = "src/set/gap.rs";
const MAPPING: &str = "src/set/mapping.rs";

pub const DEFECTS: &[Defect] = &[
    Defect {
        name: "a-failed-protect-ignored",
        rules: &["A1"],
        edits: &[Edit {
            file: MAPPING,
            text: "!area.backend().protect(part.start, part.size(), flags, page_table))",
            instead: "{
                area.backend().protect(part.start, part.size(), flags, page_table);
                false
            })",
        }],
        host: &[set("an_area_whose_backend_fails_keeps_its_flags_a1"), unit("set::twin::")],
        emulator: NO_TABLES,
    },
    Defect {
        name: "a-failed-unmap-loses-areas",
        rules: &["A2"],
        edits: &[Edit {
            file: MAPPING,
            text: "failed.map_or(*touched, |(index, (_, part))| touched.up_to(index, part.start))",
            instead: "failed.map_or(*touched, |(index, (_, part))| {
            let _ = touched.up_to(index, part.start);
            *touched
        })",
        }],
        host: &[set("unmap::a_failing_backend_costs_no_area"), set("unmap::a_failure_in_the_middle")],
        emulator: NO_TABLES,
    },
    Defect {
        name: "a-failed-unmap-panics",
        rules: &["A2"],
        edits: &[Edit {
            file: MAPPING,
            text: "        self.areas.carve(&unmapped, None, None);\n        done(is_all)",
            instead: "        self.areas.carve(&unmapped, None, None);\n        assert!(is_all);\n        Ok(())",
        }],
        host: &[set("unmap::a_failing_backend_costs_no_area"), set("unmap::clearing_keeps_what")],
        emulator: NO_TABLES,
    },
    Defect {
        name: "a-failed-map-recorded",
        rules: &["A3"],
        edits: &[Edit {
            file: MAPPING,
            text: "            self.areas.carve(&unmapped, None, None);\n            Err(",
            instead: "            self.areas.carve(&touched, Some(area), None);\n            Err(",
        }],
        host: &[set("map::an_area_that_failed_to_map_is_not_recorded")],
        emulator: NO_TABLES,
    },
    Defect {
        name: "no-limit",
        rules: &["A4"],
        edits: &[Edit {
            file: GAP,
            text: "(at.checked_add(self.size)? <= self.limit.into()).then(|| A::from(at))",
            instead: "(at.checked_add(self.size)? >= self.size).then(|| A::from(at))",
        }],
        host: &[set("free_areas::the_limit_is_never_crossed_a4")],
        emulator: NO_TABLES,
    },
    Defect {
        name: "a-search-wraps",
        rules: &["A4"],
        edits: &[Edit { file: GAP, text: "at.checked_add(self.size)? <=", instead: "at.wrapping_add(self.size) <=" }],
        host: &[set("free_areas::nothing_wraps_at_the_top")],
        emulator: NO_TABLES,
    },
    Defect {
        name: "any-alignment",
        rules: &["A4"],
        edits: &[Edit {
            file: GAP,
            text: "align.is_power_of_two() && size > 0 && size.is_multiple_of(align)",
            instead: "size > 0",
        }],
        host: &[set("free_areas::an_alignment_that_is_none")],
        emulator: NO_TABLES,
    },
    Defect {
        name: "every-area-is-looked-at",
        rules: &["A5"],
        edits: &[Edit {
            file: AREAS,
            text: "        self.ends.up_to(addr.into())\n",
            instead: "        let up_to = |chunk: &&Chunk<B>| chunk.iter().filter(|area| area.end() <= addr).count() == chunk.len();
        self.chunks_from(0).filter(up_to).count()\n",
        }],
        host: &[set("cost::an_edit_costs_what_it_touches")],
        emulator: NO_TABLES,
    },
    Defect {
        name: "a-size-overflows",
        rules: &["A7"],
        edits: &[Edit {
            file: MAPPING,
            text: "let range = AddrRange::try_from_start_size(start, size).ok_or(MappingError::InvalidParam)?;
        if range.is_empty()",
            instead: "let range = AddrRange::from_start_size(start, size);
        if range.is_empty()",
        }],
        host: &[set("bad_ranges::a_size_that_overflows_is_an_error_a7")],
        emulator: NO_TABLES,
    },
    Defect {
        name: "an-overlap-is-fine",
        rules: &["A8"],
        edits: &[Edit { file: MAPPING, text: "return Err(MappingError::AlreadyExists);", instead: "return Ok(());" }],
        host: &[set("map::an_overlap_is_refused"), unit("set::twin::")],
        emulator: NO_TABLES,
    },
];
