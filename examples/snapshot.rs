//! A running guest is frozen, and two more start from it: a page costs memory when one of them writes it.
//!
//! ```sh
//! cargo run --example snapshot
//! ```
#[path = "host/mod.rs"]
mod host;

use host::{RW, fault, guest, range};
use stage2::{Access, LeafPolicy, Mapping, Populate};

const RAM: usize = 0x8000_0000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let parent = guest(1)?;
    parent.map(range(RAM, 64 << 20), Mapping::Private { populate: Populate::Now, leaf: LeafPolicy::Pages }, RW)?;
    parent.write(RAM.into(), b"what the parent wrote")?;
    println!("The parent has {} frames of its own.", parent.stats().owned_frames);

    let snapshot = parent.snapshot()?;
    println!("Frozen, it has {} and {} are shared.", parent.stats().owned_frames, parent.stats().shared_frames);

    let children = [guest(2)?, guest(3)?];
    for child in &children {
        child.restore(&snapshot)?;
    }
    let stats = children[0].stats();
    println!("A child starts with {} frames of its own, and {} of tables.", stats.owned_frames, stats.table_frames);

    println!("It reads a page, and writes it:");
    fault(&children[0], RAM, Access::Read)?;
    children[0].write(RAM.into(), b"what the child writes")?;
    parent.write((RAM + 9).into(), b"PARENT")?;

    for (name, space) in [("parent", &parent), ("first child", &children[0]), ("second child", &children[1])] {
        let text: [u8; 21] = space.read_obj(RAM.into())?;
        println!("      {name:12} reads \"{}\"", std::str::from_utf8(&text)?);
    }
    println!("The first child:\n\n{}", children[0]);
    Ok(())
}
