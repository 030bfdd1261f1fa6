//! Packages of another architecture, by the system's own package client, without touching the system: a state
//! directory of our own, with the system's Debian sources and keys, and nothing "installed".

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::quietly;
use crate::setup::has_program;

const FETCHING: Duration = Duration::from_secs(300);
const ASKING: Duration = Duration::from_secs(60);

/// A private package client for one architecture.
pub struct Client {
    folder: PathBuf,
}

impl Client {
    /// Lays the state out in `folder` and fetches the package lists of an architecture, as Debian calls it.
    ///
    /// # Errors
    /// This system has no `apt-get` or no Debian source, or the lists cannot be fetched.
    pub fn new(folder: &Path, architecture: &str) -> Result<Self> {
        if let Some(missing) = ["apt-get", "apt-cache", "dpkg-deb"].iter().find(|program| !has_program(program)) {
            bail!("this system has no {missing}");
        }
        let client = Self { folder: folder.to_owned() };
        for inside in ["state/lists/partial", "cache/archives/partial", "sources", "packages"] {
            fs::create_dir_all(folder.join(inside))?;
        }
        client.copy_sources()?;
        fs::write(folder.join("status"), "")?;
        fs::write(client.configuration(), configuration(folder, architecture))?;
        quietly("guest-lists", client.command("apt-get", &["update"]), FETCHING)
            .context("cannot fetch package lists")?;
        Ok(client)
    }

    /// The package that a metapackage stands for.
    pub fn dependency(&self, package: &str) -> Result<String> {
        // `apt-get update` may succeed without having reached a server; the package is then missing here.
        let listed = quietly("guest-depends", self.command("apt-cache", &["depends", package]), ASKING)
            .with_context(|| format!("no package list within reach has {package}"))?;
        first_dependency(&listed).with_context(|| format!("{package} has no dependency"))
    }

    /// Fetches packages and unpacks them into `destination`.
    pub fn unpack(&self, packages: &[&str], destination: &Path) -> Result<()> {
        let folder = self.folder.join("packages");
        let mut download = self.command("apt-get", &[&["download"], packages].concat());
        download.current_dir(&folder);
        quietly("guest-download", download, FETCHING).context("cannot fetch packages")?;
        for file in files_ending(&folder, ".deb")? {
            let mut unpack = Command::new("dpkg-deb");
            unpack.arg("--extract").arg(&file).arg(destination);
            quietly("guest-unpack", unpack, FETCHING)?;
        }
        Ok(())
    }

    fn configuration(&self) -> PathBuf {
        self.folder.join("apt.conf")
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).env("APT_CONFIG", self.configuration()).env("LC_ALL", "C");
        command
    }

    /// Only sources of Debian itself: others may lack the architecture, or be out of reach.
    fn copy_sources(&self) -> Result<()> {
        let mut candidates = vec![PathBuf::from("/etc/apt/sources.list")];
        for ending in [".list", ".sources"] {
            candidates.extend(files_ending(Path::new("/etc/apt/sources.list.d"), ending).unwrap_or_default());
        }
        let mut copied = 0;
        for file in candidates {
            let (Ok(contents), Some(name)) = (fs::read_to_string(&file), file.file_name()) else { continue };
            if is_debian_source(&contents) {
                fs::write(self.folder.join("sources").join(name), contents)?;
                copied += 1;
            }
        }
        if copied == 0 {
            bail!("no package source of this system is Debian's");
        }
        Ok(())
    }
}

fn configuration(folder: &Path, architecture: &str) -> String {
    let folder = folder.display();
    format!(
        "Dir::State \"{folder}/state\";\n\
         Dir::State::status \"{folder}/status\";\n\
         Dir::Cache \"{folder}/cache\";\n\
         Dir::Etc::sourcelist \"/dev/null\";\n\
         Dir::Etc::sourceparts \"{folder}/sources\";\n\
         APT::Architecture \"{architecture}\";\n\
         APT::Architectures {{ \"{architecture}\"; }};\n\
         APT::Sandbox::User \"root\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::Retries \"2\";\n"
    )
}

fn is_debian_source(contents: &str) -> bool {
    let is_comment = |line: &&str| line.trim_start().starts_with('#');
    contents.lines().filter(|line| !is_comment(line)).flat_map(str::split_whitespace).any(|word| {
        let path = word.trim_end_matches('/');
        word.contains("://") && ["/debian", "/debian-security"].iter().any(|end| path.ends_with(end))
    })
}

fn first_dependency(listed: &str) -> Option<String> {
    let name = listed.lines().find_map(|line| line.trim().strip_prefix("Depends: "))?;
    Some(name.trim_matches(['<', '>']).to_owned())
}

fn files_ending(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(ending) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_debian_source_are_known() {
        assert!(is_debian_source("deb http://mirror.example/debian bookworm main\n"));
        assert!(is_debian_source("Types: deb\nURIs: http://mirror.example/debian-security/\nSuites: x\n"));
    }

    #[test]
    fn other_sources_and_comments_are_not_debian() {
        assert!(!is_debian_source("deb https://mirror.example/ubuntu noble main\n"));
        assert!(!is_debian_source("# deb http://mirror.example/debian bookworm main\n"));
        assert!(!is_debian_source("deb https://mirror.example/debian-derived/thing stable main\n"));
    }

    #[test]
    fn a_metapackage_names_what_it_stands_for() {
        let listed = "linux-image-cloud-arm64\n  Depends: linux-image-6.1.0-1-cloud-arm64\n  Suggests: x\n";
        assert_eq!(first_dependency(listed).as_deref(), Some("linux-image-6.1.0-1-cloud-arm64"));
        assert_eq!(first_dependency("nothing\n"), None);
    }
}
