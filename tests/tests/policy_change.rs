//! A change of policy and a revocation, from the command line to the packets of two linked devices.
//!
//! The devices are linked by real daemons; then their state is taken over by the same parts in this process, since a
//! listener inside the mesh is needed.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use e2e::device::{Device, Setup};
use e2e::processes::{ANY_PORT, Process, Runmesh, text};
use e2e::world::{SOON, World};
use net::{ConnectError, MeshNet, MeshNetConfig};
use node::backoff::Backoff;
use node::control_client::ControlClient;
use node::keyring::Keyring;
use node::link_state::{self, LinkState};
use node::membership::Membership;
use node::state_dir::StateDir;
use node::status::StatusBoard;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use types::NodePublicKey;
use types::netmap::Peers;

/// A device's place in the mesh, without the sidecar.
struct Member {
    mesh: MeshNet,
    key: NodePublicKey,
    membership: Arc<Membership>,
}

impl Member {
    /// Links a device by its daemon, stops that, and takes its place.
    async fn link(api: &Runmesh, dir: &Path, name: &str) -> Self {
        let setup = Setup::with_command(dir, "cat");
        let state = dir.join(name);
        let daemon = Device::start(api, &state, &setup).expect("a daemon");
        daemon.link(api, name).expect("linked");
        drop(daemon);
        Self::start(api, &state).await
    }

    async fn start(api: &Runmesh, state: &Path) -> Self {
        let state_dir = Arc::new(StateDir::open(state).expect("the daemon has left it"));
        let keyring = Arc::new(Keyring::open(state_dir.clone()).expect("keys"));
        let record = link_state::read(&state_dir).expect("readable").expect("a record");
        let LinkState::Linked(pinned) = record.state else {
            panic!("not linked");
        };
        let (key, now) = (keyring.public(), net::clock::Clock::new().now().wall);
        let board = StatusBoard::new("test".to_owned(), key, now);
        let listen = "127.0.0.1:0".parse().expect("an address");
        let config = MeshNetConfig {
            private_key: keyring.current(),
            listen,
        };
        let mesh = MeshNet::start(config).expect("a mesh");
        mesh.set_local(vec![mesh.local_addr()]).await;
        let signing_key = state_dir.signing_key().expect("a key").public();
        let (membership, reports) = Membership::new(mesh.clone(), keyring, *pinned, state_dir, board.clone());
        let client = ControlClient {
            server_url: api.url.parse().expect("a URL"),
            signing_key,
            app_version: "test".to_owned(),
            membership: membership.clone(),
            reports,
            board,
            on_talk: Arc::new(|_| ()),
            backoff: Backoff::new(1),
        };
        tokio::spawn(client.run_until_shut_out());
        Self {
            mesh,
            key,
            membership,
        }
    }

    /// Waits until the netmap in force is as wanted.
    async fn until(&self, wanted: impl Fn(&Peers) -> bool) {
        let mut netmap = self.membership.follow();
        let there = netmap.wait_for(|map| map.as_ref().is_some_and(|map| wanted(&map.peers)));
        let there = tokio::time::timeout(SOON, there).await;
        there.expect("in time").expect("the member lives");
    }

    fn sees(&self, peers: &Peers) -> bool {
        peers.iter().any(|peer| peer.public_key == self.key)
    }

    /// Connects as soon as the netmap says where the other is now: until then it names the daemon that has gone.
    async fn reach(&self, other: &Self, port: u16) -> net::MeshStream {
        let reached = async {
            loop {
                if let Ok(stream) = self.connect(other, port).await {
                    return stream;
                }
            }
        };
        tokio::time::timeout(SOON, reached)
            .await
            .expect("reached in time")
    }

    async fn connect(&self, other: &Self, port: u16) -> Result<net::MeshStream, ConnectError> {
        let netmap = self.membership.follow().borrow().clone().expect("a netmap");
        let peer = netmap.peers.iter().find(|peer| peer.public_key == other.key);
        let address = peer.ok_or(ConnectError::PeerUnknown)?.allowed_ips[0].address();
        let patience = Duration::from_secs(5);
        self.mesh
            .connect_within(other.key, (address, port).into(), patience)
            .await
    }
}

fn set_policy(api: &Runmesh, dir: &Path, document: &Value) -> Value {
    let file = dir.join("policy.json");
    std::fs::write(&file, document.to_string()).expect("written");
    let file = file.to_string_lossy();
    api.call(&["policy", "check", &file]).expect("a good document");
    api.call(&["policy", "set", &file]).expect("accepted")
}

