//! The two MACs of handshake messages, and the cookies that the second one needs (WireGuard paper, section 5.4.7).
//!
//! The first MAC shows that the sender knows our public key. Under load a handshake message must also carry a second
//! MAC, keyed by a cookie that we send to the message's source address: so its address is not forged.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput as _, Update as _};
use blake2::{Blake2s256, Blake2sMac, Digest as _};
use chacha20poly1305::{AeadInOut as _, KeyInit as _, XChaCha20Poly1305};
use subtle::ConstantTimeEq as _;
use types::{Monotonic, NodePublicKey};
use zeroize::Zeroizing;

use super::message::{self, COOKIE_REPLY_LEN, CookieReply, MAC_LEN};

/// How long a cookie is good, and how long one secret makes cookies.
pub const COOKIE_LIFETIME: Duration = Duration::from_secs(120);

/// A MAC or a cookie.
pub(crate) type Mac = [u8; MAC_LEN];

/// What a public key gives: the key of first MACs to it, and the key that seals its cookie replies.
#[derive(Clone)]
pub(crate) struct MacKeys {
    mac1: [u8; 32],
    cookie: [u8; 32],
}

impl MacKeys {
    pub(crate) fn of(public: &NodePublicKey) -> Self {
        let labelled = |label: &[u8]| {
            Blake2s256::new()
                .chain_update(label)
                .chain_update(public.as_bytes())
                .finalize()
        };
        Self {
            mac1: labelled(b"mac1----").into(),
            cookie: labelled(b"cookie--").into(),
        }
    }

    /// Tells whether a handshake message to this key carries the right first MAC.
    pub(crate) fn accepts(&self, message: &[u8]) -> bool {
        let (body, macs) = message.split_at(message.len() - 2 * MAC_LEN);
        mac(&self.mac1, body).ct_eq(&macs[..MAC_LEN]).into()
    }
}

/// Where the cookies that we demand come from: a secret that lives two minutes.
#[derive(Default)]
pub(crate) struct CookieSecret {
    secret: Zeroizing<[u8; 32]>,
    made: Option<Monotonic>,
}

impl CookieSecret {
    /// Tells whether the secret is missing or too old; then [`CookieSecret::renew`] comes before anything else.
    pub(crate) fn is_stale(&self, now: Monotonic) -> bool {
        self.made.is_none_or(|made| now.since(made) >= COOKIE_LIFETIME)
    }

    pub(crate) fn renew(&mut self, secret: [u8; 32], now: Monotonic) {
        self.secret = Zeroizing::new(secret);
        self.made = Some(now);
    }

    /// Tells whether a handshake message from `source` carries the right second MAC.
    pub(crate) fn accepts(&self, message: &[u8], source: SocketAddr) -> bool {
        let (body, mac2) = message.split_at(message.len() - MAC_LEN);
        mac(&self.cookie(source), body).ct_eq(mac2).into()
    }

    /// Writes the reply that brings `source` its cookie.
    ///
    /// `own` belongs to our public key, `nonce` is random, `message` is the handshake message that is answered.
    pub(crate) fn reply(
        &self,
        own: &MacKeys,
        nonce: [u8; 24],
        message: &[u8],
        source: SocketAddr,
    ) -> [u8; COOKIE_REPLY_LEN] {
        let receiver = u32::from_le_bytes(message[4..8].try_into().expect("four bytes"));
        let mac1 = &message[message.len() - 2 * MAC_LEN..][..MAC_LEN];
        let mut sealed = [0; 32];
        let (cookie, tag) = sealed.split_at_mut(MAC_LEN);
        cookie.copy_from_slice(&self.cookie(source));
        let cipher = XChaCha20Poly1305::new(&own.cookie.into());
        let made = cipher.encrypt_inout_detached(&nonce.into(), mac1, cookie.into());
        tag.copy_from_slice(&made.expect("a cookie is short"));
        message::cookie_reply(receiver, &nonce, &sealed)
    }

    /// The cookie of `source`: what only somebody who receives there can know.
    pub(crate) fn cookie(&self, source: SocketAddr) -> Mac {
        let port = source.port().to_be_bytes();
        match source.ip() {
            IpAddr::V4(ip) => keyed(self.secret.as_slice(), &[&ip.octets(), &port]),
            IpAddr::V6(ip) => keyed(self.secret.as_slice(), &[&ip.octets(), &port]),
        }
    }
}

/// The cookie that a peer gave us, and the message it would answer.
#[derive(Default)]
pub(crate) struct CookieJar {
    cookie: Option<(Mac, Monotonic)>,
    last_mac1: Option<Mac>,
}

impl CookieJar {
    /// Writes both MACs into a handshake message to the peer of `keys`.
    pub(crate) fn stamp(&mut self, keys: &MacKeys, message: &mut [u8], now: Monotonic) {
        let at = message.len() - 2 * MAC_LEN;
        let mac1 = mac(&keys.mac1, &message[..at]);
        message[at..at + MAC_LEN].copy_from_slice(&mac1);
        self.last_mac1 = Some(mac1);
        let fresh = self.cookie.filter(|(_, got)| now.since(*got) < COOKIE_LIFETIME);
        if let Some((cookie, _)) = fresh {
            let mac2 = mac(&cookie, &message[..at + MAC_LEN]);
            message[at + MAC_LEN..].copy_from_slice(&mac2);
        }
    }

