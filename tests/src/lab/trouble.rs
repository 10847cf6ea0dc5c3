//! Cells in which something breaks while a stream is open, or just before one is opened.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::cells::{Place, Report};
use super::device::{PathSeen, Ticking, exchange};
use super::nat::{Nat, SHORT_TIMEOUT_SECONDS};
use super::pair::{Pair, millis};
use super::platform::RelayMachine;
use super::world::Uplink;
use super::{neighbours, outage};

/// The longest time that a stream may be without an answer. Paths have two seconds; TCP notices a new one when it sends
/// again, which it does one and three seconds after it had no answer.
pub(super) const LOST_MAX: Duration = Duration::from_millis(3500);

/// The longest that the first byte may take where a relay is dead that nobody misses yet: nothing waits for a timer.
const FIRST_MAX: Duration = Duration::from_millis(500);

/// How long a path is watched after something broke.
pub(super) const AFTERMATH: Duration = Duration::from_secs(5);

/// How long until a path must be as it should.
pub(super) const PATH_MAX: Duration = Duration::from_secs(10);

/// What happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trouble {
    /// A device leaves one network for another; the path was direct.
    Roaming,
    /// The same, with a path that stays relayed.
    RoamingRelayed,
    /// One of two relays is killed, that which carries.
    RelayKilled,
    /// The home relay of a device is killed before the other one has ever talked to it.
    RelayDeadBefore,
    /// The only relay, and the control plane beside which it runs, are killed and started again.
    OnlyRelayRestarted,
    /// The control plane is killed while a stream is open.
    ControlKilled,
    /// The control plane is killed before the devices have ever talked.
    ControlKilledBefore,
    /// Nothing is sent for longer than the NATs remember.
    Silence,
    /// A network lets no UDP through for a while; the path was direct.
    UdpAway,
    /// The same; the path stays relayed.
    UdpAwayRelayed,
    /// A NAT forgets every flow and gets another outer address.
    NatRebooted,
    /// A device sleeps for half a minute.
    Sleep,
    /// Nothing but TCP to port 443 gets through, where a relay with a certificate of its own is.
    RelayElsewhereBehind443,
    /// Both devices are behind one NAT.
    OneNat(Nat),
    /// The network of both is cut off from everything else before they have ever talked.
    LanAlone,
    /// It is cut off while a stream is open, and one device gets another address.
    LanAloneRenumbered,
    /// It is cut off while a stream is open, and both devices get other addresses at once.
    LanAloneBothRenumbered(Nat),
    /// The same before they have ever talked.
    LanAloneBothRenumberedBefore,
}

impl Trouble {
    /// All of them.
    pub(super) const ALL: [Self; 21] = [
        Self::Roaming,
        Self::RoamingRelayed,
        Self::RelayKilled,
        Self::RelayDeadBefore,
        Self::OnlyRelayRestarted,
        Self::ControlKilled,
        Self::ControlKilledBefore,
        Self::Silence,
        Self::UdpAway,
        Self::UdpAwayRelayed,
        Self::NatRebooted,
        Self::Sleep,
        Self::RelayElsewhereBehind443,
        Self::OneNat(Nat::PortRestricted),
        Self::OneNat(Nat::Hairpinning),
        Self::OneNat(Nat::Symmetric),
        Self::LanAlone,
        Self::LanAloneRenumbered,
        Self::LanAloneBothRenumbered(Nat::PortRestricted),
        Self::LanAloneBothRenumbered(Nat::Ipv6Only),
        Self::LanAloneBothRenumberedBefore,
    ];

    /// Returns the name of the cell.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Roaming => "roaming_between_two_uplinks",
            Self::RoamingRelayed => "roaming_between_two_uplinks_relayed",
            Self::RelayKilled => "relay_killed_of_two",
            Self::RelayDeadBefore => "relay_dead_before_first_session",
            Self::OnlyRelayRestarted => "relay_restarted_the_only_one",
            Self::ControlKilled => "control_plane_killed_stream_open",
            Self::ControlKilledBefore => "control_plane_killed_first_stream",
            Self::Silence => "nat_short_timeouts_x_short_timeouts",
            Self::UdpAway => "udp_blocked_and_back",
            Self::UdpAwayRelayed => "udp_blocked_and_back_relayed",
            Self::NatRebooted => "nat_rebooted",
            Self::Sleep => "device_asleep_and_awake",
            Self::RelayElsewhereBehind443 => "tcp_443_only_relay_elsewhere",
            Self::OneNat(Nat::Hairpinning) => "one_nat_hairpinning",
            Self::OneNat(Nat::Symmetric) => "one_nat_symmetric",
            Self::OneNat(_) => "one_nat",
            Self::LanAlone => "lan_alone_first_stream",
            Self::LanAloneRenumbered => "lan_alone_renumbered",
            Self::LanAloneBothRenumbered(Nat::Ipv6Only) => "lan_alone_both_renumbered_ipv6",
            Self::LanAloneBothRenumbered(_) => "lan_alone_both_renumbered",
            Self::LanAloneBothRenumberedBefore => "lan_alone_both_renumbered_first_stream",
        }
    }
}

