//! A guest as a PC's CPU starts: in real mode, on memory that comes as it is touched.
#![allow(unsafe_code, reason = "a guest's program")]

use hypervisor::vcpu::Mode;
use memory_addr::PAGE_SIZE_4K as PAGE;
use stage2::{
    Cause, CpuId, Error, GuestSpace, LeafPolicy, Mapping, MappingFlags, Origin, Outcome, Platform, Populate, VcpuId,
};
use stage2_scenarios::{Attempt, Guest, Seat, Stop, Verdict, View, gpa, range};

use super::RW;
use crate::pc::{Pc, Vcpu, Vendor, vcpu::enter};

/// The program's segment.
const CODE: u16 = 0x1000;
/// What it fills and sums, from its segment 0x2000 on: 64 KiB.
const DATA: usize = 0x2_0000;
const SIZE: usize = 0x1_0000;
/// The sum of the even numbers below 2^16.
const SUM: u64 = 32_767 * 32_768;
/// Where the program begins that only sums.
const AGAIN: u16 = 0x10;
/// How often it may fault.
const MOST_FAULTS: usize = 64;

/// A number that no virtual CPU of the scenarios has.
const NUMBER: usize = 8;

/// Where a run begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    /// At an offset in [`CODE`], with the registers as they come.
    Start(u16),
    /// Where the last one ended.
    Here,
}

/// What a run on CPU 0 ended with.
#[derive(Clone, Debug)]
struct End {
    /// What the exit says.
    attempt: Attempt,
    /// RBX: the offset that the guest had come to.
    rbx: u64,
    /// Where it stands.
    rip: u64,
}

/// The guest fills and sums lazy memory, sums it again after half of it moved, and is denied what it lost. On Intel's CPUs
/// only those with "unrestricted guest" have it.
///
/// # Errors
/// It does not hold.
pub fn a_guest_in_real_mode_runs_on_lazy_memory<V: Vendor>(pc: &Pc<V>) -> Verdict {
    let vcpu = &mut V::Vcpu::new(NUMBER, mode(0));
    let guest = Guest::new(pc)?;
    let lazy = Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Pages };
    guest.map(range(usize::from(CODE) << 4, PAGE), lazy.clone(), RW | MappingFlags::EXECUTE)?;
    guest.map(range(DATA, SIZE), lazy, RW)?;
    guest.write(gpa(usize::from(CODE) << 4), program())?;
    let owned = guest.stats().owned_frames;
    sums(to_the_end(&guest, vcpu, From::Start(0))?)?;
    let populated = guest.stats().owned_frames - owned;
    if populated != SIZE / PAGE {
        return Err(Stop::failed(format_args!("{populated} pages were populated")));
    }
    for page in (0..SIZE / PAGE).step_by(2) {
        guest.relocate(range(DATA + page * PAGE, PAGE))?;
    }
    sums(to_the_end(&guest, vcpu, From::Start(AGAIN))?)?;
    guest.unmap(range(DATA + 3 * PAGE, PAGE))?;
    let (outcome, end) = to_the_end(&guest, vcpu, From::Start(AGAIN))?;
    // It stands before the access that failed.
    if outcome != Outcome::NotMapped || end.rbx & 0xffff != 3 * PAGE as u64 || end.rip < u64::from(AGAIN) {
        return Err(Stop::failed(format_args!("the lost page: {outcome:?}, {end:x?}")));
    }
    Ok(())
}

fn sums((outcome, end): (Outcome, End)) -> Verdict {
    match end.attempt {
        Attempt::Done(value) if value & 0xffff_ffff == SUM => Ok(()),
        _ => Err(Stop::failed(format_args!("{outcome:?}, {end:x?}, not the sum {SUM:#x}"))),
    }
}

/// Runs it to its end, or to a fault that is not resolved: the last outcome, and the last end.
fn to_the_end<V: Vendor>(guest: &Guest<'_, Pc<V>>, vcpu: &mut V::Vcpu, mut from: From) -> Result<(Outcome, End), Stop> {
    let mut outcome = Outcome::Resolved;
    for _ in 0..MOST_FAULTS {
        let end = run(guest, vcpu, core::mem::replace(&mut from, From::Here))?;
        match &end.attempt {
            Attempt::Done(_) => return Ok((outcome, end)),
            Attempt::Fault(fault) if (fault.cause, fault.origin) == (Cause::Translation, Origin::Instruction) => {
                outcome = guest.fault(CpuId(0), *fault)?;
                if !matches!(outcome, Outcome::Resolved | Outcome::Retry) {
                    return Ok((outcome, end));
                }
            }
            _ => return Err(Stop::failed(format_args!("{end:x?}"))),
        }
    }
    Err(Stop::failed(format_args!("it faults for ever")))
}

/// One run.
fn run<P: Platform>(guest: &GuestSpace<P>, vcpu: &mut impl Vcpu, from: From) -> Result<End, Error> {
    vcpu.load();
    if let From::Start(ip) = from {
        vcpu.start(mode(ip));
    }
    let seat = Seat { cpu: CpuId(0), vcpu: VcpuId(NUMBER), view: View::Physical };
    let attempt = enter(guest, seat, vcpu)?;
    Ok(End { attempt, rbx: vcpu.registers().rbx, rip: vcpu.rip() })
}

/// At an offset in [`CODE`].
const fn mode(ip: u16) -> Mode {
    Mode::Real { segment: CODE, ip }
}

/// Where [`real_mode_program`](crate::real_mode_program) put it.
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

/// Puts the guest's program into the suite's own, ending with the vendor's call of the hypervisor.
#[macro_export]
macro_rules! real_mode_program {
    ($call:literal) => {
        core::arch::global_asm!(
            concat!(
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
                "#,
                $call,
                r#"
            real_mode_end:
                .code64
                "#
            ),
            options(att_syntax)
        );
    };
}
