//! A guest as a PC's CPU starts: in real mode, on memory that comes as it is touched. The same for each vendor's CPUs.
#![allow(unsafe_code, reason = "a guest's program")]

use stage2::{Cause, CpuId, LeafPolicy, Mapping, MappingFlags, Origin, Outcome, Populate};
use stage2_scenarios::{Attempt, Guest, Machine, Stop, Verdict, gpa, range};

/// The program's segment.
pub const CODE: u16 = 0x1000;
/// What it fills and sums, from its segment 0x2000 on: 64 KiB.
const DATA: usize = 0x2_0000;
const SIZE: usize = 0x1_0000;
/// The sum of the even numbers below 2^16.
const SUM: u64 = 32_767 * 32_768;
/// Where the program begins that only sums.
const AGAIN: u16 = 0x10;
/// How often it may fault.
const MOST_FAULTS: usize = 64;

const PAGE: usize = 0x1000;
const RW: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);

/// Where a run begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// At an offset in [`CODE`], with the registers as they come.
    Start(u16),
    /// Where the last one ended.
    Here,
}

/// What a run on CPU 0 ended with.
#[derive(Clone, Debug)]
pub struct End {
    /// What the exit says.
    pub attempt: Attempt,
    /// RBX: the offset that the guest had come to.
    pub rbx: u64,
    /// Where it stands.
    pub rip: u64,
}

/// The guest fills and sums lazy memory, sums it again after half of it moved, and is denied what it lost.
///
/// # Errors
/// It does not hold.
pub fn runs_on_lazy_memory<M: Machine>(
    machine: &M,
    mut run: impl FnMut(&Guest<'_, M>, From) -> Result<End, stage2::Error>,
) -> Verdict {
    let guest = Guest::new(machine)?;
    let lazy = Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Pages };
    guest.map(range(usize::from(CODE) << 4, PAGE), lazy.clone(), RW | MappingFlags::EXECUTE)?;
    guest.map(range(DATA, SIZE), lazy, RW)?;
    guest.write(gpa(usize::from(CODE) << 4), program())?;
    let owned = guest.stats().owned_frames;
    sums(to_the_end(&guest, &mut run, From::Start(0))?)?;
    let populated = guest.stats().owned_frames - owned;
    if populated != SIZE / PAGE {
        return Err(Stop::failed(format_args!("{populated} pages were populated")));
    }
    for page in (0..SIZE / PAGE).step_by(2) {
        guest.relocate(range(DATA + page * PAGE, PAGE))?;
    }
    sums(to_the_end(&guest, &mut run, From::Start(AGAIN))?)?;
    guest.unmap(range(DATA + 3 * PAGE, PAGE))?;
    let (outcome, end) = to_the_end(&guest, &mut run, From::Start(AGAIN))?;
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
fn to_the_end<M: Machine>(
    guest: &Guest<'_, M>,
    run: &mut impl FnMut(&Guest<'_, M>, From) -> Result<End, stage2::Error>,
    mut from: From,
) -> Result<(Outcome, End), Stop> {
    let mut outcome = Outcome::Resolved;
    for _ in 0..MOST_FAULTS {
        let end = run(guest, core::mem::replace(&mut from, From::Here))?;
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
