//! Texts without what might be a secret: rather too little is told than too much.

/// What stands for what was taken out.
const GONE: &str = "[removed]";

/// How long a run of the letters of keys and tokens may be.
const RUN_MAX: usize = 20;

/// Takes out of a text the addresses' users, passwords and queries, and whatever is as long as a key or a token.
pub(crate) fn clean(text: &str) -> String {
    let words = text.split(' ').map(|word| {
        if word.contains("://") {
            clean_url(word)
        } else {
            without_long_runs(word)
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Leaves scheme, host and port of an address.
pub(crate) fn clean_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return GONE.to_owned();
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    without_long_runs(&format!("{scheme}://{host}"))
}

fn without_long_runs(word: &str) -> String {
    let is_of_key = |letter: char| letter.is_ascii_alphanumeric() || "+/=_-".contains(letter);
    let mut cleaned = String::new();
    let mut rest = word;
    while !rest.is_empty() {
        let run = rest.find(|letter| !is_of_key(letter)).unwrap_or(rest.len());
        cleaned.push_str(if run > RUN_MAX { GONE } else { &rest[..run] });
        rest = &rest[run..];
        let other = rest.find(is_of_key).unwrap_or(rest.len());
        cleaned.push_str(&rest[..other]);
        rest = &rest[other..];
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_might_be_a_secret_goes_and_the_rest_stays() {
        for (text, cleaned) in [
            (
                "connection refused (os error 111)",
                "connection refused (os error 111)",
            ),
            (
                "cannot reach https://a:b@api.example.com:7420/v1?k=1: refused",
                "cannot reach https://api.example.com:7420 refused",
            ),
            ("key=abcdefghijklmnopqrstuvwxyz, no", "[removed], no"),
            ("\"rt_live_0123456789abcdef\"é", "\"[removed]\"é"),
            ("", ""),
        ] {
            assert_eq!(clean(text), cleaned);
        }
        assert_eq!(clean_url("me:hunter2@host"), "[removed]");
        assert_eq!(clean_url("http://[::1]:7420/x"), "http://[::1]:7420");
    }
}