    /// Keeps the cookie of a reply to the last message stamped; tells whether it was one.
    pub(crate) fn take(&mut self, keys: &MacKeys, reply: CookieReply<'_>, now: Monotonic) -> bool {
        let Some(mac1) = self.last_mac1 else {
            return false;
        };
        let (sealed, tag) = reply.sealed().split_at(MAC_LEN);
        let mut cookie: Mac = sealed.try_into().expect("sixteen bytes");
        let tag: Mac = tag.try_into().expect("sixteen bytes");
        let cipher = XChaCha20Poly1305::new(&keys.cookie.into());
        let nonce = (*reply.nonce()).into();
        let opened = cipher.decrypt_inout_detached(&nonce, &mac1, cookie.as_mut_slice().into(), &tag.into());
        if opened.is_err() {
            return false;
        }
        self.cookie = Some((cookie, now));
        // One message earns one cookie: a second reply to it would be a replay.
        self.last_mac1 = None;
        true
    }
}

fn mac(key: &[u8], data: &[u8]) -> Mac {
    keyed(key, &[data])
}

fn keyed(key: &[u8], parts: &[&[u8]]) -> Mac {
    let mut state = Blake2sMac::<U16>::new_with_salt_and_personal(Some(key), &[], &[])
        .expect("a key of 16 or 32 bytes fits");
    for part in parts {
        state.update(part);
    }
    state.finalize_fixed().into()
}

#[cfg(test)]
mod tests {
    use types::NodePrivateKey;

    use super::super::message::Message;
    use super::*;

    fn at(secs: u64) -> Monotonic {
        Monotonic::from_start(Duration::from_secs(secs))
    }

    fn keys() -> MacKeys {
        MacKeys::of(&NodePrivateKey::from_random([1; 32]).public())
    }

    fn source() -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], 51820))
    }

    fn stamped(jar: &mut CookieJar, now: Monotonic) -> [u8; 148] {
        let mut message = message::initiation(7, &[0x55; 108]);
        jar.stamp(&keys(), &mut message, now);
        message
    }

    fn take(jar: &mut CookieJar, mut reply: [u8; 64], now: Monotonic) -> bool {
        let Ok(Message::CookieReply(reply)) = message::parse(&mut reply) else {
            panic!("a cookie reply");
        };
        jar.take(&keys(), reply, now)
    }

    #[test]
    fn the_first_mac_covers_the_whole_body() {
        let mut message = stamped(&mut CookieJar::default(), at(0));
        assert!(keys().accepts(&message));
        assert_eq!(message[132..], [0; 16], "no cookie, no second MAC");
        for index in 0..132 {
            message[index] ^= 1;
            assert!(!keys().accepts(&message), "{index}");
            message[index] ^= 1;
        }
        let other = MacKeys::of(&NodePrivateKey::from_random([2; 32]).public());
        assert!(!other.accepts(&message));
    }

    #[test]
    fn a_cookie_opens_the_gate_for_its_address_only() {
        let (mut jar, mut secret) = (CookieJar::default(), CookieSecret::default());
        assert!(secret.is_stale(at(0)));
        secret.renew([9; 32], at(0));
        let first = stamped(&mut jar, at(0));
        assert!(!secret.accepts(&first, source()));
        let reply = secret.reply(&keys(), [3; 24], &first, source());
        assert_eq!(reply[4..8], 7_u32.to_le_bytes());
        assert!(take(&mut jar, reply, at(1)));
        let second = stamped(&mut jar, at(6));
        assert!(secret.accepts(&second, source()));
        assert!(!secret.accepts(&second, SocketAddr::from(([192, 0, 2, 1], 51821))));
        assert!(!secret.accepts(&second, SocketAddr::from(([192, 0, 2, 2], 51820))));
        secret.renew([8; 32], at(120));
        assert!(!secret.accepts(&second, source()));
    }

    #[test]
    fn a_cookie_grows_old_at_both_ends() {
        let (mut jar, mut secret) = (CookieJar::default(), CookieSecret::default());
        secret.renew([9; 32], at(0));
        assert!(!secret.is_stale(at(119)) && secret.is_stale(at(120)));
        let reply = secret.reply(&keys(), [3; 24], &stamped(&mut jar, at(0)), source());
        assert!(take(&mut jar, reply, at(0)));
        assert_ne!(stamped(&mut jar, at(119))[132..], [0; 16]);
        assert_eq!(stamped(&mut jar, at(120))[132..], [0; 16]);
    }

    #[test]
    fn a_forged_or_repeated_reply_is_refused() {
        let (mut jar, mut secret) = (CookieJar::default(), CookieSecret::default());
        secret.renew([9; 32], at(0));
        let message = stamped(&mut jar, at(0));
        let reply = secret.reply(&keys(), [3; 24], &message, source());
        assert!(!take(&mut CookieJar::default(), reply, at(0)), "nothing was sent");
        for index in 8..64 {
            let mut forged = reply;
            forged[index] ^= 1;
            assert!(!take(&mut jar, forged, at(0)), "{index}");
        }
        let other = secret.reply(&keys(), [3; 24], &[0x66; 148], source());
        assert!(!take(&mut jar, other, at(0)), "an answer to another message");
        assert!(take(&mut jar, reply, at(0)));
        assert!(!take(&mut jar, reply, at(0)), "once only");
    }
}
