//! A real server with a database of its own, and a small sidecar that keeps a real journal and speaks over a pipe.

mod agents;
mod cancels;
mod conversations;
mod dispatches;
mod follows;
mod hostile;
mod members;
mod presence;
mod queues;
mod threads;
mod watchers;

use std::sync::Arc;
use std::time::Duration;

use mesh::frame::{Decoder, encode};
use reqwest::Method;
use runs::journal::{Journal, OfferDecision};
use runs::protocol::{
    AppendRefusal, FRAME_BYTES_MAX, OfferRefusal, PROTOCOL_VERSION, ToOrchestrator, ToSidecar,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_util::sync::CancellationToken;
use types::{Attempt, EventDraft, EventType, Fence, NodeId, NodePrivateKey, RunId, RunOrder};

use super::dispatch::DispatchTx;
use super::{doubt, reconcile, session};
use crate::app::App;
use crate::clock::Clock;
use crate::{ServeConfig, Server, Tuning, serve_with};

/// How long anything may take here before the test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server with an admin, one linked device and one agent bound to it.
struct Bench {
    server: Server,
    clock: Clock,
    admin: String,
    node: NodeId,
    http: reqwest::Client,
    dir: TempDir,
}

/// A run in the hands of a sidecar.
type Held = (RunId, Fence);

impl Bench {
    async fn start() -> Self {
        Self::tuned(Tuning::default()).await
    }

    /// The sidecar of the device is connected.
    async fn connected() -> (Self, Sidecar) {
        let bench = Self::start().await;
        let sidecar = Sidecar::connected(&bench).await;
        (bench, sidecar)
    }

    /// A run was offered to it, stands in its journal, and is not answered.
    async fn offered() -> (Self, Sidecar, Value, Held) {
        let (bench, mut sidecar) = Self::connected().await;
        let run = bench.run(json!({})).await;
        let held = sidecar.journal_offer().await;
        (bench, sidecar, run, held)
    }

    /// It has accepted the run.
    async fn accepted() -> (Self, Sidecar, Value, Held) {
        let (bench, mut sidecar, run, (run_id, fence)) = Self::offered().await;
        sidecar.send(&ToOrchestrator::Accepted { run_id, fence }).await;
        (bench, sidecar, run, (run_id, fence))
    }

    /// It has started the run, and the start is stored.
    async fn running() -> (Self, Sidecar, Value, Held) {
        let (bench, mut sidecar, run, held) = Self::accepted().await;
        sidecar.start(held);
        sidecar.flush(held.0).await;
        (bench, sidecar, run, held)
    }

    async fn tuned(tuning: Tuning) -> Self {
        let dir = TempDir::new().expect("temporary directory");
        let clock = Clock::system();
        let server = serve_in(&dir, &clock, tuning).await;
        let admin = server
            .admin_key
            .as_ref()
            .expect("first start")
            .expose()
            .to_owned();
        let mut bench = Self {
            server,
            clock,
            admin,
            node: NodeId::from_random([0; 16]),
            http: reqwest::Client::new(),
            dir,
        };
        bench.node = bench.link(1).await;
        bench.agent("code-on-my-mac", bench.node).await;
        bench
    }

    /// Stops the server gently and starts it on the same data, at another port.
    async fn restart(self) -> Self {
        self.server.shutdown().await;
        let server = serve_in(&self.dir, &self.clock, Tuning::default()).await;
        Self { server, ..self }
    }

    fn app(&self) -> &Arc<App> {
        &self.server.app
    }

    async fn link(&self, seed: u8) -> NodeId {
        let key = NodePrivateKey::from_random([seed; 32]).public();
        let body = json!({ "publicKey": key, "deviceLabel": format!("mac {seed}") });
        let started = self.post("/v1/runmesh/devices/link/start", body).await.ok();
        let approve = json!({ "code": started["code"] });
        let approved = self.post("/v1/runmesh/devices/link/approve", approve).await.ok();
        let id = approved["node"]["id"].as_str().expect("a node");
        id.parse().expect("its id")
    }

    async fn agent(&self, slug: &str, node: NodeId) {
        let runner = json!({ "type": "acp", "name": "goose" });
        let body =
            json!({ "slug": slug, "executionMode": "local-mac", "targetDeviceId": node, "runner": runner });
        self.post("/v1/agents", body).await.ok();
    }

    /// Starts a run of the agent and returns its receipt.
    async fn run(&self, more: Value) -> Value {
        let mut body = json!({ "agent": "code-on-my-mac", "prompt": "Inspect this local repo" });
        for (field, value) in more.as_object().expect("fields") {
            body[field] = value.clone();
        }
        self.post("/v1/run", body).await.ok()
    }

    /// Waits until a run has a status.
    async fn until(&self, run: &Value, status: &str) -> Value {
        let path = format!("/v1/runs/{}", text(run, "runId"));
        let asking = async {
            loop {
                let found = self.get(&path).await.ok();
                if found["status"] == status {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, asking).await {
            Ok(found) => found,
            Err(_) => panic!("not {status}: {}", self.get(&path).await.body),
        }
    }

    async fn events(&self, run: &Value) -> Vec<Value> {
        let path = format!("/v1/threads/{}/events?limit=500&after=0", text(run, "threadId"));
        let answer = self.get(&path).await;
        answer.body["data"].as_array().expect("a list").clone()
    }

    /// Makes a person of the org and returns their key.
    async fn member(&self, role: &str) -> String {
        let org = self.get("/v1/organizations/current").await.ok();
        let path = format!("/v1/organizations/{}/members", text(&org, "id"));
        let body = json!({ "name": format!("a second {role}"), "role": role });
        key_of(&self.post(&path, body).await.ok())
    }

    async fn round(&self) {
        reconcile::round(self.app()).await.expect("a round");
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.http_addr)
    }

    async fn call(&self, key: &str, method: Method, path: &str, body: Option<Value>) -> Answer {
        let mut request = self.http.request(method, self.url(path)).bearer_auth(key);
        if let Some(body) = body {
            request = request.json(&body);
        }
        Answer::of(request).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.call(&self.admin, Method::GET, path, None).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(&self.admin, Method::POST, path, Some(body)).await
    }
}

async fn serve_in(dir: &TempDir, clock: &Clock, tuning: Tuning) -> Server {
    let config = ServeConfig {
        data_dir: dir.path().join("data"),
        database_url: None,
        listen: "127.0.0.1:0".parse().expect("address"),
        mesh_listen: "127.0.0.1:0".parse().expect("address"),
        public_url: None,
        org_name: "home".parse().expect("name"),
        trusted_proxies: Vec::new(),
        relay: None,
        relays_elsewhere: Vec::new(),
        provider: None,
        clock: clock.clone(),
    };
    serve_with(config, tuning).await.expect("the server starts")
}

/// What keeps a session known to be alive.
const PING: ToOrchestrator = ToOrchestrator::Ping { places: None };

/// What the server said.
#[derive(Debug)]
struct Answer {
    status: u16,
    body: Value,
}

impl Answer {
    async fn of(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.expect("an answer");
        let status = response.status().as_u16();
        let text = response.text().await.expect("a body");
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Self { status, body }
    }

    fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{} {}", self.status, self.body);
        self.body["data"].clone()
    }

    fn refused(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.body["error"]["code"], code, "{}", self.body);
    }
}

