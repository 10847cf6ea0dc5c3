//! The packet filter that a netmap carries: what peers may open towards a node. Who enforces it is `mesh::filter`.
//!
//! As JSON it is `{"rules": [{"from": ["100.64.0.7/32", "fd00::7/128"], "to": ["tcp:22", "icmp"]}]}`: what matches no rule
//! is dropped, unless it answers something of the node's own. The format is described in `docs/protocol/filter.md`.

mod change;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::address::AllowedIp;
use crate::netmap::PEERS_MAX;

pub use change::FilterChange;

/// The most rules of one filter: one for each peer, and one for everybody.
pub const RULES_MAX: usize = PEERS_MAX + 1;

/// The most blocks that one rule names: two addresses of every peer, and everybody.
pub const RULE_BLOCKS_MAX: usize = 2 * PEERS_MAX + 2;

/// The most entries of one rule's `to`: as many as a policy can name.
pub const RULE_PORTS_MAX: usize = crate::policy::GRANTS_MAX * crate::policy::PORTS_MAX;

/// What is wrong with a filter that names more than its netmap's peers.
pub(crate) const UNKNOWN_BLOCK: &str = "a rule names an address of no peer";

/// Everything that peers may open towards one node.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PacketFilter {
    /// Each lets something through; their order means nothing.
    pub rules: Vec<FilterRule>,
}

/// Lets some peers reach some ports.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FilterRule {
    /// From which addresses.
    pub from: Vec<AllowedIp>,
    /// To what on this node.
    pub to: Vec<Ports>,
}

impl PacketFilter {
    /// Makes a filter that lets everybody reach one thing.
    #[must_use]
    pub fn everybody(to: Ports) -> Self {
        let rule = FilterRule {
            from: AllowedIp::everywhere().to_vec(),
            to: vec![to],
        };
        Self { rules: vec![rule] }
    }

    /// Checks the limits, and that every block is everybody's or somebody's.
    pub(crate) fn verify(&self, is_somebodys: impl Fn(&AllowedIp) -> bool) -> Result<(), &'static str> {
        self.verify_sizes()?;
        let mut blocks = self.rules.iter().flat_map(|rule| &rule.from);
        let is_known = |block: &AllowedIp| block.prefix_len() == 0 || is_somebodys(block);
        blocks.all(is_known).then_some(()).ok_or(UNKNOWN_BLOCK)
    }

    /// Checks the limits.
    pub(crate) fn verify_sizes(&self) -> Result<(), &'static str> {
        if self.rules.len() > RULES_MAX {
            return Err("it has more rules than peers");
        }
        for rule in &self.rules {
            if rule.from.is_empty() || rule.from.len() > RULE_BLOCKS_MAX {
                return Err("a rule must have 1 to 200002 blocks");
            }
            if rule.to.is_empty() || rule.to.len() > RULE_PORTS_MAX {
                return Err("a rule must have 1 to 4096 ports");
            }
        }
        Ok(())
    }
}

/// What is carried inside IP, as far as a policy speaks of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// ICMP and ICMPv6: echo requests.
    Icmp,
}

/// One thing that can be reached on a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Service {
    /// A TCP port.
    Tcp(u16),
    /// A UDP port.
    Udp(u16),
    /// The answer to an echo request.
    Icmp,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(port) => write!(f, "tcp:{port}"),
            Self::Udp(port) => write!(f, "udp:{port}"),
            Self::Icmp => f.write_str("icmp"),
        }
    }
}

/// What of a node may be reached: `*`, `icmp`, `tcp:22`, `udp:5000-5999` or `tcp:*`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ports {
    /// Everything, whatever the protocol.
    All,
    /// Echo requests of ICMP and ICMPv6.
    Icmp,
    /// TCP ports.
    Tcp(PortRange),
    /// UDP ports.
    Udp(PortRange),
}

/// Ports from the first to the last, both included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// A text that names no ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be *, icmp, or tcp: or udp: with a port, a range such as 8000-8999, or *")]
pub struct PortsError;

impl PortRange {
    /// Every port.
    pub const ALL: Self = Self {
        first: 0,
        last: u16::MAX,
    };

