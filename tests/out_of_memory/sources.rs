//! Operations on memory that comes from a source.

use super::{private::is_whole, *};

/// A source that has every page at once, but the first, which it is told of later.
struct Image;

impl Source for Image {
    fn ask(&self, ticket: Ticket, page: &mut [u8]) -> Supply {
        page[0] = 7;
        if ticket.offset() == 0 { Supply::Later } else { Supply::Ready }
    }

    fn settled(&self, _: Ticket, _: Settled) {}
}

/// One pager for each thread, for as long as it runs: making it is not among the allocations that fail.
fn pager() -> Pager {
    thread_local! {
        static PAGER: Pager = with(Luck::Good, || Pager::new(Arc::new(Image), NonZeroUsize::MIN)).0.expect("memory");
    }
    PAGER.with(Pager::clone)
}

/// Four pages of the image.
fn from_source<F: Format>(space: &Space<F>) -> Result<(), Error> {
    space.map_from(range(RAM, 4 * PAGE), &pager(), PAGE, RW)
}

fn read_source<F: Format>(space: &Space<F>) -> Result<(), Error> {
    let region = space.region_from(4 * PAGE, &pager(), PAGE);
    let read = region.and_then(|region| region.read(8, &mut [0; 2 * PAGE]));
    read.map_err(|_| Error::NoMemory(range(RAM, 4 * PAGE)))
}

/// Operations that allocate, on memory that comes from a source.
pub(super) fn source_cases<F: Format>() -> Vec<Case<F>> {
    let case = |name, prepare, operation, keeps| Case { name, prepare, operation, keeps };
    let nothing: fn(&Space<F>) = |_| {};
    vec![
        case("map from a source", nothing, |s| from_source(s), Keeps::Everything),
        case(
            "fault on a source's page",
            |s| from_source(s).expect("memory"),
            |s| fault(s, RAM + PAGE, Access::Write),
            Keeps::Translations,
        ),
        case(
            "read a source's pages",
            |s| from_source(s).expect("memory"),
            |s| s.read((RAM + 8).into(), &mut [0; 2 * PAGE]),
            Keeps::Contents,
        ),
        case(
            "unmap a source's pages, in several areas",
            |s| {
                from_source(s).and_then(|()| fault(s, RAM, Access::Read)).expect("memory");
                s.protect(range(RAM + PAGE, PAGE), MappingFlags::READ).expect("memory");
            },
            |s| s.unmap(range(RAM, 3 * PAGE)),
            Keeps::Everything,
        ),
        case(
            "snapshot a source's pages",
            |s| from_source(s).and_then(|()| fault(s, RAM, Access::Read)).expect("memory"),
            |s| s.snapshot().map(drop),
            Keeps::Everything,
        ),
        case(
            "discard a source's pages, in several areas",
            |s| {
                from_source(s).and_then(|()| fault(s, RAM, Access::Read)).expect("memory");
                s.protect(range(RAM + PAGE, PAGE), MappingFlags::READ).expect("memory");
            },
            |s| s.discard(range(RAM, 3 * PAGE), Refill::Zeros),
            Keeps::Everything,
        ),
        case(
            "populate a source's pages",
            |s| from_source(s).expect("memory"),
            |s| s.populate(range(RAM, 4 * PAGE), Access::Read).map(is_whole),
            Keeps::Contents,
        ),
        case(
            "offer a source's page",
            |s| from_source(s).expect("memory"),
            |s| s.offer((RAM + PAGE).into(), &[9; PAGE]).map(|offered| assert_eq!(offered, Offered::Taken)),
            Keeps::Everything,
        ),
        case("read a source's region", nothing, |s| read_source(s), Keeps::Everything),
    ]
}

/// The ticket of a page for which there is no memory stays pending.
#[test]
fn a_page_is_supplied_or_is_still_waited_for() {
    let memory = Memory::new(0, 1 << 20);
    let space = space(&memory, &arm()).expect("memory");
    let pager = pager();
    space.map_from(range(RAM, PAGE), &pager, 0, RW).expect("memory");
    let Err(Error::NotYet { ticket, .. }) = space.load::<u8>(RAM.into()) else { panic!("it comes later") };
    let before = memory.allocated();
    for left in 0.. {
        let (completed, allocations) = with(Luck::From(left), || pager.complete(ticket, Ok(&[9; PAGE])));
        if completed.is_ok() {
            assert!(allocations > 0, "a frame");
            break;
        }
        assert_eq!((completed, memory.allocated()), (Err(SourceError::NoMemory { ticket }), before));
        assert_eq!(pager.state(ticket), Waiting::NotYet);
    }
    assert_eq!(space.load(RAM.into()), Ok(9_u8));
}

#[test]
fn a_pager_is_made_whole_or_not_at_all() {
    let room = NonZeroUsize::MIN;
    let image: Arc<dyn Source> = Arc::new(Image);
    for left in 0.. {
        let source = image.clone();
        let (made, allocations) = with(Luck::From(left), || Pager::new(source, room));
        if made.is_ok() {
            assert!(allocations > 1, "a desk, and its count");
            break;
        }
        assert_eq!((made, Arc::strong_count(&image)), (Err(SourceError::NoRoom { room }), 1));
    }
}
