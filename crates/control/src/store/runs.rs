//! Runs and the state of their dispatch.

use std::collections::BTreeMap;

use api::runs::RunOrigin;
use runs::dispatch::{Phase, Places, RunState};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sqlx::any::AnyRow;
use types::{
    AgentId, AgentSlug, Attempt, ExecutionMode, Fence, NodeId, NodePublicKey, OrgId, RolloutId, RunId,
    RunLimits, RunOrder, RunSettings, RunStatus, RunnerSpec, ThreadId, Timestamp, UserId,
};

use super::query::QueryExt as _;
use super::row::{json_of, name_of};
use super::{Conn, RowExt as _, StoreError};

/// What of an order is the run's own, fixed when it is made.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct RunSpec {
    pub(crate) runner: Option<RunnerSpec>,
    pub(crate) system_prompt: Option<String>,
    pub(crate) prompt: String,
    pub(crate) folder_hint: Option<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) limits: RunLimits,
    #[serde(default)]
    pub(crate) model: Option<String>,
    #[serde(default)]
    pub(crate) temperature: Option<f64>,
    #[serde(default)]
    pub(crate) settings: RunSettings,
}

/// What came of a run.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) result: Option<Value>,
    pub(crate) usage: Option<Value>,
    pub(crate) iterations: Option<u32>,
    pub(crate) reason: Option<String>,
    pub(crate) message: Option<String>,
}

/// A run.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct RunRow {
    pub(crate) id: RunId,
    /// Its place among all runs: queues keep this order.
    pub(crate) number: i64,
    pub(crate) org: OrgId,
    pub(crate) owner: UserId,
    pub(crate) thread: ThreadId,
    pub(crate) rollout: RolloutId,
    pub(crate) agent: AgentId,
    pub(crate) agent_slug: AgentSlug,
    pub(crate) node: NodeId,
    pub(crate) origin: RunOrigin,
    pub(crate) spec: RunSpec,
    pub(crate) metadata: Option<Map<String, Value>>,
    pub(crate) state: RunState,
    pub(crate) outcome: Outcome,
    pub(crate) created_at: Timestamp,
    pub(crate) accepted_at: Option<Timestamp>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) completed_at: Option<Timestamp>,
}

impl RunRow {
    /// Returns what the device is asked to do; what was said before is not the run's own.
    pub(crate) fn order(&self) -> RunOrder {
        RunOrder {
            run_id: self.id,
            thread_id: self.thread,
            rollout_id: self.rollout,
            agent_id: self.agent,
            agent_slug: self.agent_slug.clone(),
            runner: self.spec.runner.clone(),
            system_prompt: self.spec.system_prompt.clone(),
            prompt: self.spec.prompt.clone(),
            folder_hint: self.spec.folder_hint.clone(),
            env: self.spec.env.clone(),
            limits: self.spec.limits,
            model: self.spec.model.clone(),
            temperature: self.spec.temperature,
            settings: self.spec.settings.clone(),
            history: None,
            created_at: self.created_at,
        }
    }

    /// Only runs of devices exist until the other executors do.
    pub(crate) fn execution_mode(&self) -> ExecutionMode {
        ExecutionMode::LocalMac
    }
}

/// Which runs to list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunFilter {
    pub(crate) org: OrgId,
    pub(crate) owner: Option<UserId>,
    pub(crate) agent: Option<AgentId>,
    pub(crate) status: Option<RunStatus>,
    pub(crate) thread: Option<ThreadId>,
}

/// What dispatch must know of a device.
#[derive(Clone, Debug)]
pub(crate) struct DeviceRow {
    pub(crate) id: NodeId,
    pub(crate) org: OrgId,
    pub(crate) owner: Option<UserId>,
    pub(crate) public_key: NodePublicKey,
    pub(crate) revoked: bool,
}

