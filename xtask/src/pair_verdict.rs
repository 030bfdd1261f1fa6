//! What a console says about a run of two guests. What they had to say to each other is known beforehand.

use std::fmt;

use exchange::{Account, End};
use thiserror::Error;

use crate::verdict::{self, Failure, numbered, said};

/// Which guests run beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pair {
    /// The small one and its fork.
    Fork,
    /// Linux and the small one, which is forked, too.
    Linux,
}

impl Pair {
    pub fn name(self) -> &'static str {
        match self {
            Self::Fork => "small,fork",
            Self::Linux => "linux,small",
        }
    }

    /// The guests by number: the one that is forked, its fork, and the two that talk, by their ends of the ring.
    fn roles(self) -> Roles {
        match self {
            Self::Fork => Roles { forked: 1, fork: 2, ends: [1, 2] },
            Self::Linux => Roles { forked: 2, fork: 3, ends: [1, 2] },
        }
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fork => write!(formatter, "the small guest, which talks to its fork"),
            Self::Linux => write!(formatter, "Linux beside the small guest"),
        }
    }
}

struct Roles {
    forked: usize,
    fork: usize,
    ends: [usize; 2],
}

/// Why a run of two guests is not believed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PairFailure {
    #[error(transparent)]
    Run(#[from] Failure),
    #[error("guest {number} never said \"{words}\"")]
    Unsaid { number: usize, words: String },
    #[error("guest {number} received {found}, where {expected} was sent")]
    Ring { number: usize, found: String, expected: String },
    #[error("the fork found the counters at {found}, where they had been between {before} and {after}")]
    Moment { before: u64, found: u64, after: u64 },
    #[error("the map of guest {number} was not shown")]
    NoMap { number: usize },
    #[error("guest {number} has no copy of what it wrote")]
    NothingCopied { number: usize },
    #[error("guest {number} was not refused with \"{reason}\"")]
    NotRefused { number: usize, reason: &'static str },
    #[error("guest {number} has no frames behind its {what}")]
    NoFrames { number: usize, what: &'static str },
    #[error("guest {number} got {got}, where {given} was given")]
    Gift { number: usize, given: String, got: String },
    #[error("what was given is still where it was")]
    StillThere,
    #[error("both guests have their {what} at {at}")]
    SamePlace { what: &'static str, at: String },
    #[error("not the same frames are behind the {what}: {one}; {other}")]
    OtherFrames { what: &'static str, one: String, other: String },
    #[error("{0} frames did not come back")]
    FramesLeft(u64),
}

/// What a good run's last line shows.
#[derive(Debug, PartialEq, Eq)]
pub struct Figures {
    messages: u32,
    bytes: u64,
    counted: u64,
}

impl fmt::Display for Figures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { messages, bytes, counted } = self;
        write!(formatter, "messages={messages} bytes={bytes} forked_at={counted} frames_left=0")
    }
}

/// The figures, if the console shows a good run from end to end.
///
/// # Errors
/// The first thing that is wrong, root causes before what follows from them.
pub fn judge(console: &str, pair: Pair, messages: u32, sums: &[String]) -> Result<Figures, PairFailure> {
    verdict::refuse_bad_words(console)?;
    let roles = pair.roles();
    let guests = if pair == Pair::Linux { vec![1, 2, 3] } else { vec![1, 2] };
    let bytes = judge_ring(console, &roles, messages)?;
    let counted = judge_fork(console, &roles)?;
    if pair == Pair::Linux {
        verdict::compare_sums(console, sums)?;
    }
    for number in guests {
        words_of(console, number, "guest: workload ok")?;
        judge_report(console, number)?;
    }
    judge_copies(console, &roles)?;
    judge_refusals(console, roles.forked)?;
    judge_gift(console, &roles)?;
    same_frames(console, "ring", roles.ends.map(|number| (number, "ring at ")))?;
    judge_end(console)?;
    if said(console, "hv: end off").is_none() {
        return Err(Failure::StillOn.into());
    }
    Ok(Figures { messages, bytes, counted })
}

/// The rest of the first line of a guest's that begins so.
fn words_of<'a>(console: &'a str, number: usize, start: &str) -> Result<&'a str, PairFailure> {
    let mut lines = console.lines().filter_map(|line| numbered(line.trim()));
    let found = lines.find_map(|(guest, words)| words.strip_prefix(start).filter(|_| guest == number));
    found.ok_or(PairFailure::Unsaid { number, words: start.to_owned() })
}

/// Each side received what the other had to say: so many bytes, both together.
fn judge_ring(console: &str, roles: &Roles, messages: u32) -> Result<u64, PairFailure> {
    let mut bytes = 0;
    for (end, number) in [End::First, End::Second].into_iter().zip(roles.ends) {
        let found = words_of(console, number, &format!("guest: ring ok end={} ", end.number()))?;
        let account = Account::of(end.other(), messages);
        let expected = account.to_string();
        if found != expected {
            return Err(PairFailure::Ring { number, found: found.to_owned(), expected });
        }
        bytes += account.bytes;
    }
    Ok(bytes)
}

