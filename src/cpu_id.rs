//! How CPUs and virtual CPUs are named.

use core::fmt;

/// A CPU's number: below the number of CPUs that the space was made for where a call brackets running the guest,
/// any number elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CpuId(pub usize);

impl fmt::Display for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CPU {}", self.0)
    }
}

/// A virtual CPU's number, unique in its space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VcpuId(pub usize);