pub(super) fn run(place: Place<'_>, trouble: Trouble) -> Result<Report> {
    match trouble {
        Trouble::Roaming => roam(place, Nat::PortRestricted, "direct"),
        Trouble::RoamingRelayed => roam(place, Nat::Symmetric, "relay"),
        Trouble::RelayKilled => kill_relay(place),
        Trouble::RelayDeadBefore => kill_relay_before(place),
        Trouble::OnlyRelayRestarted => restart_relay(place),
        Trouble::ControlKilled => kill_control(place),
        Trouble::ControlKilledBefore => kill_control_before(place),
        Trouble::Silence => stay_silent(place),
        Trouble::UdpAway => outage::block_udp(place, Nat::PortRestricted, ("direct", "endpoint_answered")),
        Trouble::UdpAwayRelayed => outage::block_udp(place, Nat::Symmetric, ("relay", "symmetric_both")),
        Trouble::NatRebooted => outage::reboot_nat(place),
        Trouble::Sleep => outage::sleep(place),
        Trouble::RelayElsewhereBehind443 => relay_elsewhere_behind_443(place),
        Trouble::OneNat(nat) => neighbours::one_nat(place, nat),
        Trouble::LanAlone => neighbours::alone(place),
        Trouble::LanAloneRenumbered => neighbours::alone_renumbered(place),
        Trouble::LanAloneBothRenumbered(nat) => neighbours::alone_both_renumbered(place, nat),
        Trouble::LanAloneBothRenumberedBefore => neighbours::alone_both_renumbered_before(place),
    }
}

/// A stream that was opened, and what that took.
pub(super) struct Opened {
    pub(super) stream: TcpStream,
    pub(super) first_byte: Duration,
    pub(super) direct: Option<Duration>,
}

/// Opens a stream and waits until its path is as it should be.
pub(super) fn open(pair: &Pair, kind: &str) -> Result<Opened> {
    let start = Instant::now();
    let (stream, first_byte) = pair.one.first_byte()?;
    wait_for(pair, kind)?;
    Ok(Opened {
        stream,
        first_byte,
        direct: (kind == "direct").then(|| start.elapsed()),
    })
}

pub(super) fn wait_for(pair: &Pair, kind: &str) -> Result<PathSeen> {
    match pair
        .one
        .wait_for_path(&pair.other.name, PATH_MAX, |path| path.kind == kind)
    {
        Ok(path) => Ok(path),
        Err(path) => bail!("it should be {kind} and is {path:?}"),
    }
}

/// Says what came of it.
pub(super) fn report(
    pair: &Pair,
    place: Place<'_>,
    opened: (Duration, Option<Duration>),
    lost: Option<Duration>,
) -> Result<Report> {
    if let Some(lost) = lost {
        ensure!(lost <= LOST_MAX, "nothing came back for {lost:?}");
    }
    let path = pair.one.path_to(&pair.other.name)?;
    Ok(Report {
        cell: place.cell.to_owned(),
        path: path.kind,
        reason: path.reason,
        first_byte_ms: millis(opened.0),
        direct_ms: opened.1.map(millis),
        lost_ms: lost.map(millis),
    })
}

fn roam(place: Place<'_>, nat: Nat, kind: &str) -> Result<Report> {
    let mut pair = Pair::start(place.dir, nat, nat)?;
    pair.internet.add_second_uplink(&mut pair.one.site)?;
    let opened = open(&pair, kind)?;
    let ticking = Ticking::start(opened.stream)?;
    std::thread::sleep(Duration::from_secs(1));
    pair.one.site.leave(Uplink::First)?;
    pair.one.site.move_to(Uplink::Second)?;
    std::thread::sleep(AFTERMATH);
    wait_for(&pair, kind)?;
    let lost = ticking.finish().context("the stream did not survive")?;
    report(&pair, place, (opened.first_byte, opened.direct), Some(lost))
}

fn relay_elsewhere_behind_443(place: Place<'_>) -> Result<Report> {
    let mut relays: Vec<RelayMachine> = Vec::new();
    let nats = (Nat::Tcp443Only, Nat::Tcp443Only);
    let pair = Pair::start_with(place.dir, nats, |internet, platform| {
        relays = platform.move_relays(internet, 1)?;
        Ok(())
    })?;
    let opened = open(&pair, "relay")?;
    exchange(opened.stream, 300_000)?;
    let path = wait_for(&pair, "relay")?;
    ensure!(
        path.endpoint == "relay relay-0" && path.reason == "udp_blocked",
        "{path:?}"
    );
    report(&pair, place, (opened.first_byte, None), None)
}

