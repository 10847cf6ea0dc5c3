//! Cells of two devices in one network: they must reach each other inside it, whatever lies before it, and without that too.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::cells::{Place, Report};
use super::device::{Ticking, exchange};
use super::nat::Nat;
use super::pair::Pair;
use super::trouble::{AFTERMATH, open, report, wait_for};

/// What every address inside a site begins with.
const INSIDE: &str = "192.168.1.";

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
            path.kind == "direct" && path.endpoint.starts_with(INSIDE),
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
    let opened = open(&pair, "direct")?;
    exchange(opened.stream, 300_000)?;
    let (back, _) = pair.other.first_byte()?;
    exchange(back, 300_000)?;
    is_inside(&pair)?;
    report(&pair, place, (opened.first_byte, opened.direct), None)
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