/// The key in the answer to whatever made one.
fn key_of(made: &Value) -> String {
    let key = &made["apiKey"];
    let text = key.as_str().or_else(|| key["key"].as_str());
    text.expect("a key").to_owned()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field]
        .as_str()
        .unwrap_or_else(|| panic!("{field} of {value}"))
}

fn run_id(run: &Value) -> RunId {
    text(run, "runId").parse().expect("a run id")
}

fn types_of(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| text(event, "type")).collect()
}

fn append_refused((run_id, fence): Held, reason: AppendRefusal) -> ToSidecar {
    ToSidecar::AppendRefused {
        run_id,
        fence,
        reason,
    }
}

fn said(words: &str) -> EventDraft {
    EventDraft {
        event_type: EventType::AssistantMessage,
        payload: json!({ "text": words }),
        client_event_id: None,
    }
}

/// A sidecar as small as can be; its journal outlives its sessions.
struct Sidecar {
    node: NodeId,
    journal: Journal,
    /// How many runs it says that it takes at a time.
    places: Option<u32>,
    link: Option<(DuplexStream, Decoder)>,
}

impl Sidecar {
    fn new(node: NodeId) -> Self {
        Self {
            node,
            journal: Journal::default(),
            places: None,
            link: None,
        }
    }

    async fn connected(bench: &Bench) -> Self {
        let mut sidecar = Self::new(bench.node);
        sidecar.connect(bench).await;
        sidecar
    }

    async fn connect(&mut self, bench: &Bench) {
        let (near, far) = tokio::io::duplex(256 * 1024);
        let app = Arc::clone(bench.app());
        tokio::spawn(session::run(app, self.node, far, CancellationToken::new()));
        self.link = Some((near, Decoder::new(FRAME_BYTES_MAX)));
        let hello = ToOrchestrator::Hello {
            version: PROTOCOL_VERSION,
            open_runs: self.journal.open_runs(),
            places: self.places,
        };
        self.send(&hello).await;
        assert!(matches!(self.receive().await, ToSidecar::Welcome { .. }));
    }

    /// Drops the session and waits until the orchestrator has noticed.
    async fn disconnect(&mut self, bench: &Bench) {
        self.link = None;
        while bench.app().orchestrator.is_connected(self.node) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // The write that noted it comes before this one.
        let after = DispatchTx::begin(bench.app()).await.expect("begins");
        after.commit().await.expect("commits");
    }

