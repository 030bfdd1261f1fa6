//! The list of all scenarios.

use crate::{Machine, Verdict};

/// One scenario, for a kind of machine.
pub struct Scenario<M> {
    /// What holds, in words: `group::name`.
    pub name: &'static str,
    /// Tries it.
    pub run: fn(&M) -> Verdict,
}

/// Calls a macro with all scenarios: `group { name, … } …`.
#[macro_export]
macro_rules! for_each_scenario {
    ($callback:ident) => {
        $callback! {
            faults {
                lazy_memory_is_zero_and_keeps_what_is_written,
                frames_of_a_former_guest_are_zero,
                a_touch_populates_a_block_where_one_fits,
                a_lazy_area_builds_no_tables,
                a_second_fault_keeps_the_frame,
                any_fault_any_number_of_times_has_an_outcome,
                a_fault_names_its_address_to_the_byte_and_its_access,
                a_permission_fault_behind_the_guests_tables_names_its_address,
                a_walk_into_a_hole_or_a_device_is_the_guests_own_error,
                a_walk_populates_lazy_memory,
                a_denial_that_the_cpu_remembers_ends_with_a_fault,
                a_permission_fault_that_the_entry_does_not_justify_is_no_error,
                a_hole_that_was_touched_can_be_mapped,
                what_was_populated_is_not_faulted_on,
            }
            mapping {
                blocks_fill_what_alignment_allows,
                linear_memory_uses_all_three_sizes,
                a_device_answers_and_is_never_executed,
                every_permission_is_given_by_itself,
                neighbours_share_their_tables,
                uncached_memory_holds_what_is_written,
                code_runs_in_large_leaves_and_its_neighbours_stay,
            }
            unmapping {
                unmapped_memory_is_gone_at_once,
                the_middle_of_a_block_goes_and_the_rest_stays,
                both_ends_may_cut_a_block,
                a_page_of_a_large_block_goes,
                a_range_may_span_areas_and_holes,
                a_hole_is_mapped_anew,
                empty_tables_go_and_a_block_takes_their_place,
                pages_take_the_place_of_a_block,
                a_long_range_goes_whole,
            }
            discarding {
                what_is_discarded_is_zeros_and_free,
                the_middle_of_a_block_is_zeros_and_the_rest_stays,
                the_other_cpu_finds_zeros,
                a_fork_keeps_what_its_parent_discards,
                discarded_code_is_not_executed,
            }
            protecting {
                a_restriction_is_seen_at_once,
                permissions_go_down_and_up,
                a_part_of_a_block_changes_alone,
                a_part_of_a_block_becomes_code,
                lazy_memory_comes_with_the_permissions_of_the_day,
                write_protection_holds_where_the_cpu_notes_writes,
                a_guest_runs_where_the_cpu_notes_its_accesses,
                a_range_of_several_areas_changes_in_all,
                what_the_cpu_noted_stays,
            }
            replacing {
                a_page_of_registers_is_laid_over_memory_and_taken_off,
                the_other_cpu_sees_what_came,
                a_guest_writes_while_its_memory_is_replaced,
                a_guest_goes_back_to_its_template,
            }
            relocating {
                a_moved_page_keeps_its_contents,
                a_moved_page_is_not_seen_where_it_was,
                a_moved_table_of_the_guests_is_not_walked_where_it_was,
                all_of_the_guests_tables_may_move,
                a_block_moves_whole,
                permissions_move_with_the_page,
                moved_code_is_executed_where_it_is,
                only_populated_memory_of_its_own_moves,
            }
            two_cpus {
                the_other_cpu_sees_a_moved_page_where_it_is,
                the_other_cpu_walks_a_moved_table_where_it_is,
                the_other_cpu_loses_what_is_unmapped,
                the_other_cpu_follows_permissions_down_and_up,
                both_cpus_populate_the_same_pages,
                a_count_goes_on_while_its_page_moves,
                a_guest_writes_until_its_memory_goes,
                memory_comes_and_goes_under_a_running_guest,
            }
            shared {
                what_one_guest_writes_the_other_reads,
                the_last_one_out_frees_it,
                a_mapping_keeps_it_without_a_handle,
                a_window_may_be_writable_in_part,
                shared_code_is_executed_as_written,
                a_region_is_frozen_for_good,
                what_a_region_does_not_have_is_refused,
                it_is_shown_and_stays_where_it_is,
                two_guests_populate_the_same_pages,
            }
            copying {
                reads_share_and_a_write_copies_one_page,
                the_other_cpu_reads_the_copy,
                a_copied_table_of_the_guests_is_walked_where_it_is,
                the_last_sharer_takes_the_page,
                both_cpus_write_first,
                two_guests_part_with_the_same_pages,
                the_hypervisor_copies_too,
                permissions_never_reach_the_region,
                inherited_code_is_executed_and_replaced,
                it_is_refused_shown_and_moved_as_what_it_is,
            }
            blocks {
                guests_share_blocks_and_split_them_each_for_itself,
                the_other_cpu_loses_a_page_of_a_shared_block,
                a_fork_has_blocks_until_it_writes_them,
                the_other_cpu_reads_the_copy_out_of_a_block,
                shared_blocks_are_executed,
            }
            snapshots {
                a_fork_has_what_was_written_before,
                the_other_cpu_loses_its_leave_to_write,
                a_snapshot_holds_where_the_cpu_notes_writes,
                a_fork_is_forked,
                a_guest_goes_back_to_its_snapshot,
                nothing_is_no_snapshot,
                a_guest_runs_on_while_it_is_frozen,
            }
            steps {
                what_is_freed_in_steps_is_gone_at_once,
                the_middle_of_a_block_is_freed_in_steps,
                a_region_goes_in_steps_with_its_last_mapping,
                a_guest_goes_on_while_memory_is_freed,
                a_part_is_protected_and_the_rest_is_not,
                a_guest_at_rest_is_frozen_in_steps,
            }
            lending {
                both_see_what_either_writes,
                what_comes_back_counts_as_written,
                what_several_wrote_counts_as_written,
                two_borrowers_and_the_owner_see_each_other,
                a_part_comes_back_and_the_rest_stays,
                what_is_lent_is_out_of_reach_until_it_is_back,
                a_borrower_never_executes,
                code_that_comes_back_is_executed,
                the_other_cpu_loses_what_is_lent_and_what_is_reclaimed,
                memory_is_reclaimed_under_a_running_borrower,
                blocks_are_split_and_joined_as_they_fit,
                the_end_of_either_loses_nothing,
                a_wrong_transition_names_the_page_and_its_state,
                what_is_donated_is_the_takers_alone,
                parts_of_blocks_are_donated_and_freed,
                private_memory_becomes_shared_and_private_again,
            }
            addresses {
                every_width_reaches_its_first_and_last_page,
                a_range_may_span_the_whole_root,
                the_host_frame_at_address_zero_is_a_frame,
                host_addresses_may_be_above_and_below_the_guests,
            }
            guest_memory {
                both_sides_see_the_same,
                lazy_memory_is_populated_by_the_hypervisor_too,
                access_ends_where_the_guests_ends,
                written_code_is_executed,
            }
            lifetime {
                two_guests_do_not_see_each_other,
                a_space_that_is_not_active_changes,
                an_identifier_is_used_again,
                a_dropped_space_gives_everything_back,
                two_virtual_cpus_take_turns_on_one_cpu,
            }
            out_of_memory {
                to_map_pages,
                to_map_linear_memory,
                to_unmap_parts_of_two_blocks,
                to_protect_parts_of_two_blocks,
                to_answer_a_fault,
                to_write_guest_memory,
                to_relocate,
                to_make_a_space,
                a_guest_goes_on_when_there_is_memory_again,
            }
            limits {
                a_guest_gets_as_many_tables_as_it_may,
                a_guest_gets_as_many_frames_as_it_may,
                a_block_that_is_too_much_comes_in_pages,
                a_mapping_that_is_too_much_is_none,
                what_moves_costs_nothing,
                a_snapshot_takes_frames_off_the_account,
                a_copy_counts_and_so_does_a_page_that_is_taken,
                a_lower_limit_takes_nothing_away,
                both_cpus_touch_the_last_page,
                a_balloon_cuts_no_more_areas_than_it_may,
            }
            sources {
                an_image_comes_as_it_is_touched,
                one_cpu_waits_while_another_runs,
                what_two_cpus_miss_is_asked_for_once,
                a_source_that_fails_or_answers_twice,
                unmapping_cancels,
                the_hypervisor_waits_too,
                pending_pages_are_limited,
                a_region_comes_to_all_its_guests,
                a_snapshot_keeps_its_source,
                what_is_brought_ahead_is_not_waited_for,
            }
            refusals {
                an_overlap_names_both_ranges,
                a_bad_range_is_refused_everywhere,
                a_hole_is_named,
                what_no_entry_holds_is_refused,
                the_map_can_be_read,
                areas_and_leaves_are_listed,
                a_leaf_may_go_while_it_is_shown,
                a_device_stays_a_device,
            }
        }
    };
}

macro_rules! listed {
    ($($group:ident { $($name:ident,)* })*) => {
        &[$($(Scenario {
            name: concat!(stringify!($group), "::", stringify!($name)),
            run: crate::$group::$name::<M>,
        },)*)*]
    };
}

/// All scenarios.
#[must_use]
pub const fn scenarios<M: Machine>() -> &'static [Scenario<M>] {
    for_each_scenario!(listed)
}
