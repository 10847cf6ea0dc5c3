//! The handshakes by which a program on this device asks for a connection into the mesh: SOCKS5 and HTTP CONNECT.
//!
//! Pure functions over the bytes that have come so far, each bounded. They say what was asked; whether a name or an
//! address is of the mesh, and who may ask, is not decided here.

pub mod http_connect;
pub mod socks5;

use std::net::IpAddr;

/// The longest host name, in bytes (RFC 1035 section 2.3.4, and what the length byte of SOCKS5 can say).
pub const NAME_LEN_MAX: usize = 255;

/// Which protocol a client speaks, by the first byte it sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spoken {
    /// SOCKS, version 5.
    Socks5,
    /// HTTP: a method's letter.
    Http,
}

impl Spoken {
    /// Tells the protocols apart; `None` for any other.
    #[must_use]
    pub fn of(first: u8) -> Option<Self> {
        match first {
            socks5::VERSION => Some(Self::Socks5),
            b'A'..=b'Z' => Some(Self::Http),
            _ => None,
        }
    }
}

/// What the bytes so far are worth.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Progress<T> {
    /// They are the beginning of a message.
    More,
    /// They begin with a whole message.
    Done {
        /// What it says.
        value: T,
        /// How many bytes it is long; what follows is the next message, or data.
        len: usize,
    },
}

/// Where a client wants to be connected to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The host.
    pub host: Host,
    /// The TCP port; never 0.
    pub port: u16,
}

/// A host as a client names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A name: 1 to 255 letters, digits, hyphens, dots and underscores; nothing more is known of it.
    Name(String),
}

impl Host {
    /// Takes a name, or an address written as one; `None` when it is neither.
    fn from_text(text: &[u8]) -> Option<Self> {
        let text = str::from_utf8(text).ok()?;
        if let Ok(address) = text.parse() {
            return Some(Self::Ip(address));
        }
        let is_of_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        let is_name = !text.is_empty() && text.len() <= NAME_LEN_MAX && text.bytes().all(is_of_name);
        is_name.then(|| Self::Name(text.to_owned()))
    }
}

impl std::str::FromStr for Host {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Self, BadTarget> {
        Self::from_text(text.as_bytes()).ok_or(BadTarget::BadHost)
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl std::str::FromStr for Target {
    type Err = BadTarget;

    /// Reads `HOST:PORT`; an IPv6 address stands in brackets.
    fn from_str(text: &str) -> Result<Self, BadTarget> {
        let (host, port) = text.rsplit_once(':').ok_or(BadTarget::NoPort)?;
        let is_number = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse().ok().filter(|port| is_number && *port != 0);
        let port = port.ok_or(BadTarget::NoPort)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let address = rest.strip_suffix(']').and_then(|inner| inner.parse().ok());
                Host::Ip(IpAddr::V6(address.ok_or(BadTarget::BadHost)?))
            }
            None if host.contains(':') => return Err(BadTarget::BadHost),
            None => Host::from_text(host.as_bytes()).ok_or(BadTarget::BadHost)?,
        };
        Ok(Self { host, port })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

/// Why a text names no host and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// No port stands behind the last colon.
    #[error("must end with a colon and a port from 1 to 65535")]
    NoPort,
    /// What stands before it is no host.
    #[error("must begin with a name or an address, an IPv6 address in brackets")]
    BadHost,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_host_and_a_port_and_is_written_as_it_is_read() {
        for text in [
            "laptop:80",
            "laptop.home.mesh.internal:65535",
            "100.64.0.2:1",
            "[fd00::2]:443",
        ] {
            let target: Target = text.parse().expect(text);
            assert_eq!(target.to_string(), text);
        }
        let target: Target = "100.64.0.2:22".parse().expect("an address");
        assert_eq!(target.host, Host::Ip("100.64.0.2".parse().expect("an address")));
    }

    #[test]
    fn what_is_no_target_is_refused() {
        let bad = [
            "",
            ":",
            "laptop",
            "laptop:",
            "laptop:0",
            "laptop:65536",
            "laptop:+80",
            "laptop:8x",
            ":80",
            "fd00::2:80",
            "[fd00::2:80",
            "[fd00::2]",
            "[100.64.0.2]:80",
            "lap top:80",
            "lap\u{7f}:80",
            "läptop:80",
            "[fd00::2%1]:80",
        ];
        for text in bad {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
        let longest = "x".repeat(NAME_LEN_MAX);
        assert!(format!("{longest}:80").parse::<Target>().is_ok());
        assert!(format!("{longest}x:80").parse::<Target>().is_err());
    }

    #[test]
    fn the_first_byte_tells_the_protocols_apart() {
        assert_eq!(Spoken::of(5), Some(Spoken::Socks5));
        assert_eq!(Spoken::of(b'C'), Some(Spoken::Http));
        for other in [0, 4, b'c', 0x16, 0xff] {
            assert_eq!(Spoken::of(other), None);
        }
    }
}