    /// Makes a range; refuses one that ends before it begins, and port 0.
    pub fn new(first: u16, last: u16) -> Result<Self, PortsError> {
        let is_range = first != 0 && first <= last;
        is_range.then_some(Self { first, last }).ok_or(PortsError)
    }

    /// Returns the first port.
    #[must_use]
    pub fn first(&self) -> u16 {
        self.first
    }

    /// Returns the last port.
    #[must_use]
    pub fn last(&self) -> u16 {
        self.last
    }

    /// Tells whether the range holds `port`.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// Returns both ranges as one, if nothing lies between them. `self` must not begin after `next`.
    fn joined(self, next: Self) -> Option<Self> {
        (u32::from(next.first) <= u32::from(self.last) + 1).then(|| Self {
            first: self.first,
            last: self.last.max(next.last),
        })
    }
}

impl Ports {
    /// Tells whether `service` is among them.
    #[must_use]
    pub fn covers(&self, service: Service) -> bool {
        match (self, service) {
            (Self::All, _) | (Self::Icmp, Service::Icmp) => true,
            (Self::Tcp(range), Service::Tcp(port)) | (Self::Udp(range), Service::Udp(port)) => {
                range.contains(port)
            }
            _ => false,
        }
    }

    /// Writes the same ports in the fewest entries, in one order.
    #[must_use]
    pub fn merged(mut ports: Vec<Self>) -> Vec<Self> {
        ports.sort_unstable();
        if ports.first() == Some(&Self::All) {
            return vec![Self::All];
        }
        let mut merged: Vec<Self> = Vec::with_capacity(ports.len());
        for next in ports {
            let joined = match (merged.last(), next) {
                (Some(Self::Tcp(last)), Self::Tcp(next)) => last.joined(next).map(Self::Tcp),
                (Some(Self::Udp(last)), Self::Udp(next)) => last.joined(next).map(Self::Udp),
                (Some(Self::Icmp), Self::Icmp) => Some(Self::Icmp),
                _ => None,
            };
            match joined {
                Some(joined) => *merged.last_mut().expect("it was joined with one") = joined,
                None => merged.push(next),
            }
        }
        merged
    }
}

impl FromStr for Ports {
    type Err = PortsError;

    fn from_str(text: &str) -> Result<Self, PortsError> {
        match text {
            "*" => return Ok(Self::All),
            "icmp" => return Ok(Self::Icmp),
            _ => {}
        }
        let (protocol, range) = text.split_once(':').ok_or(PortsError)?;
        let range = read_range(range)?;
        match protocol {
            "tcp" => Ok(Self::Tcp(range)),
            "udp" => Ok(Self::Udp(range)),
            _ => Err(PortsError),
        }
    }
}

