//! Whatever guests, snapshots, regions, loans and sources do: exactly the pages that somebody can still reach take a
//! frame each. Random stories on several guests are held against a twin, which works out after every operation, from
//! scratch, what can be reached. A story that fails is cut down to what it needs.

#[path = "reach/act.rs"]
mod act;
#[path = "reach/ahead.rs"]
mod ahead;
#[path = "reach/check.rs"]
mod check;
#[path = "reach/discards.rs"]
mod discards;
#[path = "reach/forks.rs"]
mod forks;
#[path = "reach/limits.rs"]
mod limits;
#[path = "reach/machine.rs"]
mod machine;
#[path = "reach/regions.rs"]
mod regions;
#[path = "reach/rounds.rs"]
mod rounds;
#[path = "reach/story.rs"]
mod story;
#[path = "reach/transfers.rs"]
mod transfers;
#[path = "reach/twin.rs"]
mod twin;
#[path = "reach/waits.rs"]
mod waits;

use std::ops::Range;

use stage2::{
    SharedRegion, Snapshot,
    audit::{Meanwhile, audit},
    pager::{Pager, Settled, Source, Supply, Ticket, Waiting},
};

use self::{
    machine::{Host, Image, Pooled, as_guest, held, image},
    story::{Kind, Op, hold},
    twin::{Holds, Own, Slot, Stand, Twin},
};
use super::{board::Board, *};

/// How many guests there are at most.
const GUESTS: usize = 4;
/// Pages of each guest's window.
const PAGES: usize = 12;
/// The window's first page: a border of tables lies in its middle.
const FIRST: usize = 32 - PAGES / 2;

/// Whether the guests' accounts are held against the twin too.
const ACCOUNTS: bool = true;
/// Whether a source must be asked exactly once for each page.
const ASKED_ONCE: bool = true;
/// Whether what a source brings into memory that one guest alone reaches is on its account from then on.
const BROUGHT_IS_OWN: bool = true;

/// What keeps a region.
enum Handle {
    Region(SharedRegion),
    Snapshot(Snapshot),
}

impl Handle {
    fn region(&self) -> &SharedRegion {
        match self {
            Self::Region(region) => region,
            Self::Snapshot(snapshot) => snapshot.region(),
        }
    }
}

/// What an operation or a check says that found something wrong.
type Verdict = Result<(), String>;

/// Guests, handles, and the twin of it all.
struct World {
    board: Board,
    pooled: Pooled,
    pager: Pager,
    image: Arc<Image>,
    spaces: Vec<GuestSpace<Host>>,
    /// In the order of the twin's.
    handles: Vec<Handle>,
    twin: Twin,
    /// The next value that a write leaves.
    stamp: u64,
    /// The next page of the source that nothing was mapped from yet.
    fresh: usize,
    /// What was done, in words.
    log: Vec<String>,
}

/// The addresses of some pages of the window.
fn span(pages: &Range<usize>) -> stage2::GuestPhysRange {
    super::range((FIRST + pages.start) * PAGE, pages.len() * PAGE)
}

/// The address of a page of the window.
fn at(page: usize) -> GuestPhysAddr {
    gpa((FIRST + page) * PAGE)
}

const SNAPSHOTS: &[Kind] = &[
    Kind::Write,
    Kind::Read,
    Kind::Snapshot,
    Kind::Drop,
    Kind::Fork,
    Kind::Rewind,
    Kind::Restore,
    Kind::Map,
    Kind::Unmap,
    Kind::Discard,
    Kind::Replace,
    Kind::End,
    Kind::Get,
];
const REGIONS: &[Kind] = &[
    Kind::Begin,
    Kind::Region,
    Kind::Freeze,
    Kind::Share,
    Kind::Punch,
    Kind::Inherit,
    Kind::Put,
    Kind::Clone,
    Kind::Drop,
    Kind::Write,
    Kind::Read,
    Kind::Unmap,
    Kind::Discard,
    Kind::Replace,
    Kind::Get,
    Kind::End,
];
const SOURCES: &[Kind] = &[Kind::MapFrom, Kind::RegionFrom];
/// What is brought before it is touched.
const AHEAD: &[Kind] = &[Kind::Populate, Kind::Offer];
const CONVERSIONS: &[Kind] = &[Kind::MakeShared, Kind::MakePrivate];
const TRANSFERS: &[Kind] = &[Kind::Donate, Kind::Loan, Kind::Relocate];

#[test]
fn snapshots_and_forks_hold_what_somebody_reaches() {
    hold(Pooled::All, 300, &[SNAPSHOTS]);
}

#[test]
fn regions_hold_what_somebody_reaches() {
    hold(Pooled::All, 300, &[REGIONS]);
}

#[test]
fn snapshots_over_regions_hold_what_somebody_reaches() {
    hold(Pooled::All, 300, &[SNAPSHOTS, REGIONS]);
}

#[test]
fn snapshots_of_what_comes_from_a_source_hold_what_somebody_reaches() {
    hold(Pooled::All, 300, &[SNAPSHOTS, &[Kind::MapFrom]]);
}

#[test]
fn regions_from_a_source_hold_what_somebody_reaches() {
    hold(Pooled::All, 300, &[REGIONS, SOURCES]);
}

#[test]
fn what_is_brought_ahead_of_a_touch_is_what_somebody_reaches() {
    hold(Pooled::All, 300, &[SNAPSHOTS, REGIONS, SOURCES, AHEAD]);
    hold(Pooled::None, 200, &[SNAPSHOTS, REGIONS, SOURCES, AHEAD]);
}

#[test]
fn what_is_converted_and_given_away_is_held_once() {
    hold(Pooled::All, 300, &[SNAPSHOTS, CONVERSIONS, TRANSFERS]);
}

#[test]
fn all_of_it_holds_what_somebody_reaches() {
    hold(Pooled::All, 400, &[SNAPSHOTS, REGIONS, SOURCES, AHEAD, CONVERSIONS, TRANSFERS]);
}

/// No guest takes a page where it stands: it copies it, and the old one is free when nobody else reaches it.
#[test]
fn without_a_pool_snapshots_hold_what_somebody_reaches() {
    hold(Pooled::None, 300, &[SNAPSHOTS]);
}

#[test]
fn without_a_pool_all_of_it_holds_what_somebody_reaches() {
    hold(Pooled::None, 300, &[SNAPSHOTS, REGIONS, SOURCES, AHEAD, CONVERSIONS, TRANSFERS]);
}

/// Every other guest has an allocator that says nothing of itself.
#[test]
fn where_only_some_have_a_pool_all_of_it_holds_what_somebody_reaches() {
    hold(Pooled::Some, 300, &[SNAPSHOTS, REGIONS, SOURCES, AHEAD, CONVERSIONS, TRANSFERS]);
}
