//! The floors of the crate: a module imports from below, by the module's path, and never through the crate's root.

use std::{collections::BTreeSet, path::Path};

use anyhow::Result;

use super::{collect, is_library, lines_without_tests, name_below, read};

/// The modules in order, and how many of them stand on the first floor.
struct Floors<'l> {
    modules: Vec<&'l str>,
    first: usize,
}

/// What is wrong in the crate's own files with the floors in `list`, a line each.
///
/// # Errors
/// A folder or a file cannot be read.
pub fn check(root: &Path, list: &str) -> Result<Vec<String>> {
    let floors = Floors::of(list);
    let (mut complaints, mut there) = (Vec::new(), BTreeSet::new());
    for folder in ["src", "arch"] {
        let mut files = Vec::new();
        collect(&root.join(folder), "rs", &mut files)?;
        files.sort();
        for file in files {
            let name = name_below(root, &file);
            let Some(module) = module(&name) else { continue };
            there.insert(module.to_owned());
            if is_library(&name) && !is_model(&name) {
                complaints.extend(floors.complain(&name, module, &read(&file)?));
            }
        }
    }
    there.remove("arch");
    complaints.extend(floors.differences(&there));
    Ok(complaints)
}

impl<'l> Floors<'l> {
    /// Floors are parted by empty lines; what stands behind `#` is for readers.
    fn of(list: &'l str) -> Self {
        let (mut modules, mut first) = (Vec::new(), None);
        for line in list.lines() {
            let words = line.split('#').next().unwrap_or("").split_whitespace();
            modules.extend(words);
            if line.trim().is_empty() && !modules.is_empty() {
                first.get_or_insert(modules.len());
            }
        }
        let first = first.unwrap_or(modules.len());
        Self { modules, first }
    }

    /// Modules without a floor, and floors without a module.
    fn differences(&self, there: &BTreeSet<String>) -> Vec<String> {
        let listed: BTreeSet<String> = self.modules.iter().map(|&module| module.to_owned()).collect();
        let homeless = there.difference(&listed).map(|module| format!("src/: {module} stands on no floor"));
        homeless.chain(listed.difference(there).map(|module| format!("src/: there is no {module}"))).collect()
    }

    /// What is wrong in a file of `module`.
    fn complain(&self, name: &str, module: &str, contents: &str) -> Vec<String> {
        let mut complaints = Vec::new();
        let own = self.modules.iter().position(|&other| other == module);
        for (line, target) in imports(name, contents) {
            let place = self.modules.iter().position(|&other| other == target);
            let allowed = match place {
                _ if target == module => true,
                Some(place) if module == "arch" => place < self.first,
                Some(place) => own.is_some_and(|own| place < own),
                None => false,
            };
            if !allowed {
                let why = match place {
                    Some(_) => "stands above it",
                    None if target == "arch" => "is for no module of src/",
                    None => "is no module: it comes through the crate's root",
                };
                complaints.push(format!("{name}:{line}: {module} imports {target}, which {why}"));
            }
        }
        complaints
    }
}

/// The top module that a file belongs to.
fn module(name: &str) -> Option<&str> {
    if name.starts_with("arch/") {
        return Some("arch");
    }
    let first = name.strip_prefix("src/")?.split('/').next()?;
    Some(first.strip_suffix(".rs").unwrap_or(first)).filter(|&module| module != "lib")
}

/// Models of the memory's orders are tests.
fn is_model(name: &str) -> bool {
    name.ends_with("/model.rs")
}

/// The first names behind `crate::` in a file's code, with their lines; what a top module has from `super`, too.
fn imports(name: &str, contents: &str) -> Vec<(usize, String)> {
    let code: Vec<&str> = contents.lines().take(lines_without_tests(contents)).map(code_of).collect();
    let text = code.join("\n");
    let mut found = Vec::new();
    for (at, start) in text.match_indices("crate::") {
        let line = text[..at].matches('\n').count() + 1;
        let behind = &text[at + start.len()..];
        if let Some(group) = behind.strip_prefix('{') {
            found.extend(heads(group).map(|head| (line, head)));
        } else {
            found.push((line, word(behind)));
        }
    }
    let is_top = name.matches('/').count() == 1 || name.ends_with("/mod.rs") && name.matches('/').count() == 2;
    for (line, code) in (1..).zip(&code) {
        if is_top && code.starts_with("use super::") && name.starts_with("src/") {
            found.push((line, "super".to_owned()));
        }
    }
    found
}

