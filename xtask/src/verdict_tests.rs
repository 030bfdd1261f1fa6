use super::*;

const GOOD: &str = "hv: stage2 hypervisor\r
[    0.000000] Booting Linux on physical CPU 0x0000000000 [0x000f0510]\r
guest: Linux 6.1.0, 1 CPUs, 490364 KiB\r
guest: round 1/2 sha256 aa\r
guest: round 2/2 sha256 bb\r
guest: workload ok rounds=2 forks=92\r
[   24.553483] reboot: Power down\r
hv: stats faults=5 leaves_4k=3 relocations=7 poison_checked=6 poison_bad=0\r
hv: end off\r
";

fn expected(torture: Torture) -> Expected {
    Expected { torture, sums: vec!["aa".to_owned(), "bb".to_owned()] }
}

fn judge(console: &str) -> Result<Figures, Failure> {
    judge_demo(console, &expected(Torture::On))
}

#[test]
fn a_good_run_gives_its_figures() {
    let figures = judge(GOOD).expect("a good run");
    assert_eq!(figures.to_string(), "faults=5 leaves_4k=3 relocations=7 poison_checked=6 poison_bad=0");
}

#[test]
fn a_workload_that_failed_is_not_believed_whatever_follows() {
    let console = format!("guest: workload FAILED round 1: a worker found other bytes\n{GOOD}");
    assert_eq!(judge(&console), Err(Failure::Workload("round 1: a worker found other bytes".to_owned())));
}

#[test]
fn a_guest_that_powers_off_without_a_word_failed() {
    assert_eq!(judge(&GOOD.replace("guest: workload ok", "guest: bye")), Err(Failure::Silent));
    assert_eq!(judge(""), Err(Failure::Silent));
}

#[test]
fn words_within_a_line_do_not_count() {
    let console = GOOD.replace("guest: workload ok", "[ 1.0] saying guest: workload ok");
    assert_eq!(judge(&console), Err(Failure::Silent));
}

#[test]
fn a_guest_that_was_not_powered_off_failed() {
    assert_eq!(judge(&GOOD.replace("hv: end off", "")), Err(Failure::StillOn));
}

#[test]
fn a_panic_of_the_hypervisor_is_the_reason() {
    let console = GOOD.replace("hv: end off", "hv: end panic: no memory");
    assert_eq!(judge(&console), Err(Failure::Hypervisor("no memory".to_owned())));
}

#[test]
fn a_panic_of_the_guest_is_the_reason() {
    let console = "[    9.1] Kernel panic - not syncing: Attempted to kill init!\n";
    assert_eq!(judge(console), Err(Failure::GuestPanic("Attempted to kill init!".to_owned())));
    assert!(is_last_word(console));
}

#[test]
fn a_wrong_checksum_is_named_with_its_round() {
    let failure = Failure::Checksum { round: 2, found: "cc".to_owned(), expected: "bb".to_owned() };
    assert_eq!(judge(&GOOD.replace("sha256 bb", "sha256 cc")), Err(failure));
}

#[test]
fn a_missing_round_is_noticed() {
    let console = GOOD.replace("guest: round 2/2 sha256 bb\r\n", "");
    assert_eq!(judge(&console), Err(Failure::Rounds { found: 1, expected: 2 }));
}

#[test]
fn a_guest_that_is_not_ours_needs_no_checksums() {
    let console = "guest: workload ok\nhv: stats faults=1 poison_bad=0\nhv: end off\n";
    assert!(judge_demo(console, &Expected { torture: Torture::Off, sums: Vec::new() }).is_ok());
}

#[test]
fn lost_poison_fails_with_and_without_torture() {
    let console = GOOD.replace("poison_bad=0", "poison_bad=2");
    for torture in [Torture::Off, Torture::On] {
        assert_eq!(judge_demo(&console, &expected(torture)), Err(Failure::Poison(2)));
    }
}

#[test]
fn torture_that_moved_or_checked_nothing_failed() {
    let still = GOOD.replace("relocations=7", "relocations=0");
    assert_eq!(judge(&still), Err(Failure::NothingMoved));
    assert!(judge_demo(&still, &expected(Torture::Off)).is_ok());
    assert_eq!(judge(&GOOD.replace("poison_checked=6", "poison_checked=0")), Err(Failure::NothingChecked));
}

#[test]
fn missing_figures_fail() {
    assert_eq!(judge(&GOOD.replace("hv: stats", "hv:")), Err(Failure::NoFigure("faults")));
    assert_eq!(judge(&GOOD.replace("poison_bad=0", "")), Err(Failure::NoFigure("poison_bad")));
}

#[test]
fn the_last_word_is_the_hypervisors_end() {
    assert!(is_last_word("hv: end off"));
    assert!(is_last_word("hv: end panic: no memory"));
    assert!(!is_last_word("guest: workload ok rounds=1 forks=2"));
}

#[test]
fn of_several_guests_one_that_fails_ends_the_run() {
    assert!(is_last_word("2| guest: workload FAILED: the sums differ"));
    assert!(!is_last_word("guest: workload FAILED: the sums differ"));
    assert_eq!(numbered("2| guest: x"), Some((2, "guest: x")));
    assert_eq!((numbered("a| b"), without_number("a| b")), (None, "a| b"));
}

#[test]
fn a_suite_is_judged_by_its_closing_line() {
    assert_eq!(judge_suite("test a ... ok\r\ntest b ... ok\r\n2 passed, 0 failed\r\n"), Ok(2));
}

#[test]
fn a_suite_without_an_end_failed() {
    assert_eq!(judge_suite("test a ... ok\n"), Err(SuiteFailure::NoEnd));
    assert_eq!(judge_suite("so far 2 passed, 0 failed\n"), Err(SuiteFailure::NoEnd));
}

#[test]
fn a_suite_that_ran_nothing_failed() {
    assert_eq!(judge_suite("0 passed, 0 failed\n"), Err(SuiteFailure::NoTests));
}

#[test]
fn the_tests_that_failed_are_named() {
    let console = "test a ... ok\ntest b ... FAILED: stale\n1 passed, 1 failed\n";
    assert_eq!(judge_suite(console), Err(SuiteFailure::Tests(vec!["b".to_owned()])));
    assert!(judge_suite("1 passed, 3 failed\n").is_err());
    assert!(judge_suite("test b ... FAILED\n1 passed, 0 failed\n").is_err());
}
