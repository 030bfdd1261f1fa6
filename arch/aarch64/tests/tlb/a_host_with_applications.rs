use super::*;

const E2H_TGE: u64 = 1 << 34 | 1 << 27;

fn host(vttbr: u64, hcr: u64) -> Tlb<Recorder> {
    Tlb::new(capabilities(Features::empty()), Recorder { vttbr, vtcr: OWN.vtcr, hcr, log: Mutex::default() })
}

#[test]
fn does_not_lose_its_own_translations() {
    assert_eq!(
        told(&host(OWN.vttbr, E2H_TGE), |tlb| tlb.invalidate_all(OWN)),
        [DSB_ISHST, Op::ChangeHcr(1 << 27, 0), Op::Isb, VMALLS12E1IS, DSB_ISH, Op::ChangeHcr(0, 1 << 27), Op::Isb]
    );
}

#[test]
fn changes_the_vmid_too() {
    let told = told(&host(OTHERS, E2H_TGE), |tlb| tlb.invalidate_all(OWN));
    assert_eq!(told[..4], [DSB_ISH, Op::SetVttbr(OWN.vttbr), Op::ChangeHcr(1 << 27, 0), Op::Isb]);
    assert_eq!(told[6..], [Op::SetVttbr(OTHERS), Op::ChangeHcr(0, 1 << 27), Op::Isb]);
}

/// While the host runs, the guest's stage-1 registers may hold any value: a Cortex-A76 may walk by them once TGE is
/// clear.
#[test]
fn keeps_stage_1_from_walking_for_as_long_as_it_is_none() {
    let affected = Capabilities { errata: Errata::SPECULATIVE_TRANSLATION, ..capabilities(Features::empty()) };
    for vttbr in [OWN.vttbr, OTHERS] {
        let recorder = Recorder { vttbr, vtcr: OWN.vtcr, hcr: E2H_TGE, log: Mutex::default() };
        let told = told(&Tlb::new(affected, recorder), |tlb| tlb.invalidate_all(OWN));
        let place = |operation| told.iter().position(|&told| told == operation).expect("it is there");
        assert!(place(Op::SetSctlrEl1(0x1001)) < place(Op::ChangeHcr(1 << 27, 0)), "{told:x?}");
        assert!(place(Op::ChangeHcr(0, 1 << 27)) < place(Op::SetSctlrEl1(0x1000)), "{told:x?}");
    }
}

#[test]
fn is_nothing_special_while_a_guest_is_loaded() {
    for hcr in [1 << 34, 1 << 27] {
        assert_eq!(told(&host(OWN.vttbr, hcr), |tlb| tlb.invalidate_all(OWN)).len(), 4);
    }
}