macro_rules! select {
    ($rest:literal $(,)?) => {
        concat!(
            "SELECT id, number, org_id, owner_user_id, thread_id, rollout_id, agent_id, agent_slug, node_id, ",
            "origin, spec, metadata, status, phase, attempt, fence, next_event, sends, refusals, offer_at, ",
            "queue_until, cancel_at, away_since, outcome, created_at, accepted_at, started_at, completed_at ",
            "FROM runs ",
            $rest
        )
    };
}

/// Adds a run, with the next number, and returns that.
pub(crate) async fn insert(conn: &mut Conn, run: &RunRow) -> Result<i64, StoreError> {
    let row = sqlx::query("SELECT COALESCE(MAX(number), 0) + 1 AS number FROM runs")
        .fetch_one(&mut *conn)
        .await?;
    let number = row.int("number")?;
    sqlx::query(
        "INSERT INTO runs (id, number, org_id, owner_user_id, thread_id, rollout_id, agent_id, agent_slug, \
         node_id, origin, spec, metadata, status, phase, attempt, fence, next_event, sends, refusals, offer_at, \
         queue_until, outcome, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, '', '', 0, 0, 0, 0, 0, 0, 0, '', $13)",
    )
    .bind(run.id.to_string())
    .bind(number)
    .bind(run.org.to_string())
    .bind(run.owner.to_string())
    .bind(run.thread.to_string())
    .bind(run.rollout.to_string())
    .bind(run.agent.to_string())
    .bind(run.agent_slug.as_str())
    .bind(run.node.to_string())
    .bind(name_of(&run.origin))
    .bind(json_of(&run.spec))
    .bind(run.metadata.as_ref().map(json_of))
    .bind(run.created_at.unix_ms())
    .execute(&mut *conn)
    .await?;
    save(conn, run).await?;
    Ok(number)
}

/// Writes what of a run can change.
pub(crate) async fn save(conn: &mut Conn, run: &RunRow) -> Result<(), StoreError> {
    let state = &run.state;
    sqlx::query(
        "UPDATE runs SET status = $1, phase = $2, attempt = $3, fence = $4, next_event = $5, sends = $6, \
         refusals = $7, offer_at = $8, queue_until = $9, cancel_at = $10, away_since = $11, deadline = $12, \
         outcome = $13, accepted_at = $14, started_at = $15, completed_at = $16 WHERE id = $17",
    )
    .bind(state.status().as_str())
    .bind(phase_name(state.phase))
    .bind(i64::from(state.attempt.0))
    .bind(i64::try_from(state.fence.0).unwrap_or(i64::MAX))
    .bind(i64::try_from(state.next).unwrap_or(i64::MAX))
    .bind(i64::from(state.sends))
    .bind(i64::from(state.refusals))
    .bind(state.offer_at.unix_ms())
    .bind(state.queue_until.unix_ms())
    .bind(state.cancel_at.map(Timestamp::unix_ms))
    .bind(state.away_since.map(Timestamp::unix_ms))
    .bind(state.deadline().map(|(at, _)| at.unix_ms()))
    .bind(json_of(&run.outcome))
    .bind(run.accepted_at.map(Timestamp::unix_ms))
    .bind(run.started_at.map(Timestamp::unix_ms))
    .bind(run.completed_at.map(Timestamp::unix_ms))
    .bind(run.id.to_string())
    .execute(conn)
    .await?;
    Ok(())
}

/// Finds a run of any org.
pub(crate) async fn get(conn: &mut Conn, id: RunId) -> Result<Option<RunRow>, StoreError> {
    sqlx::query(select!("WHERE id = $1"))
        .bind(id.to_string())
        .one(conn, read)
        .await
}

/// Lists runs with numbers below `before`, newest first.
pub(crate) async fn list(
    conn: &mut Conn,
    filter: RunFilter,
    before: i64,
    limit: i64,
) -> Result<Vec<RunRow>, StoreError> {
    sqlx::query(select!(
        "WHERE org_id = $1 AND ($2 = '' OR owner_user_id = $2) AND ($3 = '' OR agent_id = $3) \
         AND ($4 = '' OR status = $4) AND ($5 = '' OR thread_id = $5) AND number < $6 \
         ORDER BY number DESC LIMIT $7"
    ))
    .bind(filter.org.to_string())
    .wanted(filter.owner)
    .wanted(filter.agent)
    .bind(filter.status.map_or("", RunStatus::as_str))
    .wanted(filter.thread)
    .bind(before)
    .bind(limit)
    .all(conn, read)
    .await
}

