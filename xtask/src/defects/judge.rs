//! Who caught a defect, from what the test programs said.

use anyhow::{Result, bail};

use crate::process::{End, Finished};
use crate::verdict::{SuiteFailure, judge_suite};

/// Which host test caught the defect.
///
/// # Errors
/// None did.
pub fn host(finished: &Finished) -> Result<String> {
    let failed = failed_tests(&finished.output);
    match (failed.split_first(), finished.end) {
        (Some((first, rest)), _) => Ok(named(first, rest.len())),
        (None, End::Exited(status)) if status.success() => bail!("no host test failed"),
        (None, End::Exited(_)) => Ok(format!("a crash ({})", reason(&finished.output))),
        (None, end) => Ok(format!("a hang ({end})")),
    }
}

/// Which test at EL2 caught the defect.
///
/// # Errors
/// None did, or none of those that should.
pub fn suite(finished: &Finished, expected: &[&str]) -> Result<String> {
    match judge_suite(&finished.output) {
        Ok(count) => bail!("all {count} tests at EL2 passed"),
        Err(SuiteFailure::Tests(failed)) => {
            let Some(first) = failed.iter().find(|name| expected.contains(&name.as_str())) else {
                bail!("of the tests at EL2 only others failed: {}", failed.join(", "));
            };
            Ok(named(first, failed.len() - 1))
        }
        Err(SuiteFailure::NoEnd) => {
            let how = if matches!(finished.end, End::TimedOut(_)) { "a hang" } else { "a crash" };
            Ok(format!("{how} after {}", last_test(&finished.output)))
        }
        Err(SuiteFailure::NoTests) => bail!("no test at EL2 was run"),
    }
}

fn named(first: &str, others: usize) -> String {
    if others == 0 { first.to_owned() } else { format!("{first} (+{others})") }
}

/// The names of the tests that failed, in the order of the report.
pub fn failed_tests(output: &str) -> Vec<&str> {
    let failed = output.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    // A test that must panic says so behind its name.
    failed.map(|name| name.strip_suffix(" - should panic").unwrap_or(name)).collect()
}

/// How many tests began.
pub fn tests_run(output: &str) -> usize {
    let counts = output.lines().filter_map(|line| line.strip_prefix("running ")?.split(' ').next());
    counts.filter_map(|count| count.parse::<usize>().ok()).sum()
}

fn reason(output: &str) -> &str {
    let signal = output.lines().find_map(|line| line.split_once("(signal: ")?.1.strip_suffix(')'));
    signal.unwrap_or("no signal")
}

fn last_test(output: &str) -> &str {
    let mut names = output.lines().filter_map(|line| line.trim().strip_prefix("test ")?.split(" ... ").next());
    names.next_back().unwrap_or("no test")
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;
    use std::time::Duration;

    use super::*;

    fn finished(output: &str, code: i32) -> Finished {
        let end = End::Exited(ExitStatus::from_raw(code << 8));
        Finished { end, output: output.to_owned(), log: "log".into() }
    }

    #[test]
    fn a_failed_host_test_catches() {
        let output = "running 3 tests\ntest a::b ... ok\ntest a::c ... FAILED\ntest a::d - should panic ... FAILED\n";
        assert_eq!(host(&finished(output, 101)).expect("caught"), "a::c (+1)");
        assert_eq!(failed_tests(output), ["a::c", "a::d"]);
        assert_eq!(tests_run(output), 3);
    }

    #[test]
    fn tests_that_pass_catch_nothing() {
        assert!(host(&finished("running 1 test\ntest a ... ok\n", 0)).is_err());
        assert!(suite(&finished("test a ... ok\n1 passed, 0 failed\n", 0), &["a"]).is_err());
    }

    #[test]
    fn a_hang_and_a_crash_catch_and_say_so() {
        let crash = finished("running 1 test\nerror: test failed\n (signal: 11, SIGSEGV: invalid)\n", 101);
        assert_eq!(host(&crash).expect("caught"), "a crash (11, SIGSEGV: invalid)");
        let hang = Finished { end: End::TimedOut(Duration::from_secs(9)), ..finished("test a ... ok\n", 0) };
        assert_eq!(host(&hang).expect("caught"), "a hang (not done after 9 s)");
        assert_eq!(suite(&hang, &[]).expect("caught"), "a hang after a");
        assert_eq!(suite(&finished("test a ... ok\npanicked\n", 0), &[]).expect("caught"), "a crash after a");
    }

    #[test]
    fn at_el2_one_of_the_expected_tests_must_fail() {
        let output = "test a ... FAILED: story\ntest b ... FAILED: story\n0 passed, 2 failed\n";
        assert_eq!(suite(&finished(output, 0), &["b"]).expect("caught"), "b (+1)");
        assert!(suite(&finished(output, 0), &["c"]).is_err());
    }
}
