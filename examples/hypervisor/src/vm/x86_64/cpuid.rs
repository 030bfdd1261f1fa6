//! What the guest learns of the CPU: what there is, less what this hypervisor does not give.
//!
//! Intel SDM Vol. 2A (edition of December 2024), "CPUID".

use core::arch::x86_64::__cpuid_count;

use hypervisor::vcpu::Registers;

/// The highest basic leaf.
const HIGHEST: u32 = 0xd;
/// Leaf 1, ECX: MONITOR, VMX, SMX, FMA, PDCM, PCID, the APIC's TSC deadline, XSAVE and that it is on, AVX, F16C, RDRAND.
const HIDDEN_C: u32 =
    1 << 3 | 1 << 5 | 1 << 6 | 1 << 12 | 1 << 15 | 1 << 17 | 1 << 24 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 29 | 1 << 30;
/// Leaf 1, EDX: MCE, MTRR, MCA, DS, ACPI (the thermal monitor's), HTT, TM.
const HIDDEN_D: u32 = 1 << 7 | 1 << 12 | 1 << 14 | 1 << 21 | 1 << 22 | 1 << 28 | 1 << 29;
/// Leaf 7, EBX: FSGSBASE, BMI1, SMEP, BMI2, ERMS, ADX, SMAP, and nothing else.
const SHOWN_7B: u32 = 1 << 0 | 1 << 3 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 19 | 1 << 20;

/// Answers for the guest.
pub fn answer(registers: &mut Registers) {
    let (leaf, subleaf) = (registers.rax as u32, registers.rcx as u32);
    let there = __cpuid_count(leaf, subleaf);
    let (a, b, c, d) = (there.eax, there.ebx, there.ecx, there.edx);
    let answer = match (leaf, subleaf) {
        (0, _) => [a.min(HIGHEST), b, c, d],
        (1, _) => [a, b, c & !HIDDEN_C, d & !HIDDEN_D],
        (2 | 4 | 0x8000_0000.., _) => [a, b, c, d],
        (7, 0) => [0, b & SHOWN_7B, 0, 0],
        _ => [0; 4],
    };
    [registers.rax, registers.rbx, registers.rcx, registers.rdx] = answer.map(u64::from);
}
