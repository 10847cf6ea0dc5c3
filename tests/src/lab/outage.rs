//! Cells in which something goes away and comes back by itself: UDP, the memory of a NAT, a device.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::cells::{Place, Report};
use super::device::{PathSeen, Ticking};
use super::nat::Nat;
use super::pair::Pair;
use super::trouble::{AFTERMATH, open, report, wait_for};

/// How long until it is known that no UDP gets through, and until it is used again afterwards.
const UDP_NOTICED_MAX: Duration = Duration::from_secs(40);

/// How long a device sleeps.
const SLEEP: Duration = Duration::from_secs(30);

/// How soon after it woke its path must be back.
const BACK_MAX: Duration = Duration::from_secs(2);

/// UDP is blocked at one end and let through again: the path goes to the relay, says why, and comes back by itself.
pub(super) fn block_udp(place: Place<'_>, nat: Nat, (kind, reason): (&str, &str)) -> Result<Report> {
    let pair = Pair::start(place.dir, nat, nat)?;
    let opened = open(&pair, kind)?;
    let ticking = Ticking::start(opened.stream)?;
    std::thread::sleep(Duration::from_secs(1));
    pair.one.site.block_udp(true)?;
    let is_blocked = |path: &PathSeen| path.kind == "relay" && path.reason == "udp_blocked";
    until(&pair, "relayed since UDP is blocked", is_blocked)?;
    std::thread::sleep(AFTERMATH);
    pair.one.site.block_udp(false)?;
    let is_back = |path: &PathSeen| path.kind == kind && path.reason == reason;
    until(&pair, "as it was", is_back)?;
    let lost = ticking.finish().context("the stream did not survive")?;
    report(&pair, place, (opened.first_byte, opened.direct), Some(lost))
}

fn until(pair: &Pair, what: &str, wanted: impl Fn(&PathSeen) -> bool) -> Result<()> {
    match pair.one.wait_for_path(&pair.other.name, UDP_NOTICED_MAX, wanted) {
        Ok(_) => Ok(()),
        Err(path) => bail!("the path should be {what} and is {path:?}"),
    }
}

/// The NAT before one end forgets everything, and has another address afterwards.
pub(super) fn reboot_nat(place: Place<'_>) -> Result<Report> {
    let pair = Pair::start(place.dir, Nat::PortRestricted, Nat::PortRestricted)?;
    let opened = open(&pair, "direct")?;
    let ticking = Ticking::start(opened.stream)?;
    std::thread::sleep(Duration::from_secs(1));
    pair.one.site.reboot_nat()?;
    std::thread::sleep(AFTERMATH);
    wait_for(&pair, "direct")?;
    let lost = ticking.finish().context("the stream did not survive")?;
    report(&pair, place, (opened.first_byte, opened.direct), Some(lost))
}

/// A device sleeps while a stream through it is open.
pub(super) fn sleep(place: Place<'_>) -> Result<Report> {
    let pair = Pair::start(place.dir, Nat::PortRestricted, Nat::PortRestricted)?;
    let opened = open(&pair, "direct")?;
    let ticking = Ticking::start(opened.stream)?;
    std::thread::sleep(Duration::from_secs(1));
    pair.other.process().signal("STOP")?;
    let start = Instant::now();
    std::thread::sleep(SLEEP);
    pair.other.process().signal("CONT")?;
    let asleep = start.elapsed();
    std::thread::sleep(2 * AFTERMATH);
    wait_for(&pair, "direct")?;
    let silent = ticking.finish().context("the stream did not survive")?;
    ensure!(silent >= asleep / 2, "the device did not sleep");
    let lost = silent.saturating_sub(asleep);
    ensure!(lost <= BACK_MAX, "it was back {lost:?} after it woke");
    report(&pair, place, (opened.first_byte, opened.direct), Some(lost))
}
