//! The proxy: SOCKS5 and HTTP CONNECT on one port of this device, leading into the mesh and nowhere else.
//!
//! What is spoken is told by the first byte ([`mesh::proxy`]). Without a password only programs on this device may ask, so
//! the port must be one of loopback; with one it may be any.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use mesh::proxy::http_connect::{self, ConnectError, Status};
use mesh::proxy::socks5::{self, Method, Reply};
use mesh::proxy::{Progress, Spoken, Target};
use net::MeshStream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use types::SecretString;

use super::accept::accept_each;
use super::carry::carry;
use super::{Reach, ReachError};

/// The user name that goes with the password.
pub const USER: &str = "runmesh";

/// How long a client may take to say what it wants.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client that was refused may take to read why.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// What is read at once while a client says what it wants, in bytes; so much beside the longest message is kept.
const READ_BYTES: usize = 2048;

/// What is nowhere: the address in an answer that gives no connection.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Where the proxy listens and who may use it.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// The address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What a client must know; needed unless the address is one of loopback.
    pub password: Option<SecretString>,
}

/// Why there is no proxy.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Others than this device could use it.
    #[error("the proxy at {0} would be open to whoever reaches that address, and has no password")]
    Open(SocketAddr),
    /// The address cannot be listened on.
    #[error("the proxy cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// The proxy's port, taken.
pub struct Proxy {
    listener: TcpListener,
    address: SocketAddr,
    access: Access,
}

impl Proxy {
    /// Takes the port; must be called inside the runtime.
    pub fn bind(config: &ProxyConfig) -> Result<Self, ProxyError> {
        if config.password.is_none() && !config.listen.ip().is_loopback() {
            return Err(ProxyError::Open(config.listen));
        }
        let listen = || {
            let listener = std::net::TcpListener::bind(config.listen)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((TcpListener::from_std(listener)?, address))
        };
        let (listener, address) = listen().map_err(|source| ProxyError::Listen {
            address: config.listen,
            source,
        })?;
        let access = Access::new(config.password.clone());
        Ok(Self {
            listener,
            address,
            access,
        })
    }

    /// Returns where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves clients, for ever; dropping this cuts their connections.
    pub async fn serve(&self, reach: Reach) {
        accept_each(&self.listener, |stream, _| {
            let (reach, access) = (reach.clone(), self.access.clone());
            async move {
                let client = Client {
                    stream,
                    received: Vec::new(),
                    spoken: None,
                };
                if let Err(error) = client.serve(&reach, &access).await {
                    tracing::debug!(%error, "a client of the proxy is gone");
                }
            }
        })
        .await;
    }
}

/// What a client must know.
#[derive(Clone)]
struct Access {
    password: Option<SecretString>,
    /// The same as it stands in `Proxy-Authorization`.
    basic: Option<SecretString>,
}

impl Access {
    fn new(password: Option<SecretString>) -> Self {
        let basic = password.as_ref().map(|password| {
            let pair = SecretString::new(format!("{USER}:{}", password.expose()));
            SecretString::new(format!("Basic {}", BASE64_STANDARD.encode(pair.expose())))
        });
        Self { password, basic }
    }

    fn method(&self) -> Method {
        match self.password {
            Some(_) => Method::Password,
            None => Method::Open,
        }
    }

    fn admits(&self, given: &socks5::Password) -> bool {
        let is_right = |password: &SecretString| password.matches(given.password.expose());
        given.user.matches(USER) && self.password.as_ref().is_none_or(is_right)
    }

    fn admits_http(&self, given: Option<&SecretString>) -> bool {
        let is_right = |basic: &SecretString| given.is_some_and(|given| basic.matches(given.expose()));
        self.basic.as_ref().is_none_or(is_right)
    }
}

/// Why a client gets no connection.
enum Refused {
    /// It is told this, and the connection ends.
    Saying(Vec<u8>),
    /// It is gone, or speaks something to which there is no answer.
    Silently,
}

impl From<io::Error> for Refused {
    fn from(_: io::Error) -> Self {
        Self::Silently
    }
}

impl From<ConnectError> for Refused {
    fn from(error: ConnectError) -> Self {
        Self::Saying(http_connect::refusal(error.status(), &error.to_string()))
    }
}

/// A connection of which is known what came, up to where it is carried.
struct Client {
    stream: TcpStream,
    received: Vec<u8>,
    spoken: Option<Spoken>,
}

impl Client {
    async fn serve(mut self, reach: &Reach, access: &Access) -> io::Result<()> {
        let asked = timeout(HANDSHAKE_TIMEOUT, self.ask(access)).await;
        let target = match asked.unwrap_or_else(|_| Err(self.too_late())) {
            Ok(target) => target,
            Err(Refused::Saying(answer)) => return self.farewell(&answer).await,
            Err(Refused::Silently) => return Ok(()),
        };
        match reach.connect(&target).await {
            Ok(mesh) => self.carry(mesh).await,
            Err(error) => {
                tracing::debug!(%error, "a client of the proxy asked for what it cannot have");
                let answer = match self.spoken {
                    Some(Spoken::Http) => http_connect::refusal(status(&error), &error.to_string()),
                    _ => socks5::answer(reply(&error), NOWHERE),
                };
                self.farewell(&answer).await
            }
        }
    }

