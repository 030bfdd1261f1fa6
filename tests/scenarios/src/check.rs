//! How a scenario ends before its end.

use alloc::string::String;
use core::fmt;

/// Why a scenario did not come to its end.
#[derive(Debug)]
pub enum Stop {
    /// What must hold does not: the story.
    Failed(String),
    /// This machine cannot show it.
    Skipped(&'static str),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(story) => write!(f, "{story}"),
            Self::Skipped(reason) => write!(f, "skipped: {reason}"),
        }
    }
}

impl From<stage2::Error> for Stop {
    #[track_caller]
    fn from(error: stage2::Error) -> Self {
        Self::failed(format_args!("refused: {error}"))
    }
}

impl Stop {
    /// A failure, told with its place.
    #[must_use]
    #[track_caller]
    pub fn failed(story: fmt::Arguments<'_>) -> Self {
        Self::Failed(alloc::format!("{}: {story}", core::panic::Location::caller()))
    }
}

/// How a scenario ends.
pub type Verdict = Result<(), Stop>;

/// Fails, with a story.
macro_rules! fail {
    ($($story:tt)+) => {
        return Err($crate::Stop::failed(format_args!($($story)+)))
    };
}

/// Fails unless it is true.
macro_rules! ensure {
    ($condition:expr) => {
        ensure!($condition, "{}", stringify!($condition))
    };
    ($condition:expr, $($story:tt)+) => {
        if !$condition {
            fail!($($story)+);
        }
    };
}

/// Fails unless both are the same.
macro_rules! ensure_eq {
    ($left:expr, $right:expr) => {
        ensure_eq!($left, $right, "{}", stringify!($left))
    };
    ($left:expr, $right:expr, $($story:tt)+) => {
        match (&$left, &$right) {
            (left, right) => ensure!(*left == *right, "{}: {left:x?}, not {right:x?}", format_args!($($story)+)),
        }
    };
}
