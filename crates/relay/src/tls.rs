//! The certificate of a relay that ends TLS itself: two PEM files, read again when they change.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;

/// How often the files are looked at, when somebody connects.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Where certificate and key are.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate and those between it and the root, PEM.
    pub certificates: PathBuf,
    /// The private key, PEM.
    pub private_key: PathBuf,
}

/// Why the files give no certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is no PEM, or holds nothing of the kind.
    #[error("cannot use {path}: {source}")]
    Malformed {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        source: pem::Error,
    },
    /// Key and certificate do not belong together, or are of a kind that is not known.
    #[error("cannot use the certificate with the key: {0}")]
    Unusable(#[from] rustls::Error),
}

/// A certificate that follows its files.
pub struct Tls {
    files: TlsFiles,
    acceptor: TlsAcceptor,
    looked: Instant,
    written: [Option<SystemTime>; 2],
}

impl Tls {
    /// Reads the files.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        // Before the reading: a file that changes meanwhile is read again.
        let written = files.written();
        let acceptor = files.acceptor()?;
        Ok(Self {
            files,
            acceptor,
            looked: Instant::now(),
            written,
        })
    }

    /// Reads the files again; after an error the certificate from before stays in use.
    pub fn reload(&mut self) -> Result<(), TlsError> {
        self.written = self.files.written();
        self.acceptor = self.files.acceptor()?;
        Ok(())
    }

    /// Takes one connection with the certificate in use.
    pub async fn accept<S>(&self, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.acceptor.accept(stream).await
    }

    /// Returns what takes the next connection; looks every 10 s whether the files have changed.
    pub(crate) fn acceptor(&mut self) -> TlsAcceptor {
        if self.looked.elapsed() >= LOOK_INTERVAL {
            self.looked = Instant::now();
            if self.files.written() != self.written {
                match self.reload() {
                    Ok(()) => tracing::info!("the certificate was read again"),
                    Err(error) => tracing::warn!(%error, "the certificate from before stays in use"),
                }
            }
        }
        self.acceptor.clone()
    }
}

impl TlsFiles {
    fn written(&self) -> [Option<SystemTime>; 2] {
        let written = |path| fs::metadata(path).and_then(|data| data.modified()).ok();
        [&self.certificates, &self.private_key].map(written)
    }

    fn acceptor(&self) -> Result<TlsAcceptor, TlsError> {
        let certificates = read(&self.certificates)?;
        let certificates = CertificateDer::pem_slice_iter(&certificates).collect::<Result<Vec<_>, _>>();
        let certificates = certificates.map_err(|source| malformed(&self.certificates, source))?;
        let key = PrivateKeyDer::from_pem_slice(&read(&self.private_key)?);
        let key = key.map_err(|source| malformed(&self.private_key, source))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(certificates, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

fn malformed(path: &Path, source: pem::Error) -> TlsError {
    TlsError::Malformed {
        path: path.to_owned(),
        source,
    }
}
