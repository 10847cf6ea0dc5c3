//! SOCKS5 (RFC 1928) with user name and password (RFC 1929): what a client sends, and what it is answered.
//!
//! | message | bytes |
//! |---|---|
//! | greeting | version `5`, count `n`, `n` methods |
//! | its answer | version `5`, method (`0` none, `2` password, `255` none of them) |
//! | password | version `1`, length and user name, length and password |
//! | its answer | version `1`, `0` right or `1` wrong |
//! | request | version `5`, command (`1` CONNECT), `0`, address type (`1` IPv4, `3` name, `4` IPv6), address, port |
//! | its answer | version `5`, reply, `0`, address type, address, port |
//!
//! A name is one length byte and as many bytes; ports are in network order. BIND and UDP ASSOCIATE are refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use types::SecretString;

use super::{Host, Progress, Target};

/// The first byte of a greeting and a request.
pub const VERSION: u8 = 5;

/// The longest message of a client, in bytes: a password with both texts at their longest.
pub const MESSAGE_LEN_MAX: usize = 3 + 255 + 255;

const PASSWORD_VERSION: u8 = 1;
const CONNECT: u8 = 1;
const TYPE_IP4: u8 = 1;
const TYPE_NAME: u8 = 3;
const TYPE_IP6: u8 = 4;

/// Why a message cannot be understood or done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Socks5Error {
    /// A message begins with another version.
    #[error("version {0} is not spoken here")]
    BadVersion(u8),
    /// Something other than CONNECT was asked for.
    #[error("command {0} is not CONNECT")]
    BadCommand(u8),
    /// The address is of no known type.
    #[error("address type {0} is none")]
    BadAddressType(u8),
    /// The name is none, or the port is 0.
    #[error("the target is no host and port")]
    BadTarget,
}

impl Socks5Error {
    /// Returns what to answer a request with that fails so.
    #[must_use]
    pub fn reply(self) -> Reply {
        match self {
            Self::BadCommand(_) => Reply::CommandUnknown,
            Self::BadAddressType(_) => Reply::AddressTypeUnknown,
            Self::BadVersion(_) | Self::BadTarget => Reply::Failed,
        }
    }
}

/// How a client proves who it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// Not at all.
    Open,
    /// With user name and password.
    Password,
}

/// What a client offers first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Greeting {
    /// It would go without a proof.
    pub offers_open: bool,
    /// It could send a password.
    pub offers_password: bool,
}

impl Greeting {
    /// Tells whether the client offers a method.
    #[must_use]
    pub fn offers(self, method: Method) -> bool {
        match method {
            Method::Open => self.offers_open,
            Method::Password => self.offers_password,
        }
    }
}

/// A user name and a password.
#[derive(Clone, Debug)]
pub struct Password {
    /// The user name.
    pub user: SecretString,
    /// The password.
    pub password: SecretString,
}

/// What becomes of a request (RFC 1928 section 6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Reply {
    /// The connection is there; bytes follow.
    Succeeded = 0,
    /// Any other reason.
    Failed = 1,
    /// A rule forbids it.
    Forbidden = 2,
    /// No path leads there.
    NetworkUnreachable = 3,
    /// The host is not there, or does not answer.
    HostUnreachable = 4,
    /// Nobody listens at that port.
    Refused = 5,
    /// Only CONNECT is done here.
    CommandUnknown = 7,
    /// The address is of no known type.
    AddressTypeUnknown = 8,
}

/// Reads a greeting.
pub fn parse_greeting(bytes: &[u8]) -> Result<Progress<Greeting>, Socks5Error> {
    check_version(bytes, VERSION)?;
    let Some(methods) = bytes
        .get(1)
        .and_then(|count| bytes.get(2..2 + usize::from(*count)))
    else {
        return Ok(Progress::More);
    };
    let value = Greeting {
        offers_open: methods.contains(&0),
        offers_password: methods.contains(&2),
    };
    let len = 2 + methods.len();
    Ok(Progress::Done { value, len })
}

