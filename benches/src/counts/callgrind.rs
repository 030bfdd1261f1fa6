//! Callgrind, on this program.

use std::{
    env, fs, io,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use super::{ARGUMENT, Operation};

/// The same routines of the C library for memory on each CPU: those that every `x86_64` has.
const LIBRARY: &str = "glibc.cpu.hwcaps=-AVX2,-AVX512F,-AVX512VL,-ERMS,-FSRM";

/// How many instructions each operation takes, counted on all cores.
pub fn count(operations: &[Operation]) -> io::Result<Vec<u64>> {
    let next = AtomicUsize::new(0);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut counts = Vec::new();
        while let Some(operation) = operations.get(next.fetch_add(1, Ordering::Relaxed)).map(Operation::name) {
            counts.push((operation.clone(), count_one(&operation)?));
        }
        Ok::<_, io::Error>(counts)
    };
    let mut counts = Vec::new();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            counts.extend(worker.join().expect("no thread fails")?);
        }
        Ok::<_, io::Error>(())
    })?;
    let of = |name: String| counts.iter().find(|(counted, _)| *counted == name).map(|(_, count)| *count);
    operations.iter().map(|operation| of(operation.name()).ok_or_else(|| failed(&operation.name()))).collect()
}

/// Runs one operation under callgrind. What comes before it is forgotten when it begins.
fn count_one(name: &str) -> io::Result<u64> {
    let file = profile(name);
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--zero-before=*counts::begin*", "--toggle-collect=*counts::measured*"])
        // Within what is counted these stop the counting, elsewhere they start it: hence the zeroing.
        .args(["--toggle-collect=*ready::uncounted_take*", "--toggle-collect=*ready::uncounted_give*"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(env::current_exe()?)
        .args([ARGUMENT, name])
        .env("GLIBC_TUNABLES", LIBRARY)
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("{name}: {}", String::from_utf8_lossy(&output.stderr))));
    }
    let profile = fs::read_to_string(&file)?;
    fs::remove_file(&file)?;
    let total = profile.lines().find_map(|line| line.strip_prefix("totals: "));
    total.and_then(|total| total.trim().parse().ok()).ok_or_else(|| failed(name))
}

fn failed(name: &str) -> io::Error {
    io::Error::other(format!("{name}: callgrind counted nothing"))
}

/// Where callgrind writes, beside this program.
fn profile(name: &str) -> PathBuf {
    let file: String = name.chars().map(|char| if char.is_ascii_alphanumeric() { char } else { '-' }).collect();
    let folder = env::current_exe().ok().and_then(|program| program.parent().map(PathBuf::from)).unwrap_or_default();
    folder.join(format!("callgrind.{file}.out"))
}