/// The fork found memory as it was at one moment while it was forked: where the counter stood then.
fn judge_fork(console: &str, roles: &Roles) -> Result<u64, PairFailure> {
    let forked = words_of(console, roles.forked, "guest: fork ok child=")?;
    let fork = words_of(console, roles.fork, "guest: fork ok ")?;
    let figure = |words: &str, name: &str| {
        let value = words.split_whitespace().find_map(|word| word.strip_prefix(name)?.parse().ok());
        value.ok_or(PairFailure::Unsaid { number: roles.forked, words: format!("guest: fork ok … {name}") })
    };
    let (before, after, found) = (figure(forked, "before=")?, figure(forked, "after=")?, figure(fork, "found=")?);
    if (before..=after).contains(&found) { Ok(found) } else { Err(PairFailure::Moment { before, found, after }) }
}

/// The map of each guest is shown at its end, and how much of what it had.
fn judge_report(console: &str, number: usize) -> Result<(), PairFailure> {
    said(console, &format!("hv: guest {number}: map after:")).ok_or(PairFailure::NoMap { number })?;
    let stats = said(console, &format!("hv: guest {number}: stats ")).map(verdict::Figures::parse).unwrap_or_default();
    ["private", "copied", "shared", "tables"].into_iter().try_for_each(|name| stats.get(name).map(drop))?;
    Ok(())
}

/// The guest that was forked, and its fork, have copies of pages that they wrote.
fn judge_copies(console: &str, roles: &Roles) -> Result<(), PairFailure> {
    for number in [roles.forked, roles.fork] {
        let stats = said(console, &format!("hv: guest {number}: stats ")).map(verdict::Figures::parse);
        if stats.unwrap_or_default().get("copied")? == 0 {
            return Err(PairFailure::NothingCopied { number });
        }
    }
    Ok(())
}

/// Everything that the small guest should not have got was refused, for the right reason.
fn judge_refusals(console: &str, number: usize) -> Result<(), PairFailure> {
    const REASONS: [&str; 3] = ["the region is frozen", "is a region's", "nothing is mapped at"];
    let start = format!("hv: guest {number}: refused: ");
    let refused = |reason: &&&str| !console.lines().any(|line| line.starts_with(&start) && line.contains(**reason));
    match REASONS.iter().find(refused) {
        None => Ok(()),
        Some(reason) => Err(PairFailure::NotRefused { number, reason }),
    }
}

/// The guest that was forked gave memory to the one it talks to: nothing was copied, everything was there, and the giver
/// reaches it no more.
fn judge_gift(console: &str, roles: &Roles) -> Result<(), PairFailure> {
    let from = roles.forked;
    let to = if roles.ends[0] == from { roles.ends[1] } else { roles.ends[0] };
    let given = words_of(console, from, "guest: gift ok given from=")?;
    let got = words_of(console, to, "guest: gift ok got at=")?;
    let rest = |words: &str| words.split_once(" size=").map(|(_, rest)| rest.to_owned()).unwrap_or_default();
    if rest(given) != rest(got) {
        return Err(PairFailure::Gift { number: to, given: rest(given), got: rest(got) });
    }
    same_frames(console, "gift", [(from, "gave "), (to, "got ")])?;
    let place = given.split_whitespace().next().unwrap_or_default();
    let abort = format!("hv: guest {from}: Fault {{ gpa: GPA:{place}, access: Read,");
    let aborted = said(console, &abort).is_some_and(|words| words.ends_with("an abort for the guest"));
    if aborted { Ok(()) } else { Err(PairFailure::StillThere) }
}

/// In the end every frame came back, and none was written afterwards.
fn judge_end(console: &str) -> Result<(), PairFailure> {
    let figures = said(console, "hv: frames ").map(verdict::Figures::parse).unwrap_or_default();
    let (left, bad) = (figures.get("left")?, figures.get("poison_bad")?);
    if left > 0 {
        return Err(PairFailure::FramesLeft(left));
    }
    if bad > 0 {
        return Err(Failure::Poison(bad).into());
    }
    if figures.get("poison_checked")? == 0 { Err(Failure::NothingChecked.into()) } else { Ok(()) }
}

/// The same frames stand behind two guests' memory, at different addresses.
fn same_frames(console: &str, what: &'static str, guests: [(usize, &str); 2]) -> Result<(), PairFailure> {
    let [one, other] = guests.map(|(number, words)| {
        let words = said(console, &format!("hv: guest {number}: {words}"));
        let words = words.and_then(|words| words.split_once(" in frames"));
        words.filter(|(_, frames)| !frames.is_empty()).ok_or(PairFailure::NoFrames { number, what })
    });
    let ((at, one), (other_at, other)) = (one?, other?);
    if at == other_at {
        return Err(PairFailure::SamePlace { what, at: at.to_owned() });
    }
    if one != other {
        return Err(PairFailure::OtherFrames { what, one: one.to_owned(), other: other.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
#[path = "pair_verdict_tests.rs"]
mod tests;