/// Returns the answer to a greeting; `None` says that no method suits, and the connection ends.
#[must_use]
pub fn method_answer(method: Option<Method>) -> [u8; 2] {
    let method = match method {
        Some(Method::Open) => 0,
        Some(Method::Password) => 2,
        None => 255,
    };
    [VERSION, method]
}

/// Reads a user name and a password; texts that are not UTF-8 are no error, and match nothing.
pub fn parse_password(bytes: &[u8]) -> Result<Progress<Password>, Socks5Error> {
    check_version(bytes, PASSWORD_VERSION)?;
    let Some((user, rest)) = bytes.get(1..).and_then(split_text) else {
        return Ok(Progress::More);
    };
    let Some((password, rest)) = split_text(rest) else {
        return Ok(Progress::More);
    };
    let secret = |text: &[u8]| SecretString::new(String::from_utf8_lossy(text).into_owned());
    let value = Password {
        user: secret(user),
        password: secret(password),
    };
    let len = bytes.len() - rest.len();
    Ok(Progress::Done { value, len })
}

/// Returns the answer to a password; after a wrong one the connection ends.
#[must_use]
pub fn password_answer(is_right: bool) -> [u8; 2] {
    [PASSWORD_VERSION, u8::from(!is_right)]
}

/// Reads a request for a connection.
pub fn parse_request(bytes: &[u8]) -> Result<Progress<Target>, Socks5Error> {
    check_version(bytes, VERSION)?;
    if let Some(command) = bytes.get(1).filter(|command| **command != CONNECT) {
        return Err(Socks5Error::BadCommand(*command));
    }
    let Some((&address_type, rest)) = bytes.get(3..).and_then(<[u8]>::split_first) else {
        return Ok(Progress::More);
    };
    let split = match address_type {
        TYPE_IP4 => rest.split_first_chunk().map(|(octets, rest)| {
            let address = Ipv4Addr::from_octets(*octets);
            (Some(Host::Ip(address.into())), rest)
        }),
        TYPE_IP6 => rest.split_first_chunk().map(|(octets, rest)| {
            let address = Ipv6Addr::from_octets(*octets);
            (Some(Host::Ip(address.into())), rest)
        }),
        TYPE_NAME => split_text(rest).map(|(name, rest)| (Host::from_text(name), rest)),
        other => return Err(Socks5Error::BadAddressType(other)),
    };
    let Some((host, [high, low, rest @ ..])) = split else {
        return Ok(Progress::More);
    };
    let port = u16::from_be_bytes([*high, *low]);
    let host = host.filter(|_| port != 0).ok_or(Socks5Error::BadTarget)?;
    let len = bytes.len() - rest.len();
    Ok(Progress::Done {
        value: Target { host, port },
        len,
    })
}

/// Returns the answer to a request; `bound` is our end of the connection, or any address where there is none.
#[must_use]
pub fn answer(reply: Reply, bound: SocketAddr) -> Vec<u8> {
    let mut bytes = vec![VERSION, reply as u8, 0];
    match bound.ip() {
        IpAddr::V4(address) => {
            bytes.push(TYPE_IP4);
            bytes.extend(address.octets());
        }
        IpAddr::V6(address) => {
            bytes.push(TYPE_IP6);
            bytes.extend(address.octets());
        }
    }
    bytes.extend(bound.port().to_be_bytes());
    bytes
}

fn check_version(bytes: &[u8], wanted: u8) -> Result<(), Socks5Error> {
    match bytes.first() {
        Some(&version) if version != wanted => Err(Socks5Error::BadVersion(version)),
        _ => Ok(()),
    }
}

