//! House rules that no lint knows.

mod floors;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A file says one thing: so many lines, its tests not counted.
const LONGEST_FILE: usize = 450;
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

/// The pages that define the codes which comments cite, each with the letters of its codes: a rule of the hardware, a
/// fault of others.
const PAGES: [(&str, &str); 2] = [("docs/hardware.md", "H"), ("docs/pitfalls.md", "AFWTEGLCRSJ")];

/// Where the modules of `src/` are listed, floor by floor.
const FLOORS: &str = "docs/floors.txt";

/// What is wrong, a line each.
///
/// # Errors
/// A folder or a file cannot be read.
pub fn check(root: &Path) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    let mut known = BTreeSet::new();
    for (page, letters) in PAGES {
        known.extend(definitions(&read(&root.join(page))?, letters));
    }
    for folder in FOLDERS {
        let mut files = Vec::new();
        collect(&root.join(folder), "rs", &mut files)?;
        files.sort();
        for file in files {
            let (name, contents) = (name_below(root, &file), read(&file)?);
            complaints.extend(complain(&name, &contents));
            complaints.extend(undefined_codes(&name, &contents, &known));
        }
    }
    complaints.extend(floors::check(root, &read(&root.join(FLOORS))?)?);
    let mut pages = ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"].map(|page| root.join(page)).to_vec();
    collect(&root.join("docs"), "md", &mut pages)?;
    pages.sort();
    for page in pages {
        let (name, contents) = (name_below(root, &page), read(&page)?);
        complaints.extend(undefined_codes(&name, &contents, &known));
        complaints.extend(paths_that_are_not_there(&name, &contents, |path| root.join(path).exists()));
    }
    Ok(complaints)
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

fn name_below(root: &Path, file: &Path) -> String {
    file.strip_prefix(root).unwrap_or(file).display().to_string()
}

fn collect(folder: &Path, extension: &str, files: &mut Vec<PathBuf>) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
            collect(&path, extension, files)?;
        } else if path.extension().is_some_and(|found| found == extension) {
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

/// The codes that a page defines: a heading is one, or the first cell of a table's row.
fn definitions(page: &str, letters: &str) -> Vec<String> {
    let headings = page.lines().filter_map(|line| line.strip_prefix("### "));
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" |").map(|(cell, _)| cell));
    let is_defined = |code: &&str| is_code(code) && letters.contains(&code[..1]);
    headings.chain(rows).filter(is_defined).map(str::to_owned).collect()
}

/// A letter of a page, and one or two digits. Those of `A` have one: with two they are names of Arm's cores.
fn is_code(word: &str) -> bool {
    let mut characters = word.chars();
    let Some(letter) = characters.next() else { return false };
    let digits = characters.as_str();
    let most = if letter == 'A' { 1 } else { 2 };
    PAGES.iter().any(|(_, letters)| letters.contains(letter))
        && (1..=most).contains(&digits.len())
        && digits.bytes().all(|digit| digit.is_ascii_digit())
}

/// The codes in a line. What goes on behind a point, as C5.5, is a section of a manual.
fn codes(line: &str) -> impl Iterator<Item = &str> {
    let words = line.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.'));
    words.map(|word| word.trim_end_matches('.')).filter(|word| is_code(word))
}

fn undefined_codes(name: &str, contents: &str, known: &BTreeSet<String>) -> Vec<String> {
    let cited = (1..).zip(contents.lines()).flat_map(|(number, line)| codes(line).map(move |code| (number, code)));
    let undefined = cited.filter(|(_, code)| !known.contains(*code));
    undefined.map(|(number, code)| format!("{name}:{number}: {code} is not defined in docs/")).collect()
}

/// Files and folders of the project that a page names between backquotes.
fn paths_that_are_not_there(name: &str, page: &str, is_there: impl Fn(&str) -> bool) -> Vec<String> {
    let is_path = |word: &&str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
        FOLDERS.iter().chain(&["docs", "xtask"]).any(|folder| {
            word.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')) && word.chars().all(plain)
        })
    };
    let quoted = page.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    let missing = quoted.filter(is_path).filter(|path| !is_there(path));
    missing.map(|path| format!("{name}: there is no {path}")).collect()
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

    #[test]
    fn a_page_defines_by_headings_and_by_the_first_cells_of_rows() {
        let page = "### H1\ntext about H2\n| A1 | what | W3 |\n|---|---|\n| fault | `no-tlbi` |\n### Found since\n";
        assert_eq!(definitions(page, "H"), ["H1"]);
        assert_eq!(definitions(page, "AW"), ["A1"]);
    }

    #[test]
    fn a_cited_code_that_no_page_defines_is_refused_with_its_line() {
        let known = BTreeSet::from(["H1".to_owned(), "W12".to_owned()]);
        assert!(undefined_codes("src/a.rs", "// Stage 2 first (H1, W12).\n/// H1–W12: all.\n", &known).is_empty());
        // Not spelt out, since this file is looked at too.
        let unknown = format!("fn map() {{}}\n// As {}{} says.\n", 'H', 99);
        assert_eq!(undefined_codes("src/a.rs", &unknown, &known).len(), 1);
        assert!(undefined_codes("src/a.rs", &unknown, &known)[0].starts_with("src/a.rs:2: "));
        let behind_a_word = format!("rules: &[\"{}{}\"],\n", 'W', 98);
        assert_eq!(undefined_codes("xtask/src/a.rs", &behind_a_word, &known).len(), 1);
    }

    #[test]
    fn what_only_looks_like_a_code_is_none() {
        for line in ["Cortex-A57 and A510", "DDI 0487, C5.5.", "S1PTW, E2H, L1TF", "a_W99_b", "X30, N1, r0p0"] {
            assert_eq!(codes(line).next(), None, "{line}");
        }
    }

    #[test]
    fn a_path_that_a_page_names_is_there() {
        let page = "Kept in `src/lock.rs`, `arch/`, `gone/a.rs`, `src/set::plan`.\n";
        let missing = paths_that_are_not_there("docs/a.md", page, |path| path == "arch/");
        assert_eq!(missing, ["docs/a.md: there is no src/lock.rs"]);
    }
}
