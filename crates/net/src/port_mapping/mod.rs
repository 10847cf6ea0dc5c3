//! Asking the router for a port: PCP and NAT-PMP by one library, UPnP by another. When to ask, and what to believe, is
//! [`mesh::port_mapping`]'s matter.
//!
//! Only the default gateway is spoken to: what else answers in the same network may be anybody's. Every exchange has a limit
//! of time, and the libraries read at most 1 MiB of an answer.

pub mod announcements;
pub mod spoken;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU16;
use std::time::Duration;

use crab_nat::{
    InternetProtocol, PortMapping, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp, pcp,
};
use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{PortMappingProtocol, SearchOptions};
use mesh::port_mapping::{Grant, LIFETIME, Protocol};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long PCP and NAT-PMP may take, each: three datagrams, of which the last is waited for a second.
const BY_DATAGRAM: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 2,
    max_retry_timeout: None,
};

/// How long a router may take to be found by UPnP.
const SEARCH: Duration = Duration::from_secs(3);

/// How long one attempt may take in all.
const ATTEMPT: Duration = Duration::from_secs(15);

/// How long a router may take to close a port.
const RELEASE: Duration = Duration::from_millis(1500);

/// How long an answer is waited for once nobody wants the port any more.
const LAST_WORD: Duration = Duration::from_millis(500);

/// How long a port is asked to be closed of which it is not known whether it was opened.
const TAKING_BACK: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 1,
    max_retry_timeout: None,
};

/// What a router shows its owner of the port.
const DESCRIPTION: &str = "RunMesh";

/// The router of the network that this device is in, and this device's address there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Router {
    /// The default gateway.
    pub gateway: Ipv4Addr,
    /// From which address it is reached.
    pub local: Ipv4Addr,
}

impl Router {
    /// Looks for it; `None` where there is no default gateway of IPv4.
    pub async fn find() -> Option<Self> {
        let gateway = imp::default_gateway().await?;
        // Port 9 discards; nothing is sent.
        match crate::networks::source_toward((gateway, 9).into())? {
            IpAddr::V4(local) if local != gateway => Some(Self { gateway, local }),
            _ => None,
        }
    }
}

/// A port that a router opened. It stays open for its lifetime unless [`Opened::release`] closes it.
#[derive(Debug)]
pub struct Opened {
    grant: Grant,
    how: How,
}

#[derive(Debug)]
enum How {
    ByDatagram(PortMapping),
    Upnp(Gateway<Tokio>),
}

/// Why a router opened no port, by protocol, as far as each was tried.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// None of them opened it.
    #[error("no protocol opened a port: {0}")]
    Refused(String),
    /// It took too long.
    #[error("the router did not answer within {} s", ATTEMPT.as_secs())]
    TooSlow,
    /// Nobody wants it any more. What may have been opened was asked to be closed.
    #[error("asking was stopped")]
    Stopped,
}

impl Opened {
    /// Asks for a port of UDP that leads to `port` of this device; for the one that was `before`, if it can be had. Once
    /// `stop` is cancelled this fails within 1.5 s, and no port stays open of whose opening the router can be told.
    pub async fn open(
        router: Router,
        port: NonZeroU16,
        before: Option<&Self>,
        stop: &CancellationToken,
    ) -> Result<Self, OpenError> {
        let opened = timeout(ATTEMPT, open(router, port, before, stop));
        opened.await.unwrap_or(Err(OpenError::TooSlow))
    }

    /// Returns what the router says that it gave. It may lie.
    #[must_use]
    pub fn grant(&self) -> Grant {
        self.grant
    }

    /// Has the port closed, within 1.5 s or by its own end.
    pub async fn release(self) {
        let release = async {
            match self.how {
                How::ByDatagram(mapping) => mapping.try_drop().await.map_err(|(error, _)| error.to_string()),
                How::Upnp(gateway) => {
                    let outer = self.grant.address.port();
                    let removed = gateway.remove_port(PortMappingProtocol::UDP, outer).await;
                    removed.map_err(|error| error.to_string())
                }
            }
        };
        match timeout(RELEASE, release).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(error, "the router did not close a port"),
            Err(_) => tracing::debug!("the router did not say that it closed a port"),
        }
    }
}

