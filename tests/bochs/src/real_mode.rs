//! A guest as a PC's CPU starts: in real mode, on memory that comes as it is touched.
#![allow(unsafe_code, reason = "a guest's program")]

use core::arch::global_asm;

use hypervisor::vcpu::{Mode, Setup, Vcpu};
use stage2::{Cause, CpuId, LeafPolicy, Mapping, MappingFlags, Origin, Outcome, Populate, VcpuId, x86_64::ept::decode};
use stage2_scenarios::{Attempt, Guest, Seat, Stop, Verdict, View, gpa, range};
use x86::vmx::vmcs::guest::RIP;

use crate::machine::{Bochs, enter, read_exit};

/// The program's segment.
const CODE: u16 = 0x1000;
/// What it fills and sums, from its segment 0x2000 on: 64 KiB.
const DATA: usize = 0x2_0000;
const SIZE: usize = 0x1_0000;
/// The sum of the even numbers below 2^16.
const SUM: u64 = 32_767 * 32_768;
/// Where the program begins that only sums.
const AGAIN: u64 = 0x10;
/// A tag that no virtual CPU of the scenarios has.
const VPID: u16 = 9;

const PAGE: usize = 0x1000;
const RW: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);

/// Fills and sums lazy memory, sums it again after half of it moved, and is denied what it lost.
pub fn a_guest_in_real_mode_runs_on_lazy_memory(bochs: &Bochs) -> Verdict {
    let guest = Guest::new(bochs)?;
    let lazy = Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Pages };
    guest.map(range(usize::from(CODE) << 4, PAGE), lazy, RW | MappingFlags::EXECUTE)?;
    guest.map(range(DATA, SIZE), lazy, RW)?;
    guest.write(gpa(usize::from(CODE) << 4), program())?;
    let start = Mode::Real { segment: CODE, ip: 0 };
    let mut vcpu = Vcpu::new(Setup { mode: start, vpid: VPID, exceptions: u32::MAX });
    let owned = guest.stats().owned_frames;
    expect(run(&guest, &mut vcpu)?, Outcome::Resolved, SUM)?;
    let populated = guest.stats().owned_frames - owned;
    if populated != SIZE / PAGE {
        return Err(Stop::failed(format_args!("{populated} pages were populated")));
    }
    for page in (0..SIZE / PAGE).step_by(2) {
        guest.relocate(range(DATA + page * PAGE, PAGE))?;
    }
    vcpu.start(Mode::Real { segment: CODE, ip: AGAIN as u16 });
    expect(run(&guest, &mut vcpu)?, Outcome::Resolved, SUM)?;
    guest.unmap(range(DATA + 3 * PAGE, PAGE))?;
    vcpu.start(Mode::Real { segment: CODE, ip: AGAIN as u16 });
    let (outcome, _) = run(&guest, &mut vcpu)?;
    if outcome != Outcome::NotMapped || vcpu.registers.rbx & 0xffff != 3 * PAGE as u64 {
        return Err(Stop::failed(format_args!("the lost page: {outcome:?}, {:x?}", vcpu.registers)));
    }
    // It stands before the access that failed.
    if vcpu.read(RIP) < AGAIN {
        return Err(Stop::failed(format_args!("at {:#x}", vcpu.read(RIP))));
    }
    Ok(())
}

fn expect(came: (Outcome, u64), outcome: Outcome, value: u64) -> Verdict {
    if came == (outcome, value) {
        return Ok(());
    }
    Err(Stop::failed(format_args!("{came:x?}, not {outcome:?} with {value:#x}")))
}

/// Runs it to its end, or to a fault that is not resolved: the last outcome, and what it answered.
fn run(guest: &Guest<'_, Bochs>, vcpu: &mut Vcpu) -> Result<(Outcome, u64), Stop> {
    const MOST_FAULTS: usize = 64;
    let seat = Seat { cpu: CpuId(0), vcpu: VcpuId(usize::from(VPID)), view: View::Physical };
    let mut outcome = Outcome::Resolved;
    vcpu.load();
    for _ in 0..MOST_FAULTS {
        let exit = enter(guest, seat, vcpu)?;
        match read_exit(vcpu, &exit) {
            Attempt::Done(value) => return Ok((outcome, value & 0xffff_ffff)),
            Attempt::Fault(fault) if (fault.cause, fault.origin) == (Cause::Translation, Origin::Instruction) => {
                outcome = guest.fault(seat.cpu, fault)?;
                if !matches!(outcome, Outcome::Resolved | Outcome::Retry) {
                    return Ok((outcome, 0));
                }
            }
            other => return Err(Stop::failed(format_args!("{other:x?}, {:x?}", decode(exit.translation)))),
        }
    }
    Err(Stop::failed(format_args!("it faults for ever, at {:#x}", vcpu.read(RIP))))
}

fn program() -> &'static [u8] {
    unsafe extern "C" {
        static real_mode_start: u8;
        static real_mode_end: u8;
    }
    // SAFETY: the two labels enclose the program.
    unsafe {
        let (start, end) = (&raw const real_mode_start, &raw const real_mode_end);
        core::slice::from_raw_parts(start, end.addr() - start.addr())
    }
}

global_asm!(
    r#"
    .section .rodata.real_mode, "a"
    .code16
    .global real_mode_start
    .global real_mode_end
real_mode_start:
    movw    $0x2000, %ax
    movw    %ax, %ds
    xorw    %bx, %bx
1:  movw    %bx, (%bx)
    addw    $2, %bx
    jnz     1b
    .org    real_mode_start + 0x10
    movw    $0x2000, %ax
    movw    %ax, %ds
    xorw    %bx, %bx
    xorl    %eax, %eax
2:  movzwl  (%bx), %ecx
    addl    %ecx, %eax
    addw    $2, %bx
    jnz     2b
    vmcall
real_mode_end:
    .code64
    "#,
    options(att_syntax)
);