/// A pair that stays relayed, with two relays on machines of their own.
fn with_two_relays(place: Place<'_>) -> Result<(Pair, Vec<RelayMachine>)> {
    let mut relays: Vec<RelayMachine> = Vec::new();
    let pair = Pair::start_with(
        place.dir,
        (Nat::Symmetric, Nat::Symmetric),
        |internet, platform| {
            relays = platform.move_relays(internet, 2)?;
            Ok(())
        },
    )?;
    Ok((pair, relays))
}

fn kill_relay(place: Place<'_>) -> Result<Report> {
    let (pair, relays) = with_two_relays(place)?;
    let opened = open(&pair, "relay")?;
    let ticking = Ticking::start(opened.stream)?;
    std::thread::sleep(Duration::from_secs(1));
    let used = pair.one.path_to(&pair.other.name)?.endpoint;
    let carries = |relay: &&RelayMachine| {
        let name = relay.record["name"].as_str();
        name.is_some_and(|name| used == format!("relay {name}"))
    };
    let carrying = relays.iter().find(carries);
    let carrying = carrying.with_context(|| format!("`{used}` is none of the relays"))?;
    carrying.process.kill()?;
    std::thread::sleep(AFTERMATH);
    let lost = ticking.finish().context("the stream did not survive")?;
    let after = wait_for(&pair, "relay")?.endpoint;
    ensure!(
        after != used,
        "the path still leads over the relay that was killed"
    );
    report(&pair, place, (opened.first_byte, opened.direct), Some(lost))
}

fn kill_relay_before(place: Place<'_>) -> Result<Report> {
    let (pair, relays) = with_two_relays(place)?;
    let node = pair.platform.api.call(&["node", &pair.other.name])?;
    let home = relays
        .iter()
        .find(|relay| relay.record["id"] == node["homeRelay"]);
    let home = home.with_context(|| format!("{} is none of the relays", node["homeRelay"]))?;
    home.process.kill()?;
    let opened = open(&pair, "relay")?;
    ensure!(
        opened.first_byte <= FIRST_MAX,
        "the first byte took {:?}",
        opened.first_byte
    );
    exchange(opened.stream, 100_000)?;
    report(&pair, place, (opened.first_byte, opened.direct), None)
}

fn restart_relay(place: Place<'_>) -> Result<Report> {
    let mut pair = Pair::start(place.dir, Nat::Symmetric, Nat::Symmetric)?;
    let opened = open(&pair, "relay")?;
    let ticking = Ticking::start(opened.stream)?;
    std::thread::sleep(Duration::from_secs(1));
    let start = Instant::now();
    if let Some(serve) = pair.platform.serve.take() {
        serve.kill()?;
    }
    pair.platform.start_again()?;
    let away = start.elapsed();
    std::thread::sleep(2 * AFTERMATH);
    let silent = ticking.finish().context("the stream did not survive")?;
    let lost = silent.saturating_sub(away);
    report(&pair, place, (opened.first_byte, opened.direct), Some(lost))
}

fn kill_control(place: Place<'_>) -> Result<Report> {
    let mut pair = Pair::start(place.dir, Nat::PortRestricted, Nat::PortRestricted)?;
    let opened = open(&pair, "direct")?;
    let ticking = Ticking::start(opened.stream)?;
    std::thread::sleep(Duration::from_secs(1));
    if let Some(serve) = pair.platform.serve.take() {
        serve.kill()?;
    }
    std::thread::sleep(AFTERMATH);
    let lost = ticking.finish().context("the stream did not survive")?;
    let (again, _) = pair.one.first_byte().context("open another stream")?;
    exchange(again, 100_000)?;
    wait_for(&pair, "direct")?;
    report(&pair, place, (opened.first_byte, opened.direct), Some(lost))
}

fn kill_control_before(place: Place<'_>) -> Result<Report> {
    let mut relays: Vec<RelayMachine> = Vec::new();
    let nat = Nat::PortRestricted;
    let mut pair = Pair::start_with(place.dir, (nat, nat), |internet, platform| {
        relays = platform.move_relays(internet, 1)?;
        Ok(())
    })?;
    if let Some(serve) = pair.platform.serve.take() {
        serve.kill()?;
    }
    std::thread::sleep(Duration::from_secs(1));
    let opened = open(&pair, "direct")?;
    exchange(opened.stream, 100_000)?;
    report(&pair, place, (opened.first_byte, opened.direct), None)
}

fn stay_silent(place: Place<'_>) -> Result<Report> {
    let pair = Pair::start(place.dir, Nat::ShortTimeouts, Nat::ShortTimeouts)?;
    let opened = open(&pair, "direct")?;
    std::thread::sleep(Duration::from_secs(2 * SHORT_TIMEOUT_SECONDS + 5));
    let start = Instant::now();
    super::device::tick(&opened.stream).context("the stream did not survive")?;
    let lost = start.elapsed();
    wait_for(&pair, "direct")?;
    report(&pair, place, (opened.first_byte, opened.direct), Some(lost))
}
