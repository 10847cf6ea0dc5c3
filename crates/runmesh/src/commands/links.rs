//! `runmesh approve` and `runmesh deny`: decide about a device that shows a code.

use anyhow::Result;
use api::links::{LinkApprove, LinkDeny};
use clap::Args;

use super::{Api, nodes};
use crate::output::talk;
use crate::table::Column;

/// What `approve` takes.
#[derive(Args)]
pub(crate) struct ApproveArgs {
    /// The six characters that the device shows
    code: String,
    /// The node's name, a DNS label; made from the device's label when absent
    #[arg(long)]
    name: Option<String>,
    /// A tag for the node; may be given several times
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
}

/// What `deny` takes.
#[derive(Args)]
pub(crate) struct DenyArgs {
    /// The six characters that the device shows
    code: String,
}

const LINK_FIELDS: [Column; 8] = [
    ("code", "/code"),
    ("status", "/status"),
    ("label", "/deviceLabel"),
    ("os", "/os"),
    ("hostname", "/hostname"),
    ("address", "/ip"),
    ("match", "/match"),
    ("asked", "/createdAt"),
];

/// Admits the device, after showing on stderr who asks.
pub(crate) async fn approve(args: ApproveArgs, api: &Api) -> Result<()> {
    let code = normalized(&args.code);
    let link = api.client.link(&code).await?;
    talk(&format!(
        "{} at {} shows {}",
        link.device_label.as_deref().unwrap_or("a device"),
        link.ip,
        link.match_number
    ));
    let tags = (!args.tags.is_empty()).then_some(args.tags);
    let request = LinkApprove {
        code,
        name: args.name,
        tags,
    };
    let approved = api.client.link_approve(&request).await?;
    api.output.record(&approved.node, &nodes::FIELDS)
}

/// Refuses the device.
pub(crate) async fn deny(args: DenyArgs, api: &Api) -> Result<()> {
    let code = normalized(&args.code);
    let link = api.client.link_deny(&LinkDeny { code }).await?;
    api.output.record(&link, &LINK_FIELDS)
}

/// People type codes in lower case, and with a space or a hyphen in the middle.
fn normalized(code: &str) -> String {
    let kept = code.chars().filter(|c| !c.is_whitespace() && *c != '-');
    kept.collect::<String>().to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_may_be_typed_as_people_read_them() {
        assert_eq!(normalized(" abc-d12 "), "ABCD12");
    }
}
