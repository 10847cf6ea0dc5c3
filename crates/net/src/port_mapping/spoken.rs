//! Which protocols for opening ports the router speaks. Nothing is opened by asking.

use std::net::Ipv4Addr;
use std::time::Duration;

use mesh::port_mapping::word::{ASK_NAT_PMP, LEN_MAX, ROUTER_PORT, Word, ask_pcp};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::{Router, outer_of, search};

/// After which times PCP and NAT-PMP are given up, or asked again.
const ATTEMPTS: [Duration; 3] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_millis(1000),
];

/// How long a router may take to be found by UPnP.
const SEARCH: Duration = Duration::from_secs(2);

/// What came of asking by one protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Answer {
    /// Whether it was answered.
    pub is_spoken: bool,
    /// The router's outer address, where it was told.
    pub outer: Option<Ipv4Addr>,
}

/// What a router speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Spoken {
    /// PCP, which tells its outer address with a port only.
    pub pcp: Answer,
    /// NAT-PMP.
    pub nat_pmp: Answer,
    /// UPnP.
    pub upnp: Answer,
}

impl Spoken {
    /// Asks by each protocol, all at the same time: some four seconds at most, two of them when UPnP is not answered.
    pub async fn by(router: Router) -> Self {
        let (datagrams, upnp) = tokio::join!(by_datagram(router), by_upnp(router));
        Self {
            upnp,
            // Without a socket there is no answer.
            ..datagrams.unwrap_or_default()
        }
    }
}

async fn by_datagram(router: Router) -> std::io::Result<Spoken> {
    let socket = UdpSocket::bind((router.local, 0)).await?;
    // From here on nobody else is heard.
    socket.connect((router.gateway, ROUTER_PORT)).await?;
    let mut spoken = Spoken::default();
    let mut buffer = [0; LEN_MAX + 1];
    for patience in ATTEMPTS {
        if !spoken.pcp.is_spoken {
            socket.send(&ask_pcp(router.local)).await?;
        }
        if !spoken.nat_pmp.is_spoken {
            socket.send(&ASK_NAT_PMP).await?;
        }
        let until = Instant::now() + patience;
        while !(spoken.pcp.is_spoken && spoken.nat_pmp.is_spoken) {
            match timeout_at(until, socket.recv(&mut buffer)).await {
                Ok(Ok(len)) => spoken.note(&buffer[..len]),
                // Nobody listens there, which is said at once; it may begin to.
                Ok(Err(_)) => tokio::time::sleep_until(until).await,
                Err(_) => break,
            }
        }
    }
    Ok(spoken)
}

impl Spoken {
    fn note(&mut self, message: &[u8]) {
        match Word::read(message) {
            Some(Word::Pcp { .. }) => self.pcp.is_spoken = true,
            Some(Word::NatPmp { outer, .. }) => {
                self.nat_pmp = Answer {
                    is_spoken: true,
                    outer: Some(outer).filter(|outer| !outer.is_unspecified()),
                };
            }
            None => {}
        }
    }
}

async fn by_upnp(router: Router) -> Answer {
    match search(router, SEARCH).await {
        Ok(found) => Answer {
            is_spoken: true,
            outer: tokio::time::timeout(SEARCH, outer_of(&found))
                .await
                .ok()
                .and_then(Result::ok),
        },
        Err(_) => Answer::default(),
    }
}
