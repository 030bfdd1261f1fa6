//! Children under a time limit. Each has a process group of its own, which is killed as a whole: a build or an
//! emulator leaves nothing behind, whatever it started itself.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, PipeReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::workspace;

/// How often a silent child is looked at.
const POLL: Duration = Duration::from_millis(50);
/// How long a child may linger after its last word, and its output after its end.
const GRACE: Duration = Duration::from_secs(5);

/// The groups that an interrupt of this program has to take along.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// A command to run, with what it is called in the log's name, how long it may take, and what gets its output.
pub struct Job<'a> {
    pub name: &'a str,
    pub command: Command,
    pub limit: Duration,
    /// Called with each line of standard output and standard error, as it comes.
    pub hear: &'a mut dyn FnMut(&str) -> Heard,
}

/// What a line of output means for the run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// More is to come.
    Line,
    /// The child has said its last word and should end now.
    LastWord,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Exited(ExitStatus),
    TimedOut(Duration),
    /// It went on after its last word.
    Lingered,
}

impl fmt::Display for End {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(formatter, "{status}"),
            Self::TimedOut(limit) => write!(formatter, "not done after {} s", limit.as_secs()),
            Self::Lingered => write!(formatter, "did not end after its last word"),
        }
    }
}

/// A finished child.
pub struct Finished {
    pub end: End,
    pub output: String,
    pub log: PathBuf,
}

impl Finished {
    pub fn succeeded(&self) -> bool {
        matches!(self.end, End::Exited(status) if status.success())
    }
}

/// Runs a job to its end or its limit. Its output also goes to `NAME.log` in the target folder.
pub fn run(mut job: Job) -> Result<Finished> {
    let logs = workspace::target().join("logs");
    fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
    let log = logs.join(format!("{}.log", job.name));
    let mut file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let (mut group, lines) = Group::start(&mut job.command)?;
    let mut output = String::new();
    let stopped = listen(&mut job, &group, &lines, |line| {
        output.push_str(line);
        output.push('\n');
        // A log that cannot be written must not end the run that it describes.
        let _ = writeln!(file, "{line}");
    })?;
    let status = group.end()?;
    let end = match stopped {
        Stopped::Exited => End::Exited(status),
        Stopped::Lingered => End::Lingered,
        Stopped::TimedOut => End::TimedOut(job.limit),
    };
    Ok(Finished { end, output, log })
}

/// Runs a command without showing its output, and fails with it.
pub fn quietly(name: &str, command: Command, limit: Duration) -> Result<String> {
    let finished = run(Job { name, command, limit, hear: &mut |_| Heard::Line })?;
    if !finished.succeeded() {
        bail!("{name}: {}\n{}", finished.end, finished.output.trim_end());
    }
    Ok(finished.output)
}

fn listen(job: &mut Job, group: &Group, lines: &Receiver<String>, mut keep: impl FnMut(&str)) -> Result<Stopped> {
    let mut deadline = Instant::now() + job.limit;
    let mut last_word = Heard::Line;
    let mut exited = false;
    while Instant::now() < deadline {
        match lines.recv_timeout(POLL) {
            Ok(line) => {
                keep(&line);
                if last_word == Heard::Line && (job.hear)(&line) == Heard::LastWord {
                    last_word = Heard::LastWord;
                    deadline = deadline.min(Instant::now() + GRACE);
                }
            }
            // A grandchild may hold the output open for ever: after the child's end only what still comes counts.
            Err(_) if exited => return Ok(Stopped::Exited),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => thread::sleep(POLL),
        }
        if !exited && group.has_exited()? {
            exited = true;
            deadline = deadline.min(Instant::now() + GRACE);
        }
    }
    Ok(match (exited, last_word) {
        (true, _) => Stopped::Exited,
        (false, Heard::LastWord) => Stopped::Lingered,
        (false, Heard::Line) => Stopped::TimedOut,
    })
}

/// Why a child is listened to no longer.
enum Stopped {
    Exited,
    Lingered,
    TimedOut,
}

/// A running child and all that it starts. While it is in [`RUNNING`] it has not been waited for.
struct Group {
    child: Child,
    id: Pid,
}

