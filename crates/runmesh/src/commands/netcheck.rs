//! `runmesh netcheck`: what the networks around this device let through, as its daemon noticed.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use node::LocalClient;
use node::local_api::Netcheck;
use node::local_api::netcheck::{Ipv6, MappingProtocol, NatFiltering, NatMapping};
use node::port_mapping::PortMappingState;
use serde_json::{Value, json};

use super::forward::explained;
use super::status::show_table;
use super::up::state_dir;
use crate::output::Output;
use crate::table::Column;

/// What `netcheck` takes.
#[derive(Args)]
pub(crate) struct NetcheckArgs {
    /// Where the node keeps its keys and journal
    #[arg(long, value_name = "DIR", env = "RUNMESH_STATE_DIR")]
    state_dir: Option<PathBuf>,
}

const FIELDS: [Column; 10] = [
    ("UDP", "/udp"),
    ("IPv6", "/ipv6"),
    ("NAT", "/nat"),
    ("NAT mapping", "/mapping"),
    ("NAT filtering", "/filtering"),
    ("port mapping", "/portMapping"),
    ("PCP", "/pcp"),
    ("NAT-PMP", "/natPmp"),
    ("UPnP", "/upnp"),
    ("home relay", "/homeRelay"),
];

const CANDIDATES: [Column; 2] = [("CANDIDATE", "/address"), ("KIND", "/kind")];

const RELAYS: [Column; 6] = [
    ("RELAY", "/name"),
    ("UP", "/up"),
    ("OVER", "/transport"),
    ("MS", "/rttMs"),
    ("SEES THIS DEVICE AT", "/observed"),
    ("STOPS SOON", "/draining"),
];

/// Shows what the network lets through.
pub(crate) async fn netcheck(args: NetcheckArgs, output: Output) -> Result<()> {
    let client = LocalClient::new(&state_dir(args.state_dir)?);
    let check = client.netcheck().await.map_err(explained)?;
    if output.is_json() {
        return output.record(&check, &FIELDS);
    }
    output.record(&worded(&check), &FIELDS)?;
    let value = serde_json::to_value(&check).context("write JSON")?;
    let rows = |list: &str| value[list].as_array().cloned().unwrap_or_default();
    show_table(&rows("candidates"), &CANDIDATES, output)?;
    show_table(&rows("relays"), &RELAYS, output)
}

/// The same for a person.
fn worded(check: &Netcheck) -> Value {
    let known = |flag: Option<bool>, yes: &'static str, no: &'static str, unknown: &'static str| match flag {
        Some(true) => yes,
        Some(false) => no,
        None => unknown,
    };
    let protocols = check.port_mapping_protocols.as_ref();
    json!({
        "udp": known(check.udp, "gets through", "blocked", "unknown: no relay is reached"),
        "ipv6": match check.ipv6 {
            Ipv6::Works => "works",
            Ipv6::AddressOnly => "there is an address, no relay is reached over it",
            Ipv6::None => "no address",
        },
        "nat": known(check.nat, "yes", "none", "unknown: no relay on another machine sees this device by UDP"),
        "mapping": match check.mapping {
            NatMapping::Unknown => "unknown",
            NatMapping::EndpointIndependent => "endpoint-independent",
            NatMapping::EndpointDependent => "endpoint-dependent",
        },
        "filtering": match check.filtering {
            NatFiltering::Unknown => "unknown",
            NatFiltering::EndpointIndependent => "endpoint-independent",
            NatFiltering::AddressDependent => "address-dependent",
            NatFiltering::AtMostAddressDependent => "endpoint-independent or address-dependent",
            NatFiltering::AddressAndPortDependent => "address and port-dependent",
        },
        "portMapping": match check.port_mapping {
            PortMappingState::Off => "not looked for",
            PortMappingState::Looking => "the router is being asked",
            PortMappingState::None => "none: the router answers neither PCP, NAT-PMP nor UPnP with a port",
            PortMappingState::Pcp => "by PCP",
            PortMappingState::NatPmp => "by NAT-PMP",
            PortMappingState::Upnp => "by UPnP",
        },
        "pcp": protocols.map(|protocols| answered(protocols.pcp)),
        "natPmp": protocols.map(|protocols| answered(protocols.nat_pmp)),
        "upnp": protocols.map(|protocols| answered(protocols.upnp)),
        "homeRelay": check.home_relay,
    })
}

/// What the router answered by one protocol.
fn answered(protocol: MappingProtocol) -> String {
    match protocol {
        MappingProtocol { answers: false, .. } => "no answer".to_owned(),
        MappingProtocol {
            external_address: Some(outer),
            ..
        } => format!("answers; the router's outer address is {outer}"),
        MappingProtocol { .. } => "answers".to_owned(),
    }
}
