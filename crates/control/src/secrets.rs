//! Random bytes from the operating system, and the texts made from them: ids, API keys, session tokens.

use sha2::{Digest as _, Sha256};
use types::SecretString;

const ALPHANUMERIC: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// Draws random bytes; a system without randomness cannot be served.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system has randomness");
    bytes
}

/// Draws `len` characters of `alphabet`, each as likely as any other.
pub(crate) fn text(alphabet: &[u8], len: usize) -> String {
    // The largest multiple of the alphabet's size that fits a byte: bytes beyond it would favour the first letters.
    let fair = 256 - 256 % alphabet.len();
    let mut text = String::with_capacity(len);
    while text.len() < len {
        let draw = bytes::<64>();
        let letters = draw.iter().map(|b| usize::from(*b)).filter(|b| *b < fair);
        text.extend(
            letters
                .take(len - text.len())
                .map(|b| char::from(alphabet[b % alphabet.len()])),
        );
    }
    text
}

/// Makes an API key: `rt_live_` or `rt_test_` and 32 alphanumerics (190 bits).
pub(crate) fn api_key(is_test: bool) -> SecretString {
    let prefix = if is_test { "rt_test_" } else { "rt_live_" };
    SecretString::new(format!("{prefix}{}", text(ALPHANUMERIC, 32)))
}

/// How a session token begins, and an API key does not.
pub(crate) const SESSION_PREFIX: &str = "rts_";

/// Makes a session token: `rts_` and 43 alphanumerics (256 bits).
pub(crate) fn session_token() -> SecretString {
    SecretString::new(format!("{SESSION_PREFIX}{}", text(ALPHANUMERIC, 43)))
}

/// Makes an invitation token: `rti_` and 43 alphanumerics.
pub(crate) fn invitation_token() -> SecretString {
    SecretString::new(format!("rti_{}", text(ALPHANUMERIC, 43)))
}

/// How an auth key begins.
pub(crate) const AUTH_KEY_PREFIX: &str = "rtk_";

/// Makes a key by which nodes join: `rtk_` and 43 alphanumerics.
pub(crate) fn auth_key() -> SecretString {
    SecretString::new(format!("{AUTH_KEY_PREFIX}{}", text(ALPHANUMERIC, 43)))
}

/// Makes a text that nobody guesses, 43 alphanumerics: against cross-site requests, and what a sign-in needs.
pub(crate) fn token() -> SecretString {
    SecretString::new(text(ALPHANUMERIC, 43))
}

/// Returns the SHA-256 of a credential in hexadecimal: all that is stored of it. The credentials are random and long,
/// so that no slow hash is needed.
pub(crate) fn hash(credential: &str) -> String {
    let digest = Sha256::digest(credential.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_form_of_the_contract() {
        let key = api_key(false);
        let rest = key.expose().strip_prefix("rt_live_").expect("prefix");
        assert_eq!(rest.len(), 32);
        assert!(rest.bytes().all(|b| b.is_ascii_alphanumeric()));
        assert!(api_key(true).expose().starts_with("rt_test_"));
        assert!(!key.matches(api_key(false).expose()));
    }

    #[test]
    fn every_letter_of_an_alphabet_is_drawn() {
        let drawn = text(b"abc", 1000);
        for letter in ["a", "b", "c"] {
            assert!(drawn.matches(letter).count() > 200);
        }
    }
}
