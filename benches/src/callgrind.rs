//! Callgrind, on this program.

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

/// The same routines of the C library for memory on each CPU: those that every `x86_64` has.
const LIBRARY: &str = "glibc.cpu.hwcaps=-AVX2,-AVX512F,-AVX512VL,-ERMS,-FSRM";

/// What `one` answers for each name, asked on all cores.
///
/// # Errors
/// The first that `one` answers.
pub fn on_all_cores(names: &[String], one: impl Fn(&str) -> io::Result<u64> + Sync) -> io::Result<Vec<u64>> {
    let (next, one) = (AtomicUsize::new(0), &one);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut found = Vec::new();
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(name) = names.get(place) else { return Ok::<_, io::Error>(found) };
            found.push((place, one(name)?));
        }
    };
    let mut found = Vec::new();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            found.extend(worker.join().expect("no thread fails")?);
        }
        Ok::<_, io::Error>(())
    })?;
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, count)| count).collect())
}

/// What a run counted.
pub struct Counted {
    /// Each time when it was told to write it down.
    pub parts: Vec<u64>,
    /// Since then, when the program ended.
    pub end: u64,
}

/// Runs this program with some arguments.
///
/// # Errors
/// Valgrind cannot be run, the program fails, or nothing was counted.
pub fn run(name: &str, options: &[&str], arguments: &[&str]) -> io::Result<Counted> {
    let folder = profiles(name)?;
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .args(options)
        .arg(format!("--callgrind-out-file={}", folder.join("out").display()))
        .arg(env::current_exe()?)
        .args(arguments)
        .env("GLIBC_TUNABLES", LIBRARY)
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("{name}: {}", String::from_utf8_lossy(&output.stderr))));
    }
    let mut parts = BTreeMap::new();
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        // The parts are numbered from 1 on; that of the end has no number, or the last one.
        let number = path.extension().and_then(|number| number.to_str()?.parse::<usize>().ok());
        let profile = fs::read_to_string(&path)?;
        let total = profile.lines().find_map(|line| line.strip_prefix("totals: "));
        let count = total.and_then(|total| total.trim().parse().ok()).ok_or_else(|| failed(name))?;
        parts.insert(number.unwrap_or(usize::MAX), count);
    }
    fs::remove_dir_all(&folder)?;
    let (_, end) = parts.pop_last().ok_or_else(|| failed(name))?;
    Ok(Counted { parts: parts.into_values().collect(), end })
}

fn failed(name: &str) -> io::Error {
    io::Error::other(format!("{name}: callgrind counted nothing"))
}

/// An empty folder for callgrind to write to, beside this program.
fn profiles(name: &str) -> io::Result<PathBuf> {
    let file: String = name.chars().map(|char| if char.is_ascii_alphanumeric() { char } else { '-' }).collect();
    let program = env::current_exe()?;
    let folder = program.with_file_name(format!("callgrind-{}-{file}", std::process::id()));
    fs::create_dir_all(&folder)?;
    Ok(folder)
}