/// Finds the agent of the newest run, of one person or of all, whose agent has or had this slug or id.
pub(crate) async fn agent_called(
    conn: &mut Conn,
    (org, owner): (OrgId, Option<UserId>),
    name: &str,
) -> Result<Option<AgentId>, StoreError> {
    const BY_SLUG: &str = "SELECT agent_id FROM runs WHERE org_id = $1 AND ($2 = '' OR owner_user_id = $2) \
         AND agent_slug = $3 ORDER BY number DESC LIMIT 1";
    const BY_ID: &str = "SELECT agent_id FROM runs WHERE org_id = $1 AND ($2 = '' OR owner_user_id = $2) \
         AND agent_id = $3 ORDER BY number DESC LIMIT 1";
    for text in [BY_SLUG, BY_ID] {
        let found = sqlx::query(text)
            .bind(org.to_string())
            .wanted(owner)
            .bind(name)
            .one(conn, |row| row.parsed("agent_id"))
            .await?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Lists the runs of a device that are not over, in the order of its queue.
pub(crate) async fn open_of_node(conn: &mut Conn, node: NodeId) -> Result<Vec<RunRow>, StoreError> {
    sqlx::query(select!("WHERE node_id = $1 AND phase <> 'ended' ORDER BY number"))
        .bind(node.to_string())
        .all(conn, read)
        .await
}

/// Lists the runs of one person in an org that are not over.
pub(crate) async fn open_of_owner(
    conn: &mut Conn,
    org: OrgId,
    owner: UserId,
) -> Result<Vec<RunRow>, StoreError> {
    sqlx::query(select!(
        "WHERE org_id = $1 AND owner_user_id = $2 AND phase <> 'ended' ORDER BY number"
    ))
    .bind(org.to_string())
    .bind(owner.to_string())
    .all(conn, read)
    .await
}

/// Lists the runs of a thread that are not over.
pub(crate) async fn open_of_thread(conn: &mut Conn, thread: ThreadId) -> Result<Vec<RunRow>, StoreError> {
    sqlx::query(select!(
        "WHERE thread_id = $1 AND phase <> 'ended' ORDER BY number"
    ))
    .bind(thread.to_string())
    .all(conn, read)
    .await
}

/// Lists the runs that a device may be offered now, in the order of its queue: those that wait for no earlier run of
/// their thread, as many as `runs::dispatch::Places` allows for a device that takes `places` runs at a time.
pub(crate) async fn offerable(
    conn: &mut Conn,
    node: NodeId,
    places: Option<u32>,
    now: Timestamp,
) -> Result<Vec<RunRow>, StoreError> {
    let row = sqlx::query(
        "SELECT COALESCE(SUM(CASE WHEN phase = 'offered' THEN 1 ELSE 0 END), 0) AS offered, COUNT(*) AS taken \
         FROM runs WHERE node_id = $1 AND phase IN ('offered', 'accepted', 'running')",
    )
    .bind(node.to_string())
    .fetch_one(&mut *conn)
    .await?;
    let offered = row.count("offered")?;
    let places = Places {
        max: places,
        held: row.count("taken")?.saturating_sub(offered),
        offered,
    };
    if places.free() == 0 {
        return Ok(Vec::new());
    }
    let mut queue = sqlx::query(select!(
        "AS r WHERE node_id = $1 AND phase = 'queued' AND NOT EXISTS (SELECT 1 FROM runs AS e \
         WHERE e.thread_id = r.thread_id AND e.number < r.number AND e.phase <> 'ended') ORDER BY number LIMIT $2"
    ))
    .bind(node.to_string())
    .bind(i64::try_from(places.free()).unwrap_or(i64::MAX))
    .all(conn, read)
    .await?;
    queue.truncate(places.to_offer(queue.iter().map(|run| &run.state), now));
    Ok(queue)
}

/// A place became free on a device: what waits for another offer need not wait on.
pub(crate) async fn hasten(conn: &mut Conn, node: NodeId, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query("UPDATE runs SET offer_at = $1 WHERE node_id = $2 AND phase = 'queued' AND offer_at > $1")
        .bind(now.unix_ms())
        .bind(node.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// Lists runs whose deadline is over, the most urgent first.
pub(crate) async fn due(conn: &mut Conn, now: Timestamp, limit: i64) -> Result<Vec<RunRow>, StoreError> {
    sqlx::query(select!(
        "WHERE deadline IS NOT NULL AND deadline <= $1 ORDER BY deadline LIMIT $2"
    ))
    .bind(now.unix_ms())
    .bind(limit)
    .all(conn, read)
    .await
}

/// Lists the devices that were shut out and still have open runs.
pub(crate) async fn revoked_with_runs(conn: &mut Conn) -> Result<Vec<NodeId>, StoreError> {
    sqlx::query(
        "SELECT DISTINCT r.node_id FROM runs r JOIN nodes n ON n.id = r.node_id \
         WHERE r.phase <> 'ended' AND n.revoked_at IS NOT NULL",
    )
    .all(conn, |row| row.parsed("node_id"))
    .await
}

/// Lists the devices with runs that are not over and not known to be suspended.
pub(crate) async fn nodes_with_open_runs(conn: &mut Conn) -> Result<Vec<NodeId>, StoreError> {
    sqlx::query("SELECT DISTINCT node_id FROM runs WHERE phase <> 'ended' AND away_since IS NULL")
        .all(conn, |row| row.parsed("node_id"))
        .await
}

/// Counts the queued runs of the same device that come before this one.
pub(crate) async fn queue_position(conn: &mut Conn, run: &RunRow) -> Result<u64, StoreError> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS before FROM runs WHERE node_id = $1 AND phase = 'queued' AND number < $2",
    )
    .bind(run.node.to_string())
    .bind(run.number)
    .fetch_one(conn)
    .await?;
    row.count("before")
}

/// Counts the runs that wait for a device.
pub(crate) async fn queue_len(conn: &mut Conn, node: NodeId) -> Result<u64, StoreError> {
    let row = sqlx::query("SELECT COUNT(*) AS waiting FROM runs WHERE node_id = $1 AND phase = 'queued'")
        .bind(node.to_string())
        .fetch_one(conn)
        .await?;
    row.count("waiting")
}

/// Counts the runs of a device that are not over.
pub(crate) async fn open_len(conn: &mut Conn, node: NodeId) -> Result<u64, StoreError> {
    let row = sqlx::query("SELECT COUNT(*) AS open FROM runs WHERE node_id = $1 AND phase <> 'ended'")
        .bind(node.to_string())
        .fetch_one(conn)
        .await?;
    row.count("open")
}

/// Finds the run that was started with an idempotency key, and the hash of the request that did it. Keys from before
/// `since` are forgotten.
pub(crate) async fn by_key(
    conn: &mut Conn,
    (org, owner, key): (OrgId, &str, &str),
    since: Timestamp,
) -> Result<Option<(RunId, String)>, StoreError> {
    sqlx::query("DELETE FROM run_keys WHERE created_at < $1")
        .bind(since.unix_ms())
        .execute(&mut *conn)
        .await?;
    sqlx::query("SELECT run_id, request_hash FROM run_keys WHERE org_id = $1 AND owner = $2 AND key = $3")
        .bind(org.to_string())
        .bind(owner)
        .bind(key)
        .one(conn, |row| Ok((row.parsed("run_id")?, row.text("request_hash")?)))
        .await
}

/// Notes which run an idempotency key started.
pub(crate) async fn insert_key(
    conn: &mut Conn,
    (org, owner, key): (OrgId, &str, &str),
    request_hash: &str,
    run: RunId,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO run_keys (org_id, owner, key, request_hash, run_id, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(org.to_string())
    .bind(owner)
    .bind(key)
    .bind(request_hash)
    .bind(run.to_string())
    .bind(now.unix_ms())
    .execute(conn)
    .await?;
    Ok(())
}

/// Finds a device of any org by its id.
pub(crate) async fn device(conn: &mut Conn, id: NodeId) -> Result<Option<DeviceRow>, StoreError> {
    sqlx::query(
        "SELECT id, org_id, owner_user_id, public_key, revoked_at FROM nodes WHERE id = $1 AND kind = 'device'",
    )
    .bind(id.to_string())
    .one(conn, read_device)
    .await
}

/// Finds a device by its key.
pub(crate) async fn device_by_key(
    conn: &mut Conn,
    key: &NodePublicKey,
) -> Result<Option<DeviceRow>, StoreError> {
    sqlx::query(
        "SELECT id, org_id, owner_user_id, public_key, revoked_at FROM nodes \
         WHERE public_key = $1 AND kind = 'device'",
    )
    .bind(key.to_string())
    .one(conn, read_device)
    .await
}

fn read_device(row: &AnyRow) -> Result<DeviceRow, StoreError> {
    Ok(DeviceRow {
        id: row.parsed("id")?,
        org: row.parsed("org_id")?,
        owner: row.maybe_parsed("owner_user_id")?,
        public_key: row.parsed("public_key")?,
        revoked: row.maybe_int("revoked_at")?.is_some(),
    })
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Queued => "queued",
        Phase::Offered => "offered",
        Phase::Accepted => "accepted",
        Phase::Running => "running",
        Phase::Ended(_) => "ended",
    }
}

fn read_phase(row: &AnyRow) -> Result<Phase, StoreError> {
    Ok(match row.text("phase")?.as_str() {
        "queued" => Phase::Queued,
        "offered" => Phase::Offered,
        "accepted" => Phase::Accepted,
        "running" => Phase::Running,
        "ended" => Phase::Ended(row.named("status")?),
        _ => return Err(StoreError::Unreadable { column: "phase" }),
    })
}

fn read_state(row: &AnyRow) -> Result<RunState, StoreError> {
    let small = |column| Ok::<u32, StoreError>(u32::try_from(row.int(column)?).unwrap_or(u32::MAX));
    Ok(RunState {
        phase: read_phase(row)?,
        registered: row.named::<RunOrigin>("origin")? == RunOrigin::Device,
        attempt: Attempt(small("attempt")?),
        fence: Fence(row.count("fence")?),
        next: row.count("next_event")?,
        sends: small("sends")?,
        refusals: small("refusals")?,
        offer_at: row.time("offer_at")?,
        queue_until: row.time("queue_until")?,
        cancel_at: row.maybe_time("cancel_at")?,
        away_since: row.maybe_time("away_since")?,
    })
}

fn read(row: &AnyRow) -> Result<RunRow, StoreError> {
    let metadata = row.maybe_text("metadata")?;
    let metadata = metadata.map(|text| serde_json::from_str(&text)).transpose();
    Ok(RunRow {
        id: row.parsed("id")?,
        number: row.int("number")?,
        org: row.parsed("org_id")?,
        owner: row.parsed("owner_user_id")?,
        thread: row.parsed("thread_id")?,
        rollout: row.parsed("rollout_id")?,
        agent: row.parsed("agent_id")?,
        agent_slug: row.parsed("agent_slug")?,
        node: row.parsed("node_id")?,
        origin: row.named("origin")?,
        spec: row.json("spec")?,
        metadata: metadata.map_err(|_| StoreError::Unreadable { column: "metadata" })?,
        state: read_state(row)?,
        outcome: row.json("outcome")?,
        created_at: row.time("created_at")?,
        accepted_at: row.maybe_time("accepted_at")?,
        started_at: row.maybe_time("started_at")?,
        completed_at: row.maybe_time("completed_at")?,
    })
}
