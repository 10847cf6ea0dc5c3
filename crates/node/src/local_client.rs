//! The other end of the local socket: what `runmesh status` and apps on this device call.

use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::local_api::{
    EndExposure, EndForward, ExposeRequest, ForwardRequest, KeyRotated, LocalError, LocalErrorEnvelope, Log,
    Netcheck, PingEvent, PingRequest, PortEvent, PortList, PortsEnded, RunStarted, SOCKET, StartRun,
};
use crate::status::Status;

/// How long the daemon may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The longest event, in bytes.
const EVENT_BYTES_MAX: usize = 64 * 1024;

/// Why the daemon gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum LocalClientError {
    /// No daemon listens there.
    #[error("no daemon is running with the state directory {0}")]
    NotRunning(PathBuf),
    /// The daemon runs as another user.
    #[error("the daemon with the state directory {0} belongs to another user")]
    Denied(PathBuf),
    /// It said no.
    #[error("{} ({})", .0.message, .0.code)]
    Refused(LocalError),
    /// It went away, or what it said cannot be read.
    #[error("the daemon's answer cannot be read: {0}")]
    Broken(String),
    /// It did not answer in time.
    #[error("the daemon did not answer in time")]
    TimedOut,
}

/// A client of the daemon of one state directory.
#[derive(Clone, Debug)]
pub struct LocalClient {
    state_dir: PathBuf,
}

impl LocalClient {
    /// Makes a client; nothing is opened before the first call.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self {
            state_dir: state_dir.to_owned(),
        }
    }

    /// Asks for the daemon's status.
    pub async fn status(&self) -> Result<Status, LocalClientError> {
        self.call(Method::GET, "/status", Vec::new()).await
    }

    /// Asks what the networks around the device let through.
    pub async fn netcheck(&self) -> Result<Netcheck, LocalClientError> {
        self.call(Method::GET, "/netcheck", Vec::new()).await
    }

    /// Asks for the end of the daemon's log.
    pub async fn log(&self) -> Result<Log, LocalClientError> {
        self.call(Method::GET, "/log", Vec::new()).await
    }

    /// Pings a node; what comes of it the events tell.
    pub async fn ping(&self, request: &PingRequest) -> Result<Events<PingEvent>, LocalClientError> {
        let body = serde_json::to_vec(request).map_err(|error| broken(&error))?;
        self.open("/pings", body).await
    }

    /// Starts a run of an agent that is bound to this device.
    pub async fn start_run(&self, request: &StartRun) -> Result<RunStarted, LocalClientError> {
        let body = serde_json::to_vec(request).map_err(|error| broken(&error))?;
        self.call(Method::POST, "/runs", body).await
    }

    /// Has the node make itself another key, and waits until it is in force.
    pub async fn rotate_key(&self) -> Result<KeyRotated, LocalClientError> {
        self.call(Method::POST, "/key", Vec::new()).await
    }

    /// Asks the daemon to stop in good order; it goes on to stop after this returns.
    pub async fn shutdown(&self) -> Result<(), LocalClientError> {
        self.ask(Method::POST, "/shutdown", Vec::new()).await.map(drop)
    }

    /// Asks which ports are exposed and forwarded.
    pub async fn ports(&self) -> Result<PortList, LocalClientError> {
        self.call(Method::GET, "/ports", Vec::new()).await
    }

    /// Forwards a local port for as long as the events are held; one in the background from the first event on.
    pub async fn forward(&self, request: &ForwardRequest) -> Result<PortEvents, LocalClientError> {
        let body = serde_json::to_vec(request).map_err(|error| broken(&error))?;
        self.open("/forwards", body).await
    }

    /// Exposes a port of this device for as long as the events are held; one in the background from the first event on.
    pub async fn expose(&self, request: &ExposeRequest) -> Result<PortEvents, LocalClientError> {
        let body = serde_json::to_vec(request).map_err(|error| broken(&error))?;
        self.open("/exposed", body).await
    }

    /// Takes a forwarded port back that is kept in the background.
    pub async fn end_forward(&self, request: &EndForward) -> Result<PortsEnded, LocalClientError> {
        let body = serde_json::to_vec(request).map_err(|error| broken(&error))?;
        self.call(Method::DELETE, "/forwards", body).await
    }

    /// Takes an exposed port back that is kept in the background.
    pub async fn end_exposure(&self, request: &EndExposure) -> Result<PortsEnded, LocalClientError> {
        let body = serde_json::to_vec(request).map_err(|error| broken(&error))?;
        self.call(Method::DELETE, "/exposed", body).await
    }

    async fn open<T>(&self, path: &str, body: Vec<u8>) -> Result<Events<T>, LocalClientError> {
        let opening = async {
            let (answer, connection) = self.request(Method::POST, path, body).await?;
            if answer.status().is_success() {
                return Ok(Events {
                    body: answer.into_body(),
                    received: Vec::new(),
                    event: PhantomData,
                    _connection: connection,
                });
            }
            Err(refusal(&read_whole(answer.into_body()).await?))
        };
        timeout(ANSWER_TIMEOUT, opening)
            .await
            .map_err(|_| LocalClientError::TimedOut)?
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, LocalClientError> {
        let bytes = self.ask(method, path, body).await?;
        serde_json::from_slice(&bytes).map_err(|error| broken(&error))
    }

    async fn ask(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Bytes, LocalClientError> {
        timeout(ANSWER_TIMEOUT, self.exchange(method, path, body))
            .await
            .map_err(|_| LocalClientError::TimedOut)?
    }

    async fn exchange(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Bytes, LocalClientError> {
        let (answer, _connection) = self.request(method, path, body).await?;
        let status = answer.status();
        let bytes = read_whole(answer.into_body()).await?;
        if status.is_success() {
            return Ok(bytes);
        }
        Err(refusal(&bytes))
    }

    /// Sends a request and returns the head of its answer; the connection lasts as long as the handle is held.
    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(Response<Incoming>, AbortOnDropHandle<()>), LocalClientError> {
        let stream = self.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            // How it ended the answer tells.
            let _ = connection.await;
        }));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| broken(&error))?;
        let answer = sender.send_request(request).await;
        Ok((answer.map_err(|error| broken(&error))?, connection))
    }

    async fn connect(&self) -> Result<UnixStream, LocalClientError> {
        let path = self.state_dir.join(SOCKET);
        UnixStream::connect(path)
            .await
            .map_err(|error| match error.kind() {
                io::ErrorKind::PermissionDenied => LocalClientError::Denied(self.state_dir.clone()),
                _ => LocalClientError::NotRunning(self.state_dir.clone()),
            })
    }
}

