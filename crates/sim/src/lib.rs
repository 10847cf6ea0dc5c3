//! Development only: the pure cores in a world whose clock, network and faults follow from one seed.
//!
//! Nothing here is part of the product. There is no thread, socket or clock: a day passes as fast as the cores compute
//! it, and a seed that failed fails again. `world`: WireGuard tunnels on a faulty network. `mesh_world`: whole nodes with
//! relays, on an internet of NATs. `scenario`: random ones of these, held against the reference `model`. `figures`: measured
//! ones.

pub mod dice;
pub mod figures;
pub mod internet;
pub mod link;
pub mod mesh_world;
pub mod model;
pub mod nat;
pub mod packet;
pub mod report;
pub mod scenario;
pub mod seeds;
pub mod transfer;
pub mod world;

pub use dice::Dice;
pub use internet::{HostId, Internet, NatId, Weather};
pub use link::{Datagram, Faults, Link};
pub use mesh_world::{Expected, MeshWorld, NodeNumber, RelayNumber};
pub use nat::{NatKind, can_be_direct, must_be_guessed};
pub use seeds::for_each_seed;
pub use world::{NodeId, World};
