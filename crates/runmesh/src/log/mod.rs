//! Where log lines go: to stderr, and for a node also, cleaned, to the few that are kept for a bug report.

pub(crate) mod clean;

use std::io::{self, Write};

use node::log_tail::LogTail;
use tracing::Subscriber;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt, registry};

use self::clean::clean;

/// RUST_LOG decides, else `default`; logs are talk and go to stderr. A line that cannot be written is lost, and nothing
/// else: to say so on the same stderr would panic in the middle of whatever was logged.
pub(crate) fn to_stderr(default: &str) {
    registry().with(stderr(default)).init();
}

/// The same, and keeps the last lines, of INFO and above whatever goes to stderr.
pub(crate) fn to_stderr_and_tail(default: &str) -> LogTail {
    let tail = LogTail::default();
    registry().with(stderr(default)).with(kept(&tail)).init();
    tail
}

fn stderr<S>(default: &str) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(false)
        .log_internal_errors(false)
        .with_filter(filter)
}

fn kept<S>(tail: &LogTail) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let tail = tail.clone();
    fmt::layer()
        .with_writer(move || Line(tail.clone()))
        .with_ansi(false)
        .with_filter(LevelFilter::INFO)
}

/// Takes one event, which is written in one piece.
struct Line(LogTail);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        for line in text.lines() {
            self.0.push(&clean(line));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_the_log_has_no_secret_in_it_and_nothing_below_info() {
        let tail = LogTail::default();
        let subscriber = registry().with(kept(&tail));
        let secrets = [
            "hunter2",
            "rt_live_abcdefghijklmnop",
            "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
        ];
        tracing::subscriber::with_default(subscriber, || {
            let [password, token, key] = secrets;
            tracing::warn!(error = %format!("https://me:{password}@example.com/{token} said no"), "lost");
            tracing::info!("{token},{key}\nand {key}");
            tracing::debug!("nobody asked");
        });
        let lines = tail.lines();
        let whole = lines.join("\n");
        assert!(
            whole.contains("WARN") && whole.contains("https://example.com said no"),
            "{whole}"
        );
        assert!(!whole.contains("nobody asked"), "{whole}");
        for secret in secrets {
            assert!(!whole.contains(secret), "{whole}");
        }
    }
}