async fn read_whole(body: Incoming) -> Result<Bytes, LocalClientError> {
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| LocalClientError::Broken(error.to_string()))?;
    Ok(body.to_bytes())
}

fn refusal(bytes: &[u8]) -> LocalClientError {
    LocalClientError::Refused(match serde_json::from_slice::<LocalErrorEnvelope>(bytes) {
        Ok(envelope) => envelope.error,
        Err(_) => LocalError {
            code: "bad_request".to_owned(),
            message: String::from_utf8_lossy(&bytes[..bytes.len().min(1000)]).into_owned(),
        },
    })
}

/// What there is to tell of a forwarded or exposed port. Dropping it closes the port.
pub type PortEvents = Events<PortEvent>;

/// What there is to tell, as it comes. Dropping it ends what it tells of.
#[derive(Debug)]
pub struct Events<T> {
    body: Incoming,
    received: Vec<u8>,
    event: PhantomData<T>,
    _connection: AbortOnDropHandle<()>,
}

impl<T: DeserializeOwned> Events<T> {
    /// Waits for the next event; `None` when the daemon has nothing more to tell. Can be dropped at any await.
    pub async fn next(&mut self) -> Result<Option<T>, LocalClientError> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return serde_json::from_slice(&line)
                    .map(Some)
                    .map_err(|error| broken(&error));
            }
            if self.received.len() > EVENT_BYTES_MAX {
                return Err(LocalClientError::Broken("an event is too long".to_owned()));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.received.extend(frame.into_data().unwrap_or_default()),
                // A daemon that is killed ends it just as well.
                Some(Err(_)) | None => return Ok(None),
            }
        }
    }
}

