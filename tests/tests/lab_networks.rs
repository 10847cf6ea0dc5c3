//! The networks of the lab are what they are called, before anything else is tried in them.

use std::time::Duration;

use e2e::lab::behaviour::{Behaviour, Filtering, Mapping, hairpins, measure, remembers_through};
use e2e::lab::can_run;
use e2e::lab::nat::{Nat, SHORT_TIMEOUT_SECONDS};
use e2e::lab::world::Internet;

#[test]
fn every_nat_maps_and_filters_as_its_name_says() {
    if !can_run() {
        return;
    }
    let independent = Mapping::EndpointIndependent;
    let dependent = Mapping::AddressAndPortDependent;
    let expected = [
        (Nat::None, Some((independent, Filtering::EndpointIndependent))),
        (Nat::FullCone, Some((independent, Filtering::EndpointIndependent))),
        (Nat::Restricted, Some((independent, Filtering::AddressDependent))),
        (
            Nat::PortRestricted,
            Some((independent, Filtering::AddressAndPortDependent)),
        ),
        (
            Nat::Symmetric,
            Some((dependent, Filtering::AddressAndPortDependent)),
        ),
        (
            Nat::Cgnat,
            Some((independent, Filtering::AddressAndPortDependent)),
        ),
        (
            Nat::Hairpinning,
            Some((independent, Filtering::AddressAndPortDependent)),
        ),
        (
            Nat::ShortTimeouts,
            Some((independent, Filtering::AddressAndPortDependent)),
        ),
        (Nat::UdpBlocked, None),
        (Nat::Tcp443Only, None),
    ];
    let internet = Internet::new().expect("an internet");
    for (number, (nat, udp)) in (1..).zip(expected) {
        let site = internet.site(nat, number).expect("a site");
        let measured = measure(&internet, &site).expect("a measurement");
        let said = Behaviour {
            udp,
            tcp_443: true,
            tcp_other: nat != Nat::Tcp443Only,
        };
        assert_eq!(measured, said, "{}", nat.word());
    }
}

#[test]
fn only_short_timeouts_forget_a_flow_that_was_silent() {
    if !can_run() {
        return;
    }
    let silence = Duration::from_secs(SHORT_TIMEOUT_SECONDS + 2);
    let remembers = |nat| {
        let internet = Internet::new().expect("an internet");
        let site = internet.site(nat, 1).expect("a site");
        let wait = || {
            std::thread::sleep(silence);
            Ok(())
        };
        remembers_through(&internet, &site, wait).expect("a measurement")
    };
    std::thread::scope(|scope| {
        let short = scope.spawn(|| remembers(Nat::ShortTimeouts));
        assert!(remembers(Nat::PortRestricted));
        assert!(!short.join().expect("a measurement"));
    });
}

#[test]
fn only_a_hairpinning_nat_leads_back_inside() {
    if !can_run() {
        return;
    }
    let internet = Internet::new().expect("an internet");
    for (number, nat) in (1..).zip([Nat::Hairpinning, Nat::PortRestricted, Nat::FullCone]) {
        let site = internet.site(nat, number).expect("a site");
        let measured = hairpins(&internet, &site).expect("a measurement");
        assert_eq!(measured, nat == Nat::Hairpinning, "{}", nat.word());
    }
}

#[test]
fn a_nat_that_is_restarted_forgets_its_flows_and_one_whose_udp_is_blocked_does_not() {
    if !can_run() {
        return;
    }
    let internet = Internet::new().expect("an internet");
    let site = |number| internet.site(Nat::PortRestricted, number).expect("a site");
    let restarted = site(1);
    let remembers = remembers_through(&internet, &restarted, || restarted.reboot_nat());
    assert!(!remembers.expect("a measurement"));
    let behaviour = measure(&internet, &restarted).expect("a measurement");
    assert!(behaviour.udp.is_some(), "it works again");
    let blocked = site(2);
    let remembers = remembers_through(&internet, &blocked, || blocked.block_udp(true));
    assert!(!remembers.expect("a measurement"));
    let open_again = || {
        blocked.block_udp(true)?;
        blocked.block_udp(false)
    };
    blocked.block_udp(false).expect("open again");
    let remembers = remembers_through(&internet, &blocked, open_again);
    assert!(remembers.expect("a measurement"));
}
