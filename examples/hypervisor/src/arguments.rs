//! What the command line asks for.

use alloc::{string::String, vec::Vec};
use core::ops::Range;

/// Which guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// A Linux kernel that was loaded into the board's memory.
    Linux,
    /// The small one in this program.
    Tiny,
    /// The one that was loaded, and that talks to another.
    Neighbour,
}

/// The options, of `/chosen/bootargs` in the board's device tree.
#[derive(Clone, Debug)]
pub struct Arguments {
    /// `guest=linux|tiny|neighbour`, once for each; the tiny one, if there is none.
    pub guests: Vec<Guest>,
    /// `smp=N`: the guest's CPUs.
    pub cpus: usize,
    /// `leaf=4k|2m`.
    pub leaf: stage2::LeafPolicy,
    /// `torture=0|1`: the board's last CPU relocates.
    pub torture: bool,
    /// `kernel=0xADDRESS,0xLENGTH`: where the kernel's Image was loaded.
    pub kernel: Range<usize>,
    /// `initrd=0xADDRESS,0xLENGTH`.
    pub initrd: Range<usize>,
    /// `neighbour=0xADDRESS,0xLENGTH`.
    pub neighbour: Range<usize>,
    /// `messages=N`: how many two guests exchange, each way.
    pub messages: u32,
    /// What is left for the guest's own command line: everything with a dot in its name.
    pub rest: String,
}

impl Arguments {
    /// Reads the options; unknown ones are refused by name.
    ///
    /// # Errors
    /// The option that is not one.
    pub fn parse(line: &str) -> Result<Self, &str> {
        let mut arguments = Self {
            guests: Vec::new(),
            cpus: 1,
            leaf: stage2::LeafPolicy::Pages,
            torture: false,
            kernel: 0..0,
            initrd: 0..0,
            neighbour: 0..0,
            messages: 0,
            rest: String::new(),
        };
        for word in line.split_ascii_whitespace() {
            arguments.set(word).ok_or(word)?;
        }
        if arguments.guests.is_empty() {
            arguments.guests.push(Guest::Tiny);
        }
        Ok(arguments)
    }

    /// Whether the board is one guest's.
    pub fn is_alone(&self) -> bool {
        matches!(self.guests[..], [Guest::Linux | Guest::Tiny])
    }

    fn set(&mut self, word: &str) -> Option<()> {
        match word.split_once('=')? {
            ("guest", "linux") => self.guests.push(Guest::Linux),
            ("guest", "tiny") => self.guests.push(Guest::Tiny),
            ("guest", "neighbour") => self.guests.push(Guest::Neighbour),
            ("smp", count) => self.cpus = count.parse().ok().filter(|&count| count > 0)?,
            ("leaf", "4k") => self.leaf = stage2::LeafPolicy::Pages,
            ("leaf", "2m") => self.leaf = stage2::LeafPolicy::Largest,
            ("torture", "0") => self.torture = false,
            ("torture", "1") => self.torture = true,
            ("kernel", place) => self.kernel = range(place)?,
            ("initrd", place) => self.initrd = range(place)?,
            ("neighbour", place) => self.neighbour = range(place)?,
            ("messages", count) => self.messages = count.parse().ok()?,
            (name, _) if name.contains('.') => {
                self.rest.push(' ');
                self.rest.push_str(word);
            }
            _ => return None,
        }
        Some(())
    }
}

/// `0xSTART,0xLENGTH`.
fn range(text: &str) -> Option<Range<usize>> {
    let number = |text: &str| usize::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let (start, length) = text.split_once(',')?;
    let (start, length) = (number(start)?, number(length)?);
    Some(start..start.checked_add(length)?)
}
