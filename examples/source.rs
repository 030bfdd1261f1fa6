//! A guest runs here while its memory is still on another machine: what it touches comes over, and
//! the virtual CPU that touched it waits.
//!
//! ```sh
//! cargo run --example source
//! ```
#[path = "host/mod.rs"]
mod host;

use std::{
    num::NonZeroUsize,
    sync::{Arc, Condvar, Mutex, mpsc},
    thread,
};

use host::{RW, guest, range};
use stage2::{
    Access, Cause, CpuId, Fault, Origin, Outcome,
    pager::{Pager, Settled, Source, Supply, Ticket, Waiting},
};

/// The other machine, and the virtual CPUs that wait for it.
struct Other {
    wanted: mpsc::Sender<Ticket>,
    scheduler: Mutex<()>,
    over: Condvar,
}

impl Source for Other {
    fn ask(&self, ticket: Ticket, _: &mut [u8]) -> Supply {
        if self.wanted.send(ticket).is_ok() { Supply::Later } else { Supply::Failed }
    }

    fn settled(&self, _: Ticket, _: Settled) {
        let _scheduler = self.scheduler.lock();
        self.over.notify_all();
    }
}

impl Other {
    /// Looks and sleeps under the lock that `settled` takes: no wake-up comes between.
    fn sleep(&self, pager: &Pager, ticket: Ticket) {
        let scheduler = self.scheduler.lock().expect("no panic under it");
        let _awake = self.over.wait_while(scheduler, |()| pager.state(ticket) == Waiting::NotYet);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (wanted, wants) = mpsc::channel();
    let other = Arc::new(Other { wanted, scheduler: Mutex::default(), over: Condvar::new() });
    let pager = Pager::new(other.clone(), NonZeroUsize::MIN.saturating_add(7))?;
    let space = guest(1)?;
    space.map_from(range(0x8000_0000, 0x8000), &pager, 0, RW)?;

    let run = |cpu: usize| {
        for page in 0..8 {
            let gpa = (0x8000_0000 + page * 0x1000).into();
            let fault = Fault { gpa, access: Access::Write, cause: Cause::Translation, origin: Origin::Instruction };
            while let Outcome::NotYet(ticket) = space.fault(CpuId(cpu), fault).expect("memory") {
                println!("CPU {cpu} waits for page {page}");
                other.sleep(&pager, ticket);
            }
        }
    };
    thread::scope(|scope| {
        let cpus = [0, 1].map(|cpu| scope.spawn(move || run(cpu)));
        // The network: it answers until no virtual CPU runs any more.
        while cpus.iter().any(|cpu| !cpu.is_finished()) {
            for ticket in wants.try_iter() {
                let page = [1 + (ticket.offset() / 0x1000) as u8; 0x1000];
                pager.complete(ticket, Ok(&page)).expect("it is waited for, once");
            }
        }
    });
    println!("Page 5 begins with {}.\n\n{space}", space.load::<u8>(0x8000_5000.into())?);
    Ok(())
}