/// A control plane, and two members of one owner that see each other.
async fn two_members(dir: &Path) -> (Process, Runmesh, Member, Member) {
    let program = Runmesh::find().expect("the program");
    let (serve, api) = program
        .serve(&dir.join("control"), ANY_PORT, ANY_PORT)
        .expect("a control plane");
    let a = Member::link(&api, dir, "a").await;
    let b = Member::link(&api, dir, "b").await;
    a.until(|peers| b.sees(peers)).await;
    b.until(|peers| a.sees(peers)).await;
    (serve, api, a, b)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_policy_cuts_a_flow_between_two_devices_and_opens_another() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_serve, api, a, b) = two_members(dir.path()).await;
    let mut old = b.mesh.listen(8000).await.expect("listens");
    let mut new = b.mesh.listen(9000).await.expect("listens");
    let mut near = a.reach(&b, 8000).await;
    let mut far = old.accept().await.expect("accepted");
    near.write_all(b"x").await.expect("writes");
    assert_eq!(far.read_u8().await.expect("reads"), b'x');

    let grant = |ports: &str| json!({"src": ["node:a"], "dst": ["node:b"], "ports": [ports]});
    let test =
        |port: u16, expect: &str| json!({"src": "node:a", "dst": "node:b", "port": port, "expect": expect});
    let tests = json!([test(9000, "accept"), test(8000, "deny")]);
    set_policy(
        &api,
        dir.path(),
        &json!({"grants": [grant("tcp:9000")], "tests": tests}),
    );
    for end in [&mut near, &mut far] {
        let read = tokio::time::timeout(Duration::from_secs(10), end.read_u8()).await;
        let cut = read.expect("at once").expect_err("cut");
        assert_eq!(cut.kind(), ErrorKind::ConnectionReset);
    }
    assert_eq!(
        a.connect(&b, 8000).await.expect_err("closed"),
        ConnectError::TimedOut
    );
    assert_eq!(
        b.connect(&a, 8000).await.expect_err("closed"),
        ConnectError::TimedOut
    );
    let dropped = b.mesh.counters().await.filter;
    assert!(dropped.dropped(mesh::filter::FilterDrop::Denied) > 0);
    let (near, far) = tokio::join!(a.connect(&b, 9000), new.accept());
    let (mut near, mut far) = (near.expect("granted"), far.expect("accepted"));
    far.write_all(b"y").await.expect("writes");
    assert_eq!(near.read_u8().await.expect("reads"), b'y');
    let explain = |port: &str| {
        api.call(&["policy", "explain", "a", "b", port])
            .expect("explained")
    };
    assert_eq!(explain("9000")["grant"], 0);
    assert_eq!(explain("8000")["accepted"], false);

    set_policy(&api, dir.path(), &json!({"grants": []}));
    let read = tokio::time::timeout(Duration::from_secs(10), far.read_u8()).await;
    read.expect("at once").expect_err("cut");
    a.until(|peers| !b.sees(peers)).await;
    assert_eq!(
        a.connect(&b, 9000).await.expect_err("gone"),
        ConnectError::PeerUnknown
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_has_cut_a_flow_between_two_devices_when_it_counts_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_serve, api, a, b) = two_members(dir.path()).await;
    let mut listener = b.mesh.listen(8000).await.expect("listens");
    let mut near = a.reach(&b, 8000).await;
    let mut far = listener.accept().await.expect("accepted");
    near.write_all(b"x").await.expect("writes");
    assert_eq!(far.read_u8().await.expect("reads"), b'x');

    let revoked = api.call(&["revoke", "a"]).expect("revoked");
    let counts = &revoked["cutOff"];
    assert_eq!(
        (&counts["nodes"], &counts["confirmed"]),
        (&json!(2), &json!(2)),
        "b and the platform: {counts}"
    );
    // Not a moment later: the count says that it is so already.
    let read = tokio::time::timeout(Duration::ZERO, far.read_u8()).await;
    let cut = read.expect("cut before it was counted").expect_err("cut");
    assert_eq!(cut.kind(), ErrorKind::ConnectionReset);
    assert!(!a.sees(&b.membership.follow().borrow().as_ref().expect("a netmap").peers));
    assert_eq!(
        b.mesh.peer_status(a.key).await.map(|_| ()),
        None,
        "no session with it is left"
    );
    let read = tokio::time::timeout(SOON, near.read_u8()).await;
    read.expect("the revoked one has forgotten it all")
        .expect_err("cut");
}

#[test]
fn work_comes_to_a_device_whatever_the_policy_says() {
    let world = World::start("cat").expect("a world");
    set_policy(&world.api, world.dir(), &json!({"grants": []}));
    let run = world.dispatch("hello").expect("dispatched");
    world
        .wait_for_run(text(&run, "runId"), |status| status == "completed")
        .expect("completed");
    let bad = world.dir().join("bad.json");
    std::fs::write(&bad, r#"{"grants":[{"src":["*"],"dst":["*"],"ports":["22"]}]}"#).expect("written");
    let refused = world.api.call(&["policy", "set", &bad.to_string_lossy()]);
    let message = format!("{:#}", refused.expect_err("refused"));
    assert!(message.contains("grants[0].ports[0]"), "{message}");
}
