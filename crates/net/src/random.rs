//! Random bytes from the operating system. The only place in the data plane that draws randomness.

/// Returns `N` random bytes fit for keys.
///
/// # Panics
/// When the operating system has no random source: nothing safe can be done without one.
#[must_use]
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system hands out random bytes");
    bytes
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_draws_differ() {
        assert_ne!(super::bytes::<32>(), super::bytes::<32>());
    }
}
