//! Defects in the second look: what was found without the lock, or before an entry was claimed, is taken for what is
//! there.

use super::table::{Defect, Edit, Emulator, Test, toy};

const CONVERT: &str = "src/space/convert.rs";
const COPY: &str = "src/space/copy.rs";
const EDIT: &str = "src/space/edit.rs";
const ENTRY: &str = "src/table/entry.rs";
const EXCLUSIVE: &str = "src/space/exclusive.rs";
const FAULT: &str = "src/space/fault.rs";
const INHERITED: &str = "src/pages/inherited.rs";
const INSTALL: &str = "src/table/install.rs";
const LIMITS: &str = "src/space/limits.rs";
const MOVE: &str = "src/table/relocate.rs";
const POPULATE: &str = "src/space/populate.rs";
const PROTECT: &str = "src/space/protect.rs";
const REGION: &str = "src/region/memory.rs";
const RELOCATE: &str = "src/space/relocate.rs";
const SLOT: &str = "src/pages/slot.rs";
const SUPPLY: &str = "src/space/supply.rs";
const TRANSFER: &str = "src/space/transfer.rs";
const WINDOW: &str = "src/space/window.rs";

/// A defect that no emulator shows.
const fn defect(
    name: &'static str,
    rules: &'static [&'static str],
    edits: &'static [Edit],
    host: &'static [Test],
) -> Defect {
    Defect { name, rules, edits, host, emulator: Emulator::Cannot("it would need a CPU between two instructions") }
}

