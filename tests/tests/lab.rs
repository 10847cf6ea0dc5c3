//! The lab, one test a cell: two devices in networks of all kinds, and what breaks while they talk.
//!
//! `cargo xtask lab [CELL]` runs the same cells and shows what it measured.

use e2e::lab::{can_run, cells};
use e2e::skipped::skipped;

fn cell(name: &str) {
    if !can_run() {
        return;
    }
    if let Some(reason) = cells::missing(name) {
        return skipped(&reason);
    }
    if let Err(error) = cells::run(name) {
        panic!("{error:#}");
    }
}

macro_rules! cells {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            cell(stringify!($name));
        })*

        #[test]
        fn every_cell_has_a_test() {
            let tests = [$(stringify!($name)),*];
            let cells: Vec<_> = cells::all().into_iter().map(|cell| cell.name).collect();
            assert_eq!(cells, tests);
        }
    };
}

cells! {
    nat_none_x_none
    nat_none_x_full_cone
    nat_none_x_restricted
    nat_none_x_port_restricted
    nat_none_x_symmetric
    nat_full_cone_x_full_cone
    nat_full_cone_x_restricted
    nat_full_cone_x_port_restricted
    nat_full_cone_x_symmetric
    nat_restricted_x_restricted
    nat_restricted_x_port_restricted
    nat_symmetric_x_restricted
    nat_port_restricted_x_port_restricted
    nat_symmetric_x_port_restricted
    nat_symmetric_x_symmetric
    nat_symmetric_with_upnp_x_symmetric
    nat_symmetric_with_pcp_x_symmetric
    nat_symmetric_with_nat_pmp_x_symmetric
    nat_symmetric_with_upnp_x_symmetric_with_pcp
    nat_cgnat_x_none
    nat_cgnat_x_full_cone
    nat_cgnat_x_restricted
    nat_cgnat_x_port_restricted
    nat_cgnat_x_symmetric
    nat_cgnat_x_cgnat
    nat_udp_blocked_x_none
    nat_udp_blocked_x_port_restricted
    nat_udp_blocked_x_symmetric
    nat_udp_blocked_x_udp_blocked
    nat_tcp_443_only_x_none
    nat_tcp_443_only_x_port_restricted
    nat_tcp_443_only_x_udp_blocked
    nat_ipv6_only_x_none
    nat_ipv6_only_x_port_restricted
    nat_ipv6_only_x_ipv6_only
    roaming_between_two_uplinks
    roaming_between_two_uplinks_relayed
    relay_killed_of_two
    relay_dead_before_first_session
    relay_restarted_the_only_one
    control_plane_killed_stream_open
    control_plane_killed_first_stream
    nat_short_timeouts_x_short_timeouts
    udp_blocked_and_back
    udp_blocked_and_back_relayed
    nat_rebooted
    device_asleep_and_awake
    tcp_443_only_relay_elsewhere
    one_nat
    one_nat_hairpinning
    one_nat_symmetric
    lan_alone_first_stream
    lan_alone_renumbered
    lan_alone_both_renumbered
    lan_alone_both_renumbered_ipv6
    lan_alone_both_renumbered_first_stream
}