fn read_range(text: &str) -> Result<PortRange, PortsError> {
    if text == "*" {
        return Ok(PortRange::ALL);
    }
    let port = |text: &str| {
        let is_plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
        text.parse().ok().filter(|_| is_plain).ok_or(PortsError)
    };
    match text.split_once('-') {
        Some((first, last)) => PortRange::new(port(first)?, port(last)?),
        None => port(text).and_then(|port| PortRange::new(port, port)),
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (protocol, range) = match self {
            Self::All => return f.write_str("*"),
            Self::Icmp => return f.write_str("icmp"),
            Self::Tcp(range) => ("tcp", range),
            Self::Udp(range) => ("udp", range),
        };
        match (range.first, range.last) {
            (0, _) => write!(f, "{protocol}:*"),
            (first, last) if first == last => write!(f, "{protocol}:{first}"),
            (first, last) => write!(f, "{protocol}:{first}-{last}"),
        }
    }
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn ports(texts: &[&str]) -> Vec<Ports> {
        texts.iter().map(|text| text.parse().expect(text)).collect()
    }

    #[test]
    fn ports_have_one_text_each() {
        for good in [
            "*",
            "icmp",
            "tcp:22",
            "udp:1-65535",
            "tcp:*",
            "udp:*",
            "tcp:8000-8999",
        ] {
            assert_eq!(good.parse::<Ports>().expect(good).to_string(), good);
        }
        for bad in [
            "",
            "22",
            "tcp",
            "tcp:",
            "tcp:0",
            "tcp:0-5",
            "tcp:9-8",
            "tcp:65536",
            "tcp:+1",
            "tcp:1-",
            "sctp:1",
            "icmp:1",
            "TCP:1",
            "tcp: 1",
            "tcp:01",
            "tcp:1-2-3",
            "*:1",
        ] {
            assert_eq!(bad.parse::<Ports>(), Err(PortsError), "{bad}");
        }
    }

    #[test]
    fn what_touches_is_joined() {
        let check = |before: &[&str], after: &[&str]| assert_eq!(Ports::merged(ports(before)), ports(after));
        check(
            &["tcp:3", "tcp:1-2", "icmp", "icmp", "udp:4"],
            &["icmp", "tcp:1-3", "udp:4"],
        );
        check(&["tcp:1", "tcp:3"], &["tcp:1", "tcp:3"]);
        check(
            &["tcp:1-9", "tcp:2", "tcp:65535", "tcp:10-65535"],
            &["tcp:1-65535"],
        );
        check(&["tcp:1", "*"], &["*"]);
        check(&["tcp:*", "tcp:5"], &["tcp:*"]);
    }

    #[test]
    fn coverage_knows_protocols_apart() {
        assert!(ports(&["tcp:22"])[0].covers(Service::Tcp(22)));
        assert!(!ports(&["tcp:22"])[0].covers(Service::Udp(22)));
        assert!(!ports(&["tcp:*"])[0].covers(Service::Icmp));
        assert!(ports(&["*"])[0].covers(Service::Icmp));
    }

    #[test]
    fn the_form_in_the_netmap_is_pinned() {
        let filter = PacketFilter {
            rules: vec![FilterRule {
                from: vec!["100.64.0.7/32".parse().expect("block")],
                to: ports(&["tcp:22", "icmp"]),
            }],
        };
        let text = r#"{"rules":[{"from":["100.64.0.7/32"],"to":["tcp:22","icmp"]}]}"#;
        assert_eq!(serde_json::to_string(&filter).expect("serializes"), text);
        assert_eq!(
            serde_json::from_str::<PacketFilter>(text).expect("own text"),
            filter
        );
        let everybody = r#"{"rules":[{"from":["0.0.0.0/0","::/0"],"to":["*"]}]}"#;
        let made = PacketFilter::everybody(Ports::All);
        assert_eq!(serde_json::to_string(&made).expect("serializes"), everybody);
    }

    #[test]
    fn a_filter_that_cannot_be_is_refused() {
        let known: BTreeSet<AllowedIp> = ["100.64.0.7/32".parse().expect("block")].into();
        let check = |spoil: &dyn Fn(&mut PacketFilter), expected: Result<(), &'static str>| {
            let mut filter = PacketFilter::everybody(Ports::All);
            filter.rules[0].from.extend(&known);
            spoil(&mut filter);
            assert_eq!(filter.verify(|block| known.contains(block)), expected);
        };
        check(&|_| {}, Ok(()));
        let stranger: AllowedIp = "100.64.0.8/32".parse().expect("block");
        check(
            &|filter| filter.rules[0].from.push(stranger),
            Err("a rule names an address of no peer"),
        );
        check(
            &|filter| filter.rules[0].from.clear(),
            Err("a rule must have 1 to 200002 blocks"),
        );
        check(
            &|filter| {
                filter.rules[0]
                    .from
                    .resize(RULE_BLOCKS_MAX + 1, AllowedIp::everywhere()[0])
            },
            Err("a rule must have 1 to 200002 blocks"),
        );
        check(
            &|filter| filter.rules[0].to.clear(),
            Err("a rule must have 1 to 4096 ports"),
        );
        check(
            &|filter| filter.rules[0].to.resize(RULE_PORTS_MAX, Ports::All),
            Ok(()),
        );
        check(
            &|filter| filter.rules[0].to.resize(RULE_PORTS_MAX + 1, Ports::All),
            Err("a rule must have 1 to 4096 ports"),
        );
        let rule = PacketFilter::everybody(Ports::All).rules.remove(0);
        check(
            &|filter| filter.rules.resize(RULES_MAX + 1, rule.clone()),
            Err("it has more rules than peers"),
        );
    }
}
