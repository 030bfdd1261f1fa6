//! Memory that changes its owner for good, where it stands.

use memory_addr::PAGE_SIZE_4K;
use page_table_multiarch::MappingFlags;

use super::{
    GuestSpace, State,
    removed::Removed,
    transfer::{Prepared, Sharing, Transfer},
};
use crate::{
    addr::{GuestPhysAddr, GuestPhysRange},
    backend::Backend,
    error::Error,
    extents::Seams,
    format::{LeafPolicy, Owner},
    lock::LockFamily,
    ownership::Handover,
    pages::Pool,
    platform::Platform,
    set::{Few, MemoryArea},
};

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Gives another space this one's own memory for good: the frames stay where they are, and no byte is copied.
    ///
    /// All of `range` is private memory; what is untouched yet is populated for it. What is refused changes nothing, but
    /// that pages which a source brought for it stay, and that for want of memory, at a limit, or where a frame or a CPU is the
    /// reason, what was left to the space alone of a dropped snapshot is its own again, and on its account.
    ///
    /// The memory is no more in this guest when it returns, and private memory of the taker's at `at`, where nothing was.
    /// Blocks that the ends of `range` cut are split; the taker gets blocks where they fit, else pages. Both spaces' allocators are one
    /// ([`Frames::pool`](crate::Frames::pool)), and the frames are on the taker's limit.
    ///
    /// Both spaces' locks are held, in the order of their addresses, and with [`Handover::Zero`] for as long as it takes to
    /// fill the memory with zeros. What is missing is allocated and zeroed without them, unless the guest touched some of it
    /// meanwhile.
    ///
    /// # Errors
    /// - [`Error::SameSpace`] for a taker that is this space;
    /// - [`Error::Empty`], [`Error::Misaligned`], [`Error::BeyondInput`], [`Error::Overflow`] for either range;
    /// - [`Error::Flags`] for a device, or what the taker's format cannot express;
    /// - [`Error::Allocators`] for spaces that do not free each other's frames;
    /// - [`Error::NotMapped`] with the first hole, [`Error::State`] with the first page that is not the space's own;
    /// - [`Error::Overlap`] with the first area in the way at the taker, [`Error::BadTarget`] for frames that the taker's
    ///   entries do not hold;
    /// - [`Error::NotYet`], [`Error::SourceFailed`] with the first page that its source has not brought, and was asked for;
    /// - [`Error::NoMemory`], [`Error::Limit`] of either space's frames, tables or areas;
    /// - [`Error::Invalidation`]: nothing was given; blocks that the ends of the range cut may be split. See there.
    pub fn donate(
        &self,
        range: GuestPhysRange,
        taker: &Self,
        at: GuestPhysAddr,
        flags: MappingFlags,
        handover: Handover,
    ) -> Result<(), Error> {
        self.paying(|| taker.paying(|| self.hand_to(range, taker, at, flags, handover)))
    }

    /// Donates.
    fn hand_to(
        &self,
        range: GuestPhysRange,
        taker: &Self,
        at: GuestPhysAddr,
        flags: MappingFlags,
        handover: Handover,
    ) -> Result<(), Error> {
        let place = self.check_transfer(range, taker, at)?;
        super::edit::check_private(place, flags)?;
        taker.check_flags(place, flags)?;
        let pool = Pool::of(self.context.frames.plain());
        if pool.is_none() || pool != Pool::of(taker.context.frames.plain()) {
            return Err(Error::Allocators(range));
        }
        let pages = range.size() / PAGE_SIZE_4K;
        let transfer = Transfer { range, place, seams: Seams::Kept, sharing: Sharing::Refused };
        let area = MemoryArea::new(place.start, place.size(), flags, Backend::Private(LeafPolicy::Largest));
        let prepared = self.prepare(&transfer, taker, |giver, receiver| {
            taker.check_room(place, pages)?;
            taker.check_new_area(&receiver.areas, &area)?;
            let left = || giver.areas.len_without(core::iter::once(range));
            self.check_areas(range, giver.areas.len(), 1, left)?;
            Ok(giver.areas.iter_range(range).fold(MappingFlags::empty(), |all, area| all | area.flags()))
        })?;
        let Prepared { mut giver, taker: mut receiver, supplement, memory, had } = prepared;
        let charge = taker.context.frames.account().charge(pages).map_err(|exhausted| exhausted.at(place))?;
        // Foreign until it is given: to drop it frees none of the frames.
        let detached = taker.detached(&receiver, place, &memory, Owner::Foreign, flags)?;
        receiver.areas.insert(area).map_err(|_| Error::NoMemory(place))?;
        let ceded = match self.cede(&mut giver, range) {
            Ok(ceded) => ceded,
            Err(error) => {
                receiver.areas.remove_whole(place);
                return Err(error);
            }
        };
        // Nothing fails from here on.
        taker.context.hand_over(taker.context.operations(), memory.pages(), handover, had, flags);
        giver.table.vacate(&self.context, range);
        supplement.give_away();
        detached.own();
        charge.keep();
        self.context.frames.account().give_back(pages);
        receiver.table.graft(&taker.context, detached);
        receiver.areas.join_all(place);
        drop((giver, receiver));
        // What stood behind its copies goes without a lock.
        self.free_removed(Removed::of(ceded));
        Ok(())
    }

    /// Takes memory out of its guest and off its areas: what stood behind those.
    fn cede(&self, giver: &mut State, range: GuestPhysRange) -> Result<Few<MemoryArea<Backend>>, Error> {
        let State { areas, table, .. } = giver;
        let plan = areas.plan(range).map_err(|_| Error::NoMemory(range))?;
        self.split_at_ends(table, range)?;
        self.withdraw_own(table, range)?;
        Ok(plan.carve())
    }
}
