//! What two guests share: a ring, through which they talk, and a frozen page that says what is to be done.

use alloc::{format, string::String, sync::Arc, vec::Vec};

use exchange::{Notes, REGION_SIZE, linux};
use hypervisor::line;
use memory_addr::PAGE_SIZE_4K;
use spin::Mutex;
use stage2::{Error, Mapping, MappingFlags, SharedRegion, region::RegionError};

use crate::{guest::range, machine::Machine, report};

/// Something that a guest can map.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The ring, of which there are two ends.
    Ring,
    /// The page.
    Notes,
}

/// What the machines of this board share.
#[derive(Default)]
pub struct Common(Mutex<State>);

#[derive(Default)]
struct State {
    regions: Option<Regions>,
    /// The machines that map the ring.
    ends: Vec<End>,
}

struct Regions {
    ring: SharedRegion,
    notes: SharedRegion,
}

/// A machine that maps the ring, and where.
#[derive(Clone, Copy)]
struct End {
    number: usize,
    at: usize,
}

/// How many can map the ring.
const ENDS: usize = 2;

impl Common {
    /// Maps something for a guest: its size, and which end of the ring it is.
    ///
    /// # Errors
    /// It cannot be mapped.
    pub fn map(&self, machine: &Machine, what: What, at: usize, flags: MappingFlags) -> Result<(usize, usize), String> {
        let mut state = self.0.lock();
        if what == What::Ring && state.ends.len() == ENDS {
            return Err("the ring has its two ends".into());
        }
        let regions = state.regions(machine)?;
        let region = if what == What::Ring { &regions.ring } else { &regions.notes };
        let size = region.size();
        let mapping = Mapping::Shared { region: region.clone(), offset: 0 };
        machine.space.map(range(at, size), mapping, flags).map_err(|error: Error| format!("{error}"))?;
        let end = state.ends.len();
        if what == What::Ring {
            state.ends.push(End { number: machine.number, at });
        }
        Ok((size, end))
    }

    /// Maps everything for a guest that cannot ask.
    ///
    /// # Errors
    /// As for [`map`](Self::map).
    pub fn introduce(&self, machine: &Machine) -> Result<(), String> {
        self.map(machine, What::Ring, linux::RING, MappingFlags::READ | MappingFlags::WRITE)?;
        self.map(machine, What::Notes, linux::NOTES, MappingFlags::READ).map(drop)
    }

    /// The machine at the other end of the ring.
    pub fn partner(&self, machine: &Machine) -> Option<Arc<Machine>> {
        let state = self.0.lock();
        let other = state.ends.iter().find(|end| end.number != machine.number)?.number;
        state.ends.iter().find(|end| end.number == machine.number)?;
        drop(state);
        machine.host.machine_with(other)
    }
}

/// A machine is at its end: says which frames were behind its ring.
pub fn leave(machine: &Machine) {
    let mut state = machine.host.common.0.lock();
    if let Some(end) = state.ends.iter().position(|end| end.number == machine.number) {
        let End { at, .. } = state.ends.remove(end);
        line!("hv: {}ring at {at:#x} in frames{}", machine.label, report::frames(machine, range(at, REGION_SIZE)));
    }
    if state.ends.is_empty() {
        state.regions = None;
    }
}

impl State {
    /// The regions, which the first guest that wants them makes.
    fn regions(&mut self, machine: &Machine) -> Result<&Regions, String> {
        if self.regions.is_none() {
            self.regions = Some(Regions::new(machine).map_err(|error| format!("{error}"))?);
        }
        self.regions.as_ref().ok_or_else(String::new)
    }
}

impl Regions {
    fn new(machine: &Machine) -> Result<Self, RegionError> {
        let (ring, notes) = (machine.space.region(REGION_SIZE)?, machine.space.region(PAGE_SIZE_4K)?);
        let words = Notes { messages: machine.host.arguments.messages }.to_words();
        notes.writer()?.write_obj(0, words)?;
        notes.freeze()?;
        Ok(Self { ring, notes })
    }
}
