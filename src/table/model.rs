//! What a page is, in every interleaving of CPUs that change its entry at once (H18, H25, H26).
//!
//! Run by `cargo xtask test --only loom`. With a plain store in place of the exchange in `Slot::update` the first two fail,
//! and so does the fourth; the third with a lender that takes the lock shared.

use loom::{
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};
use memory_addr::PhysAddr;
use page_table_multiarch::MappingFlags;

use super::{
    entry::{Noted, Slot},
    node::AtomicU64,
};
use crate::{
    addr::Level,
    arch::{
        aarch64::Capabilities, aarch64::Errata, aarch64::Features, aarch64::Stage2, aarch64::Tracking, aarch64::Vmid,
    },
    format::{Access, Entry, Format, Leaf, Owner, Used},
    ownership::PageState,
};

const RW: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);

/// One page's entry, the space's lock, and whether the guest wrote through the entry.
struct World {
    format: Stage2,
    entry: AtomicU64,
    lock: RwLock<()>,
    written: AtomicBool,
}

impl World {
    /// A page that was not written yet.
    fn new(owner: Owner, flags: MappingFlags) -> Arc<Self> {
        let capabilities = Capabilities {
            physical_bits: 44,
            vmid_bits: 8,
            data_line: 64,
            features: Features::GRANULE_4K | Features::ACCESS_FLAG | Features::DIRTY_STATE,
            errata: Errata::empty(),
        };
        let format = Stage2::new(&capabilities, 40, Vmid(1)).unwrap().with_tracking(Tracking::DirtyState).unwrap();
        let leaf = Leaf { at: PhysAddr::from_usize(0x4000_0000), flags, owner, used: Used::Accessed };
        let entry = AtomicU64::new(format.leaf(Level::PAGE, &leaf));
        Arc::new(Self { format, entry, lock: RwLock::new(()), written: AtomicBool::new(false) })
    }

    fn slot(&self) -> Slot<'_> {
        Slot { entry: &self.entry, level: Level::PAGE, start: 0.into() }
    }

    fn decode(&self) -> Entry {
        self.slot().decode(&self.format)
    }

    fn state(&self) -> Option<PageState> {
        PageState::of(&self.decode())
    }

    /// The guest stores, on a CPU that notes it in the entry by an exchange of its own, whatever locks there are.
    fn store(&self) {
        let old = self.entry.load(Ordering::Acquire);
        let Entry::Leaf(leaf) = self.format.decode(Level::PAGE, old) else { return };
        if leaf.flags.contains(MappingFlags::WRITE) {
            let new = self.format.touched(Level::PAGE, old, Access::Write);
            if self.entry.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                self.written.store(true, Ordering::Release);
            }
        }
    }

    fn used(&self) -> Used {
        match self.decode() {
            Entry::Leaf(leaf) | Entry::Lent(leaf) => leaf.used,
            other => panic!("{other:?}"),
        }
    }

    /// The space lends the page, if it is its own.
    fn lend(&self) -> Option<PageState> {
        let found = self.state();
        if found == Some(PageState::Owned) {
            self.slot().withdraw(&self.format, Owner::Space);
        }
        found
    }
}

#[test]
fn what_the_guest_wrote_until_the_break_is_in_the_entry() {
    loom::model(|| {
        let world = World::new(Owner::Space, RW);
        let guest = thread::spawn({
            let world = world.clone();
            move || world.store()
        });
        {
            let _exclusive = world.lock.write().unwrap();
            world.lend();
        }
        guest.join().unwrap();
        assert_eq!(world.state(), Some(PageState::Lent), "nothing makes it valid again");
        let written = world.written.load(Ordering::Acquire);
        assert_eq!(world.used() == Used::Dirty, written);
        world.slot().put_back(&world.format, Noted::AsBefore);
        assert_eq!((world.state(), world.used() == Used::Dirty), (Some(PageState::Owned), written));
    });
}

#[test]
fn what_the_guest_wrote_since_it_is_back_is_in_the_entry() {
    loom::model(|| {
        let world = World::new(Owner::Space, RW);
        world.slot().change_owner(&world.format, Owner::Space, Owner::OnLoan);
        let guest = thread::spawn({
            let world = world.clone();
            move || world.store()
        });
        {
            let _exclusive = world.lock.write().unwrap();
            world.slot().put_back(&world.format, Noted::AsBefore);
        }
        guest.join().unwrap();
        assert_eq!(world.state(), Some(PageState::Owned));
        assert_eq!(world.used() == Used::Dirty, world.written.load(Ordering::Acquire));
    });
}

/// A page is copied under the lock that is held shared, and lent under the lock that is held exclusively: the lender finds
/// it frozen, or the guest's own.
#[test]
fn a_page_is_lent_before_its_copy_or_behind_it() {
    loom::model(|| {
        let world = World::new(Owner::Frozen, MappingFlags::READ);
        let copier = thread::spawn({
            let world = world.clone();
            move || {
                let _shared = world.lock.read().unwrap();
                world.slot().claim(&world.format).expect("no other CPU copies");
                let at = PhysAddr::from_usize(0x5000_0000);
                let copy = Leaf { at, flags: RW, owner: Owner::Space, used: Used::Dirty };
                world.slot().store(world.format.leaf(Level::PAGE, &copy));
            }
        });
        let found = {
            let _exclusive = world.lock.write().unwrap();
            world.lend()
        };
        copier.join().unwrap();
        let left = match found {
            Some(PageState::Frozen) => PageState::Owned,
            Some(PageState::Owned) => PageState::Lent,
            other => panic!("a page that is being changed is lent: {other:?}"),
        };
        assert_eq!(world.state(), Some(left));
    });
}

/// A fault raises what it found before it was lent: it stays lent. The exchange alone sees to that, without the
/// lock.
#[test]
fn a_raise_that_comes_too_late_does_nothing() {
    loom::model(|| {
        let world = World::new(Owner::Space, MappingFlags::READ);
        let fault = thread::spawn({
            let world = world.clone();
            move || {
                let format = &world.format;
                world.slot().raise(format, |old| format.with_flags(Level::PAGE, old, RW))
            }
        });
        {
            let _exclusive = world.lock.write().unwrap();
            world.lend();
        }
        let _ = fault.join().unwrap();
        assert_eq!(world.state(), Some(PageState::Lent));
    });
}
