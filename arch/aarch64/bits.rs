//! The bits of stage-2 descriptors of the 4 KiB granule.
//!
//! Arm DDI 0487, edition K.a. Addresses have 48 bits: with `FEAT_LPA2` turned on (`VTCR_EL2.DS`) the shareability field
//! would be address bits, and it never is.

/// Bit 0: the hardware uses the descriptor (D8.3, "Descriptor formats").
pub(super) const VALID: u64 = 1 << 0;
/// Bit 1: a table above the last level, a page at it; a block without (D8.3).
pub(super) const TABLE_OR_PAGE: u64 = 1 << 1;
/// `MemAttr`\[3:0\] (D8.6, "Stage 2 memory type and Cacheability attributes").
pub(super) const MEM_ATTR: u64 = 0b1111 << 2;
/// S2AP\[0\]: reads are allowed (D8.4, "Stage 2 data access permissions").
pub(super) const READ: u64 = 1 << 6;
/// S2AP\[1\]: writes are allowed; with [`DBM`], a write has been (D8.5, "Hardware management of the dirty state").
pub(super) const WRITE: u64 = 1 << 7;
/// SH\[1:0\] = 0b11, inner shareable (D8.6). Ignored for device and non-cacheable memory, which is outer shareable.
pub(super) const INNER_SHAREABLE: u64 = 0b11 << 8;
/// AF: accesses do not fault for being the first (D8.5, "Hardware management of the Access flag").
pub(super) const ACCESSED: u64 = 1 << 10;
/// The output address \[47:12\] (D8.3).
pub(super) const ADDRESS: u64 = ((1 << 48) - 1) & !0xfff;
/// DBM: the hardware sets S2AP\[1\] at a write (D8.5).
pub(super) const DBM: u64 = 1 << 51;
/// XN\[1:0\] (D8.4, "Stage 2 instruction execution permissions"); without `FEAT_XNX` only the upper bit counts.
pub(super) const EXECUTE_NEVER: u64 = 0b11 << 53;
/// XN = 0b10: neither EL1 nor EL0 executes, with `FEAT_XNX` and without.
pub(super) const EXECUTE_NEVER_ALL: u64 = 0b10 << 53;

// Bits 58:55 are the software's (D8.3).

/// The frame is the space's own; with [`REGION`], a frozen region's; with [`LOAN`], on loan to another space.
pub(super) const OWNED: u64 = 1 << 55;
/// It was written, as far as the hardware's dirty state does not say so.
pub(super) const DIRTY: u64 = 1 << 56;
/// The frame is on loan: with [`OWNED`] from this space, without to it.
pub(super) const LOAN: u64 = 1 << 57;
/// Alone in an invalid entry: a CPU is changing a leaf.
pub(super) const BUSY: u64 = LOAN;
/// The frame is a region's.
pub(super) const REGION: u64 = 1 << 58;

/// Device-nGnRE: a write may be acknowledged before it arrives.
pub(super) const DEVICE: u64 = 0b0001 << 2;
/// Device-nGnRnE: it may not.
pub(super) const STRICT_DEVICE: u64 = 0b0000 << 2;
/// Normal non-cacheable, where stage 1 does not make it a device.
pub(super) const NON_CACHEABLE: u64 = 0b0101 << 2;
/// Normal write-back, where stage 1 does not ask for less.
pub(super) const WRITE_BACK: u64 = 0b1111 << 2;
/// With `FEAT_S2FWB`: Normal write-back, whatever stage 1 asks for (D8.6, "Stage 2 memory types with FWB"). The other
/// three are the same in both.
pub(super) const FORCED_WRITE_BACK: u64 = 0b0110 << 2;

// No two fields overlap, and the executability bits of `allowances` are in none.
const _: () = {
    #[rustfmt::skip]
    let fields = [
        VALID, TABLE_OR_PAGE, MEM_ATTR, READ, WRITE, INNER_SHAREABLE, ACCESSED, ADDRESS, DBM, EXECUTE_NEVER, OWNED,
        DIRTY, LOAN, REGION,
    ];
    let mut seen = 0;
    let mut index = 0;
    while index < fields.len() {
        assert!(seen & fields[index] == 0);
        seen |= fields[index];
        index += 1;
    }
    assert!(0b11 & (READ | WRITE | ACCESSED | DBM) == 0);
    // Something is left of every leaf and table when bit 0 goes, even at address 0 (W7), and it is not `BUSY`.
    assert!(INNER_SHAREABLE & !VALID != 0 && TABLE_OR_PAGE & !VALID != 0);
};