impl Group {
    fn start(command: &mut Command) -> Result<(Self, Receiver<String>)> {
        let what = command.get_program().to_string_lossy().into_owned();
        let (reader, writer) = std::io::pipe()?;
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {what}"))?;
        // The command keeps the pipe's writing end; without this the output would never end.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let id = Pid::from_child(&child);
        running().push(id);
        let (sender, lines) = channel();
        thread::spawn(move || read_lines(reader, &sender));
        Ok((Self { child, id }, lines))
    }

    /// Whether the child has ended. It stays unwaited-for, so that its number, which is the group's, is not reused
    /// before the group is killed.
    fn has_exited(&self) -> Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(waitid(WaitId::Pid(self.id), options)?.is_some())
    }

    /// Ends what still runs of the group, and tells how the child itself ended.
    fn end(&mut self) -> Result<ExitStatus> {
        // Fails only if the whole group is gone already.
        let _ = kill_process_group(self.id, Signal::KILL);
        running().retain(|id| *id != self.id);
        Ok(self.child.wait()?)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Still listed: an error came before the end, and the child was not waited for.
        if running().contains(&self.id) {
            let _ = self.end();
        }
    }
}

fn read_lines(reader: PipeReader, sender: &Sender<String>) {
    let mut reader = BufReader::new(reader);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
        let line = String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned();
        if sender.send(line).is_err() {
            break;
        }
        bytes.clear();
    }
}

fn running() -> std::sync::MutexGuard<'static, Vec<Pid>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Children are not in the terminal's foreground group, so an interrupt would leave them running.
pub fn end_children_on_interrupt() -> Result<()> {
    ctrlc::set_handler(|| {
        for id in running().iter() {
            let _ = kill_process_group(*id, Signal::KILL);
        }
        std::process::exit(130);
    })
    .context("cannot handle interrupts")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn run_shell(name: &str, script: &str, limit: Duration) -> (Finished, Duration) {
        let started = Instant::now();
        let job = Job { name, command: shell(script), limit, hear: &mut |_| Heard::Line };
        (run(job).expect("sh starts"), started.elapsed())
    }

    #[test]
    fn both_outputs_and_the_status_come_back() {
        let (finished, _) = run_shell("test-both", "echo out; echo err >&2; exit 3", Duration::from_secs(10));
        assert_eq!(finished.output, "out\nerr\n");
        assert!(matches!(finished.end, End::Exited(status) if status.code() == Some(3)));
    }

    #[test]
    fn a_child_that_never_ends_is_ended_with_all_that_it_started() {
        let (finished, took) = run_shell("test-limit", "sleep 60 & echo $!; wait", Duration::from_millis(300));
        assert_eq!(finished.end, End::TimedOut(Duration::from_millis(300)));
        assert!(took < Duration::from_secs(5));
        let grandchild: i32 = finished.output.trim().parse().expect("a process number");
        let gone = || {
            let state = fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap_or_default();
            state.is_empty() || state.contains(") Z")
        };
        let waited = Instant::now();
        while !gone() && waited.elapsed() < Duration::from_secs(5) {
            thread::sleep(POLL);
        }
        assert!(gone(), "the grandchild still runs");
    }

    #[test]
    fn an_output_held_open_by_a_grandchild_does_not_hold_up_the_end() {
        let (finished, took) = run_shell("test-held", "sleep 60 & echo done", Duration::from_secs(30));
        assert!(finished.succeeded());
        assert!(took < Duration::from_secs(5));
    }

    #[test]
    fn a_child_that_lingers_after_its_last_word_is_ended() {
        let mut hear = |line: &str| if line == "end" { Heard::LastWord } else { Heard::Line };
        let command = shell("echo end; sleep 60");
        let started = Instant::now();
        let job = Job { name: "test-last-word", command, limit: Duration::from_secs(60), hear: &mut hear };
        let finished = run(job).expect("sh starts");
        assert_eq!(finished.end, End::Lingered);
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_failure_that_was_not_shown_is_told_with_its_output() {
        let failure = quietly("test-quiet", shell("echo reason; exit 1"), Duration::from_secs(10));
        assert!(failure.expect_err("status 1").to_string().contains("reason"));
    }
}
