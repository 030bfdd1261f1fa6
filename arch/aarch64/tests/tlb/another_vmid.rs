use super::*;

#[test]
fn is_changed_for_the_operations_and_changed_back() {
    let tlb = tlb(Features::empty(), OTHERS);
    assert_eq!(
        invalidation(&tlb, 0x4000_1000, 0x4000_2000, PAGES),
        [
            DSB_ISH,
            Op::SetVttbr(OWN.vttbr),
            Op::Isb,
            Op::Tlbi(Tlbi::Ipas2le1is, 0x4_0001),
            DSB_ISH,
            VMALLE1IS,
            DSB_ISH,
            Op::SetVttbr(OTHERS),
            Op::Isb
        ]
    );
}

#[test]
fn is_changed_for_every_kind_of_invalidation() {
    let bracketed = |operations: &[Op]| {
        [&[DSB_ISH, Op::SetVttbr(OWN.vttbr), Op::Isb], operations, &[Op::SetVttbr(OTHERS), Op::Isb]].concat()
    };
    let tlb = tlb(Features::empty(), OTHERS);
    assert_eq!(told(&tlb, |tlb| tlb.invalidate_all(OWN)), bracketed(&[VMALLS12E1IS, DSB_ISH]));
    assert_eq!(told(&tlb, |tlb| tlb.switch_vcpu(OWN)), bracketed(&[VMALLE1, DSB_NSH]));
    assert_eq!(
        told(&tlb, |tlb| tlb.invalidate_denial(OWN, 0x1000.into())),
        bracketed(&[Op::Tlbi(Tlbi::Ipas2e1, 1), DSB_NSH, VMALLE1, DSB_NSH])
    );
}

#[test]
fn is_told_by_the_vmid_and_not_by_the_table() {
    let moved = tlb(Features::empty(), OWN.vttbr + 0x1000);
    assert!(!told(&moved, |tlb| tlb.invalidate_all(OWN)).contains(&Op::SetVttbr(OWN.vttbr)));
}

/// With `VTCR_EL2.VS` clear a TLBI takes VMID 0x0107 for 0x07: another guest's entries went, and these stayed.
#[test]
fn is_taken_whole_on_a_cpu_that_counts_fewer_of_its_bits() {
    let wide = Root { vttbr: 0x0107_0000_8000_0000, vtcr: OWN.vtcr | 1 << 19, ..OWN };
    for vttbr in [OTHERS, wide.vttbr] {
        let tlb = Tlb::new(
            capabilities(Features::empty()),
            Recorder { vttbr, vtcr: OWN.vtcr, hcr: 0, log: Mutex::default() },
        );
        assert_eq!(
            told(&tlb, |tlb| tlb.invalidate_all(wide)),
            [
                DSB_ISH,
                Op::SetVtcr(wide.vtcr),
                Op::SetVttbr(wide.vttbr),
                Op::Isb,
                VMALLS12E1IS,
                DSB_ISH,
                Op::SetVttbr(vttbr),
                Op::SetVtcr(OWN.vtcr),
                Op::Isb
            ]
        );
    }
}

#[test]
fn keeps_stage_1_from_walking_where_an_erratum_wants_it() {
    let affected = Capabilities { errata: Errata::SPECULATIVE_TRANSLATION, ..capabilities(Features::empty()) };
    let recorder = |vttbr| Recorder { vttbr, vtcr: OWN.vtcr, hcr: 0, log: Mutex::default() };
    let tlb = Tlb::new(affected, recorder(OTHERS));
    assert_eq!(
        told(&tlb, |tlb| tlb.invalidate_all(OWN)),
        [
            DSB_ISH,
            Op::SetTcrEl1(0x0080_0090),
            Op::Isb,
            Op::SetSctlrEl1(0x1001),
            Op::Isb,
            Op::SetVttbr(OWN.vttbr),
            Op::Isb,
            VMALLS12E1IS,
            DSB_ISH,
            Op::SetVttbr(OTHERS),
            Op::Isb,
            Op::SetSctlrEl1(0x1000),
            Op::Isb,
            Op::SetTcrEl1(0x10),
            Op::Isb
        ]
    );
    let own = Tlb::new(affected, recorder(OWN.vttbr));
    assert_eq!(told(&own, |tlb| tlb.invalidate_all(OWN)), [DSB_ISHST, VMALLS12E1IS, DSB_ISH, Op::Isb]);
}
