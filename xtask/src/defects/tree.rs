//! A copy of the sources to put defects into.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::table::{Defect, Edit};
use crate::process::quietly;
use crate::workspace::{root, target};

const LISTING: Duration = Duration::from_secs(60);

/// The copy. Only what differs is written, so that builds of it go on from the last.
pub struct Tree(PathBuf);

impl Tree {
    /// The copy, as the sources are now, without any defect.
    pub fn refreshed() -> Result<Self> {
        let folder = target().join("defects").join("tree");
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let wanted = listed()?;
        for file in &wanted {
            refresh(&root().join(file), &folder.join(file))?;
        }
        remove_others(&folder, &folder, &wanted)?;
        Ok(Self(folder))
    }

    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// Puts a defect in, until the answer is dropped.
    pub fn put_in(&self, defect: &Defect) -> Result<PutIn> {
        let mut put_in = PutIn(Vec::new());
        for edit in defect.edits {
            let file = self.0.join(edit.file);
            let before = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let after = edited(&before, edit)?;
            put_in.0.push((file.clone(), before));
            fs::write(&file, after).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(put_in)
    }
}

/// A defect is in the copy: the files as they were before. Dropped, it is taken out.
pub struct PutIn(Vec<(PathBuf, String)>);

impl Drop for PutIn {
    fn drop(&mut self) {
        // The last edit first: a file may have been edited twice.
        for (file, before) in self.0.iter().rev() {
            if let Err(error) = fs::write(file, before) {
                eprintln!("defects: {} keeps its defect: {error}", file.display());
            }
        }
    }
}

fn edited(contents: &str, edit: &Edit) -> Result<String> {
    match contents.matches(edit.text).count() {
        1 => Ok(contents.replacen(edit.text, edit.instead, 1)),
        count => bail!("{} has this {count} times: {}", edit.file, edit.text),
    }
}

/// The files that belong to the project, also those that are new.
fn listed() -> Result<BTreeSet<PathBuf>> {
    let mut list = Command::new("git");
    list.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root());
    let listed = quietly("defects-files", list, LISTING).context("the project's files cannot be listed")?;
    Ok(listed.lines().map(PathBuf::from).filter(|file| root().join(file).is_file()).collect())
}

fn refresh(from: &Path, to: &Path) -> Result<()> {
    let contents = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|there| there == contents) {
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    fs::write(to, contents).with_context(|| format!("cannot write {}", to.display()))
}

fn remove_others(top: &Path, folder: &Path, wanted: &BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(top, &path, wanted)?;
        } else if path.strip_prefix(top).is_ok_and(|file| !wanted.contains(file)) {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDIT: Edit = Edit { file: "a", text: "one", instead: "two" };

    #[test]
    fn a_text_that_stands_once_is_replaced() {
        assert_eq!(edited("a one b", &EDIT).expect("it is there"), "a two b");
    }

    #[test]
    fn a_text_that_is_gone_or_not_alone_is_refused() {
        assert!(edited("a b", &EDIT).is_err());
        assert!(edited("one one", &EDIT).is_err());
    }

    #[test]
    fn a_defect_goes_when_it_is_dropped() {
        let folder = std::env::temp_dir().join(format!("stage2-defects-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("a"), "a one b").expect("a file");
        let tree = Tree(folder.clone());
        let defect = Defect {
            name: "test",
            rules: &[],
            edits: &[EDIT, Edit { file: "a", text: "two", instead: "three" }],
            host: &[],
            emulator: super::super::table::ONLY_COST,
        };
        let read = || fs::read_to_string(folder.join("a")).expect("a file");
        let put_in = tree.put_in(&defect).expect("both texts are there");
        assert_eq!(read(), "a three b");
        drop(put_in);
        assert_eq!(read(), "a one b");
        assert!(tree.put_in(&Defect { edits: &[EDIT, EDIT], ..defect }).is_err());
        assert_eq!(read(), "a one b");
        fs::remove_dir_all(&folder).expect("the folder goes");
    }
}
