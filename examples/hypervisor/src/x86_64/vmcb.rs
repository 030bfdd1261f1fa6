//! A VMCB: what exits, where the guest is, and what a `#VMEXIT` says.
//!
//! AMD64 APM Vol. 2 (publication 24593, revision 3.42), appendix B for the layout, 15.5.1 for what VMRUN checks.

use alloc::boxed::Box;

use stage2::x86_64::npt::{Exit, PAT_AT_RESET, Root, TlbControl};

pub use super::state::Mode;
use super::svm::SVM_ENABLE;

/// A page that the CPU reads at VMRUN and writes at `#VMEXIT`, as words of eight bytes.
#[repr(C, align(4096))]
pub struct Vmcb([u64; 512]);

// Offsets in bytes.
const EXCEPTIONS: usize = 0x08;
const INTERCEPTS_1: usize = 0x0c;
const INTERCEPTS_2: usize = 0x10;
const ASID: usize = 0x58;
const TLB_CONTROL: usize = 0x5c;
const EXIT_CODE: usize = 0x70;
const EXIT_INFO_1: usize = 0x78;
const EXIT_INFO_2: usize = 0x80;
const EXIT_INTERRUPTED: usize = 0x88;
const NESTED_PAGING: usize = 0x90;
const NESTED_CR3: usize = 0xb0;
/// The segments, 16 bytes each: ES, CS, SS, DS, FS, GS, GDTR, LDTR, IDTR, TR.
const SEGMENTS: usize = 0x400;
const EFER: usize = 0x4d0;
const CR4: usize = 0x548;
const CR3: usize = 0x550;
const CR0: usize = 0x558;
const DR7: usize = 0x560;
const DR6: usize = 0x568;
const RFLAGS: usize = 0x570;
const RIP: usize = 0x578;
const RAX: usize = 0x5f8;
const GUEST_PAT: usize = 0x668;

/// All exceptions but NMI's vector, which is no exception here.
const ALL_EXCEPTIONS: u32 = !(1 << 2);
/// NMI, and shutdown: a triple fault.
const NMI_AND_SHUTDOWN: u32 = 1 << 1 | 1 << 31;
/// VMRUN, which must exit, and all other instructions of SVM.
const SVM_INSTRUCTIONS: u32 = 0x7f;

// CR0, CR4, EFER of the guest.
const PROTECTED: u64 = 1 << 0;
const EXTENSION_TYPE: u64 = 1 << 4;
const PAGING: u64 = 1 << 31;
const PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
const LONG_MODE: u64 = 1 << 8 | 1 << 10;

/// A segment: selector, attributes, limit, base.
type Segment = (u16, u16, u32, u64);

impl Vmcb {
    /// A VMCB with its guest at the start.
    #[must_use]
    pub fn new(mode: Mode) -> Box<Self> {
        let mut vmcb = Box::new(Self([0; 512]));
        vmcb.set_half(EXCEPTIONS, ALL_EXCEPTIONS);
        vmcb.set_half(INTERCEPTS_1, NMI_AND_SHUTDOWN);
        vmcb.set_half(INTERCEPTS_2, SVM_INSTRUCTIONS);
        vmcb.set(NESTED_PAGING, 1);
        vmcb.set(GUEST_PAT, PAT_AT_RESET);
        vmcb.start(mode);
        vmcb
    }

    /// Puts the guest at its start.
    pub fn start(&mut self, mode: Mode) {
        let (code, data): (Segment, Segment) = match mode {
            Mode::Long { .. } => ((0x10, 0xa9b, u32::MAX, 0), (0x18, 0xc93, u32::MAX, 0)),
            Mode::Real { segment, .. } => {
                let base = u64::from(segment) << 4;
                ((segment, 0x9b, 0xffff, base), (segment, 0x93, 0xffff, base))
            }
        };
        let (table, task) = ((0, 0, 0xffff, 0), (0, 0x8b, 0xffff, 0));
        let all = [data, code, data, data, data, data, table, (0, 0x82, 0xffff, 0), table, task];
        for (place, (selector, attributes, limit, base)) in (SEGMENTS..).step_by(16).zip(all) {
            self.set(place, u64::from(selector) | u64::from(attributes) << 16 | u64::from(limit) << 32);
            self.set(place + 8, base);
        }
        let (cr0, cr4, cr3, efer, rip) = match mode {
            Mode::Long { cr3, rip } => (PROTECTED | PAGING, PHYSICAL_ADDRESS_EXTENSION, cr3, LONG_MODE, rip),
            Mode::Real { ip, .. } => (0, 0, 0, 0, ip.into()),
        };
        for (place, value) in [
            (CR0, cr0 | EXTENSION_TYPE),
            (CR3, cr3),
            (CR4, cr4),
            (EFER, efer | SVM_ENABLE),
            (DR6, 0xffff_0ff0),
            (DR7, 0x400),
            (RFLAGS, 1 << 1),
            (RIP, rip),
        ] {
            self.set(place, value);
        }
    }

    /// The guest's root table.
    #[must_use]
    pub fn cr3(&self) -> u64 {
        self.get(CR3)
    }

    /// Where the guest is.
    #[must_use]
    pub fn rip(&self) -> u64 {
        self.get(RIP)
    }

    /// Where the guest goes on, with interrupts off.
    pub fn set_rip(&mut self, rip: u64) {
        self.set(RIP, rip);
        self.set(RFLAGS, 1 << 1);
    }

    pub(super) fn set_cr3(&mut self, cr3: u64) {
        self.set(CR3, cr3);
    }

    pub(super) fn rax(&self) -> u64 {
        self.get(RAX)
    }

    pub(super) fn set_rax(&mut self, rax: u64) {
        self.set(RAX, rax);
    }

    /// The nested tables, and what VMRUN forgets first.
    pub(super) fn set_root(&mut self, root: Root, control: TlbControl) {
        self.set(NESTED_CR3, root.ncr3);
        self.set_half(ASID, root.asid.0);
        self.set_half(TLB_CONTROL, control as u32);
    }

    pub(super) fn exit(&self) -> Exit {
        Exit { code: self.get(EXIT_CODE), info1: self.get(EXIT_INFO_1), info2: self.get(EXIT_INFO_2) }
    }

    pub(super) fn interrupted(&self) -> u64 {
        self.get(EXIT_INTERRUPTED)
    }

    /// Its physical address: memory is mapped where it stands.
    pub(super) fn address(&mut self) -> u64 {
        (&raw mut *self).expose_provenance() as u64
    }

    fn get(&self, offset: usize) -> u64 {
        self.0[offset / 8]
    }

    fn set(&mut self, offset: usize, value: u64) {
        self.0[offset / 8] = value;
    }

    /// Four of the eight bytes.
    fn set_half(&mut self, offset: usize, value: u32) {
        let shift = offset % 8 * 8;
        let word = &mut self.0[offset / 8];
        *word = *word & !(u64::from(u32::MAX) << shift) | u64::from(value) << shift;
    }
}
