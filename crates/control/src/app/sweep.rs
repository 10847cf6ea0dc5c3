//! Looking again and again for what has come due. It takes no input: what is due stands in the database.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::AppError;

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks until `stop`; `what` names what is looked for, should that fail.
pub(super) async fn sweep_until<T, F: Future<Output = Result<T, AppError>>>(
    stop: CancellationToken,
    what: &'static str,
    mut look: impl FnMut() -> F,
) {
    let mut due = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = due.tick() => {}
        }
        if let Err(error) = look().await {
            tracing::warn!(%error, "{what} were not looked for");
        }
    }
}
