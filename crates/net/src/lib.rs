//! The shell of the data plane: the operating system's side of the mesh, in userspace and in TUN mode.
//!
//! Sockets, clocks, randomness, userspace TCP/IP, the network device and the thread that drives `mesh::tunnel` live here. What a packet means
//! on the wire does not: only `mesh` knows wire bytes.

pub mod alarm;
pub mod clock;
mod engine;
pub mod filtering;
pub mod key_file;
pub mod memory;
pub mod mesh_net;
pub mod netstack;
pub mod networks;
pub mod port_mapping;
pub mod random;
pub mod relay_stream;
mod resolve;
pub mod stream;
pub mod tun;
pub mod udp;
pub mod wake;

pub use mesh_net::{
    ConnectError, ListenError, MeshListener, MeshNet, MeshNetConfig, PingError, Responder, StartError,
    Surroundings,
};
pub use relay_stream::RelayPoint;
pub use resolve::resolve;
pub use stream::MeshStream;
