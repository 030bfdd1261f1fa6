//! One guest shares, lends and gives its memory to another; each page has one owner at any time.
//!
//! ```sh
//! cargo run --example lend
//! ```
#[path = "host/mod.rs"]
mod host;

use host::{RW, fault, guest, range};
use stage2::{Access, LeafPolicy, Mapping, Populate, loan::Handover};

const RAM: usize = 0x8000_0000;
const WINDOW: usize = 0x1_0000_0000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (owner, other) = (guest(1)?, guest(2)?);
    owner.map(range(RAM, 0x8000), Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Pages }, RW)?;
    owner.write(RAM.into(), b"for your eyes")?;

    let loan = owner.share(range(RAM, 0x1000), &other, WINDOW.into(), RW)?;
    other.store((WINDOW + 0x10).into(), 42_u32)?;
    println!("Shared: the owner reads {}.", owner.load::<u32>((RAM + 0x10).into())?);
    println!("It cannot unmap it meanwhile: {}.", owner.unmap(range(RAM, 0x1000)).unwrap_err());
    println!("Nor can the other: {}.", other.share(range(WINDOW, 0x1000), &owner, RAM.into(), RW).unwrap_err());
    owner.reclaim(&loan, &other, Handover::Keep)?;

    let loan = owner.lend(range(RAM, 0x2000), &other, WINDOW.into(), RW)?;
    println!("Lent, the owner is without:");
    fault(&owner, RAM, Access::Read)?;
    other.unmap(range(WINDOW, 0x1000))?;
    println!("The other has returned a page, and {:#x} bytes are still borrowed.", loan.borrowed());
    drop(other);
    owner.reclaim_returned(&loan, Handover::Zero)?;
    println!("At its end all is back, zeroed by choice: {}.", owner.load::<u32>((RAM + 0x10).into())?);

    let heir = guest(3)?;
    owner.store(RAM.into(), 7_u32)?;
    owner.donate(range(RAM, 0x1000), &heir, WINDOW.into(), RW, Handover::Keep)?;
    drop(owner);
    println!("A page that was given outlives the giver, with its {}:\n\n{heir}", heir.load::<u32>(WINDOW.into())?);
    Ok(())
}
