//! The rows of the table, and what their operations may cost.

/// What a row is about, for one part of it.
pub struct Row {
    pub name: &'static str,
    /// How many instructions it may take on any tables.
    pub limit: Option<f64>,
    /// The same, where the CPU sets the dirty state while the entry changes.
    pub limit_dirty: Option<f64>,
}

pub const MAP: &str = "map 1 GiB, linear, a page";
pub const UNMAP: &str = "unmap 1 GiB, linear, a page";
pub const PROTECT: &str = "protect 1 GiB, linear, a page";
pub const MAP_POPULATED: &str = "map 64 MiB populated, frames zeroed, a page";
pub const UNMAP_POPULATED: &str = "unmap 64 MiB populated, without the allocator, a page";
pub const TRANSLATE: &str = "translate";
pub const MAP_PAGE: &str = "map one page, 2,000 areas";
pub const UNMAP_PAGE: &str = "unmap one page, 2,000 areas";
pub const PROTECT_PAGE: &str = "protect one page, 2,000 areas";
pub const FAULT_FRESH: &str = "fault on a fresh page, frame ready and zeroed";
pub const POPULATE: &str = "populate 64 MiB of lazy memory, frames zeroed, a page";
pub const FAULT_PRESENT: &str = "fault on a present page";
pub const FAULT_SOURCE: &str = "fault on a source's page, likewise";
pub const SNAPSHOT: &str = "snapshot, a page";
pub const FORK: &str = "fork of 64 MiB in one area";
pub const COPY_FRESH: &str = "first write to an inherited page that was not touched";
pub const COPY_READ: &str = "first write to an inherited page that was read";
pub const TAKE: &str = "first write to a page that no other guest has";
pub const SET_UNMAP_1000: &str = "`MemorySet`: unmap in the middle, 1,000 areas";
pub const SET_UNMAP_100000: &str = "`MemorySet`: unmap in the middle, 100,000 areas";
pub const SET_PROTECT_1000: &str = "`MemorySet`: protect in the middle, 1,000 areas";
pub const SET_PROTECT_100000: &str = "`MemorySet`: protect in the middle, 100,000 areas";

const fn limited(name: &'static str, limit: f64) -> Row {
    Row { name, limit: Some(limit), limit_dirty: None }
}

const fn unlimited(name: &'static str) -> Row {
    Row { name, limit: None, limit_dirty: None }
}

/// All rows, in their order.
pub const ROWS: [Row; 22] = [
    limited(MAP, 8.0),
    limited(UNMAP, 3.0),
    Row { name: PROTECT, limit: Some(9.0), limit_dirty: Some(20.0) },
    unlimited(MAP_POPULATED),
    unlimited(POPULATE),
    limited(UNMAP_POPULATED, 40.0),
    limited(TRANSLATE, 110.0),
    limited(MAP_PAGE, 700.0),
    limited(UNMAP_PAGE, 1000.0),
    limited(PROTECT_PAGE, 700.0),
    limited(FAULT_FRESH, 250.0),
    limited(FAULT_PRESENT, 180.0),
    unlimited(FAULT_SOURCE),
    limited(SNAPSHOT, 100.0),
    unlimited(FORK),
    unlimited(COPY_FRESH),
    unlimited(COPY_READ),
    unlimited(TAKE),
    limited(SET_UNMAP_1000, 1200.0),
    limited(SET_UNMAP_100000, 1500.0),
    limited(SET_PROTECT_1000, 1400.0),
    limited(SET_PROTECT_100000, 1800.0),
];
