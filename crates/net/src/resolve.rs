//! Endpoints as netmaps write them, turned into addresses.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::timeout;

/// How long one host name may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Returns the addresses that endpoints (`ip:port`, `host:port`) are, or that their names resolve to; names that lead
/// nowhere within five seconds are left out.
pub async fn resolve(endpoints: &[String]) -> Vec<SocketAddr> {
    let mut resolved = Vec::new();
    for endpoint in endpoints {
        if let Ok(address) = endpoint.parse() {
            resolved.push(address);
            continue;
        }
        let found = timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host(endpoint)).await;
        resolved.extend(found.into_iter().flatten().flatten());
    }
    resolved
}