pub const DEFECTS: &[Defect] = &[
    defect("a-page-for-a-space-at-rest", &["C2"], &[Edit { file: POPULATE, text: "        state.check_rest()?;
        let still", instead: "        let still" }], &[toy("overtaken::faults::bring_nothing_to_a_space")]),
    defect("an-own-page-where-a-region-came", &["L4"], &[Edit { file: POPULATE, text: "&& matches!(area.backend(), Backend::Private(_))", instead: "&& (true || matches!(area.backend(), Backend::Private(_)))" }], &[toy("overtaken::faults::bring_no_page_of_its_own")]),
    defect("a-block-over-what-was-unmapped", &["L4"], &[Edit { file: POPULATE, text: "                && area.va_range().contains_range(Context::<P>::entry_range(level, fault.gpa))
        });", instead: "        });" }], &[toy("overtaken::faults::bring_no_block_over")]),
    defect("cpus-wait-where-a-page-is-left", &["F3"], &[Edit { file: POPULATE, text: "            Err(_) if level > Level::PAGE => return Ok(Outcome::Retry),
", instead: "" }], &[toy("overtaken::faults::fall_back_to_a_page")]),
    defect("a-table-in-anothers-place", &["W9"], &[Edit { file: INSTALL, text: "let linked = slot.replace(context.format.absent(), context", instead: "let linked = slot.replace(slot.load(), context" }], &[toy("overtaken::faults::go_through_the_tables")]),
    defect("a-block-in-a-table-of-pages", &["W4"], &[Edit { file: INSTALL, text: "Ok((slot.level == level).then_some(slot))", instead: "Ok(Some(slot))" }], &[toy("overtaken::faults::put_no_block")]),
    defect("a-block-split-that-the-area-denies", &["L4"], &[Edit { file: FAULT, text: ".filter(|area| area.flags().contains(fault.access.flag())) else {", instead: ".filter(|_| true) else {" }], &[toy("overtaken::faults::resolve_nothing")]),
    defect("raised-whatever-it-is", &["H25"], &[Edit { file: ENTRY, text: "            let Entry::Leaf(_) = format.decode(self.level, old) else {", instead: "            if false {" }], &[toy("overtaken::faults::note_nothing_in_an_entry")]),
    defect("raised-to-less", &["H25"], &[Edit { file: ENTRY, text: "(new != old && format.change(self.level, old, new) == Change::Raise).then_some(new)", instead: "(new != old).then_some(new)" }], &[toy("overtaken::faults::take_no_permission")]),
    defect("an-entry-claimed-twice", &["H26"], &[Edit { file: ENTRY, text: "            Entry::Absent | Entry::Leaf(Leaf { owner: Owner::Frozen, .. }) =>", instead: "            Entry::Busy | Entry::Absent | Entry::Leaf(Leaf { owner: Owner::Frozen, .. }) =>" }], &[toy("overtaken::copies::leave_the_entry")]),
    defect("a-copy-over-a-copy", &["F1"], &[Edit { file: ENTRY, text: "            Entry::Absent | Entry::Leaf(Leaf { owner: Owner::Frozen, .. }) =>", instead: "            Entry::Absent | Entry::Leaf(_) =>" }], &[toy("overtaken::copies::leave_the_copy")]),
    defect("a-copy-for-a-space-at-rest", &["C2"], &[Edit { file: COPY, text: "        state.check_rest()?;
        let allows", instead: "        let allows" }], &[toy("overtaken::copies::are_refused")]),
    defect("a-copy-that-the-area-denies", &["L4"], &[Edit { file: COPY, text: ".filter(allows) else", instead: ".filter(|area| true || allows(area)) else" }], &[toy("overtaken::copies::copy_nothing")]),
    defect("the-guests-own-page-taken-out", &["F1"], &[Edit { file: COPY, text: "Found::Leaf { leaf: Leaf { owner: Owner::Frozen, .. }, span, .. } if span != page =>", instead: "Found::Leaf { span, .. } if span != page =>" }], &[toy("overtaken::copies::take_no_page_out_of_a_block")]),
    defect("a-piece-taken-out-of-a-block", &["T7"], &[Edit { file: COPY, text: "Found::Leaf { leaf: Leaf { owner: Owner::Frozen, .. }, span, .. } if span != page =>", instead: "Found::Leaf { leaf: Leaf { owner: Owner::Frozen, .. }, .. } =>" }], &[toy("overtaken::copies::take_nothing_out")]),
    defect("taken-before-it-is-claimed", &["H26"], &[Edit { file: COPY, text: "        let claimed =
", instead: "        let early = self.given(state, heritage, fault);
        let claimed =
" }, Edit { file: COPY, text: "match self.given(state, heritage, fault) {", instead: "match early {" }], &[toy("overtaken::copies::take_a_page_when")]),
    defect("a-page-that-came-charged-twice", &["C7"], &[Edit { file: COPY, text: "charge.filter(|_| !was_paid)", instead: "charge.filter(|_| true || !was_paid)" }], &[toy("races::a_page_that_comes_while_a_copy")]),
    defect("a-page-read-that-was-left", &["L4"], &[Edit { file: WINDOW, text: "if state.table.find(&self.context, range.start) != found {", instead: "if false && state.table.find(&self.context, range.start) != found {" }], &[toy("overtaken::copies::are_seen_by_a_read")]),
    defect("a-page-left-while-it-is-read", &["L4"], &[Edit { file: WINDOW, text: "pin = state.inherited.as_deref().map(Inherited::pin);", instead: "pin = state.inherited.as_deref().map(Inherited::pin).filter(|_| false);" }], &[toy("overtaken::copies::wait_for_a_read")]),
    defect("marks-that-nest", &["T8"], &[Edit { file: EXCLUSIVE, text: "                return Ok(state);
            }
        }
    }

    /// The same for an answer", instead: "                return Ok(state);
            }
            self.pay_part();
            let state = self.state.exclusive();
            state.check_rest()?;
            return Ok(state);
        }
    }

    /// The same for an answer" }], &[toy("overtaken::unfinished::by_another_operation")]),
    defect("changed-when-it-came-to-rest", &["C2"], &[Edit { file: EXCLUSIVE, text: "                return Ok(state);
            }
        }
    }

    /// The same for an answer", instead: "                return Ok(state);
            }
            self.pay_part();
            let state = self.state.exclusive();
            if state.table.is_finished() {
                return Ok(state);
            }
        }
    }

    /// The same for an answer" }], &[toy("overtaken::unfinished::is_finished_and_nothing_more")]),
    defect("a-giver-with-something-left", &["T8"], &[Edit { file: TRANSFER, text: "if mine.table.is_finished() && others", instead: "if others" }], &[toy("overtaken::unfinished::by_either_side")]),
    defect("a-taker-with-something-left", &["T8"], &[Edit { file: TRANSFER, text: " && others.table.is_finished() {", instead: " {" }], &[toy("overtaken::unfinished::by_either_side")]),
    defect("two-spaces-finished-one-by-one", &["T8"], &[Edit { file: TRANSFER, text: "            drop(other.exclusive()?);
", instead: "            drop(other.exclusive()?);
            let mine = self.state.exclusive();
            return Ok((mine, other.state.exclusive()));
" }], &[toy("overtaken::unfinished::by_the_other_side")]),
    defect("a-giver-at-rest", &["C2"], &[Edit { file: TRANSFER, text: "            mine.check_rest()?;
", instead: "" }], &[toy("overtaken::transfers::nothing_is_given_by_or_to")]),
    defect("a-taker-at-rest", &["C2"], &[Edit { file: TRANSFER, text: "            others.check_rest()?;
", instead: "" }], &[toy("overtaken::transfers::nothing_is_given_by_or_to")]),
    defect("given-to-where-something-came", &["A8"], &[Edit { file: TRANSFER, text: "if let Some(other) = receiver.areas.overlap(place) {", instead: "if let Some(other) = receiver.areas.overlap(place).filter(|_| filled == Missing::default()) {" }], &[toy("overtaken::transfers::nothing_is_given_to_where")]),
    defect("given-though-it-went", &["R8"], &[Edit { file: TRANSFER, text: "            Self::check_own_areas(&giver, range)?;
            match", instead: "            if filled == Missing::default() {
                Self::check_own_areas(&giver, range)?;
            }
            match" }], &[toy("overtaken::transfers::nothing_is_given_that_is")]),
    defect("lent-with-what-its-lender-lost", &["R8"], &[Edit { file: TRANSFER, text: "            let had = check(&giver, &receiver)?;
", instead: "            let had = if filled == Missing::default() { check(&giver, &receiver)? } else { MappingFlags::empty() };
" }], &[toy("overtaken::transfers::nothing_is_lent_with")]),
    defect("a-snapshot-that-went-is-in-the-way", &["R8"], &[Edit { file: TRANSFER, text: "if giver.inherited.is_some() && missing", instead: "if giver.inherited.is_some() && filled == Missing::default() && missing" }], &[toy("overtaken::transfers::what_was_in_a_snapshot")]),
    defect("what-is-missing-looked-at-once", &["R8"], &[Edit { file: TRANSFER, text: "if missing != filled {", instead: "if missing != filled && filled == Missing::default() {" }], &[toy("refused::no_page_that_a_guest_touched")]),
    defect("private-though-others-have-it-by-then", &["R10"], &[Edit { file: CONVERT, text: "            self.check_sole(&guard, range)?;
            if", instead: "            if" }], &[toy("overtaken::calls::make_nothing_private")]),
    defect("zeros-where-another-source-came", &["G4"], &[Edit { file: CONVERT, text: "if missing_page(&guard, range).is_none() {", instead: "if true || missing_page(&guard, range).is_none() {" }], &[toy("races::what_becomes_private_by_then")]),
    defect("looked-for-without-an-end", &["R11"], &[Edit { file: SUPPLY, text: "let missing = || self.exclusive().map(|state| missing_page(&state, range).map(kept));", instead: "let missing = || Ok::<_, Error>(missing_page(&self.state.shared(super::any_cpu()), range).map(kept));" }], &[toy("regions::what_is_left_over_is_finished")]),
    defect("a-leaf-of-others-moved", &["L4"], &[Edit { file: MOVE, text: "Entry::Leaf(Leaf { owner: Owner::Space, .. }) if slot.level == level => {}", instead: "Entry::Leaf(_) if slot.level == level => {}" }], &[toy("overtaken::calls::move_no_leaf")]),
    defect("a-leaf-of-another-size-moved", &["L4"], &[Edit { file: MOVE, text: "Entry::Leaf(Leaf { owner: Owner::Space, .. }) if slot.level == level => {}", instead: "Entry::Leaf(Leaf { owner: Owner::Space, .. }) => {}" }], &[toy("relocate::moves_the_pieces")]),
    defect("a-block-of-others-split", &["L4"], &[Edit { file: RELOCATE, text: "Found::Leaf { leaf: Leaf { owner: Owner::Space, .. }, level: now, .. } if now == level => {", instead: "Found::Leaf { level: now, .. } if now == level => {" }], &[toy("overtaken::calls::split_no_block")]),
    defect("a-piece-of-a-block-split", &["L4"], &[Edit { file: RELOCATE, text: "level: now, .. } if now == level => {", instead: ".. } => {" }], &[toy("overtaken::calls::split_no_piece")]),
    defect("grafted-where-no-table-is", &["L4"], &[Edit { file: EDIT, text: "if table.fits(&self.context, &built) {", instead: "if true || table.fits(&self.context, &built) {" }], &[toy("overtaken::calls::map_where_the_table")]),
    defect("built-again-in-vain", &["A8"], &[Edit { file: EDIT, text: "went meanwhile.
            guard.check_free(range)?;
", instead: "went meanwhile.
" }], &[toy("overtaken::calls::map_nothing_over")]),
    defect("protected-in-steps-though-on-loan", &["L4"], &[Edit { file: PROTECT, text: "self.step_under(space.exclusive_over(self.rest)?, entries)", instead: "self.step_under(space.exclusive()?, entries)" }], &[toy("overtaken::calls::between_two_steps::protect_nothing")]),
    defect("written-in-steps-though-frozen", &["C3"], &[Edit { file: PROTECT, text: "Some((shared::new_leases(&plan, flags)?,", instead: "Some((if matches!(self.stage, Stage::Begun(_)) { Few::default() } else { shared::new_leases(&plan, flags)? }," }], &[toy("overtaken::calls::between_two_steps::allow_no_write")]),
    defect("a-regions-page-brought-twice", &["R10"], &[Edit { file: REGION, text: "        if let Some(at) = book.pages.frame(page) {
", instead: "        if let Some(at) = book.pages.frame(page).filter(|_| false) {
" }], &[toy("overtaken::calls::of_regions")]),
    defect("brought-though-it-is-not-missed", &["R10"], &[Edit { file: REGION, text: "        if !admit() {
", instead: "        if !admit() && false {
" }], &[toy("races::a_page_that_became_private"), toy("races::no_page_comes_between")]),
    defect("refused-though-there-is-room", &["C9"], &[Edit { file: LIMITS, text: "if self.account(what).room() >= page {", instead: "if false && self.account(what).room() >= page {" }], &[toy("overtaken::faults::are_not_refused")]),
    defect("asked-for-what-came-meanwhile", &["C7"], &[Edit { file: SLOT, text: "        if self.at.is_none() {
            (self.paid", instead: "        if true || self.at.is_none() {
            (self.paid" }], &[toy("races::a_page_that_is_answered_while")]),
    defect("asked-for-where-it-was", &["G4"], &[Edit { file: INHERITED, text: "            if is_missing() {
                wanted", instead: "            let _ = is_missing;
            {
                wanted" }], &[toy("races::a_page_that_now_comes_from_elsewhere_is_brought")]),
    defect("a-wait-for-what-was-discarded-by-then", &["R5"], &[Edit { file: SLOT, text: "if self.0.sharers.load(Ordering::Acquire) == 0 {", instead: "if false && self.0.sharers.load(Ordering::Acquire) == 0 {" }], &[toy("races::a_page_that_was_discarded")]),
];
