//! How a NAT filters (RFC 4787, section 5), measured by STUN at the two ports of relays (RFC 5780, section 4.4).
//!
//! A fresh socket writes to the second port of one relay and nowhere else. Then answers come to it from elsewhere: from the
//! relay's first port, and from another relay. Which of them get through is what the NAT lets in. The mesh's own socket cannot
//! be asked: it has written to all of these. How a NAT *maps* is measured by the mesh all the time (`mesh::paths`).

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use mesh::stun::{self, Answer, RESPONSE_LEN_MAX, TransactionId};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use crate::random;

/// How often a question is put: one datagram may be lost.
const ATTEMPTS: u32 = 3;

/// How long each attempt waits for its answer.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(400);

/// From whom a NAT lets something in to an inner port that has written to somebody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filtering {
    /// From anybody.
    EndpointIndependent,
    /// From the addresses that were written to.
    AddressDependent,
    /// From the addresses that were written to at least: whether from others was not to be found out with one relay.
    AtMostAddressDependent,
    /// From the addresses and ports that were written to.
    AddressAndPortDependent,
}

/// The two UDP ports of a relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StunPorts {
    /// The one that relays.
    pub first: SocketAddr,
    /// The one that answers STUN only.
    pub second: SocketAddr,
}

/// What got in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Seen {
    from_other_port: bool,
    /// `None` when there was nobody to send it.
    from_other_address: Option<bool>,
}

/// Measures what is between this machine and relays, over IPv4, in some two seconds at most. `None` when the second ports do
/// not answer, or what came in fits no kind of NAT.
pub async fn measure(relays: &[StunPorts]) -> Option<Filtering> {
    let mut usable = relays.iter().filter(|relay| {
        let is_outside = relay.first.is_ipv4() && relay.second.is_ipv4() && !relay.first.ip().is_loopback();
        // Otherwise the first port is another machine, whatever was written to the second.
        is_outside && relay.first.ip() == relay.second.ip()
    });
    let asked = usable.next()?;
    let other = usable.find(|other| other.first.ip() != asked.first.ip());
    ask(asked, other).await.ok().flatten().and_then(judge)
}

fn judge(seen: Seen) -> Option<Filtering> {
    match (seen.from_other_port, seen.from_other_address) {
        (true, Some(true)) => Some(Filtering::EndpointIndependent),
        (true, Some(false)) => Some(Filtering::AddressDependent),
        (true, None) => Some(Filtering::AtMostAddressDependent),
        (false, Some(false) | None) => Some(Filtering::AddressAndPortDependent),
        (false, Some(true)) => None,
    }
}

/// Returns `None` when the second port does not answer.
async fn ask(asked: &StunPorts, other: Option<&StunPorts>) -> io::Result<Option<Seen>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    // It is this answer, too, for which the NAT keeps the outer port that the others are sent to.
    let plain = exchange(&socket, asked.second, || {
        socket_request(&socket, asked, Answer::Plain)
    });
    let Some(outer) = plain.await? else {
        return Ok(None);
    };
    let other_port = exchange(&socket, asked.first, || {
        socket_request(&socket, asked, Answer::OtherPort)
    });
    let from_other_port = other_port.await?.is_some();
    let from_other_address = match other {
        Some(other) => from_other_address(&socket, outer, other).await?,
        None => None,
    };
    Ok(Some(Seen {
        from_other_port,
        from_other_address,
    }))
}

/// Has another relay write to `socket`'s outer port, by asking it from another socket. `None` when that one is seen at another
/// address than `outer`: then the answer goes elsewhere.
async fn from_other_address(
    socket: &UdpSocket,
    outer: SocketAddr,
    other: &StunPorts,
) -> io::Result<Option<bool>> {
    let asking = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    let plain = exchange(&asking, other.second, || {
        socket_request(&asking, other, Answer::Plain)
    });
    if plain.await?.is_none_or(|seen| seen.ip() != outer.ip()) {
        return Ok(None);
    }
    let to_port = Answer::ToPort(outer.port());
    let arrived = exchange(socket, other.second, || socket_request(&asking, other, to_port));
    Ok(Some(arrived.await?.is_some()))
}

async fn socket_request(socket: &UdpSocket, relay: &StunPorts, answer: Answer) -> io::Result<TransactionId> {
    let transaction = random::bytes();
    let request = stun::request_for(transaction, answer);
    socket.send_to(&request, relay.second).await?;
    Ok(transaction)
}

/// Asks until an answer comes from `from`, and returns whom it saw; `None` after the last attempt.
async fn exchange<F: Future<Output = io::Result<TransactionId>>>(
    socket: &UdpSocket,
    from: SocketAddr,
    ask: impl Fn() -> F,
) -> io::Result<Option<SocketAddr>> {
    let mut asked = Vec::new();
    for _ in 0..ATTEMPTS {
        asked.push(ask().await?);
        let until = Instant::now() + ATTEMPT_TIMEOUT;
        let mut buffer = [0; RESPONSE_LEN_MAX];
        while let Ok(received) = timeout_at(until, socket.recv_from(&mut buffer)).await {
            // What a closed port brings back is no answer.
            let Ok((len, source)) = received else { continue };
            let answer = stun::parse_response(&buffer[..len]).filter(|(id, _)| asked.contains(id));
            if let Some((_, seen)) = answer.filter(|_| source == from) {
                return Ok(Some(seen));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(from_other_port: bool, from_other_address: Option<bool>) -> Option<Filtering> {
        judge(Seen {
            from_other_port,
            from_other_address,
        })
    }

    #[test]
    fn what_gets_in_is_worded_as_the_standard_does() {
        assert_eq!(seen(true, Some(true)), Some(Filtering::EndpointIndependent));
        assert_eq!(seen(true, Some(false)), Some(Filtering::AddressDependent));
        assert_eq!(seen(true, None), Some(Filtering::AtMostAddressDependent));
        assert_eq!(seen(false, Some(false)), Some(Filtering::AddressAndPortDependent));
        assert_eq!(seen(false, None), Some(Filtering::AddressAndPortDependent));
        assert_eq!(seen(false, Some(true)), None);
    }

    #[tokio::test]
    async fn a_relay_on_this_machine_or_with_one_port_tells_nothing() {
        let at = |text: &str| text.parse().expect("an address");
        let ports = |first, second| StunPorts {
            first: at(first),
            second: at(second),
        };
        assert_eq!(measure(&[]).await, None);
        assert_eq!(measure(&[ports("127.0.0.1:7422", "127.0.0.1:7423")]).await, None);
        assert_eq!(measure(&[ports("192.0.2.1:7422", "192.0.2.2:7423")]).await, None);
        assert_eq!(
            measure(&[ports("[2001:db8::1]:7422", "[2001:db8::1]:7423")]).await,
            None
        );
    }
}
