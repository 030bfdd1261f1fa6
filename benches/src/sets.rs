//! What stands behind the areas of both crates' sets: a backend that has nothing to do.

use memory_addr::VirtAddr;

/// A backend that has nothing to do.
#[derive(Clone)]
pub struct Idle;

/// Everything twice, since the two crates have their own traits with the same name.
macro_rules! idle {
    ($($krate:ident)*) => {
        $(impl $krate::MappingBackend for Idle {
            type Addr = VirtAddr;
            type Flags = u8;
            type PageTable = ();

            #[inline]
            fn map(&self, _: VirtAddr, _: usize, _: u8, (): &mut ()) -> bool {
                true
            }

            #[inline]
            fn unmap(&self, _: VirtAddr, _: usize, (): &mut ()) -> bool {
                true
            }

            #[inline]
            fn protect(&self, _: VirtAddr, _: usize, _: u8, (): &mut ()) -> bool {
                true
            }
        })*
    };
}

idle!(memory_set stage2);
