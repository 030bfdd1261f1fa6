use super::*;

const MESSAGES: u32 = 3;

/// A good run of the small guest and its fork.
fn good() -> String {
    let (first, second) = (Account::of(End::First, MESSAGES), Account::of(End::Second, MESSAGES));
    format!(
        "hv: guest 1: refused: GPA:0x75000000..GPA:0x75001000: the region is frozen\r\n\
         2| guest: fork ok found=40\r\n\
         1| guest: fork ok child=2 before=30 after=50\r\n\
         2| guest: ring ok end=1 {first}\r\n\
         1| guest: ring ok end=0 {second}\r\n\
         hv: guest 1: refused: GPA:0x74000000..GPA:0x74001000 is a region's\r\n\
         hv: guest 1: gave 0x4030a000 in frames 0xa000\r\n\
         hv: guest 2: got 0x72000000 in frames 0xa000\r\n\
         hv: guest 1: Fault {{ gpa: GPA:0x4030a000, access: Read, origin: Instruction }}: NotMapped: an abort for the guest\r\n\
         hv: guest 1: refused: nothing is mapped at GPA:0x4030a000..GPA:0x4030b000\r\n\
         2| guest: gift ok got at=0x72000000 size=0x1000 digest=0x5\r\n\
         1| guest: gift ok given from=0x4030a000 to=0x72000000 size=0x1000 digest=0x5\r\n\
         2| guest: workload ok rounds=1 forks=1\r\n\
         hv: guest 2: map after:\r\n\
         hv: guest 2: stats tables=7 private=0 copied=132 shared=9\r\n\
         hv: guest 2: ring at 0x78000000 in frames 0x8000 0x9000\r\n\
         hv: guest 2: ended: off\r\n\
         1| guest: workload ok rounds=1 forks=1\r\n\
         hv: guest 1: map after:\r\n\
         hv: guest 1: stats tables=7 private=0 copied=131 shared=9\r\n\
         hv: guest 1: ring at 0x74000000 in frames 0x8000 0x9000\r\n\
         hv: guest 1: ended: off\r\n\
         hv: frames left=0 poison_checked=9 poison_bad=0\r\n\
         hv: end off\r\n"
    )
}

/// What is made of a run in which something else was said.
fn judge_with(from: &str, to: &str) -> Result<Figures, PairFailure> {
    let console = good();
    assert!(console.contains(from), "{from} is not in the good run");
    judge(&console.replace(from, to), Pair::Fork, MESSAGES, &[])
}

fn unsaid(number: usize, words: &str) -> Result<Figures, PairFailure> {
    Err(PairFailure::Unsaid { number, words: words.to_owned() })
}

#[test]
fn a_good_run_gives_its_figures() {
    let figures = judge(&good(), Pair::Fork, MESSAGES, &[]).expect("a good run");
    let bytes = Account::of(End::First, MESSAGES).bytes + Account::of(End::Second, MESSAGES).bytes;
    assert_eq!(figures, Figures { messages: MESSAGES, bytes, counted: 40 });
}

/// A good run of Linux beside the small guest: the first is Linux, the second gives, and the third is its fork.
fn good_with_linux() -> String {
    let swapped = good().replace("guest 1", "guest #").replace("guest 2", "guest 1").replace("guest #", "guest 2");
    let swapped = swapped.replace("1| guest: gift", "#| guest: gift").replace("2| guest: gift", "1| guest: gift");
    let swapped = swapped
        .replace("#| guest: gift", "2| guest: gift")
        .replace("1| guest: fork ok child=2", "2| guest: fork ok child=3");
    let swapped = swapped.replace("2| guest: fork ok found", "3| guest: fork ok found");
    let fork = "hv: guest 3: map after:\nhv: guest 3: stats tables=7 private=0 copied=130 shared=9\n";
    format!("{swapped}{fork}3| guest: workload ok\n1| guest: round 1/1 sha256 aa\n")
}

#[test]
fn linux_beside_the_small_guest_has_one_more_to_wait_for_and_its_checksums() {
    let console = good_with_linux();
    let judge_sum = |console: &str, sum: &str| judge(console, Pair::Linux, MESSAGES, &[sum.to_owned()]);
    assert_eq!(judge_sum(&console, "aa").map(|figures| figures.counted), Ok(40));
    let failed = judge_sum(&console, "bb");
    assert!(matches!(failed, Err(PairFailure::Run(Failure::Checksum { round: 1, .. }))), "{failed:?}");
    let silent = console.replace("3| guest: workload ok", "");
    assert_eq!(judge_sum(&silent, "aa"), unsaid(3, "guest: workload ok"));
}

#[test]
fn each_guest_has_to_be_content() {
    for number in [1, 2] {
        let words = format!("{number}| guest: workload ok");
        assert_eq!(judge_with(&words, "bye"), unsaid(number, "guest: workload ok"));
        let failed = Failure::Workload(format!("guest {number}: a page"));
        assert_eq!(judge_with(&words, &format!("{number}| guest: workload FAILED a page\n")), Err(failed.into()));
    }
}

