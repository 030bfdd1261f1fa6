//! Two guests and the hypervisor share a page: what one writes the others read.
//!
//! ```sh
//! cargo run --example share
//! ```
#[path = "host/mod.rs"]
mod host;

use host::{RW, guest, range};
use stage2::{Access, Mapping, MappingFlags};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (one, two) = (guest(1)?, guest(2)?);
    let ring = one.region(0x4000)?;

    // At different addresses; the second guest may read its first page and write the rest.
    one.map(range(0x8000_0000, 0x4000), Mapping::Shared { region: ring.clone(), offset: 0 }, RW)?;
    two.map(range(0x1_0000_0000, 0x4000), Mapping::Shared { region: ring.clone(), offset: 0 }, RW)?;
    two.protect(range(0x1_0000_0000, 0x1000), MappingFlags::READ)?;
    println!("Nothing is populated yet: {} frames.", ring.frames());

    println!("The first guest touches a page, and the second the same:");
    host::fault(&one, 0x8000_0000, Access::Write)?;
    host::fault(&two, 0x1_0000_0000, Access::Read)?;
    println!("      {} frame for both", ring.frames());

    // A store of the guest's would do the same.
    one.store(0x8000_0010.into(), 42_u32)?;
    println!("The second reads {}.", two.load::<u32>(0x1_0000_0010.into())?);

    let back_end = ring.writer()?;
    back_end.store(0x3008, 7_u16)?;
    println!("The hypervisor reads {} and writes; the guest reads {}.", ring.load::<u32>(0x10)?, {
        two.load::<u16>(0x1_0000_3008.into())?
    });

    println!("While it can be written it cannot be frozen: {}.", ring.freeze().unwrap_err());
    one.unmap(range(0x8000_0000, 0x4000))?;
    println!("One is out, the other still has it:\n\n{two}");
    Ok(())
}