async fn open(
    router: Router,
    port: NonZeroU16,
    before: Option<&Opened>,
    stop: &CancellationToken,
) -> Result<Opened, OpenError> {
    let outer = before.and_then(|before| NonZeroU16::new(before.grant.address.port()));
    let options = PortMappingOptions {
        external_port: Some(outer.unwrap_or(port)),
        lifetime_seconds: u32::try_from(LIFETIME.as_secs()).ok(),
        timeout_config: Some(BY_DATAGRAM),
    };
    let mut refusals = Vec::new();
    // PCP knows a renewal, and who may close a port, by its nonce.
    let nonce = before.and_then(Opened::nonce).unwrap_or_else(new_nonce);
    let (asking, taking_back) = (
        by_pcp(router, port, nonce, options),
        pcp_back(router, port, nonce),
    );
    match settle(asking, taking_back, stop).await? {
        Ok(opened) => return Ok(opened),
        Err(error) => refusals.push(format!("PCP: {error}")),
    }
    let (asking, taking_back) = (by_nat_pmp(router, port, options), nat_pmp_back(router, port));
    match settle(asking, taking_back, stop).await? {
        Ok(opened) => return Ok(opened),
        Err(error) => refusals.push(format!("NAT-PMP: {error}")),
    }
    let found = tokio::select! {
        found = search(router, SEARCH) => found,
        // So far nothing was asked for by UPnP.
        () = stop.cancelled() => return Err(OpenError::Stopped),
    };
    let asking = async { by_upnp(found?, router, port, outer).await };
    // What somebody else of this network has opened must not be closed by its number.
    match settle(asking, async {}, stop).await? {
        Ok(opened) => return Ok(opened),
        Err(error) => refusals.push(format!("UPnP: {error}")),
    }
    Err(OpenError::Refused(refusals.join("; ")))
}

/// Waits for what comes of a question. Once it is stopped, it is waited for a moment only, and the port is closed again: the one
/// that was opened, or by `taking_back` the one that may still be.
async fn settle(
    asking: impl Future<Output = Result<Opened, String>>,
    taking_back: impl Future<Output = ()>,
    stop: &CancellationToken,
) -> Result<Result<Opened, String>, OpenError> {
    let too_late = async {
        stop.cancelled().await;
        sleep(LAST_WORD).await;
    };
    let answer = tokio::select! {
        answer = asking => Some(answer),
        () = too_late => None,
    };
    match answer {
        Some(answer) if !stop.is_cancelled() => return Ok(answer),
        Some(Ok(opened)) => opened.release().await,
        Some(Err(_)) => {}
        None => taking_back.await,
    }
    Err(OpenError::Stopped)
}

fn new_nonce() -> pcp::Nonce {
    let bytes: [u8; 12] = crate::random::bytes();
    let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    [word(0), word(4), word(8)]
}

async fn by_pcp(
    router: Router,
    port: NonZeroU16,
    nonce: pcp::Nonce,
    options: PortMappingOptions,
) -> Result<Opened, String> {
    let (gateway, local) = (router.gateway.into(), router.local.into());
    let base = pcp::BaseMapRequest::new(gateway, local, InternetProtocol::Udp, port);
    let mapping = pcp::port_mapping(base, Some(nonce), None, options)
        .await
        .map_err(|error| error.to_string())?;
    opened_by_pcp(mapping).ok_or_else(|| "another family".to_owned())
}

async fn pcp_back(router: Router, port: NonZeroU16, nonce: pcp::Nonce) {
    let range = pcp::DropMappingRange::Single {
        protocol: InternetProtocol::Udp,
        internal_port: port,
    };
    let (gateway, local) = (router.gateway.into(), router.local.into());
    let closed = pcp::try_drop_mapping(gateway, local, nonce, range, Some(TAKING_BACK));
    if let Err(error) = closed.await {
        tracing::debug!(%error, "the router did not say that it closed a port");
    }
}

