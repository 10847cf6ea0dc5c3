//! The primitives behind both Noise handshakes (WireGuard and the control stream), as one resolver for `snow`.
//!
//! X25519 by x25519-dalek, ChaCha20-Poly1305 by aws-lc-rs, BLAKE2s by `blake2`, randomness from a seed handed in. It
//! offers exactly the primitives that the two protocol names need and no others.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use blake2::{Blake2s256, Digest as _};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};
use snow::Error;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// Bytes of an authentication tag.
pub(crate) const TAG_LEN: usize = 16;

/// Hands `snow` its primitives; one resolver serves one handshake.
pub(crate) struct Resolver {
    seed: Zeroizing<[u8; 32]>,
}

impl Resolver {
    /// Makes the resolver of one handshake; its ephemeral key follows from `seed`, which must serve no other.
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self {
            seed: Zeroizing::new(seed),
        }
    }
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(SeededRandom(ChaCha20Rng::from_seed(*self.seed))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::Curve25519 => Some(Box::new(X25519::default())),
            _ => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        match choice {
            HashChoice::Blake2s => Some(Box::new(Blake2s(Blake2s256::new()))),
            _ => None,
        }
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        match choice {
            CipherChoice::ChaChaPoly => Some(Box::new(ChaChaPoly(chacha_key(&[0; 32])))),
            _ => None,
        }
    }
}

/// Makes a ChaCha20-Poly1305 key from 32 bytes.
pub(crate) fn chacha_key(key: &[u8; 32]) -> LessSafeKey {
    let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("a ChaCha20 key has 32 bytes");
    LessSafeKey::new(key)
}

/// Writes a counter as the 96-bit nonce of Noise and WireGuard: four zero bytes, then the counter in little endian.
pub(crate) fn counter_nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// The cipher of one direction of a session: 16 bytes of tag, the counter as nonce, no additional data.
pub(crate) trait Aead: Send {
    /// Seals `text` in place and returns its tag. A counter must never be used twice.
    fn seal(&self, counter: u64, text: &mut [u8]) -> [u8; TAG_LEN];

    /// Opens a text with its tag in place and returns the length of the text; `None` when it is not authentic.
    fn open(&self, counter: u64, sealed: &mut [u8]) -> Option<usize>;
}

/// WireGuard's standard cipher.
pub(crate) struct ChaCha20Poly1305(LessSafeKey);

impl ChaCha20Poly1305 {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self(chacha_key(key))
    }
}

impl Aead for ChaCha20Poly1305 {
    fn seal(&self, counter: u64, text: &mut [u8]) -> [u8; TAG_LEN] {
        let nonce = counter_nonce(counter);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::empty(), text);
        let tag = tag.expect("a datagram is below the cipher's limit");
        tag.as_ref().try_into().expect("the tag has 16 bytes")
    }

    fn open(&self, counter: u64, sealed: &mut [u8]) -> Option<usize> {
        let opened = self.0.open_in_place(counter_nonce(counter), Aad::empty(), sealed);
        opened.ok().map(|text| text.len())
    }
}

struct SeededRandom(ChaCha20Rng);

impl Random for SeededRandom {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        self.0.fill_bytes(dest);
        Ok(())
    }
}

struct X25519 {
    private: StaticSecret,
    public: PublicKey,
}

impl Default for X25519 {
    fn default() -> Self {
        let private = StaticSecret::from([0; 32]);
        let public = PublicKey::from([0; 32]);
        Self { private, public }
    }
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, privkey: &[u8]) {
        let mut bytes = Zeroizing::new([0; 32]);
        bytes.copy_from_slice(privkey);
        self.private = StaticSecret::from(*bytes);
        self.public = PublicKey::from(&self.private);
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.try_fill_bytes(bytes.as_mut_slice())?;
        self.set(bytes.as_slice());
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        self.public.as_bytes()
    }

    fn privkey(&self) -> &[u8] {
        self.private.as_bytes()
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), Error> {
        // `snow` hands over its whole buffer, which is sized for longer curves.
        let public: [u8; 32] = pubkey
            .get(..32)
            .and_then(|key| key.try_into().ok())
            .ok_or(Error::Dh)?;
        let shared = self.private.diffie_hellman(&PublicKey::from(public));
        if !shared.was_contributory() {
            return Err(Error::Dh);
        }
        out.get_mut(..32)
            .ok_or(Error::Dh)?
            .copy_from_slice(shared.as_bytes());
        Ok(())
    }
}

