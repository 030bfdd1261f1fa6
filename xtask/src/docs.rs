//! What the documentation must show once it is built, whatever host it was built on.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// What stands behind `cfg(target_arch)` in the sources: the page, and a text that is on it.
const OF_ONE_TARGET: [(&str, &str); 11] = [
    ("aarch64/struct.Instructions.html", "method.resolve"),
    ("aarch64/struct.Capabilities.html", "method.detect"),
    ("aarch64/native/type.Invalidate.html", "Instructions"),
    ("x86_64/enum.Extension.html", "method.detect"),
    ("x86_64/ept/struct.Instructions.html", "method.new"),
    ("x86_64/ept/struct.Capabilities.html", "method.detect"),
    ("x86_64/npt/struct.Instructions.html", "method.new"),
    ("x86_64/npt/struct.Capabilities.html", "method.detect"),
    ("x86_64/npt/trait.NextRun.html", "method.set_root"),
    ("x86_64/native/type.Invalidate.html", "Instructions"),
    ("hardware/index.html", "id=\"h1\""),
];

/// What is wrong with the pages of the crate in `folder`, a line each.
///
/// # Errors
/// A page cannot be read.
pub fn check(folder: &Path) -> Result<Vec<String>> {
    let read = |page: &str| fs::read_to_string(folder.join(page)).ok();
    let mut complaints = missing(read);
    let mut pages = Vec::new();
    collect(folder, &mut pages)?;
    for page in pages {
        let name = page.strip_prefix(folder).unwrap_or(&page).display().to_string();
        // The rules speak of each other.
        if !name.starts_with("hardware/") {
            let contents = fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
            complaints.extend(unlinked(&contents).map(|code| format!("{name}: {code} is not a link to its rule")));
        }
    }
    Ok(complaints)
}

fn missing(read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let is_missing = |(page, text): &&(&str, &str)| !read(page).is_some_and(|contents| contents.contains(text));
    OF_ONE_TARGET.iter().filter(is_missing).map(|(page, text)| format!("{page} has no {text}")).collect()
}

fn collect(folder: &Path, pages: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, pages)?;
        } else if path.extension().is_some_and(|extension| extension == "html") {
            pages.push(path);
        }
    }
    Ok(())
}

/// The rules' codes on a page that are not the text of a link; its head repeats the first lines without links.
fn unlinked(page: &str) -> impl Iterator<Item = &str> {
    let page = page.split_once("</head>").map_or(page, |(_, body)| body);
    let is_part = |c: char| c.is_alphanumeric() || "_-#".contains(c);
    page.match_indices('H').filter_map(move |(at, _)| {
        let digits = page[at + 1..].bytes().take_while(u8::is_ascii_digit).count();
        let (code, rest) = page[at..].split_at(1 + digits);
        let is_word = !page[..at].ends_with(is_part) && !rest.starts_with(is_part);
        let is_link = page[..at].ends_with('>') && rest.starts_with("</a>");
        ((1..=2).contains(&digits) && is_word && !is_link).then_some(code)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_target_alone_has_must_be_on_its_page() {
        let all = |page: &str| OF_ONE_TARGET.iter().find(|(name, _)| *name == page).map(|(_, text)| (*text).to_owned());
        assert!(missing(all).is_empty());
        let without_a_page = missing(|page| all(page).filter(|_| page != "aarch64/struct.Instructions.html"));
        assert_eq!(without_a_page, ["aarch64/struct.Instructions.html has no method.resolve"]);
        assert_eq!(missing(|_| Some(String::new())).len(), OF_ONE_TARGET.len());
    }

    #[test]
    fn a_rule_that_a_page_cites_is_a_link() {
        let linked = "<p>raised (<a href=\"hardware/index.html#h3\" title=\"mod hardware\">H3</a>).</p>";
        assert_eq!(unlinked(linked).count(), 0);
        assert_eq!(unlinked("<p>raised (H3, H12).</p>").collect::<Vec<_>>(), ["H3", "H12"]);
        let head = "<meta content=\"raised (H3)\"></head>";
        assert_eq!(unlinked(&format!("{head}{linked}")).count(), 0);
        assert_eq!(unlinked("SHA256, H264x, data-H3, <h2>Hello</h2>").count(), 0);
    }
}