async fn nat_pmp_back(router: Router, port: NonZeroU16) {
    let (gateway, protocol) = (router.gateway.into(), InternetProtocol::Udp);
    let closed = natpmp::try_drop_mapping(gateway, protocol, Some(port), Some(TAKING_BACK));
    if let Err(error) = closed.await {
        tracing::debug!(%error, "the router did not say that it closed a port");
    }
}

fn opened_by_pcp(mapping: PortMapping) -> Option<Opened> {
    let PortMappingType::Pcp { external_ip, .. } = mapping.mapping_type() else {
        return None;
    };
    let IpAddr::V4(outer) = external_ip.to_canonical() else {
        return None;
    };
    Some(Opened::by_datagram(mapping, Protocol::Pcp, outer))
}

async fn by_nat_pmp(router: Router, port: NonZeroU16, options: PortMappingOptions) -> Result<Opened, String> {
    let gateway = router.gateway.into();
    let asking = async {
        let outer = natpmp::external_address(gateway, options.timeout_config).await?;
        let mapping = natpmp::port_mapping(gateway, InternetProtocol::Udp, port, options).await?;
        Ok(Opened::by_datagram(mapping, Protocol::NatPmp, outer))
    };
    asking.await.map_err(|error: natpmp::Failure| error.to_string())
}

impl Opened {
    fn nonce(&self) -> Option<pcp::Nonce> {
        let How::ByDatagram(mapping) = &self.how else {
            return None;
        };
        match mapping.mapping_type() {
            PortMappingType::Pcp { nonce, .. } => Some(nonce),
            PortMappingType::NatPmp => None,
        }
    }

    fn by_datagram(mapping: PortMapping, protocol: Protocol, outer: Ipv4Addr) -> Self {
        let grant = Grant {
            protocol,
            address: SocketAddrV4::new(outer, mapping.external_port().get()),
            lifetime: Duration::from_secs(mapping.lifetime().into()),
            epoch: Some(mapping.gateway_epoch()),
        };
        Self {
            grant,
            how: How::ByDatagram(mapping),
        }
    }
}

async fn by_upnp(
    found: Gateway<Tokio>,
    router: Router,
    port: NonZeroU16,
    before: Option<NonZeroU16>,
) -> Result<Opened, String> {
    let outer = outer_of(&found).await?;
    let local = SocketAddr::from((router.local, port.get()));
    let seconds = u32::try_from(LIFETIME.as_secs()).unwrap_or(u32::MAX);
    let wanted = before.unwrap_or(port).get();
    let added = found
        .add_port(PortMappingProtocol::UDP, wanted, local, seconds, DESCRIPTION)
        .await;
    let given = match added {
        Ok(()) => wanted,
        // Somebody else of this network has the port.
        Err(_) => found
            .add_any_port(PortMappingProtocol::UDP, local, seconds, DESCRIPTION)
            .await
            .map_err(|error| error.to_string())?,
    };
    let grant = Grant {
        protocol: Protocol::Upnp,
        address: SocketAddrV4::new(outer, given),
        lifetime: LIFETIME,
        epoch: None,
    };
    Ok(Opened {
        grant,
        how: How::Upnp(found),
    })
}

/// Looks for the router by UPnP.
async fn search(router: Router, patience: Duration) -> Result<Gateway<Tokio>, String> {
    let mut options = SearchOptions::default();
    options.bind_addr = SocketAddr::from((router.local, 0));
    options.timeout = Some(patience);
    options.single_search_timeout = Some(patience);
    let found = search_gateway(options).await.map_err(|error| error.to_string())?;
    if found.addr.ip() != router.gateway {
        return Err(format!(
            "{} answers, and is not the default gateway",
            found.addr.ip()
        ));
    }
    Ok(found)
}