fn broken(error: &dyn std::error::Error) -> LocalClientError {
    LocalClientError::Broken(error.to_string())
}

#[cfg(test)]
mod tests {
    use net::clock::Clock;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::keyring::Keyring;
    use crate::local_api::{LocalState, bind, serve};
    use crate::state_dir::StateDir;
    use crate::status::{LinkStatus, StatusBoard};

    /// A local API of a device that is not linked; the token ends it.
    fn daemon(dir: &Path) -> (LocalState, CancellationToken, tokio::task::JoinHandle<()>) {
        let state_dir = StateDir::open(&dir.join("state")).expect("opens");
        let keyring = Keyring::open(std::sync::Arc::new(state_dir)).expect("keys");
        let key = keyring.public();
        let state = LocalState {
            board: StatusBoard::new("1".to_owned(), key, Clock::new().now().wall),
            sidecar: std::sync::Arc::default(),
            ports: std::sync::Arc::default(),
            keyring: std::sync::Arc::new(keyring),
            log: crate::log_tail::LogTail::default(),
            shutdown: CancellationToken::new(),
        };
        let until = CancellationToken::new();
        let listener = bind(&dir.join(SOCKET)).expect("bound");
        let serving = tokio::spawn(serve(listener, state.clone(), until.clone()));
        (state, until, serving)
    }

    /// Sends bytes as they are and returns the whole answer.
    async fn raw(dir: &Path, request: String) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = UnixStream::connect(dir.join(SOCKET)).await.expect("connected");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        answer
    }

    #[tokio::test]
    async fn every_no_stands_in_the_contracts_envelope() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (_, until, serving) = daemon(dir.path());
        let post = |kind: &str, body: &str| {
            format!(
                "POST /runs HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {kind}\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        let json = "application/json";
        let large = format!("{{\"prompt\":\"{}\"}}", "x".repeat(400 * 1024));
        let cases = [
            (post(json, "{"), "400", "bad_request"),
            (
                post(json, "{\"agent\":\"a\",\"prompt\":\"b\",\"other\":1}"),
                "400",
                "bad_request",
            ),
            (
                post(json, "{\"agent\":\"NO SLUG\",\"prompt\":\"b\"}"),
                "400",
                "bad_request",
            ),
            (post("text/plain", "{}"), "415", "unsupported_media_type"),
            (post(json, &large), "413", "payload_too_large"),
            (
                "GET /else HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(),
                "404",
                "not_found",
            ),
            (
                "PUT /runs HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(),
                "405",
                "method_not_allowed",
            ),
            (
                post(json, "{\"agent\":\"a\",\"prompt\":\"b\"}"),
                "409",
                "device_offline",
            ),
        ];
        for (request, status, code) in cases {
            let answer = raw(dir.path(), request).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{code}: {answer}"
            );
            let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
            let body: LocalErrorEnvelope = serde_json::from_str(body).expect("the envelope");
            assert_eq!(body.error.code, code);
            assert!(!body.error.message.is_empty());
        }
        until.cancel();
        serving.await.expect("no panic");
    }

    #[tokio::test]
    async fn the_daemon_is_asked_over_its_socket_and_says_what_it_is() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let client = LocalClient::new(dir.path());
        let error = client.status().await.expect_err("nobody listens");
        assert!(matches!(error, LocalClientError::NotRunning(_)), "{error}");

        let (state, until, serving) = daemon(dir.path());
        let status = client.status().await.expect("answered");
        let key = state.board.read().public_key;
        assert_eq!((status.public_key, status.link), (key, LinkStatus::Unlinked));
        let run = StartRun {
            agent: "tester".parse().expect("slug"),
            prompt: "hello".to_owned(),
            thread_id: None,
            idempotency_key: None,
        };
        match client.start_run(&run).await {
            Err(LocalClientError::Refused(error)) => assert_eq!(error.code, "device_offline"),
            other => panic!("{other:?}"),
        }
        client.shutdown().await.expect("answered");
        assert!(state.shutdown.is_cancelled());
        until.cancel();
        serving.await.expect("no panic");
    }
}