    fn too_late(&self) -> Refused {
        match self.spoken {
            Some(Spoken::Http) => {
                let reason = format!("no request came within {} s", HANDSHAKE_TIMEOUT.as_secs());
                Refused::Saying(http_connect::refusal(Status::RequestTimeout, &reason))
            }
            _ => Refused::Silently,
        }
    }

    /// Learns what the client wants.
    async fn ask(&mut self, access: &Access) -> Result<Target, Refused> {
        self.read().await?;
        self.spoken = self.received.first().and_then(|first| Spoken::of(*first));
        match self.spoken {
            Some(Spoken::Socks5) => self.ask_socks5(access).await,
            Some(Spoken::Http) => self.ask_http(access).await,
            None => Err(Refused::Silently),
        }
    }

    async fn ask_socks5(&mut self, access: &Access) -> Result<Target, Refused> {
        let greeting = self.message(socks5::parse_greeting).await?;
        let greeting = greeting.map_err(|_| Refused::Silently)?;
        let method = access.method();
        if !greeting.offers(method) {
            return Err(Refused::Saying(socks5::method_answer(None).to_vec()));
        }
        self.stream
            .write_all(&socks5::method_answer(Some(method)))
            .await?;
        if method == Method::Password {
            let password = self.message(socks5::parse_password).await?;
            let password = password.map_err(|_| Refused::Silently)?;
            let is_right = access.admits(&password);
            if !is_right {
                return Err(Refused::Saying(socks5::password_answer(false).to_vec()));
            }
            self.stream.write_all(&socks5::password_answer(true)).await?;
        }
        let request = self.message(socks5::parse_request).await?;
        request.map_err(|error| Refused::Saying(socks5::answer(error.reply(), NOWHERE)))
    }

    async fn ask_http(&mut self, access: &Access) -> Result<Target, Refused> {
        let request = self.message(http_connect::parse).await??;
        if access.admits_http(request.authorization.as_ref()) {
            return Ok(request.target);
        }
        let reason =
            format!("the user name is {USER}, and the password is the one that the proxy was started with");
        let status = Status::AuthenticationRequired;
        Err(Refused::Saying(http_connect::refusal(status, &reason)))
    }

    /// Waits until a message is whole, or known to be none. Every parser says one or the other before its limit.
    async fn message<T, E>(
        &mut self,
        parse: impl Fn(&[u8]) -> Result<Progress<T>, E>,
    ) -> io::Result<Result<T, E>> {
        loop {
            match parse(&self.received) {
                Ok(Progress::Done { value, len }) => {
                    self.received.drain(..len);
                    return Ok(Ok(value));
                }
                Ok(Progress::More) => self.read().await?,
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    async fn read(&mut self) -> io::Result<()> {
        let mut buffer = [0; READ_BYTES];
        let len = self.stream.read(&mut buffer).await?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.received.extend_from_slice(&buffer[..len]);
        Ok(())
    }

    async fn carry(mut self, mut mesh: MeshStream) -> io::Result<()> {
        let answer = match self.spoken {
            Some(Spoken::Http) => http_connect::ESTABLISHED.to_vec(),
            _ => socks5::answer(Reply::Succeeded, mesh.local_addr()),
        };
        self.stream.write_all(&answer).await?;
        // What came behind the request is the first of the data, and fits into the stream's ring.
        mesh.write_all(&self.received).await?;
        carry(self.stream, mesh).await
    }

    /// Says why not, and goes when the client had time to read it: closing on bytes that were not read would cut it off.
    async fn farewell(mut self, answer: &[u8]) -> io::Result<()> {
        let saying = async {
            self.stream.write_all(answer).await?;
            self.stream.shutdown().await?;
            let mut rest = [0; READ_BYTES];
            while self.stream.read(&mut rest).await? > 0 {}
            Ok(())
        };
        timeout(FAREWELL_TIMEOUT, saying).await.unwrap_or(Ok(()))
    }
}

fn reply(error: &ReachError) -> Reply {
    match error {
        ReachError::NoNetmap => Reply::NetworkUnreachable,
        ReachError::NotOfTheMesh { .. } | ReachError::ThisDevice { .. } => Reply::Forbidden,
        ReachError::Unknown { .. } | ReachError::Unreached { .. } | ReachError::NoAddress { .. } => {
            Reply::HostUnreachable
        }
        ReachError::Refused { .. } => Reply::Refused,
        ReachError::TooMany { .. } | ReachError::Stopped => Reply::Failed,
    }
}

fn status(error: &ReachError) -> Status {
    match error {
        ReachError::NotOfTheMesh { .. } | ReachError::ThisDevice { .. } => Status::Forbidden,
        ReachError::Unknown { .. } => Status::NotFound,
        ReachError::Refused { .. } | ReachError::NoAddress { .. } => Status::BadGateway,
        ReachError::Unreached { .. } => Status::GatewayTimeout,
        ReachError::NoNetmap | ReachError::TooMany { .. } | ReachError::Stopped => Status::Unavailable,
    }
}