/// A line without its comment.
fn code_of(line: &str) -> &str {
    line.split("//").next().unwrap_or("")
}

/// The first name of each path in a group of imports, which begins behind its brace.
fn heads(group: &str) -> impl Iterator<Item = String> {
    let (mut depth, mut from, mut heads) = (0, Some(0), Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                heads.extend(from.take().map(|from| word(group[from..at].trim_start())));
                from = Some(at + 1);
                if c == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    heads.into_iter().filter(|head| !head.is_empty())
}

/// The name that a text begins with.
fn word(text: &str) -> String {
    text.chars().take_while(|&c| c.is_alphanumeric() || c == '_').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "# The ground.\naddr format # both\nerror\n\n# Above.\ntable\n\nspace\n";

    fn complaints(name: &str, contents: &str) -> Vec<String> {
        Floors::of(LIST).complain(name, module(name).unwrap(), contents)
    }

    #[test]
    fn imports_from_below_draw_no_complaint() {
        let good =
            "use crate::{\n    addr::{A, B},\n    error::Error,\n    table::Own,\n};\nlet _ = crate::format::X;\n";
        assert_eq!(complaints("src/table/a.rs", good), [""; 0]);
        assert_eq!(complaints("arch/x/a.rs", "use crate::{addr::A, arch::b, error::C};\n"), [""; 0]);
    }

    #[test]
    fn an_arrow_that_runs_back_up_is_refused_with_its_line() {
        let found = complaints("src/table/a.rs", "use crate::addr::A;\nuse crate::{error::E, space::State};\n");
        assert_eq!(found, ["src/table/a.rs:2: table imports space, which stands above it"]);
        // On one floor too: what imports each other is a circle.
        assert_eq!(complaints("src/format.rs", "use crate::error::Error;\n").len(), 1);
        assert_eq!(complaints("src/format.rs", "fn f() -> crate::table::Table {}\n").len(), 1);
    }

    #[test]
    fn an_import_through_the_crates_root_is_refused() {
        for through_the_root in ["use crate::Error;\n", "use crate::{addr::A, Error};\n", "fn f(_: crate::Leaf) {}\n"] {
            assert_eq!(complaints("src/table/a.rs", through_the_root).len(), 1, "{through_the_root}");
        }
        assert_eq!(complaints("src/table/mod.rs", "use super::Error;\n").len(), 1);
        assert_eq!(complaints("src/error.rs", "use super::Error;\n").len(), 1);
        assert_eq!(complaints("src/table/a.rs", "use super::Table;\n"), [""; 0]);
    }

    #[test]
    fn an_architecture_stands_on_the_first_floor_and_is_for_no_module() {
        assert_eq!(complaints("arch/x/a.rs", "use crate::table::Table;\n").len(), 1);
        assert_eq!(complaints("src/table/a.rs", "use crate::arch::x::Format;\n").len(), 1);
    }

    #[test]
    fn comments_and_tests_import_nothing() {
        let contents = "/// As [`space`](crate::space).\nfn f() {} // crate::space\n#[cfg(test)]\nmod tests {\n    use crate::space;\n}\n";
        assert_eq!(complaints("src/table/a.rs", contents), [""; 0]);
    }

    #[test]
    fn every_module_stands_on_a_floor() {
        let there = ["addr", "format", "error", "table", "cellar"].map(str::to_owned).into();
        let found = Floors::of(LIST).differences(&there);
        assert_eq!(found, ["src/: cellar stands on no floor", "src/: there is no space"]);
    }
}
