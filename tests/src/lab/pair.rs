//! Two devices of one owner in two networks: they must reach each other, directly where theory allows, and say why.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::cells::{Place, Report};
use super::device::{Device, PathSeen, exchange};
use super::nat::Nat;
use super::platform::Platform;
use super::world::{Internet, Site};

/// The longest that a first byte may take. Handshakes that are lost are sent again after five seconds.
const FIRST_BYTE_MAX: Duration = Duration::from_secs(2);

/// The longest until a direct path is found where there is one.
const DIRECT_MAX: Duration = Duration::from_secs(8);

/// The longest until it is settled that there is none.
const SETTLED_MAX: Duration = Duration::from_secs(12);

/// The longest until a port was guessed, or in vain: a round of pings, and one attempt.
const GUESSED_MAX: Duration = Duration::from_secs(18);

/// How much goes each way.
const EXCHANGED: usize = 300_000;

/// An internet with a control plane and two linked devices that know each other. What is dropped first is stopped first.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) one: Device,
    pub(super) other: Device,
    pub(super) platform: Platform,
    pub(super) internet: Internet,
}

impl Pair {
    pub(super) fn start(dir: &Path, one: Nat, other: Nat) -> Result<Self> {
        Self::start_with(dir, (one, other), |_, _| Ok(()))
    }

    /// Starts everything; the control plane is prepared before there are devices.
    pub(super) fn start_with(
        dir: &Path,
        (one, other): (Nat, Nat),
        prepare: impl FnOnce(&Internet, &mut Platform) -> Result<()>,
    ) -> Result<Self> {
        let internet = Internet::new()?;
        let mut platform = if [one, other].contains(&Nat::Tcp443Only) {
            Platform::start_encrypted(&internet, dir)?
        } else {
            Platform::start(&internet, dir)?
        };
        prepare(&internet, &mut platform)?;
        let sites = [internet.site(one, 1)?, internet.site(other, 2)?];
        Self::start_at(dir, internet, platform, sites)
    }

    /// Starts two devices behind one NAT.
    pub(super) fn start_behind_one(dir: &Path, nat: Nat) -> Result<Self> {
        let internet = Internet::new()?;
        let platform = Platform::start(&internet, dir)?;
        let one = internet.site(nat, 1)?;
        let other = internet.neighbour(&one, 2)?;
        Self::start_at(dir, internet, platform, [one, other])
    }

    fn start_at(dir: &Path, internet: Internet, platform: Platform, sites: [Site; 2]) -> Result<Self> {
        let [one, other] = sites;
        let mut one = Device::start(&platform, one, dir, "one")?;
        let mut other = Device::start(&platform, other, dir, "other")?;
        one.link(&platform)?;
        other.link(&platform)?;
        for device in [&one, &other] {
            // The dispatch session: a stream through the mesh to the platform's node.
            device.wait_for("ready")?;
        }
        let knows = |path: &PathSeen| !path.reason.is_empty();
        for (device, peer) in [(&one, "other"), (&other, "one")] {
            if device.wait_for_path(peer, DIRECT_MAX, knows).is_err() {
                bail!("{} was not told of {peer}", device.name);
            }
        }
        for device in [&mut one, &mut other] {
            device.offer()?;
        }
        one.lead_to("other")?;
        other.lead_to("one")?;
        Ok(Self {
            one,
            other,
            platform,
            internet,
        })
    }
}

/// What theory says of a pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expected<'a> {
    Direct,
    Either,
    /// Only through a relay, and these are the words for it.
    Relay(&'a str),
}

fn expected(one: Nat, other: Nat) -> Expected<'static> {
    use Nat::{Cgnat, Ipv6Only, None, PortRestricted, ShortTimeouts, Symmetric, Tcp443Only, UdpBlocked};
    let by_port = |nat| matches!(nat, PortRestricted | Cgnat | ShortTimeouts);
    match (one, other) {
        (UdpBlocked | Tcp443Only, _) => Expected::Relay("udp_blocked"),
        (_, UdpBlocked | Tcp443Only) => Expected::Relay("peer_udp_blocked"),
        (Ipv6Only, Ipv6Only | None) | (None, Ipv6Only) => Expected::Direct,
        (Ipv6Only, _) | (_, Ipv6Only) => Expected::Relay("no_common_family"),
        (Symmetric, Symmetric) => Expected::Relay("symmetric_both"),
        (Symmetric, nat) | (nat, Symmetric) if by_port(nat) => Expected::Either,
        _ => Expected::Direct,
    }
}

pub(super) fn run(place: Place<'_>, one: Nat, other: Nat) -> Result<Report> {
    let pair = Pair::start(place.dir, one, other)?;
    let start = Instant::now();
    let (stream, first_byte) = pair.one.first_byte()?;
    let expected = expected(one, other);
    let (path, direct) = settle(&pair, expected, start)?;
    ensure!(
        first_byte <= FIRST_BYTE_MAX,
        "the first byte took {first_byte:?}, then {path:?}"
    );
    exchange(stream, EXCHANGED)?;
    let (back, _) = pair.other.first_byte()?;
    exchange(back, EXCHANGED)?;
    Ok(Report {
        cell: place.cell.to_owned(),
        path: path.kind,
        reason: path.reason,
        first_byte_ms: millis(first_byte),
        direct_ms: direct.map(millis),
        lost_ms: None,
    })
}

/// Waits until the path is what it will be, at both ends.
fn settle(pair: &Pair, expected: Expected<'_>, start: Instant) -> Result<(PathSeen, Option<Duration>)> {
    let is_direct = |path: &PathSeen| path.kind == "direct";
    let name = &pair.other.name;
    if expected == Expected::Direct {
        return match pair.one.wait_for_path(name, DIRECT_MAX, is_direct) {
            Ok(path) => Ok((path, Some(start.elapsed()))),
            Err(path) => bail!(
                "it should be direct and is {path:?}; the other sees {:?}",
                pair.other.path_to(&pair.one.name)
            ),
        };
    }
    let is_settled = |path: &PathSeen| is_direct(path) || expected == Expected::Relay(&path.reason);
    let time_max = match expected {
        Expected::Either => GUESSED_MAX,
        _ => SETTLED_MAX,
    };
    let path = match pair.one.wait_for_path(name, time_max, is_settled) {
        Err(path) if expected != Expected::Either => bail!("it should be {expected:?} and is {path:?}"),
        Ok(path) | Err(path) => path,
    };
    let is_relayed = path.kind == "relay";
    let may_be_direct = expected == Expected::Either;
    ensure!(
        is_relayed || may_be_direct && is_direct(&path),
        "it should be {expected:?} and is {path:?}"
    );
    Ok((path, (!is_relayed).then(|| start.elapsed())))
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
