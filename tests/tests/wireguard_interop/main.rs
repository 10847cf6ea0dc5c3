//! Our WireGuard against foreign ones: boringtun in process, under a clock of the test's own; wireguard-go, boringtun and gotatun
//! as processes with real TUN devices.
//!
//! Processes need root, the Debian packages `wireguard-go`, `wireguard-tools`, `iproute2` and `iputils-ping`, and what
//! `cargo xtask test` builds of crates.io. Where these are missing their tests print `SKIPPED` with the reason; without the packages
//! they fail instead when `RUNMESH_REQUIRE_LAB=1`.

mod boringtun_in_process;
mod lab;
mod names;
mod ours;
mod through_nat;
mod wireguard_go;
