//! House rules that no lint knows.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A file says one thing: so many lines, its tests not counted.
const LONGEST_FILE: usize = 300;
/// Folders whose Rust files are looked at, where they exist.
const FOLDERS: [&str; 7] = ["src", "arch", "tests", "benches", "examples", "fuzz", "xtask/src"];
/// Written in two parts, so that this file may be looked at too.
const FORBIDDEN: [&str; 6] = [
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("FIX", "ME"),
    concat!("#[ig", "nore"),
    concat!("db", "g!("),
    concat!("XX", "X"),
];

/// What is wrong, a line each.
///
/// # Errors
/// A folder or a file cannot be read.
pub fn check(root: &Path) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for folder in FOLDERS {
        let mut files = Vec::new();
        collect(&root.join(folder), &mut files)?;
        files.sort();
        for file in files {
            let contents = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let name = file.strip_prefix(root).unwrap_or(&file).display().to_string();
            complaints.extend(complain(&name, &contents));
        }
    }
    Ok(complaints)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn complain(name: &str, contents: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for (number, line) in (1..).zip(contents.lines()) {
        if let Some(word) = FORBIDDEN.iter().find(|word| line.contains(**word)) {
            complaints.push(format!("{name}:{number}: {word} is not for committed code"));
        }
        if name.starts_with("src/") && line.contains("target_arch") {
            complaints.push(format!("{name}:{number}: target_arch stands in arch/ only"));
        }
    }
    let length = lines_without_tests(contents);
    if is_library(name) && length > LONGEST_FILE {
        complaints.push(format!("{name}: {length} lines without its tests; {LONGEST_FILE} are the limit"));
    }
    complaints
}

/// The crate itself, less the files that hold only tests.
fn is_library(name: &str) -> bool {
    let in_crate = name.starts_with("src/") || name.starts_with("arch/");
    in_crate && !name.ends_with("tests.rs") && !name.contains("/tests/")
}

/// Up to the test module; something small for tests alone may stand earlier.
fn lines_without_tests(contents: &str) -> usize {
    let lines: Vec<&str> = contents.lines().map(str::trim_start).collect();
    let is_module =
        |rest: &[&str]| rest.iter().find(|line| !line.starts_with("#[")).is_some_and(|line| line.starts_with("mod "));
    let opens_tests = |index: &usize| lines[*index].starts_with("#[cfg(test)]") && is_module(&lines[*index..]);
    (0..lines.len()).find(opens_tests).unwrap_or(lines.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_code_draws_no_complaint() {
        assert!(complain("src/space.rs", "fn map() {}\n").is_empty());
    }

    #[test]
    fn the_target_architecture_is_refused_in_src_alone() {
        let line = "#[cfg(target_arch = \"aarch64\")]\n";
        assert_eq!(complain("src/space.rs", line).len(), 1);
        assert!(complain("arch/mod.rs", line).is_empty());
    }

    #[test]
    fn forbidden_words_are_refused_with_their_line() {
        let contents = format!("fn map() {{\n    {}\n}}\n", FORBIDDEN[0]);
        assert!(complain("tests/map.rs", &contents)[0].starts_with("tests/map.rs:2: "));
    }

    #[test]
    fn tests_do_not_count_towards_a_files_length() {
        let code = "x\n".repeat(LONGEST_FILE);
        assert!(complain("src/a.rs", &format!("{code}#[cfg(test)]\nmod tests {{}}\n")).is_empty());
        assert_eq!(complain("src/a.rs", &format!("{code}x\n")).len(), 1);
        assert_eq!(complain("src/a.rs", &format!("#[cfg(test)]\nuse b::c;\n{code}")).len(), 1);
        assert!(complain("src/table/tests.rs", &format!("{code}x\n")).is_empty());
    }
}
