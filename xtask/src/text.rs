//! How much code the crate takes where a hypervisor wants little of it: the program `stage2-size`, as it is linked.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

use crate::process::quietly;
use crate::workspace::{AARCH64, cargo, target};

const BUILDING: Duration = Duration::from_secs(600);

/// What it may take, in bytes.
const LIMIT: u64 = 30_000;
/// How many functions are named.
const NAMED: usize = 20;

/// Builds it, and answers the tables.
///
/// # Errors
/// It cannot be built or read.
pub fn measure() -> Result<String> {
    let build = cargo(["build", "--profile", "size", "--target", AARCH64, "--package", "stage2-size"]);
    quietly("bench-text-build", build, BUILDING)?;
    let program = target().join(AARCH64).join("size").join("stage2-size");
    let bytes = fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    describe(&bytes)
}

fn describe(program: &[u8]) -> Result<String> {
    let file = object::File::parse(program)?;
    let text = file.section_by_name(".text").context("the program has no code")?;
    let mut functions: Vec<(u64, String)> = file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0)
        .map(|symbol| (symbol.size(), readable(symbol.name().unwrap_or_default())))
        .collect();
    functions.sort_by(|one, other| other.cmp(one));
    let mark = if text.size() > LIMIT { "**" } else { "" };
    let mut printed =
        String::from("<!-- begin: text -->\n| AArch64, `opt-level = \"s\"`, fat LTO | bytes | must |\n|---|---|---|\n");
    let _ = writeln!(printed, "| new, map, unmap, fault, decode, TLBI | {mark}{}{mark} | ≤ {LIMIT} |", text.size());
    let mut parts = BTreeMap::<_, u64>::new();
    for (size, name) in &functions {
        *parts.entry(part(name)).or_default() += size;
    }
    let mut parts: Vec<_> = parts.into_iter().map(|(part, size)| (size, part)).collect();
    parts.sort_by(|one, other| other.cmp(one));
    for (size, part) in parts {
        let _ = writeln!(printed, "| … of it {part} | {size} | |");
    }
    for (size, name) in functions.iter().take(NAMED) {
        let _ = writeln!(printed, "| `{name}` | {size} | |");
    }
    printed.push_str("<!-- end: text -->");
    Ok(printed)
}

/// Which module of the crate a function is of. What is inlined counts where it is called.
fn part(name: &str) -> &'static str {
    const PARTS: [(&[&str], &str); 6] = [
        (&["stage2_size::run"], "the program, with what it inlines of all layers"),
        (&["set::"], "areas"),
        (&["table::"], "tables"),
        (&["space::"], "spaces: faults, map, unmap"),
        (&["arch::"], "the format, TLBI, the decoder of faults"),
        (&["pages::", "region::", "loan::", "source::", "backend::"], "pages, regions, loans, sources"),
    ];
    let found = PARTS.iter().filter_map(|(modules, part)| {
        let at = modules.iter().filter_map(|module| name.find(module)).min()?;
        Some((at, *part))
    });
    found.min().map_or("the rest: accounts, the lock, the shootdown, `alloc`, `memcpy`", |(_, part)| part)
}

/// The name without the crates' hashes, and short enough for a table.
fn readable(symbol: &str) -> String {
    let name = format!("{:#}", rustc_demangle::demangle(symbol));
    let short: String = name.replace("stage2::", "").replace('|', "/").chars().take(90).collect();
    if short.len() < name.replace("stage2::", "").len() { format!("{short}…") } else { short }
}
