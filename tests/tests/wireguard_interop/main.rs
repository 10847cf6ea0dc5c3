//! Our WireGuard against foreign ones: boringtun and gotatun in process, wireguard-go as a process with a real TUN device.
//!
//! The second needs root and the Debian packages `wireguard-go`, `wireguard-tools`, `iproute2` and `iputils-ping`. Where
//! they are missing its tests print `SKIPPED` with the reason, and fail instead when `RUNMESH_REQUIRE_LAB=1`.

mod bare;
mod boringtun_in_process;
mod lab;
mod names;
mod ours;
mod through_nat;
mod wireguard_go;
