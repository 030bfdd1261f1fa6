//! The hypervisor's own access to guest memory.

use crate::prelude::*;

/// Both see what the other wrote, across pages, leaves of two sizes and areas, at any alignment.
///
/// # Errors
/// It does not hold.
pub fn both_sides_see_the_same<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, BLOCK), BLOCKS, RW)?;
    guest.map(range(RAM + BLOCK, 2 * PAGE), LAZY, RW)?;
    guest.map(range(RAM + BLOCK + 2 * PAGE, PAGE), PAGES, RW)?;
    let start = RAM + BLOCK - 13;
    let text: alloc::vec::Vec<u8> = (0..3 * PAGE).map(|byte| (byte * 7 % 251) as u8).collect();
    guest.write(gpa(start), &text)?;
    let mut back = alloc::vec![0; text.len()];
    guest.read(gpa(start), &mut back)?;
    ensure!(text == back, "what was written is not what is read");
    for at in [RAM + BLOCK, RAM + BLOCK + PAGE - 8, RAM + BLOCK + 2 * PAGE] {
        let bytes: [u8; 8] = core::array::from_fn(|byte| text[at - start + byte]);
        ensure_eq!(guest.loads(at)?, Value(u64::from_le_bytes(bytes)));
    }
    ensure_eq!(guest.stores(RAM + BLOCK + 8, 0x0102_0304_0506_0708)?, Value(0x0102_0304_0506_0708));
    ensure_eq!(guest.read_obj::<[u8; 3]>(gpa(RAM + BLOCK + 9))?, [7, 6, 5]);
    ensure_eq!(guest.load::<u32>(gpa(RAM + BLOCK + 12))?, 0x0102_0304);
    ensure_eq!(guest.compare_exchange(gpa(RAM + BLOCK + 8), 0x0708_u16, 1)?, Ok(0x0708));
    ensure_eq!(guest.loads(RAM + BLOCK + 8)?, Value(0x0102_0304_0506_0001));
    Ok(())
}

/// Lazy memory is populated, with zeros.
///
/// # Errors
/// It does not hold.
pub fn lazy_memory_is_populated_by_the_hypervisor_too<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, 3 * PAGE), LAZY, RW)?;
    ensure_eq!(guest.read_obj::<u64>(gpa(RAM))?, 0);
    guest.write_obj(gpa(RAM + 2 * PAGE - 4), 0x1122_3344_5566_7788_u64)?;
    ensure_eq!(guest.stats().owned_frames, 3);
    ensure_eq!(guest.loads(RAM + 2 * PAGE - 8)?, Value(0x5566_7788_0000_0000));
    ensure_eq!(guest.loads(RAM + 2 * PAGE)?, Value(0x1122_3344));
    Ok(())
}

/// G1, G5: nothing past a mapping, no device, nothing that the guest may not do itself.
///
/// # Errors
/// It does not hold.
pub fn access_ends_where_the_guests_ends<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let device = RAM + 4 * PAGE;
    guest.map(range(RAM, PAGE), PAGES, RW)?;
    guest.map(range(RAM + PAGE, PAGE), PAGES, READ)?;
    guest.map(range(device, PAGE), linear(machine.device().at.as_usize()), DEVICE)?;
    let word = range(RAM + PAGE, 4);
    ensure_eq!(guest.write_obj(gpa(RAM + PAGE - 4), 1_u64), Err(Error::Denied { range: word, flags: READ }));
    ensure_eq!(guest.read_obj::<u64>(gpa(RAM + PAGE - 4))?, 1);
    let hole = range(RAM + 2 * PAGE, 4);
    ensure_eq!(guest.read_obj::<u64>(gpa(RAM + 2 * PAGE - 4)), Err(Error::NotMapped(hole)));
    ensure_eq!(guest.read_obj::<u32>(gpa(device)), Err(Error::NotMemory(range(device, 4))));
    ensure_eq!(guest.write_obj(gpa(device), 1_u32), Err(Error::NotMemory(range(device, 4))));
    ensure_eq!(guest.load::<u32>(gpa(RAM + 2)), Err(Error::Unaligned(range(RAM + 2, 4))));
    let top = usize::MAX - 3;
    ensure_eq!(guest.read_obj::<u64>(gpa(top)), Err(Error::Overflow { start: gpa(top), size: 8 }));
    let far = 1 << 50;
    ensure!(matches!(guest.read_obj::<u64>(gpa(far)), Err(Error::BeyondInput { .. })));
    ensure!(matches!(guest.read_obj::<u64>(gpa(RAM + 8 * PAGE)), Err(Error::NotMapped(_))));
    Ok(())
}

/// H14, G6: code that the hypervisor wrote is what the guest executes, also where it executed something else before.
///
/// # Errors
/// It does not hold.
pub fn written_code_is_executed<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, PAGE), LAZY, RWX)?;
    guest.map(range(RAM + BLOCK, BLOCK), BLOCKS, RWX)?;
    for value in 1..4 {
        for at in [RAM + 0x40, RAM + BLOCK + 0x1000] {
            guest.write(gpa(at), &machine.code(value))?;
            ensure_eq!(guest.calls(at)?, Value(value.into()));
        }
    }
    Ok(())
}
