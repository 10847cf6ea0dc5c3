//! Becoming a node: ask for a code, show it, wait until somebody approves it, pin what the approval says (contract §2).
//! A code that waits survives a restart; one that died is replaced.

use std::time::Duration;

use api::auth_keys::Join;
use api::client::{Client, ClientError};
use api::error::ErrorCode;
use api::links::{LinkPoll, LinkStart, LinkStatus};
use api::nodes::{Node, NodeConfig};
use fast_qr::QRBuilder;
use net::clock::Clock;
use tokio::time::{sleep, timeout};
use types::{NodePublicKey, SecretString, Timestamp};

use crate::backoff::Backoff;
use crate::config::OnTalk;
use crate::link_state::{self, LinkRecord, LinkState, PendingCode, Pinned};
use crate::state_dir::{StateDir, StateDirError};
use crate::status::{self, StatusBoard};
use crate::talk::Talk;

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// The shortest and longest time between two polls, whatever the server says.
const POLL_INTERVAL: std::ops::RangeInclusive<u32> = 1..=30;

/// Why the device did not become a node.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Somebody said no.
    #[error("the link was denied; run the same command again to ask once more")]
    Denied,
    /// The key was a node once and was shut out.
    #[error("this device was revoked; delete {0} to become a new node")]
    Revoked(String),
    /// The server does not accept the request, and asking again would not help.
    #[error("{0}")]
    Refused(ClientError),
    /// The answer contradicts what was asked.
    #[error("the server's approval cannot be used: {0}")]
    BadApproval(&'static str),
    /// The link cannot be kept on disk.
    #[error(transparent)]
    State(#[from] StateDirError),
}

/// The device's side of a link.
pub struct Linker<'a> {
    /// The server, without a credential.
    pub client: Client,
    /// The server's address, as the person gave it.
    pub server_url: String,
    /// This device's key.
    pub public_key: NodePublicKey,
    /// What the approver sees; its key is set from `public_key`.
    pub about: LinkStart,
    /// Where the link is kept.
    pub state_dir: &'a StateDir,
    /// Where it is shown.
    pub board: &'a StatusBoard,
    /// Who is told.
    pub on_talk: &'a OnTalk,
    /// Decides the waits between attempts.
    pub backoff: Backoff,
}

