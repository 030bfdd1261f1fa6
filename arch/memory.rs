//! The memory type that flags ask for, as an index of a format's table of them.

use page_table_multiarch::MappingFlags;

/// How many there are.
pub(crate) const KINDS: usize = 4;

/// Write-back memory, a device, uncached memory, a device that the guest must not relax, in this order.
#[inline]
pub(crate) const fn kind(flags: MappingFlags) -> usize {
    flags.bits() >> MappingFlags::DEVICE.bits().trailing_zeros() & (KINDS - 1)
}

const _: () = {
    assert!(kind(MappingFlags::DEVICE) == 1 && kind(MappingFlags::UNCACHED) == 2);
    assert!(kind(MappingFlags::READ.union(MappingFlags::WRITE).union(MappingFlags::EXECUTE)) == 0);
};
