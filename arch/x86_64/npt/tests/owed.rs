use super::*;

fn capabilities() -> Capabilities {
    Capabilities { physical_bits: 48, guest_physical_bits: 48, asids: 16, features: Features::all() }
}

/// A CPU that has run a guest.
fn settled() -> Owed {
    let owed = Owed::everything();
    assert_eq!(owed.take(Asid(1), &capabilities()), TlbControl::All);
    owed
}

#[test]
fn the_numbers_are_the_manuals() {
    assert_eq!([TlbControl::Nothing, TlbControl::All, TlbControl::Guest].map(|control| control as u8), [0, 1, 3]);
}

#[test]
fn a_cpu_starts_without_memories() {
    assert_eq!(Owed::everything().take(Asid(5), &capabilities()), TlbControl::All);
}

#[test]
fn what_is_owed_is_paid_once() {
    let owed = settled();
    assert_eq!(owed.take(Asid(2), &capabilities()), TlbControl::Nothing);
    owed.add(Asid(2));
    owed.add(Asid(2));
    assert_eq!(owed.take(Asid(2), &capabilities()), TlbControl::Guest);
    assert_eq!(owed.take(Asid(2), &capabilities()), TlbControl::Nothing);
}

#[test]
fn a_cpu_without_flushes_by_asid_forgets_everything() {
    let owed = settled();
    owed.add(Asid(2));
    assert_eq!(owed.take(Asid(2), &capabilities().without(Features::FLUSH_BY_ASID)), TlbControl::All);
}

#[test]
fn what_is_owed_of_one_guest_is_not_forgotten_when_another_runs_first() {
    let owed = settled();
    owed.add(Asid(2));
    assert_eq!(owed.take(Asid(3), &capabilities()), TlbControl::All);
    assert_eq!(owed.take(Asid(2), &capabilities()), TlbControl::Nothing);
}

#[test]
fn what_is_owed_of_two_guests_is_all() {
    let owed = settled();
    owed.add(Asid(2));
    owed.add(Asid(3));
    owed.add(Asid(2));
    assert_eq!(owed.take(Asid(2), &capabilities()), TlbControl::All);
    let fresh = Owed::everything();
    fresh.add(Asid(2));
    assert_eq!(fresh.take(Asid(2), &capabilities()), TlbControl::All, "more than one guest's from the start");
}