async fn outer_of(found: &Gateway<Tokio>) -> Result<Ipv4Addr, String> {
    match found.get_external_ip().await {
        Ok(IpAddr::V4(outer)) => Ok(outer),
        Ok(IpAddr::V6(_)) => Err("another family".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// The kernel's table of routes.
#[cfg(target_os = "linux")]
mod imp {
    use std::net::Ipv4Addr;

    const ROUTES: &str = "/proc/net/route";

    pub(super) async fn default_gateway() -> Option<Ipv4Addr> {
        super::gateway_of_proc(&std::fs::read_to_string(ROUTES).ok()?)
    }
}

/// What `route` says of the way to everywhere.
#[cfg(not(target_os = "linux"))]
mod imp {
    use std::net::Ipv4Addr;
    use std::process::Stdio;
    use std::time::Duration;

    pub(super) async fn default_gateway() -> Option<Ipv4Addr> {
        let mut route = tokio::process::Command::new("/sbin/route");
        route.args(["-n", "get", "default"]);
        route.stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(Duration::from_secs(2), route.output());
        let output = output.await.ok()?.ok()?;
        super::gateway_of_route(&String::from_utf8_lossy(&output.stdout))
    }
}

/// Reads the default gateway with the least metric from the text of `/proc/net/route`.
#[cfg(any(target_os = "linux", test))]
fn gateway_of_proc(routes: &str) -> Option<Ipv4Addr> {
    let read = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let hex = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
        let (destination, gateway, flags, mask) = (hex(1)?, hex(2)?, hex(3)?, hex(7)?);
        let metric: u32 = fields.get(6)?.parse().ok()?;
        // Up, and by a gateway.
        let is_default = destination == 0 && mask == 0 && flags & 3 == 3 && gateway != 0;
        is_default.then(|| (metric, Ipv4Addr::from(gateway.to_ne_bytes())))
    };
    let defaults = routes.lines().skip(1).filter_map(read);
    defaults.min().map(|(_, gateway)| gateway)
}

/// Reads the gateway from what `route -n get default` prints.
#[cfg(any(not(target_os = "linux"), test))]
fn gateway_of_route(text: &str) -> Option<Ipv4Addr> {
    let mut lines = text.lines();
    lines.find_map(|line| line.trim().strip_prefix("gateway:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_gateway_with_the_least_metric_is_taken() {
        let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
        let gateway = |last: u8| format!("{:08X}", u32::from_ne_bytes([192, 168, 1, last]));
        let line = |destination: &str, gateway: &str, flags: &str, metric: u32, mask: &str| {
            format!("eth0\t{destination}\t{gateway}\t{flags}\t0\t0\t{metric}\t{mask}\t0\t0\t0\n")
        };
        let zero = "00000000";
        let text = [
            head.to_owned(),
            line(zero, &gateway(3), "0003", 600, zero),
            line(zero, &gateway(1), "0003", 100, zero),
            line(zero, &gateway(2), "0002", 1, zero),
            line(zero, zero, "0001", 2, zero),
            line("0001A8C0", zero, "0001", 0, "00FFFFFF"),
            line(zero, &gateway(4), "0003", 0, "000000FF"),
        ]
        .concat();
        assert_eq!(gateway_of_proc(&text), Some([192, 168, 1, 1].into()));
        for bad in [
            "",
            head,
            "a b c",
            "eth0\t0\n",
            &format!("{head}eth0 0 zz 3 0 0 0 0\n"),
        ] {
            assert_eq!(gateway_of_proc(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn what_route_prints_names_the_gateway_unless_it_is_a_link() {
        let text = "   route to: default\ndestination: default\n       mask: default\n    gateway: 192.168.1.1\n  interface: en0\n";
        assert_eq!(gateway_of_route(text), Some([192, 168, 1, 1].into()));
        assert_eq!(gateway_of_route(&text.replace("192.168.1.1", "link#4")), None);
        assert_eq!(gateway_of_route(""), None);
    }
}
