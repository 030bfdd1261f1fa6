//! Allocations that fail on demand.

/// When an allocation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Only when no frame is left.
    Never,
    /// The allocation after this many more, once.
    Once(usize),
    /// The allocation after this many more, and all that follow.
    From(usize),
}

impl Failure {
    /// Counts one allocation; whether it is the one to fail.
    pub(crate) fn strikes(&mut self) -> bool {
        match self {
            Self::Never => false,
            Self::From(0) => true,
            Self::Once(0) => {
                *self = Self::Never;
                true
            }
            Self::Once(left) | Self::From(left) => {
                *left -= 1;
                false
            }
        }
    }
}
