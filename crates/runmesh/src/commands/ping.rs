//! `runmesh ping`: how far another node is, by which path, and why by that one.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use node::LocalClient;
use node::local_api::{PathKind, PathReason, PingEvent, PingRequest};
use serde::Serialize;

use super::forward::explained;
use super::up::state_dir;
use crate::failure::hinted;
use crate::interrupts::stop_token;
use crate::output::Output;

/// What `ping` takes.
#[derive(Args)]
pub(crate) struct PingArgs {
    /// The node's name, full name or mesh address
    #[arg(value_name = "NODE")]
    node: String,
    /// How many pings, one a second
    #[arg(
        short,
        long,
        value_name = "COUNT",
        default_value_t = 4,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(node::local_api::pings::COUNT_MAX))
    )]
    count: u32,
    /// Where the node keeps its keys and journal
    #[arg(long, value_name = "DIR", env = "RUNMESH_STATE_DIR")]
    state_dir: Option<PathBuf>,
}

/// What all pings together said; times in milliseconds.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    event: &'static str,
    sent: usize,
    received: usize,
    loss_percent: f64,
    min_ms: Option<f64>,
    avg_ms: Option<f64>,
    max_ms: Option<f64>,
}

/// Pings until every ping was answered or not, or until it is told to stop.
pub(crate) async fn ping(args: PingArgs, output: Output) -> Result<()> {
    let client = LocalClient::new(&state_dir(args.state_dir)?);
    let stop = stop_token()?;
    let request = PingRequest {
        node: args.node.clone(),
        count: args.count,
    };
    let mut events = client.ping(&request).await.map_err(explained)?;
    let mut story = Story::new(args.node);
    loop {
        let event = tokio::select! {
            event = events.next() => event?,
            () = stop.cancelled() => None,
        };
        let Some(event) = event else { break };
        output.stream(&event, &story.take(&event))?;
    }
    let summary = story.summary();
    output.stream(&summary, &summary.as_text(&story.node))?;
    match (summary.received, story.last_failure) {
        (0, Some(failure)) => Err(hinted(
            format!("{} did not answer: {failure}", story.node),
            "`runmesh netcheck` shows what this network lets through; a plain WireGuard answers no ping",
        )),
        _ => Ok(()),
    }
}

/// What was told so far.
struct Story {
    node: String,
    rtts: Vec<f64>,
    lost: usize,
    last_path: Option<PathKind>,
    last_failure: Option<String>,
}

impl Story {
    fn new(node: String) -> Self {
        Self {
            node,
            rtts: Vec::new(),
            lost: 0,
            last_path: None,
            last_failure: None,
        }
    }

    /// Takes note of an event and returns what to say of it.
    fn take(&mut self, event: &PingEvent) -> String {
        match event {
            PingEvent::Pinging { node } => {
                self.node = node.to_string();
                String::new()
            }
            PingEvent::Answer {
                seq,
                rtt_ms,
                path,
                endpoint,
                relay,
                reason,
            } => {
                self.rtts.push(*rtt_ms);
                let change = self.changed_to(*path);
                let way = match (endpoint, relay) {
                    (Some(endpoint), _) => format!("directly at {endpoint}"),
                    (None, relay) => {
                        let relay = relay.as_deref().unwrap_or("?");
                        format!("through relay {relay}: {}", reason.as_words())
                    }
                };
                format!("{change}{seq}: {} answered in {rtt_ms:.2} ms {way}\n", self.node)
            }
            PingEvent::NoAnswer {
                seq,
                has_session,
                reason,
            } => {
                self.lost += 1;
                let why = why_silent(*has_session, *reason);
                let line = format!("{seq}: no answer: {why}\n");
                self.last_failure = Some(why);
                line
            }
            PingEvent::Ended { reason } => {
                self.last_failure = Some(reason.clone());
                format!("{reason}\n")
            }
        }
    }

