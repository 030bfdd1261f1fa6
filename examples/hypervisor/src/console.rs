//! The console: the architecture's UART, a line at a time.

use core::fmt::{self, Write};

use spin::Mutex;

use crate::{power, uart};

struct Console;

static CONSOLE: Mutex<Console> = Mutex::new(Console);

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(uart::send);
        Ok(())
    }
}

/// Prints; lines of two CPUs do not mix.
pub fn print(arguments: fmt::Arguments<'_>) {
    let _ = CONSOLE.lock().write_fmt(arguments);
}

/// Prints a line.
#[macro_export]
macro_rules! line {
    ($($arguments:tt)*) => {
        $crate::console::print(format_args!("{}\r\n", format_args!($($arguments)*)))
    };
}

/// The crate's own messages.
struct Log;

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        crate::line!("hv: {}: {}", record.level(), record.args());
    }

    fn flush(&self) {}
}

/// Shows the crate's messages.
pub fn init_log() {
    static LOG: Log = Log;
    if log::set_logger(&LOG).is_ok() {
        log::set_max_level(log::LevelFilter::Warn);
    }
}

/// Prints why the program ends, even if it panicked while it held the console, and powers off.
pub fn end_of_the_world(last_words: fmt::Arguments<'_>) -> ! {
    let _ = write!(Console, "\r\n{last_words}\r\n");
    power::off()
}
