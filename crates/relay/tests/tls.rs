//! A relay's WebSocket over TLS, with a certificate that changes while it runs.

mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use common::{GIVE_UP, World, options};
use relay::tls::{Tls, TlsError, TlsFiles};
use relay::websocket::WebSocketOptions;
use relay::{door, websocket};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use tokio_util::sync::CancellationToken;

/// Writes a new certificate and its key; returns the certificate as PEM.
fn issue(directory: &Path) -> String {
    let issued = rcgen::generate_simple_self_signed(vec!["relay.test".to_owned()]).expect("issues");
    let certificate = issued.cert.pem();
    std::fs::write(directory.join("cert.pem"), &certificate).expect("writes");
    std::fs::write(directory.join("key.pem"), issued.signing_key.serialize_pem()).expect("writes");
    certificate
}

fn files(directory: &Path) -> TlsFiles {
    TlsFiles {
        certificates: directory.join("cert.pem"),
        private_key: directory.join("key.pem"),
    }
}

fn trusting(certificate: &str) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("own PEM");
    roots.add(certificate).expect("a root");
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// Opens a WebSocket over TLS; tells whether it is there.
async fn opens(address: SocketAddr, connector: &TlsConnector) -> bool {
    let tcp = TcpStream::connect(address).await.expect("connects");
    let name = ServerName::try_from("relay.test").expect("a name");
    let opening = async {
        let stream = connector.connect(name, tcp).await.ok()?;
        tokio_tungstenite::client_async("wss://relay.test/v1/relay", stream)
            .await
            .ok()
    };
    timeout(GIVE_UP, opening).await.expect("in time").is_some()
}

#[test]
fn websockets_come_in_over_tls_and_nobody_in_the_clear() {
    let directory = tempfile::tempdir().expect("a directory");
    let certificate = issue(directory.path());
    let world = World::new(options());
    let tls = Tls::load(files(directory.path())).expect("loads");
    world.runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let router = websocket::router(world.relay.clone(), WebSocketOptions::default());
        tokio::spawn(door::serve(listener, router, Some(tls), CancellationToken::new()));
        assert!(opens(address, &trusting(&certificate)).await);
        let stranger = rcgen::generate_simple_self_signed(vec!["relay.test".to_owned()]).expect("issues");
        assert!(!opens(address, &trusting(&stranger.cert.pem())).await);
        let plain = tokio_tungstenite::connect_async(format!("ws://{address}/v1/relay"));
        assert!(timeout(GIVE_UP, plain).await.expect("in time").is_err());
        assert!(opens(address, &trusting(&certificate)).await);
    });
}

#[test]
fn a_new_certificate_is_taken_and_a_broken_one_is_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = issue(directory.path());
    let mut tls = Tls::load(files(directory.path())).expect("loads");
    std::fs::write(directory.path().join("key.pem"), "no key").expect("writes");
    assert!(matches!(tls.reload(), Err(TlsError::Malformed { .. })));
    assert!(accepts(&tls, &first));
    let second = issue(directory.path());
    tls.reload().expect("loads");
    assert!(accepts(&tls, &second) && !accepts(&tls, &first));
    let other = tempfile::tempdir().expect("a directory");
    issue(other.path());
    let mismatched = TlsFiles {
        private_key: other.path().join("key.pem"),
        ..files(directory.path())
    };
    assert!(matches!(Tls::load(mismatched), Err(TlsError::Unusable(_))));
    let missing = files(Path::new("/nowhere"));
    assert!(matches!(Tls::load(missing), Err(TlsError::Unreadable { .. })));
}

/// Tells whether a client that trusts this certificate only gets in.
fn accepts(tls: &Tls, certificate: &str) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (near, far) = tokio::io::duplex(16 * 1024);
        let name = ServerName::try_from("relay.test").expect("a name");
        let connector = trusting(certificate);
        let (client, _) = tokio::join!(connector.connect(name, near), tls.accept(far));
        client.is_ok()
    })
}