/// Splits off a length byte and as many bytes.
fn split_text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done<T>(parsed: Result<Progress<T>, Socks5Error>) -> (T, usize) {
        match parsed {
            Ok(Progress::Done { value, len }) => (value, len),
            Ok(Progress::More) => panic!("it is whole"),
            Err(error) => panic!("{error}"),
        }
    }

    fn request(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    #[test]
    fn a_greeting_says_what_the_client_can_do() {
        let (greeting, len) = done(parse_greeting(&[5, 3, 0, 1, 2, 9, 9]));
        assert_eq!(len, 5, "what follows is not the greeting's");
        assert!(greeting.offers(Method::Open) && greeting.offers(Method::Password));
        let (greeting, _) = done(parse_greeting(&[5, 1, 1]));
        assert_eq!(greeting, Greeting::default());
        let (greeting, len) = done(parse_greeting(&[5, 0]));
        assert_eq!((greeting, len), (Greeting::default(), 2));
        assert_eq!(parse_greeting(&[4, 1]), Err(Socks5Error::BadVersion(4)));
        let mut longest = vec![5, 255];
        longest.extend([1; 255]);
        assert_eq!(done(parse_greeting(&longest)).1, 257);
    }

    #[test]
    fn the_answers_are_those_of_the_rfcs() {
        assert_eq!(method_answer(Some(Method::Open)), [5, 0]);
        assert_eq!(method_answer(Some(Method::Password)), [5, 2]);
        assert_eq!(method_answer(None), [5, 255]);
        assert_eq!((password_answer(true), password_answer(false)), ([1, 0], [1, 1]));
        let bound = "100.64.0.1:258".parse().expect("an address");
        assert_eq!(answer(Reply::Succeeded, bound), [5, 0, 0, 1, 100, 64, 0, 1, 1, 2]);
        let bound = "[fd00::1]:1".parse().expect("an address");
        let wanted = request(&[&[5, 5, 0, 4, 0xfd], &[0; 14], &[1, 0, 1]]);
        assert_eq!(answer(Reply::Refused, bound), wanted);
    }

    #[test]
    fn a_password_is_read_whole_and_not_printed() {
        let (password, len) = done(parse_password(b"\x01\x03ada\x06secretrest"));
        assert_eq!(len, 12);
        assert!(password.user.matches("ada") && password.password.matches("secret"));
        assert!(!format!("{password:?}").contains("secret"));
        let (password, _) = done(parse_password(&[1, 0, 1, 0xff]));
        assert!(password.user.matches("") && !password.password.matches("\u{ff}"));
        assert!(matches!(parse_password(&[5]), Err(Socks5Error::BadVersion(5))));
    }

    #[test]
    fn a_request_names_an_address_or_a_name() {
        let ip4 = [5, 1, 0, 1, 100, 64, 0, 2, 0, 80];
        let ip6 = request(&[&[5, 1, 0, 4, 0xfd], &[0; 14], &[2, 1, 0xbb]]);
        let name = request(&[&[5, 1, 0, 3, 6], b"laptop", &[0x1f, 0x90]]);
        let numeric = request(&[&[5, 1, 0, 3, 10], b"100.64.0.2", &[0, 80]]);
        for (bytes, wanted) in [
            (&ip4[..], "100.64.0.2:80"),
            (&ip6, "[fd00::2]:443"),
            (&name, "laptop:8080"),
            (&numeric, "100.64.0.2:80"),
        ] {
            let (target, len) = done(parse_request(bytes));
            assert_eq!((target.to_string().as_str(), len), (wanted, bytes.len()));
            let followed = request(&[bytes, b"data"]);
            assert_eq!(done(parse_request(&followed)), (target, bytes.len()));
            for end in 0..bytes.len() {
                assert_eq!(parse_request(&bytes[..end]), Ok(Progress::More), "{end} bytes");
            }
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused_as_the_rfc_wants() {
        for (bytes, reply) in [
            (&[5, 2][..], Reply::CommandUnknown),
            (&[5, 3, 0, 1], Reply::CommandUnknown),
            (&[5, 1, 0, 2], Reply::AddressTypeUnknown),
            (&[4, 1], Reply::Failed),
            (&[5, 1, 0, 1, 100, 64, 0, 2, 0, 0], Reply::Failed),
            (&[5, 1, 0, 3, 0, 0, 80], Reply::Failed),
            (&[5, 1, 0, 3, 2, b'a', 0, 0, 80], Reply::Failed),
        ] {
            assert_eq!(
                parse_request(bytes).map_err(Socks5Error::reply),
                Err(reply),
                "{bytes:?}"
            );
        }
    }
}
