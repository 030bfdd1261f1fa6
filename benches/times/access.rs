//! The hypervisor's own access to guest memory, beside a plain copy.

use std::hint::black_box;

use memory_addr::PAGE_SIZE_4K;

use crate::{
    machine::{POPULATED, again, mapped, page},
    suite::Suite,
};

pub fn bench(suite: &mut Suite) {
    for (name, pages) in [("4 KiB", 1), ("1 MiB", 256)] {
        let space = &mapped(POPULATED, pages);
        let bytes = pages * PAGE_SIZE_4K;
        let (mut here, mut there) = (vec![1_u8; bytes], vec![2_u8; bytes]);
        let (mut copy, from) = (vec![3_u8; bytes], vec![4_u8; bytes]);
        suite.compare(
            &format!("read {name} of guest memory"),
            pages,
            vec![
                ("memcpy", Box::new(again(|_| black_box(&mut here).copy_from_slice(black_box(&there))))),
                ("stage2", Box::new(again(|_| space.read(page(0), black_box(&mut copy))))),
            ],
        );
        suite.compare(
            &format!("write {name} of guest memory"),
            pages,
            vec![
                ("memcpy", Box::new(again(|_| black_box(&mut there).copy_from_slice(black_box(&from))))),
                ("stage2", Box::new(again(|_| space.write(page(0), black_box(&from))))),
            ],
        );
    }
}
