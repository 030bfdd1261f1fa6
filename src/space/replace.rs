//! Another mapping in the place of what is mapped, without a moment at which nothing is.

use page_table_multiarch::MappingFlags;

use super::{
    GuestSpace, State, Unmapping, debt,
    edit::{Content, Incoming},
    exclusive::Held,
    inherit,
    removed::Removed,
};
use crate::{
    addr::GuestPhysRange,
    backend::{Backend, Mapping},
    error::Error,
    lock::LockFamily,
    platform::Platform,
    region::Lease,
    table::{Detached, Edit},
};

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Maps `range` in the place of whatever is mapped in it, all of it or nothing: a BAR that moves, a page that is laid over
    /// another, memory that goes back to a template.
    ///
    /// No CPU finds a hole in between: it finds what was there, or waits and finds what is there now. When it returns no CPU
    /// reaches what was there, which goes as by [`unmap`](Self::unmap); holes are filled. What is populated at once is built
    /// and zeroed before the lock is taken, and on the space's [account](crate::Limits) beside what it replaces.
    /// [`replace_in_steps`](Self::replace_in_steps) frees some at a time.
    ///
    /// # Errors
    /// Nothing has changed then.
    /// - as for [`map`](Self::map), but for [`Error::Overlap`];
    /// - [`Error::State`] for memory that is on loan to another space;
    /// - [`Error::Invalidation`]: a CPU could not be told.
    ///
    /// # Example
    /// ```
    /// use stage2::{LeafPolicy, Mapping, Populate};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::{RW, guest, range};
    ///
    /// let space = guest(1)?;
    /// let ram = Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Pages };
    /// space.map(range(0x8000_0000, 0x4000), ram, RW)?;
    /// // A page of registers, laid over the guest's memory.
    /// let overlay = Mapping::Shared { region: space.region(0x1000)?, offset: 0 };
    /// space.replace(range(0x8000_1000, 0x1000), overlay, RW)?;
    /// assert_eq!(space.stats().areas, 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn replace(&self, range: GuestPhysRange, mapping: Mapping, flags: MappingFlags) -> Result<(), Error> {
        let mut removed = Removed::default();
        self.put_in_place(range, mapping, flags, &mut removed)?;
        self.free_removed(removed);
        Ok(())
    }

    /// Replaces what is mapped as [`replace`](Self::replace) does, and leaves the freeing to the caller.
    ///
    /// # Errors
    /// As for [`replace`](Self::replace).
    pub fn replace_in_steps(
        &self,
        range: GuestPhysRange,
        mapping: Mapping,
        flags: MappingFlags,
    ) -> Result<Unmapping<'_, P, L>, Error> {
        let mut removed = Removed::default();
        self.put_in_place(range, mapping, flags, &mut removed)?;
        Ok(Unmapping::of(self, removed))
    }

    fn put_in_place(
        &self,
        range: GuestPhysRange,
        mapping: Mapping,
        flags: MappingFlags,
        into: &mut Removed,
    ) -> Result<(), Error> {
        let incoming = self.incoming(range, mapping, flags)?;
        let mut built = None;
        if let Content::Filled(fill) = incoming.content {
            let mut level = self.exclusive_over(range)?.table.level_that_stays(&self.context, range);
            loop {
                let make =
                    || Detached::build(&self.context, range, level, fill).map_err(|exhausted| exhausted.at(range));
                let detached = built.insert(self.paying(make)?);
                let guard = self.exclusive_over(range)?;
                level = guard.table.level_that_stays(&self.context, range);
                if level == detached.level() {
                    match self.exchange(guard, &incoming, &mut built, into) {
                        Err(error) if self.pays_for(&error, debt::PART) => continue,
                        exchanged => exchanged?,
                    }
                    break;
                }
                // The tables that it was built for changed meanwhile.
            }
        } else {
            self.paying(|| self.exchange(self.exclusive_over(range)?, &incoming, &mut None, into))?;
        }
        incoming.lease.into_iter().for_each(Lease::keep);
        into.areas.end_waits();
        Ok(())
    }

    /// Puts what comes in the place of what is there, under the lock, which is free when it returns: what is refused goes
    /// after that, as a source may be behind it.
    fn exchange(
        &self,
        mut guard: Held<'_, L>,
        incoming: &Incoming,
        built: &mut Option<Detached<'_, P>>,
        into: &mut Removed,
    ) -> Result<(), Error> {
        let Incoming { area, content, .. } = incoming;
        let (range, flags, backend) = (area.va_range(), area.flags(), area.backend());
        let State { areas, table, inherited, .. } = &mut *guard;
        let plan = areas.plan(range).map_err(|_| Error::NoMemory(range))?;
        self.check_areas(range, plan.len(), 2, || plan.len_replaced(flags, backend))?;
        let inherits = || plan.pieces().filter(|(area, _)| inherit::is_inherited(area)).map(|(_, part)| part);
        let mut comes = None;
        if let Content::Inherited(heirloom) = content {
            if inherited.is_none() {
                *inherited = heirloom.region.region().heir();
            }
            comes = Some(heirloom.pages().map_err(|exhausted| exhausted.at(range))?);
        }
        let inherited = inherited.as_ref().filter(|_| comes.is_some() || inherits().next().is_some());
        if let Some(inherited) = inherited {
            let prepared = match &comes {
                // All that the range has is cut out in one go.
                Some(comes) => inherit::make_room(&**inherited, || [range].into_iter(), comes),
                None => inherit::prepare_to_leave(&**inherited, inherits),
            };
            prepared.map_err(|exhausted| exhausted.at(range))?;
        } else if comes.is_some() {
            return Err(Error::NoMemory(range));
        }
        if let Backend::Shared(view) = backend {
            view.show(range).map_err(|exhausted| exhausted.at(range))?;
        }
        let unmapped = table.edit(&self.context, range, Edit::Unmap).map_err(|exhausted| exhausted.at(range));
        let unmapped = unmapped.and_then(|flush| {
            let flushed = flush.detach_or_restore(&mut into.memory);
            flushed.map_err(|cause| Error::Invalidation { range, cause })
        });
        if let Err(error) = unmapped {
            if let Backend::Shared(view) = backend {
                view.hide(range);
            }
            return Err(error);
        }
        // Nothing fails from here on.
        into.areas.areas = plan.replace_with(flags, backend.clone());
        into.areas.inherited = inherited.filter(|_| comes.is_none()).cloned();
        into.areas.give_back(self.accounts());
        if let (Some(inherited), Some(comes)) = (inherited, comes) {
            inherit::put(&**inherited, [range].into_iter(), comes, self.accounts());
            into.areas.inherited = Some(inherited.clone());
        }
        areas.join_all(range);
        if let Some(built) = built.take() {
            table.graft(&self.context, built);
        }
        Ok(())
    }
}