    fn changed_to(&mut self, path: PathKind) -> &'static str {
        match (self.last_path.replace(path), path) {
            (Some(PathKind::Relay), PathKind::Direct) => "the path is direct now\n",
            (Some(PathKind::Direct), PathKind::Relay) => "a relay carries now\n",
            _ => "",
        }
    }

    fn summary(&self) -> Summary {
        let (received, sent) = (self.rtts.len(), self.rtts.len() + self.lost);
        let sum: f64 = self.rtts.iter().sum();
        let pick = |choose: fn(f64, f64) -> f64| self.rtts.iter().copied().reduce(choose);
        Summary {
            event: "summary",
            sent,
            received,
            loss_percent: self.lost as f64 * 100.0 / sent.max(1) as f64,
            min_ms: pick(f64::min),
            avg_ms: (received > 0).then(|| sum / received as f64),
            max_ms: pick(f64::max),
        }
    }
}

impl Summary {
    fn as_text(&self, node: &str) -> String {
        let Self {
            sent,
            received,
            loss_percent,
            ..
        } = self;
        let mut text = format!("{node}: {sent} sent, {received} answered, {loss_percent:.0} % lost");
        if let (Some(min), Some(avg), Some(max)) = (self.min_ms, self.avg_ms, self.max_ms) {
            text.push_str(&format!(
                "; {min:.2} ms at least, {avg:.2} on average, {max:.2} at most"
            ));
        }
        text.push('\n');
        text
    }
}

/// Why there was no answer. Without a session paths are not tried yet, whatever the word for it is.
fn why_silent(has_session: bool, reason: PathReason) -> String {
    match (has_session, reason) {
        (false, PathReason::Probing | PathReason::Idle) => {
            "it does not answer the handshake: it is off or away".to_owned()
        }
        (false, reason) => reason.as_words().to_owned(),
        (true, PathReason::EndpointAnswered) => "the direct path is silent".to_owned(),
        (true, reason) => format!("the relay carries and nothing comes back ({})", reason.as_words()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(seq: u32, path: PathKind, rtt_ms: f64) -> PingEvent {
        let is_direct = path == PathKind::Direct;
        PingEvent::Answer {
            seq,
            rtt_ms,
            path,
            endpoint: is_direct.then(|| "192.0.2.1:5000".parse().expect("an address")),
            relay: (!is_direct).then(|| "near".to_owned()),
            reason: if is_direct {
                PathReason::EndpointAnswered
            } else {
                PathReason::SymmetricBoth
            },
        }
    }

    #[test]
    fn a_ping_says_its_path_and_why_and_when_that_changes() {
        let mut story = Story::new("laptop".to_owned());
        let said = [
            story.take(&answer(1, PathKind::Relay, 20.0)),
            story.take(&answer(2, PathKind::Direct, 1.0)),
            story.take(&PingEvent::NoAnswer {
                seq: 3,
                has_session: true,
                reason: PathReason::EndpointAnswered,
            }),
            story.take(&answer(4, PathKind::Relay, 30.0)),
        ];
        assert_eq!(
            said,
            [
                "1: laptop answered in 20.00 ms through relay near: \
                 the NATs of both ends give every destination another port\n",
                "the path is direct now\n2: laptop answered in 1.00 ms directly at 192.0.2.1:5000\n",
                "3: no answer: the direct path is silent\n",
                "a relay carries now\n4: laptop answered in 30.00 ms through relay near: \
                 the NATs of both ends give every destination another port\n",
            ]
        );
        assert_eq!(
            story.summary().as_text("laptop"),
            "laptop: 4 sent, 3 answered, 25 % lost; 1.00 ms at least, 17.00 on average, 30.00 at most\n"
        );
    }

    #[test]
    fn nothing_sent_is_nothing_lost() {
        let summary = Story::new("laptop".to_owned()).summary();
        assert_eq!(
            (summary.sent, summary.loss_percent, summary.avg_ms),
            (0, 0.0, None)
        );
    }
}
