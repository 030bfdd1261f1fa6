//! The second virtual CPU: it writes all the time, while the machine is forked.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::{Failure, boot, calls, time};

/// On a page of its own.
#[repr(align(4096))]
struct Counter(AtomicU64);

/// Each is counted up in turn, so that they never differ by more than one.
static FIRST: Counter = Counter(AtomicU64::new(0));
static SECOND: Counter = Counter(AtomicU64::new(0));
static STOP: AtomicBool = AtomicBool::new(false);

/// Starts it, and waits until it counts.
pub fn start() -> Result<(), Failure> {
    if calls::start_second(boot::start_second) != 0 {
        return Err(Failure::Refused { what: "the second CPU" });
    }
    wait_for(1000)
}

/// What it does.
#[unsafe(no_mangle)]
#[allow(unsafe_code, reason = "the entry's name")]
extern "C" fn second() -> ! {
    let mut count = 0;
    while !STOP.load(Ordering::Relaxed) {
        count += 1;
        // Release: a CPU that sees a value of the second counter sees the first as high, or higher.
        FIRST.0.store(count, Ordering::Release);
        SECOND.0.store(count, Ordering::Release);
    }
    calls::cpu_off()
}

/// How far it is.
pub fn count() -> u64 {
    FIRST.0.load(Ordering::Relaxed)
}

/// Waits until it has counted so far.
pub fn wait_for(aim: u64) -> Result<(), Failure> {
    time::wait("the second CPU", |_| count() >= aim)
}

/// Where the counters stand in a fork, whose second CPU does not run: where they stood when the snapshot was taken.
pub fn as_found() -> Result<u64, Failure> {
    let (first, second) = (count(), SECOND.0.load(Ordering::Relaxed));
    if first == second || first == second + 1 { Ok(first) } else { Err(Failure::Torn { first, second }) }
}

/// Ends it.
pub fn stop() -> Result<(), Failure> {
    STOP.store(true, Ordering::Relaxed);
    time::wait("the second CPU's end", |_| calls::second_is_off())
}
