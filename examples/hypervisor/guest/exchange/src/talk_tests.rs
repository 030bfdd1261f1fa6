use std::{thread, vec::Vec};

use super::*;

fn memory() -> Vec<Word> {
    (0..REGION_SIZE / size_of::<Word>()).map(|_| Word::new(0)).collect()
}

/// Ends what would wait for ever.
fn patience(idle: u64) -> Option<()> {
    thread::yield_now();
    (idle < 10_000_000).then_some(())
}

#[test]
fn two_sides_exchange_everything_at_once() {
    const MESSAGES: u32 = 5000;
    let memory = memory();
    let side = |end: End| {
        let mut talk = Talk::new(&memory, end).unwrap();
        let account = talk.exchange(MESSAGES, patience).unwrap();
        assert_eq!(account, Account::of(end.other(), MESSAGES));
        talk.tell([end.number(), 5], patience).unwrap();
        assert_eq!(talk.hear(patience), Ok([end.other().number(), 5]));
    };
    thread::scope(|scope| {
        scope.spawn(|| side(End::First));
        side(End::Second);
    });
}

#[test]
fn a_silent_side_is_given_up() {
    let memory = memory();
    let mut talk = Talk::new(&memory, End::First).unwrap();
    assert!(matches!(talk.exchange(5, |_| None), Err(Error::Silent { received: 0, .. })));
    assert!(matches!(talk.hear::<1>(|_| None), Err(Error::Silent { .. })));
}

#[test]
fn another_message_than_the_one_that_is_due_is_noticed() {
    let memory = memory();
    let mut other = Talk::new(&memory, End::Second).unwrap();
    other.sender.send(Message::new(End::Second, 1).bytes()).unwrap().unwrap();
    let mut talk = Talk::new(&memory, End::First).unwrap();
    assert_eq!(talk.exchange(5, |_| None), Err(Error::Content { number: 0 }));
}

#[test]
fn another_number_of_words_is_not_what_was_to_be_heard() {
    let memory = memory();
    Talk::new(&memory, End::Second).unwrap().tell([1, 2], patience).unwrap();
    let mut talk = Talk::new(&memory, End::First).unwrap();
    assert_eq!(talk.hear::<1>(patience), Err(Error::Content { number: 0 }));
}
