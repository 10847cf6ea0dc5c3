//! Text that must not be printed: API keys, session tokens, cookies.

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A secret text: no `Debug` of its content, no `Display`, no `Serialize`; wiped from memory when dropped.
#[derive(Clone)]
pub struct SecretString(Zeroizing<String>);

impl SecretString {
    /// Takes ownership of a secret text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Returns the text itself, for the one place that must send or store it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Compares in time that depends on the length only.
    #[must_use]
    pub fn matches(&self, other: &str) -> bool {
        self.0.as_bytes().ct_eq(other.as_bytes()).into()
    }
}

impl From<String> for SecretString {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl std::fmt::Debug for SecretString {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretString(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print_and_compares() {
        let secret = SecretString::new("rt_live_abc".to_owned());
        assert_eq!(format!("{secret:?}"), "SecretString(…)");
        assert!(secret.matches("rt_live_abc"));
        assert!(!secret.matches("rt_live_abd"));
        assert!(!secret.matches(""));
    }
}