    async fn send(&mut self, message: &ToOrchestrator) {
        let json = serde_json::to_vec(message).expect("serializes");
        let (stream, _) = self.link.as_mut().expect("connected");
        let frame = encode(&json).expect("small");
        stream.write_all(&frame).await.expect("the session reads");
    }

    async fn receive(&mut self) -> ToSidecar {
        let received = tokio::time::timeout(PATIENCE, self.try_receive()).await;
        received.expect("a message in time").expect("an open session")
    }

    async fn try_receive(&mut self) -> Option<ToSidecar> {
        let (stream, decoder) = self.link.as_mut().expect("connected");
        loop {
            if let Some(frame) = decoder.next().expect("a frame") {
                return Some(serde_json::from_slice(&frame).expect("a message"));
            }
            let mut buffer = [0; 4096];
            let len = stream.read(&mut buffer).await.unwrap_or(0);
            if len == 0 {
                return None;
            }
            decoder.push(&buffer[..len]);
        }
    }

    /// The next message, which must be an offer.
    async fn next_offer(&mut self) -> (RunOrder, Attempt, Fence) {
        match self.receive().await {
            ToSidecar::Offer {
                order,
                attempt,
                fence,
                ..
            } => (order.read().expect("an order"), attempt, fence),
            other => panic!("an offer was expected: {other:?}"),
        }
    }

    /// Takes an order into the journal, unless it is there.
    fn journal(&mut self, order: &RunOrder, attempt: Attempt, fence: Fence) -> Held {
        match self.journal.offer(order, attempt, fence) {
            OfferDecision::Take(write) => self.journal.commit(write),
            OfferDecision::Known => {}
            OfferDecision::Refuse(reason) => panic!("{reason:?}"),
        }
        (order.run_id, fence)
    }

    /// Takes the next message, which must be an offer, into the journal; does not answer.
    async fn journal_offer(&mut self) -> Held {
        let (order, attempt, fence) = self.next_offer().await;
        self.journal(&order, attempt, fence)
    }

    /// Accepts the next message, which must be an offer.
    async fn accept_order(&mut self) -> RunOrder {
        let (order, attempt, fence) = self.next_offer().await;
        let (run_id, fence) = self.journal(&order, attempt, fence);
        self.send(&ToOrchestrator::Accepted { run_id, fence }).await;
        order
    }

    /// Refuses an offer.
    async fn refuse(&mut self, (run_id, fence): Held, reason: OfferRefusal, message: &str) {
        let message = message.to_owned();
        let refused = ToOrchestrator::Refused {
            run_id,
            fence,
            reason,
            message,
        };
        self.send(&refused).await;
    }

    /// Sends events that the journal does not know.
    async fn append(&mut self, (run_id, fence): Held, first: u64, events: Vec<EventDraft>) {
        let append = ToOrchestrator::Append {
            run_id,
            fence,
            first,
            events,
        };
        self.send(&append).await;
    }

    async fn accept(&mut self) -> Held {
        let (run_id, fence) = self.journal_offer().await;
        self.send(&ToOrchestrator::Accepted { run_id, fence }).await;
        (run_id, fence)
    }

    fn start(&mut self, (run, fence): Held) {
        let write = self
            .journal
            .start(run, fence, json!({ "runner": "test" }))
            .expect("starts");
        self.journal.commit(write);
    }

    fn say(&mut self, (run, fence): Held, words: &str) {
        let write = self
            .journal
            .append(run, fence, vec![said(words)])
            .expect("under way");
        self.journal.commit(write);
    }

    fn end(&mut self, (run, fence): Held, status: &str) {
        let write = self
            .journal
            .end(run, fence, json!({ "status": status }))
            .expect("open");
        self.journal.commit(write);
    }

    /// Sends what is not acknowledged, in one append.
    async fn send_unsent(&mut self, run: RunId) {
        let unsent = self.journal.unsent(run, 0).expect("something waits");
        let (fence, first) = (unsent.fence, unsent.first);
        let events = unsent.in_memory().expect("there is no file");
        self.append((run, fence), first, events).await;
    }

    /// Waits for the acknowledgement and notes it.
    async fn acknowledged(&mut self) -> u64 {
        match self.receive().await {
            ToSidecar::Appended { run_id, fence, next } => {
                let write = self.journal.acknowledge(run_id, fence, next).expect("held");
                self.journal.commit(write);
                next
            }
            other => panic!("{other:?}"),
        }
    }

    /// Sends everything of a run and waits until it is stored.
    async fn flush(&mut self, run: RunId) {
        while self.journal.unsent(run, 0).is_some() {
            self.send_unsent(run).await;
            self.acknowledged().await;
        }
    }
}
