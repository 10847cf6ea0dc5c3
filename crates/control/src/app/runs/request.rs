//! What a request to start a run may say beside what is asked: its limits, checked one by one.

use std::time::Duration;

use api::runs::{IDEMPOTENCY_KEY_LEN_MAX, QUEUE_TTL_S_MAX, RunConfig, RunOrigin, StartRun, WAIT_S_MAX};
use runs::dispatch::{OFFER_SENDS_MAX, OFFER_TIMEOUT, QUEUE_TTL};
use serde_json::{Map, Value, json};

use crate::app::AppError;

const METADATA_BYTES_MAX: usize = 16 * 1024;

/// Reads how long the caller wants to wait.
pub(crate) fn wait_of(request: &StartRun) -> Result<Duration, AppError> {
    let seconds = request.wait.unwrap_or(0);
    if seconds > WAIT_S_MAX {
        return Err(AppError::bad_request(format!(
            "wait must be 0 to {WAIT_S_MAX} seconds"
        )));
    }
    Ok(Duration::from_secs(u64::from(seconds)))
}

/// Checks the caller's own notes.
pub(super) fn check_metadata(metadata: Option<&Map<String, Value>>) -> Result<(), AppError> {
    if json!(metadata).to_string().len() > METADATA_BYTES_MAX {
        let message = format!("metadata must be at most {METADATA_BYTES_MAX} bytes");
        return Err(AppError::bad_request(message));
    }
    Ok(())
}

/// The device's own runs come over its own session, where it is known by its key; no credential of a person is that.
pub(super) fn check_origin(origin: Option<RunOrigin>) -> Result<(), AppError> {
    match origin {
        None | Some(RunOrigin::Api) => Ok(()),
        Some(RunOrigin::Device) => Err(AppError::forbidden(
            "origin device is for the bound device itself: it starts a run through the local socket of its daemon",
        )),
    }
}

/// Reads how long a run may wait for its device.
pub(super) fn queue_ttl(asked: Option<u32>) -> Result<Duration, AppError> {
    match asked {
        None => Ok(QUEUE_TTL),
        // The device is connected, or nothing is queued: it has as long as an offer may stay unanswered.
        Some(0) => Ok(OFFER_TIMEOUT * OFFER_SENDS_MAX),
        Some(seconds) if seconds <= QUEUE_TTL_S_MAX => Ok(Duration::from_secs(u64::from(seconds))),
        Some(_) => {
            let message = format!("queueTtl must be 0 to {QUEUE_TTL_S_MAX} seconds");
            Err(AppError::bad_request(message))
        }
    }
}

/// Checks how far a run may go.
pub(super) fn check_config(config: RunConfig) -> Result<RunConfig, AppError> {
    let fits = |value: Option<u32>, max: u32| value.is_none_or(|value| (1..=max).contains(&value));
    if !fits(config.max_tokens, 128_000) {
        return Err(AppError::bad_request("config.maxTokens must be 1 to 128000"));
    }
    if !fits(config.max_turns, 100) {
        return Err(AppError::bad_request("config.maxTurns must be 1 to 100"));
    }
    if !config
        .temperature
        .is_none_or(|value| (0.0..=2.0).contains(&value))
    {
        return Err(AppError::bad_request("config.temperature must be 0 to 2"));
    }
    Ok(config)
}

/// Checks an idempotency key.
pub(super) fn check_key(key: Option<&str>) -> Result<(), AppError> {
    let good = |key: &str| {
        (1..=IDEMPOTENCY_KEY_LEN_MAX).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic())
    };
    if key.is_none_or(good) {
        return Ok(());
    }
    let message =
        format!("Idempotency-Key must be 1 to {IDEMPOTENCY_KEY_LEN_MAX} printable ASCII characters");
    Err(AppError::bad_request(message))
}