struct Blake2s(Blake2s256);

impl Hash for Blake2s {
    fn name(&self) -> &'static str {
        "BLAKE2s"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.0 = Blake2s256::new();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        let digest = std::mem::take(&mut self.0).finalize();
        out[..32].copy_from_slice(&digest);
    }
}

struct ChaChaPoly(LessSafeKey);

impl Cipher for ChaChaPoly {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.0 = chacha_key(key);
    }

    fn encrypt(&self, nonce: u64, authtext: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let (text, rest) = out.split_at_mut(plaintext.len());
        let tag = &mut rest[..TAG_LEN];
        self.0
            .seal_out_of_place_scatter(
                counter_nonce(nonce),
                Aad::from(authtext),
                plaintext,
                text,
                &[],
                tag,
            )
            .expect("snow keeps a message below the cipher's limit and leaves room for the tag");
        plaintext.len() + TAG_LEN
    }

    fn decrypt(
        &self,
        nonce: u64,
        authtext: &[u8],
        ciphertext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        let len = ciphertext.len().checked_sub(TAG_LEN).ok_or(Error::Decrypt)?;
        let (text, tag) = ciphertext.split_at(len);
        let out = out.get_mut(..len).ok_or(Error::Decrypt)?;
        self.0
            .open_separate_gather(counter_nonce(nonce), Aad::from(authtext), text, tag, out)
            .map_err(|_| Error::Decrypt)?;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_order_point_fails_the_exchange() {
        let mut dh = X25519::default();
        dh.set(&[7; 32]);
        let mut out = [0; 32];
        let mut one = [0; 32];
        one[0] = 1;
        for point in [[0; 32], one] {
            assert_eq!(dh.dh(&point, &mut out), Err(Error::Dh));
            assert_eq!(out, [0; 32]);
        }
    }

    #[test]
    fn the_hash_is_blake2s_of_rfc_7693() {
        let mut hash = Blake2s(Blake2s256::new());
        hash.input(b"abc");
        let mut out = [0; 32];
        hash.result(&mut out);
        // RFC 7693 appendix B.
        assert_eq!(out[..8], [0x50, 0x8c, 0x5e, 0x8c, 0x32, 0x7c, 0x14, 0xe2]);
        hash.input(b"abc");
        let mut again = [0; 32];
        hash.result(&mut again);
        assert_eq!(out, again);
    }

    #[test]
    fn one_seed_gives_one_ephemeral_key() {
        let key = |seed| {
            let resolver = Resolver::new([seed; 32]);
            let mut dh = resolver.resolve_dh(&DHChoice::Curve25519).expect("offered");
            let mut rng = resolver.resolve_rng().expect("offered");
            dh.generate(&mut *rng).expect("seeded");
            dh.pubkey().to_vec()
        };
        assert_eq!(key(1), key(1));
        assert_ne!(key(1), key(2));
    }

    #[test]
    fn a_cut_or_changed_ciphertext_is_refused() {
        let cipher = ChaChaPoly(chacha_key(&[9; 32]));
        let mut sealed = [0; 5 + TAG_LEN];
        assert_eq!(cipher.encrypt(1, b"ad", b"hello", &mut sealed), sealed.len());
        let mut out = [0; 5];
        assert_eq!(cipher.decrypt(1, b"ad", &sealed, &mut out), Ok(5));
        assert_eq!(&out, b"hello");
        for len in 0..sealed.len() {
            assert!(cipher.decrypt(1, b"ad", &sealed[..len], &mut out).is_err());
        }
        assert!(cipher.decrypt(2, b"ad", &sealed, &mut out).is_err());
        assert!(cipher.decrypt(1, b"da", &sealed, &mut out).is_err());
        sealed[0] ^= 1;
        assert!(cipher.decrypt(1, b"ad", &sealed, &mut out).is_err());
    }
}