impl Linker<'_> {
    /// Links the device; goes on with `pending` if its time is not over. Can be dropped at any await.
    pub async fn link(mut self, pending: Option<PendingCode>) -> Result<Pinned, LinkError> {
        let mut pending = pending.filter(|pending| pending.expires_at > now());
        loop {
            let resumed = pending.is_some();
            let code = match pending.take() {
                Some(code) => code,
                None => self.start().await?,
            };
            self.show(&code, resumed);
            if let Some(pinned) = self.wait_for(&code).await? {
                return Ok(pinned);
            }
            (self.on_talk)(&Talk::LinkExpired);
        }
    }

    /// Joins by an auth key. Asking again is safe: the same device with the same key gets the same answer.
    pub async fn join(mut self, key: &SecretString) -> Result<Pinned, LinkError> {
        let request = Join {
            auth_key: key.expose().to_owned(),
            name: None,
            about: self.about(),
        };
        loop {
            let answer = timeout(REQUEST_TIMEOUT, self.client.join(&request)).await;
            match answer {
                Ok(Ok(joined)) => return self.approved(Some(joined.node), Some(joined.config)),
                Ok(Err(error)) => self.wait_after(error).await?,
                Err(_) => self.wait_for_server("it does not answer".to_owned()).await,
            }
        }
    }

    fn about(&self) -> LinkStart {
        LinkStart {
            public_key: self.public_key.to_string(),
            ..self.about.clone()
        }
    }

    async fn start(&mut self) -> Result<PendingCode, LinkError> {
        let about = self.about();
        loop {
            let answer = timeout(REQUEST_TIMEOUT, self.client.link_start(&about)).await;
            match answer {
                Ok(Ok(started)) => {
                    self.backoff.succeeded();
                    let code = PendingCode {
                        code: started.code,
                        match_number: started.match_number,
                        url: started.url,
                        expires_at: started.expires_at,
                        interval: started.interval,
                    };
                    self.keep(LinkState::Pending(code.clone()))?;
                    return Ok(code);
                }
                Ok(Err(error)) => self.wait_after(error).await?,
                Err(_) => self.wait_for_server("it does not answer".to_owned()).await,
            }
        }
    }

    /// Waits for a decision; `None` when the code died.
    async fn wait_for(&mut self, code: &PendingCode) -> Result<Option<Pinned>, LinkError> {
        let request = LinkPoll {
            code: code.code.clone(),
            public_key: self.public_key.to_string(),
        };
        let interval = code.interval.clamp(*POLL_INTERVAL.start(), *POLL_INTERVAL.end());
        loop {
            let answer = timeout(REQUEST_TIMEOUT, self.client.link_poll(&request)).await;
            match answer {
                Ok(Ok(polled)) => {
                    self.backoff.succeeded();
                    match polled.status {
                        LinkStatus::Pending => {}
                        LinkStatus::Expired => return Ok(None),
                        LinkStatus::Denied => return self.denied(),
                        LinkStatus::Approved => return self.approved(polled.node, polled.config).map(Some),
                    }
                }
                Ok(Err(error)) if is(&error, ErrorCode::NotFound) || is(&error, ErrorCode::Gone) => {
                    return Ok(None);
                }
                Ok(Err(error)) => self.wait_after(error).await?,
                Err(_) => self.wait_for_server("it does not answer".to_owned()).await,
            }
            if now() > code.expires_at + Duration::from_secs(60) {
                return Ok(None);
            }
            sleep(Duration::from_secs(interval.into())).await;
        }
    }

    fn denied(&self) -> Result<Option<Pinned>, LinkError> {
        self.board
            .change(|status| status.link = status::LinkStatus::Denied);
        link_state::forget(self.state_dir)?;
        (self.on_talk)(&Talk::LinkDenied);
        Err(LinkError::Denied)
    }

    fn approved(&self, node: Option<Node>, config: Option<NodeConfig>) -> Result<Pinned, LinkError> {
        let (Some(node), Some(config)) = (node, config) else {
            return Err(LinkError::BadApproval("the node or its configuration is missing"));
        };
        if node.public_key != self.public_key {
            return Err(LinkError::BadApproval("it is for another key"));
        }
        let addresses = config.interface.addresses.iter();
        let name = node.name.to_string().parse();
        let pinned = Pinned {
            control_key: config.control.public_key,
            org_id: config.org_id,
            org_signing_key: config.org_signing_key,
            node_id: node.id,
            name: name.map_err(|_| LinkError::BadApproval("the node's name is no DNS label"))?,
            addresses: addresses.map(|block| block.address().to_string()).collect(),
        };
        self.keep(LinkState::Linked(Box::new(pinned.clone())))?;
        (self.on_talk)(&Talk::Linked {
            name: pinned.name.clone(),
            addresses: pinned.addresses.clone(),
        });
        Ok(pinned)
    }

    fn keep(&self, state: LinkState) -> Result<(), StateDirError> {
        let record = LinkRecord {
            server_url: self.server_url.clone(),
            state,
        };
        link_state::write(self.state_dir, &record)
    }

    async fn wait_after(&mut self, error: ClientError) -> Result<(), LinkError> {
        if is(&error, ErrorCode::DeviceRevoked) {
            return Err(LinkError::Revoked(self.state_dir.path().display().to_string()));
        }
        let may_pass = match error.api() {
            Some(body) => body.code == ErrorCode::RateLimited || body.code.status() >= 500,
            None => !matches!(error, ClientError::BadUrl),
        };
        if !may_pass {
            return Err(LinkError::Refused(error));
        }
        self.wait_for_server(with_causes(&error)).await;
        Ok(())
    }

    async fn wait_for_server(&mut self, reason: String) {
        let retry_in = self.backoff.after_failure();
        (self.on_talk)(&Talk::LinkWaiting { reason, retry_in });
        sleep(retry_in).await;
    }

    fn show(&self, code: &PendingCode, resumed: bool) {
        self.board.change(|status| {
            status.link = status::LinkStatus::Pending {
                code: code.code.clone(),
                match_number: code.match_number.clone(),
                url: code.url.clone(),
                expires_at: code.expires_at,
            };
        });
        (self.on_talk)(&Talk::LinkCode {
            code: code.code.clone(),
            match_number: code.match_number.clone(),
            url: code.url.clone(),
            qr: qr(&code.url),
            expires_at: code.expires_at,
            resumed,
        });
    }
}

/// An error with what caused it, on one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}

fn is(error: &ClientError, code: ErrorCode) -> bool {
    error.api().is_some_and(|body| body.code == code)
}

fn now() -> Timestamp {
    Clock::new().now().wall
}

/// Draws a URL; empty when it is too long for a QR code.
fn qr(url: &str) -> String {
    QRBuilder::new(url)
        .build()
        .map_or_else(|_| String::new(), |code| code.to_str())
}
