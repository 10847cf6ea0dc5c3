//! What many seeds came to, as text for people and as JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::figures::Figures;
use crate::scenario::Outcome;

/// A seed that failed, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What was not as it should be.
    pub error: String,
}

/// The sums over all seeds.
#[derive(Default)]
pub struct Report {
    /// How many ran.
    pub seeds: u64,
    /// Those that failed.
    pub failures: Vec<Failure>,
    /// How many of how many became direct, by the NATs of the pair.
    direct: BTreeMap<String, (u32, u32)>,
    first_byte: Vec<Duration>,
    first_byte_trips: Vec<f64>,
    beyond_trip: Vec<Duration>,
    direct_easy: Vec<Duration>,
    after_roam: Vec<Duration>,
    after_kill: Vec<Duration>,
    after_block: Vec<Duration>,
    healed: Vec<Duration>,
    guessed: (u32, u32),
}

impl Report {
    /// Adds what a seed came to.
    pub fn add(&mut self, figures: &Figures, outcome: Outcome) {
        let cell = self.direct.entry(figures.nats.join("_x_")).or_default();
        cell.0 += u32::from(figures.direct.is_some());
        cell.1 += 1;
        self.first_byte.push(figures.first_byte);
        let trip = figures.relay_round_trip;
        self.first_byte_trips
            .push(figures.first_byte.as_secs_f64() / trip.as_secs_f64());
        self.beyond_trip.push(figures.first_byte.saturating_sub(trip));
        if !figures.nats.contains(&"symmetric") {
            self.direct_easy.extend(figures.direct);
        }
        self.after_roam.push(figures.lost_after_roam);
        self.after_kill.extend(figures.lost_after_relay_kill);
        self.after_block.push(figures.lost_after_udp_block);
        self.healed.push(outcome.healed);
        self.guessed = (
            self.guessed.0 + outcome.guessed.0,
            self.guessed.1 + outcome.guessed.1,
        );
    }

    /// Returns one JSON object.
    #[must_use]
    pub fn json(&self) -> String {
        let failures = self.failures.iter().map(|failure| {
            let error = failure.error.lines().next().unwrap_or_default();
            format!(r#"{{"seed":{},"error":"{}"}}"#, failure.seed, escaped(error))
        });
        let failures: Vec<_> = failures.collect();
        let cells = self
            .direct
            .iter()
            .map(|(pair, (direct, all))| format!(r#""{pair}":[{direct},{all}]"#));
        let cells: Vec<_> = cells.collect();
        let spans: Vec<_> = self
            .spans()
            .map(|(name, spans)| format!(r#""{name}":{}"#, spread(spans)))
            .collect();
        let mut trips = self.first_byte_trips.clone();
        trips.sort_by(f64::total_cmp);
        let trip = |share| at(&trips, share).map_or("null".to_owned(), |trips| format!("{trips:.2}"));
        format!(
            r#"{{"seeds":{},"failed":{},"failures":[{}],"directByNat":{{{}}},"guessedInRandomWorlds":[{},{}],"firstByteRelayRtts":{{"p50":{},"p95":{}}},{}}}"#,
            self.seeds,
            self.failures.len(),
            failures.join(","),
            cells.join(","),
            self.guessed.1,
            self.guessed.0,
            trip(50),
            trip(95),
            spans.join(",")
        )
    }

    /// Returns a few lines for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{} seeds, {} failed\n", self.seeds, self.failures.len());
        for (pair, (direct, all)) in &self.direct {
            let _ = writeln!(text, "  direct {pair}: {direct} of {all}");
        }
        for (name, spans) in self.spans() {
            let _ = writeln!(text, "  {name}: {}", spread(spans));
        }
        text
    }

    fn spans(&self) -> impl Iterator<Item = (&'static str, &[Duration])> {
        [
            ("firstByteMs", &self.first_byte[..]),
            ("firstByteBeyondRelayRttMs", &self.beyond_trip),
            ("directOnEasyNatsMs", &self.direct_easy),
            ("lostAfterRoamMs", &self.after_roam),
            ("lostAfterRelayKillMs", &self.after_kill),
            ("lostAfterUdpBlockMs", &self.after_block),
            ("healedMs", &self.healed),
        ]
        .into_iter()
    }
}

/// Returns the value below which so many percent are.
fn at<T: Copy>(sorted: &[T], percent: usize) -> Option<T> {
    let last = sorted.len().checked_sub(1)?;
    Some(sorted[last * percent / 100])
}

fn spread(spans: &[Duration]) -> String {
    let mut spans = spans.to_vec();
    spans.sort_unstable();
    let ms = |percent| at(&spans, percent).map_or("null".to_owned(), |span| span.as_millis().to_string());
    format!(r#"{{"p50":{},"p95":{},"max":{}}}"#, ms(50), ms(95), ms(100))
}

fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        match letter {
            '"' | '\\' => {
                escaped.push('\\');
                escaped.push(letter);
            }
            letter if letter < ' ' => {
                let _ = write!(escaped, "\\u{:04x}", u32::from(letter));
            }
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_spread_and_text_is_escaped() {
        let spans: Vec<_> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(spread(&spans), r#"{"p50":50,"p95":95,"max":100}"#);
        assert_eq!(spread(&[]), r#"{"p50":null,"p95":null,"max":null}"#);
        assert_eq!(escaped("a \"b\"\\\n"), r#"a \"b\"\\\u000a"#);
    }

    #[test]
    fn a_failure_is_counted_and_named() {
        let mut report = Report {
            seeds: 2,
            ..Report::default()
        };
        report.failures.push(Failure {
            seed: 17,
            error: "lost\nmore".to_owned(),
        });
        let json = report.json();
        assert!(
            json.starts_with(r#"{"seeds":2,"failed":1,"failures":[{"seed":17,"error":"lost"}]"#),
            "{json}"
        );
    }
}