#[test]
fn a_guest_that_received_something_else_is_not_believed() {
    let expected = Account::of(End::First, MESSAGES).to_string();
    let found = Account::of(End::First, MESSAGES - 1).to_string();
    let failure = PairFailure::Ring { number: 2, found: found.clone(), expected: expected.clone() };
    assert_eq!(judge_with(&expected, &found), Err(failure));
    assert_eq!(judge_with("1| guest: ring ok", "1| guest: ring"), unsaid(1, "guest: ring ok end=0 "));
}

#[test]
fn the_fork_was_made_while_the_counter_ran() {
    for found in [29, 51] {
        let failure = PairFailure::Moment { before: 30, found, after: 50 };
        assert_eq!(judge_with("found=40", &format!("found={found}")), Err(failure));
    }
    assert_eq!(judge_with("2| guest: fork ok", "2| guest: fork"), unsaid(2, "guest: fork ok "));
    assert_eq!(judge_with("before=30 ", ""), unsaid(1, "guest: fork ok … before="));
}

#[test]
fn each_guests_map_and_figures_are_shown() {
    assert_eq!(judge_with("hv: guest 2: map after:", ""), Err(PairFailure::NoMap { number: 2 }));
    assert_eq!(judge_with("hv: guest 1: stats", "hv:"), Err(Failure::NoFigure("private").into()));
    assert_eq!(judge_with("copied=132", "copies=132"), Err(Failure::NoFigure("copied").into()));
    assert_eq!(judge_with("copied=132", "copied=0"), Err(PairFailure::NothingCopied { number: 2 }));
}

#[test]
fn what_is_wrong_has_to_be_refused_for_the_right_reason() {
    for reason in ["the region is frozen", "is a region's", "nothing is mapped at"] {
        assert_eq!(judge_with(reason, "out of memory"), Err(PairFailure::NotRefused { number: 1, reason }));
    }
}

/// The same memory at different addresses: of the ring, and of the gift.
#[test]
fn both_guests_have_the_same_frames_at_different_addresses() {
    for (what, line, at, frames) in [
        ("ring", "hv: guest 1: ring at 0x74000000 in frames", "0x78000000", " 0x8000 0x9000"),
        ("gift", "hv: guest 1: gave 0x4030a000 in frames", "0x72000000", " 0xa000"),
    ] {
        let other_frames = judge_with(&format!("{line}{frames}"), &format!("{line} 0xf000"));
        let (one, other) = (" 0xf000".to_owned(), frames.to_owned());
        assert_eq!(other_frames, Err(PairFailure::OtherFrames { what, one, other }));
        assert_eq!(judge_with(&format!("{line}{frames}"), line), Err(PairFailure::NoFrames { number: 1, what }));
        assert_eq!(judge_with(line, "hv: gone"), Err(PairFailure::NoFrames { number: 1, what }));
        let words: Vec<&str> = line.split(' ').collect();
        let same_place = judge_with(line, &line.replace(words[words.len() - 3], at));
        assert_eq!(same_place, Err(PairFailure::SamePlace { what, at: at.to_owned() }));
    }
}

#[test]
fn a_gift_arrives_whole_and_is_gone_where_it_was() {
    let (given, got) = ("0x1000 digest=0x5".to_owned(), "0x1000 digest=0x6".to_owned());
    let changed = judge_with("got at=0x72000000 size=0x1000 digest=0x5", "got at=0x72000000 size=0x1000 digest=0x6");
    assert_eq!(changed, Err(PairFailure::Gift { number: 2, given, got }));
    assert_eq!(judge_with("2| guest: gift", "2| guest:"), unsaid(2, "guest: gift ok got at="));
    assert_eq!(judge_with("1| guest: gift", "1| guest:"), unsaid(1, "guest: gift ok given from="));
    assert_eq!(judge_with("an abort for the guest", "none of its business"), Err(PairFailure::StillThere));
    assert_eq!(judge_with("gpa: GPA:0x4030a000", "gpa: GPA:0x4030b000"), Err(PairFailure::StillThere));
}

#[test]
fn every_frame_has_to_come_back_untouched() {
    assert_eq!(judge_with("frames left=0", "frames left=1"), Err(PairFailure::FramesLeft(1)));
    assert_eq!(judge_with("hv: frames left", ""), Err(Failure::NoFigure("left").into()));
    assert_eq!(judge_with("poison_bad=0", "poison_bad=2"), Err(Failure::Poison(2).into()));
    assert_eq!(judge_with("poison_checked=9", "poison_checked=0"), Err(Failure::NothingChecked.into()));
}

#[test]
fn the_board_has_to_be_turned_off() {
    assert_eq!(judge_with("hv: end off", ""), Err(Failure::StillOn.into()));
    let failure = Failure::Hypervisor("no memory".to_owned());
    assert_eq!(judge_with("hv: end off", "hv: end panic: no memory"), Err(failure.into()));
}
