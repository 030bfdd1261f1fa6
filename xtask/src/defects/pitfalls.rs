//! `docs/pitfalls.md` names tests and defects, `docs/hardware.md` tests: all of them are there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::table;
use crate::workspace::root;

/// Folders whose Rust files have tests.
const FOLDERS: [&str; 4] = ["src", "arch", "tests", "xtask/src"];
/// Every line of what others got wrong.
const LINES: [(char, usize); 11] =
    [('A', 8), ('F', 8), ('W', 15), ('T', 10), ('E', 9), ('G', 6), ('L', 6), ('C', 9), ('R', 19), ('S', 5), ('J', 8)];
/// How many rules of the hardware there are.
const RULES: usize = 47;

fn page(name: &str) -> String {
    fs::read_to_string(root().join("docs").join(name)).expect("a page of docs/")
}

/// What stands between backquotes.
fn quoted(page: &str) -> impl Iterator<Item = &str> {
    page.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// A path of names that ends in a test's, as `protecting::permissions_go_down_and_up`.
fn is_test(word: &str) -> bool {
    let is_name =
        |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    word.contains("::") && word.split("::").all(is_name)
}

fn sources(folder: &Path, all: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() && entry.file_name().is_none_or(|name| name != "target") {
            sources(&entry, all);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            all.push_str(&fs::read_to_string(&entry).expect("a source file"));
        }
    }
}

/// A function, or a test that a macro or a list makes of its name.
fn is_there(name: &str, sources: &str) -> bool {
    sources.contains(&format!("fn {name}("))
        || sources.contains(&format!("fn {name}<"))
        || sources.contains(&format!("{name}: Sabotage::"))
        || sources.contains(&format!("{name}: [Kind::"))
        || sources.contains(&format!("\"qemu::{name}\""))
}

#[test]
fn every_test_that_the_page_names_is_there() {
    let (pages, mut all) = (page("pitfalls.md") + &page("hardware.md"), String::new());
    for folder in FOLDERS {
        sources(&root().join(folder), &mut all);
    }
    let named: BTreeSet<&str> = quoted(&pages).filter(|word| is_test(word)).collect();
    assert!(named.len() > 100, "the pages name {} tests", named.len());
    for test in named {
        let name = test.rsplit("::").next().unwrap_or(test);
        assert!(is_there(name, &all), "{test} is nowhere");
    }
}

#[test]
fn the_page_has_every_line_and_every_defect() {
    let page = page("pitfalls.md");
    for (letter, count) in LINES {
        for number in 1..=count {
            assert!(page.contains(&format!("\n| {letter}{number} |")), "{letter}{number} has no line");
        }
    }
    for defect in table::all() {
        assert!(quoted(&page).any(|word| word == defect.name), "{} is not on the page", defect.name);
    }
}

#[test]
fn every_rule_of_the_hardware_has_its_section() {
    let page = page("hardware.md");
    for number in 1..=RULES {
        assert!(page.contains(&format!("\n### H{number}\n")), "H{number} has no section");
    }
}
