//! The kinds of networks that a site of the lab may have, and how nftables plays each.
//!
//! Linux's own NAT keeps a port where it can, so that one socket has one outer port whatever it sends to
//! (endpoint-independent mapping), and lets in only what answers (address- and port-dependent filtering): that is
//! *port-restricted*. Drawing a port at random for each flow makes it *symmetric*. For the two that let in more, every packet
//! that leaves is noted in a map from outer port to inner address, and what comes from strangers is led inside by that map:
//! from anybody for *full cone*, from addresses that this port has sent to for *restricted*.
//!
//! Whether it plays them right is measured, not believed: see [`super::behaviour`].

/// What lies between a node and the internet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Nat {
    /// Nothing: the node has public addresses of both families.
    None,
    /// Endpoint-independent mapping and filtering.
    FullCone,
    /// Endpoint-independent mapping, address-dependent filtering.
    Restricted,
    /// Endpoint-independent mapping, address- and port-dependent filtering.
    PortRestricted,
    /// Address- and port-dependent mapping and filtering.
    Symmetric,
    /// Symmetric, and its router opens ports by UPnP only.
    SymmetricWithUpnp,
    /// Symmetric, and its router opens ports by PCP and NAT-PMP only.
    SymmetricWithPcp,
    /// Symmetric, and its router opens ports by NAT-PMP only: it hears no PCP.
    SymmetricWithNatPmp,
    /// Two port-restricted NATs, 100.64.0.0/10 between them.
    Cgnat,
    /// Port-restricted, and who inside writes to an outer address of it is led back inside (RFC 4787 section 6).
    Hairpinning,
    /// Port-restricted, and it forgets a UDP flow after ten silent seconds.
    ShortTimeouts,
    /// No UDP at all; TCP goes anywhere.
    UdpBlocked,
    /// Nothing but TCP to port 443.
    Tcp443Only,
    /// No IPv4 at all; IPv6 behind a firewall that lets in answers only.
    Ipv6Only,
}

/// How long a NAT with short timeouts remembers a UDP flow, in seconds.
pub const SHORT_TIMEOUT_SECONDS: u64 = 10;

impl Nat {
    /// Returns the word for it in the names of cells.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::FullCone => "full_cone",
            Self::Restricted => "restricted",
            Self::PortRestricted => "port_restricted",
            Self::Symmetric => "symmetric",
            Self::SymmetricWithUpnp => "symmetric_with_upnp",
            Self::SymmetricWithPcp => "symmetric_with_pcp",
            Self::SymmetricWithNatPmp => "symmetric_with_nat_pmp",
            Self::Cgnat => "cgnat",
            Self::Hairpinning => "hairpinning",
            Self::ShortTimeouts => "short_timeouts",
            Self::UdpBlocked => "udp_blocked",
            Self::Tcp443Only => "tcp_443_only",
            Self::Ipv6Only => "ipv6_only",
        }
    }

    /// Tells whether the router opens ports when it is asked.
    #[must_use]
    pub fn opens_ports(self) -> bool {
        matches!(
            self,
            Self::SymmetricWithUpnp | Self::SymmetricWithPcp | Self::SymmetricWithNatPmp
        )
    }

    /// Returns what is noted of datagrams that leave, and who may enter by it.
    fn filtering(self) -> (String, &'static str) {
        match self {
            Self::FullCone => (NOTE_PORT.to_owned(), "iifname \"wan\" ct status dnat accept"),
            Self::Restricted => (
                format!("{NOTE_PORT}\n    {NOTE_ADDRESS}"),
                "iifname \"wan\" ip saddr . udp dport @written_to accept",
            ),
            Self::Hairpinning => (NOTE_PORT.to_owned(), "iifname \"lan\" ct status dnat accept"),
            _ => (String::new(), ""),
        }
    }

    /// Returns the rules of the router whose links are `wan` and `lan`.
    pub(super) fn rules(self) -> String {
        let may_leave = match self {
            Self::UdpBlocked => "oifname \"wan\" meta l4proto udp drop\n    oifname \"wan\" accept",
            Self::Tcp443Only => "oifname \"wan\" tcp dport 443 accept",
            _ => "oifname \"wan\" accept",
        };
        let translate = match self {
            _ if self == Self::Symmetric || self.opens_ports() => "masquerade random,fully-random",
            _ => "masquerade",
        };
        let (note, may_enter) = self.filtering();
        if self == Self::Ipv6Only {
            return firewall();
        }
        let deaf_to = match self {
            Self::SymmetricWithNatPmp => PCP,
            _ => "",
        };
        // miniupnpd writes what it opens into chains of its own.
        let (family, strangers, let_in, opened) = match self {
            _ if self.opens_ports() => ("inet", "jump lead_in", "jump opened", OPENED),
            Self::Hairpinning => ("ip", LEAD_BACK, "", ""),
            _ => ("ip", LEAD_INSIDE, "", ""),
        };
        let translate_back = match self {
            Self::Hairpinning => SHOW_OUTSIDE,
            _ => "",
        };
        format!(
            r#"table {family} site {{
  map inside {{
    typeof udp dport : ip daddr . udp dport
    flags dynamic,timeout
    timeout 120s
  }}
  set written_to {{
    typeof ip saddr . udp dport
    flags dynamic,timeout
    timeout 120s
  }}
  chain strangers {{
    type nat hook prerouting priority dstnat
    {strangers}
  }}
  chain leaving {{
    type nat hook postrouting priority srcnat
    oifname "wan" {translate}
    {translate_back}
  }}
  chain passing {{
    type filter hook forward priority filter
    policy drop
    {note}
    {may_leave}
    ct state established,related accept
    {may_enter}
    {let_in}
  }}
  {opened}
  chain arriving {{
    type filter hook input priority filter
    iifname "wan" ct state new drop
    {deaf_to}
  }}
}}
"#
        )
    }
}

/// Where strangers are led who write to a port that has one.
const LEAD_INSIDE: &str = "iifname \"wan\" dnat to udp dport map @inside";

/// Where neighbours are led who write to the outer address of one of them.
const LEAD_BACK: &str =
    "iifname \"lan\" ip daddr 203.0.113.0/24 fib daddr type local dnat to udp dport map @inside";

/// As whom they are seen there: as they would be outside.
const SHOW_OUTSIDE: &str = "oifname \"lan\" ct status dnat snat to ct original ip daddr";

/// Where miniupnpd writes what it opens, in a table of the family that it knows.
const OPENED: &str = "chain opened {\n  }\n  chain lead_in {\n  }\n  chain lead_out {\n  }";

/// What is asked by PCP: its version is the first byte.
const PCP: &str = "udp dport 5351 @th,64,8 2 drop";

/// Which inner socket has an outer port.
const NOTE_PORT: &str =
    "oifname \"wan\" meta l4proto udp update @inside { udp sport : ip saddr . udp sport }";

/// To which addresses an inner socket has written.
const NOTE_ADDRESS: &str = "oifname \"wan\" meta l4proto udp update @written_to { ip daddr . udp sport }";

fn firewall() -> String {
    r#"table ip6 site {
  chain passing {
    type filter hook forward priority filter
    policy drop
    oifname "wan" accept
    ct state established,related accept
  }
}
"#
    .to_owned()
}
