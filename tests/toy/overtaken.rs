//! Two CPUs at the worst moment: what a call has looked at is something else by the time that it has the lock, or the
//! entry. Each test fails without the second look.

#[path = "overtaken/calls.rs"]
mod calls;
#[path = "overtaken/copies.rs"]
mod copies;
#[path = "overtaken/faults.rs"]
mod faults;
#[path = "overtaken/transfers.rs"]
mod transfers;
#[path = "overtaken/unfinished.rs"]
mod unfinished;

use stage2::{GuestPhysRange, SharedRegion, loan::Handover, region::RegionError};

use super::{
    eventful::{self, Eventful},
    format::on_leaf,
    *,
};

type Space = GuestSpace<Machine, Eventful>;

fn space(board: &Board) -> Arc<Space> {
    Arc::new(GuestSpace::new(board.config()).unwrap())
}

fn touch(space: &Space, at: usize, access: Access) -> Result<Outcome, Error> {
    space.fault(CpuId(0), Fault { gpa: gpa(at), access, cause: Cause::Translation, origin: Origin::Instruction })
}

/// What another CPU does with a space.
fn elsewhere(space: &Arc<Space>, act: impl FnOnce(&Space) + Send + 'static) -> impl FnOnce() + Send + 'static {
    let space = Arc::clone(space);
    move || act(&space)
}

/// A snapshot in steps begins, and never ends.
fn put_to_rest(space: &Space) {
    std::mem::forget(space.snapshot_in_steps().unwrap());
}

fn shared(region: &SharedRegion) -> Mapping {
    Mapping::Shared { region: region.clone(), offset: 0 }
}
