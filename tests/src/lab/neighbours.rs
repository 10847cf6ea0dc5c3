//! Cells of two devices in one network: they must reach each other inside it, whatever lies before it, and without that too.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::cells::{Place, Report};
use super::device::{Ticking, exchange};
use super::nat::Nat;
use super::pair::Pair;
use super::trouble::{AFTERMATH, open, report, wait_for};
use super::world::Uplink;

/// What addresses inside a site begin with: IPv4, and IPv6 of the first site or of the link itself.
const INSIDE: [&str; 3] = ["192.168.1.", "[2001:db8:a:", "[fe80:"];

/// Two devices behind one NAT.
pub(super) fn one_nat(place: Place<'_>, nat: Nat) -> Result<Report> {
    let pair = Pair::start_behind_one(place.dir, nat)?;
    let opened = open(&pair, "direct")?;
    exchange(opened.stream, 300_000)?;
    let (back, _) = pair.other.first_byte()?;
    exchange(back, 300_000)?;
    std::thread::sleep(AFTERMATH);
    is_inside(&pair)?;
    report(&pair, place, (opened.first_byte, opened.direct), None)
}

/// Fails unless both devices reach each other by their addresses in the network.
fn is_inside(pair: &Pair) -> Result<()> {
    for (device, peer) in [(&pair.one, &pair.other), (&pair.other, &pair.one)] {
        let path = device.path_to(&peer.name)?;
        ensure!(
            path.kind == "direct" && INSIDE.iter().any(|inside| path.endpoint.starts_with(inside)),
            "{} should reach {} inside and does so by {path:?}",
            device.name,
            peer.name
        );
    }
    Ok(())
}

/// They talk for the first time when nothing outside answers any more.
pub(super) fn alone(place: Place<'_>) -> Result<Report> {
    let pair = Pair::start_behind_one(place.dir, Nat::PortRestricted)?;
    pair.one.site.cut()?;
    std::thread::sleep(Duration::from_secs(1));
    talk_both_ways(&pair, place)
}

/// Opens a stream each way inside, the first that there are.
fn talk_both_ways(pair: &Pair, place: Place<'_>) -> Result<Report> {
    let opened = open(pair, "direct")?;
    exchange(opened.stream, 300_000)?;
    let (back, _) = pair.other.first_byte()?;
    exchange(back, 300_000)?;
    is_inside(pair)?;
    report(pair, place, (opened.first_byte, opened.direct), None)
}

/// A stream stays open while one device gets another address, and then the other one.
pub(super) fn alone_renumbered(place: Place<'_>) -> Result<Report> {
    let mut pair = Pair::start_behind_one(place.dir, Nat::PortRestricted)?;
    pair.one.site.cut()?;
    let opened = open(&pair, "direct")?;
    let ticking = Ticking::start(opened.stream)?;
    std::thread::sleep(Duration::from_secs(1));
    pair.one.site.renumber(77)?;
    std::thread::sleep(AFTERMATH);
    pair.other.site.renumber(78)?;
    std::thread::sleep(AFTERMATH);
    wait_for(&pair, "direct")?;
    let lost = ticking.finish().context("the stream did not survive")?;
    is_inside(&pair)?;
    report(&pair, place, (opened.first_byte, opened.direct), Some(lost))
}

/// A stream stays open while both devices get other addresses, so that neither knows where the other is.
pub(super) fn alone_both_renumbered(place: Place<'_>, nat: Nat) -> Result<Report> {
    let mut pair = Pair::start_behind_one(place.dir, nat)?;
    let opened = open(&pair, "direct")?;
    let ticking = Ticking::start(opened.stream)?;
    pair.one.site.cut()?;
    std::thread::sleep(Duration::from_secs(1));
    renumber_both(&mut pair)?;
    std::thread::sleep(2 * AFTERMATH);
    wait_for(&pair, "direct")?;
    let lost = ticking.finish().context("the stream did not survive")?;
    is_inside(&pair)?;
    report(&pair, place, (opened.first_byte, opened.direct), Some(lost))
}

/// They talk for the first time when neither is any more where the other was told that it is.
pub(super) fn alone_both_renumbered_before(place: Place<'_>) -> Result<Report> {
    let mut pair = Pair::start_behind_one(place.dir, Nat::PortRestricted)?;
    pair.one.site.cut()?;
    renumber_both(&mut pair)?;
    std::thread::sleep(Duration::from_secs(1));
    talk_both_ways(&pair, place)
}

/// Takes both addresses before either gets another one: neither can tell the other in between.
fn renumber_both(pair: &mut Pair) -> Result<()> {
    pair.one.site.leave(Uplink::First)?;
    pair.other.site.renumber(78)?;
    pair.one.site.renumber(77)
}
