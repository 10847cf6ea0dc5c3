//! Runs: started by a caller or by the bound device, found, listed, stopped. How they fare is `orchestrator`'s business.

mod conversation;
mod request;

use std::time::Duration;

use api::ErrorCode;
use api::agents::Agent;
use api::runs::{Run, RunConfig, RunOrigin, RunReceipt, RunsQuery, StartRun};
use runs::dispatch::{Input, Phase, RunState};
use runs::journal::OPEN_RUNS_MAX;
use runs::protocol::ToSidecar;
use serde_json::{Map, Value, json};
use tokio::sync::broadcast::error::RecvError;
use types::thread::{TITLE_CHARS_MAX, Thread};
use types::{
    AgentSlug, EventDraft, EventType, ExecutionMode, NodeId, OrgId, RolloutId, RunId, RunLimits, RunSettings,
    RunStatus, ThreadId, UserId,
};

use self::conversation::{Conversation, check_prompt, conversation, joined};
pub(crate) use self::request::wait_of;
use self::request::{check_config, check_key, check_metadata, check_origin, queue_ttl};
use super::audit::Deed;
use super::{Actor, App, AppError, Caller, Page, Window, agents, audit};
use crate::live::Notice;
use crate::orchestrator::dispatch::{DispatchTx, place};
use crate::secrets;
use crate::store::events::Place;
use crate::store::runs::{DeviceRow, Outcome, RunFilter, RunRow, RunSpec};
use crate::store::{self, Conn, StoreError};

/// The most runs that may wait for one device.
const QUEUE_MAX: u64 = 1000;

/// How long an idempotency key is remembered.
const KEY_LIFETIME: Duration = Duration::from_secs(24 * 3600);

const DEVICE_OFFLINE: &str = "the device is not connected, and queueTtl 0 says not to wait for it";

/// A run the bound device wishes to start.
#[derive(Clone, Debug)]
pub(crate) struct DeviceRun {
    pub(crate) agent: AgentSlug,
    pub(crate) prompt: String,
    pub(crate) thread: Option<ThreadId>,
    pub(crate) key: Option<String>,
}

/// A run about to be made.
struct NewRun<'a> {
    org: OrgId,
    owner: UserId,
    agent: &'a Agent,
    device: &'a DeviceRow,
    thread: Option<ThreadId>,
    asked: Conversation,
    config: RunConfig,
    metadata: Option<Map<String, Value>>,
    /// How long it may wait for its device; a run that its device started does not wait.
    queue_ttl: Option<Duration>,
}

impl NewRun<'_> {
    fn origin(&self) -> RunOrigin {
        match self.queue_ttl {
            Some(_) => RunOrigin::Api,
            None => RunOrigin::Device,
        }
    }
}

/// Starts a run, or finds the one that the same key has started. Returns it as it stands after the commit.
pub(crate) async fn start(
    app: &App,
    caller: &Caller,
    request: StartRun,
    key: Option<&str>,
) -> Result<Run, AppError> {
    check_key(key)?;
    check_origin(request.origin)?;
    let queue_ttl = queue_ttl(request.queue_ttl)?;
    let request_hash = secrets::hash(&store::canonical(&request));
    let config = check_config(request.config.unwrap_or_default())?;
    check_metadata(request.metadata.as_ref())?;
    let name = request.agent.as_deref();
    let name = name.ok_or_else(|| AppError::bad_request("agent is required: a slug or an id"))?;
    let asked = conversation(&request)?;

    let mut dispatch = DispatchTx::begin(app).await?;
    let owner_key = caller.user.to_string();
    if let Some(key) = key
        && let Some(run) = repeated(&mut dispatch, (caller.org, &owner_key, key), &request_hash).await?
    {
        let answer = shown(&mut dispatch.tx, caller, run).await?;
        // The write that made the run may be one that this one shares its commit with: nobody is told of it before.
        dispatch.commit().await?;
        return Ok(answer);
    }
    let agent = agents::by_name(&mut dispatch.tx, caller, name).await?;
    let device = executor(&mut dispatch.tx, &agent).await?;
    if request.queue_ttl == Some(0) && !app.orchestrator.is_connected(device.id) {
        return Err(AppError::new(ErrorCode::DeviceOffline, DEVICE_OFFLINE));
    }
    let new = NewRun {
        org: caller.org,
        owner: caller.user,
        agent: &agent,
        device: &device,
        thread: request.thread_id,
        asked,
        config,
        metadata: request.metadata,
        queue_ttl: Some(queue_ttl),
    };
    let run = insert(&mut dispatch, new).await?;
    audit::record(
        app,
        &mut dispatch.tx,
        caller.org,
        deed("run.dispatched", caller.actor(), &run),
    )
    .await?;
    if let Some(key) = key {
        let key = (caller.org, owner_key.as_str(), key);
        store::runs::insert_key(&mut dispatch.tx, key, &request_hash, run.id, run.created_at).await?;
    }
    dispatch.offer_waiting(device.id).await?;
    let run = reload(&mut dispatch.tx, run.id).await?;
    let answer = shown(&mut dispatch.tx, caller, run).await?;
    dispatch.commit().await?;
    Ok(answer)
}

/// Starts a run for the device it is bound to, and answers over its session.
pub(crate) async fn register(
    app: &App,
    node: NodeId,
    request: u64,
    wish: DeviceRun,
) -> Result<(), StoreError> {
    let mut dispatch = DispatchTx::begin(app).await?;
    match try_register(app, &mut dispatch, node, &wish).await {
        Ok(run) => {
            if let Some((order, ticket)) = dispatch.signed(&run).await? {
                let registered = ToSidecar::Registered {
                    request,
                    run_id: run.id,
                    order,
                    fence: run.state.fence,
                    ticket,
                };
                dispatch.send(node, registered);
            }
            dispatch.commit().await
        }
        Err(refusal) => {
            drop(dispatch);
            let mut dispatch = DispatchTx::begin(app).await?;
            let refused = ToSidecar::RegisterRefused {
                request,
                code: refusal.code.as_str().to_owned(),
                message: refusal.message,
            };
            dispatch.send(node, refused);
            dispatch.commit().await
        }
    }
}

async fn try_register(
    app: &App,
    dispatch: &mut DispatchTx<'_>,
    node: NodeId,
    wish: &DeviceRun,
) -> Result<RunRow, AppError> {
    check_key(wish.key.as_deref())?;
    check_prompt(&wish.prompt)?;
    let device = store::runs::device(&mut dispatch.tx, node).await?;
    let device = device.filter(|device| !device.revoked);
    let device = device.ok_or_else(|| AppError::new(ErrorCode::DeviceRevoked, "the device was revoked"))?;
    let owner = device
        .owner
        .ok_or_else(|| AppError::conflict("the device has no owner to run for"))?;
    let key_owner = format!("device:{node}");
    let hash = secrets::hash(&store::canonical(&(&wish.agent, &wish.prompt, &wish.thread)));
    if let Some(key) = &wish.key
        && let Some(run) = repeated(dispatch, (device.org, &key_owner, key), &hash).await?
    {
        return Ok(run);
    }
    let agent = store::agents::by_slug(&mut dispatch.tx, device.org, &wish.agent).await?;
    let bound = |agent: &Agent| {
        agent.settings.execution_mode == ExecutionMode::LocalMac
            && agent.settings.target_device_id == Some(node)
    };
    let agent = agent
        .filter(bound)
        .ok_or_else(|| AppError::not_found("agent of this device"))?;
    let new = NewRun {
        org: device.org,
        owner,
        agent: &agent,
        device: &device,
        thread: wish.thread,
        asked: Conversation {
            prompt: wish.prompt.clone(),
            ..Conversation::default()
        },
        config: RunConfig::default(),
        metadata: None,
        queue_ttl: None,
    };
    let run = insert(dispatch, new).await?;
    let actor = Actor::device(node, Some(owner));
    audit::record(
        app,
        &mut dispatch.tx,
        device.org,
        deed("run.registered", actor, &run),
    )
    .await?;
    if let Some(key) = &wish.key {
        let key = (device.org, key_owner.as_str(), key.as_str());
        store::runs::insert_key(&mut dispatch.tx, key, &hash, run.id, run.created_at).await?;
    }
    Ok(run)
}

/// Returns a run that the caller may see.
pub(crate) async fn find(app: &App, caller: &Caller, id: RunId) -> Result<Run, AppError> {
    let mut conn = app.store.read().await?;
    let run = visible(&mut conn, caller, id).await?;
    shown(&mut conn, caller, run).await
}

/// Lists runs, newest first: the caller's own, or with `all` (admins) everyone's.
pub(crate) async fn list(app: &App, caller: &Caller, query: &RunsQuery) -> Result<Page<Run>, AppError> {
    let everyone = query.all.unwrap_or(false);
    if everyone {
        caller.demand_admin()?;
    }
    let window = Window::newest_first(&query.page())?;
    let mut conn = app.store.read().await?;
    let agent = match &query.agent {
        Some(name) => Some(agents::once_by_name(&mut conn, caller, name).await?),
        None => None,
    };
    let filter = RunFilter {
        org: caller.org,
        owner: (!everyone).then_some(caller.user),
        agent,
        status: query.status,
        thread: query.thread_id,
    };
    let rows = store::runs::list(&mut conn, filter, window.number, window.fetch()).await?;
    let page = window.cut(rows, |row| (row.number, String::new()));
    let mut runs = Vec::with_capacity(page.rows.len());
    for row in page.rows {
        runs.push(shown(&mut conn, caller, row).await?);
    }
    Ok(Page {
        rows: runs,
        next_cursor: page.next_cursor,
    })
}

/// Asks to stop a run; once it is over, or asked before, nothing more happens.
pub(crate) async fn cancel(app: &App, caller: &Caller, id: RunId) -> Result<Run, AppError> {
    let mut dispatch = DispatchTx::begin(app).await?;
    let mut run = visible(&mut dispatch.tx, caller, id).await?;
    if !run.state.is_over() {
        if run.state.cancel_at.is_none() {
            let deed = deed("run.cancel_requested", caller.actor(), &run);
            audit::record(app, &mut dispatch.tx, caller.org, deed).await?;
        }
        dispatch.advance(&mut run, Input::Cancel).await?;
    }
    let answer = shown(&mut dispatch.tx, caller, run).await?;
    dispatch.commit().await?;
    Ok(answer)
}

/// Waits until a run is over, at most `wait`.
pub(crate) async fn wait(app: &App, caller: &Caller, run: Run, wait: Duration) -> Result<Run, AppError> {
    let id = run.receipt.run_id;
    let waiting = async {
        let mut notices = app.watchers.watch(run.receipt.thread_id);
        loop {
            let run = find(app, caller, id).await?;
            if run.receipt.status.is_terminal() {
                return Ok(run);
            }
            // Live deltas change nothing; anything else, falling behind too, is worth a look.
            loop {
                match notices.recv().await {
                    Ok(Notice::Live(_)) => {}
                    Ok(Notice::Stored(_) | Notice::Deleted(_)) | Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => return Ok(run),
                }
            }
        }
    };
    match tokio::time::timeout(wait, waiting).await {
        Ok(done) => done,
        Err(_) => find(app, caller, id).await,
    }
}

async fn insert(dispatch: &mut DispatchTx<'_>, new: NewRun<'_>) -> Result<RunRow, AppError> {
    let now = dispatch.now;
    let thread = thread_for(dispatch, &new).await?;
    let origin = new.origin();
    let state = match new.queue_ttl {
        None => RunState::registered(now),
        Some(ttl) => RunState::queued(now, now + ttl),
    };
    if origin == RunOrigin::Device
        && store::runs::open_len(&mut dispatch.tx, new.device.id).await? >= OPEN_RUNS_MAX as u64
    {
        return Err(AppError::conflict(format!(
            "{OPEN_RUNS_MAX} runs of this device are not over yet"
        )));
    }
    if store::runs::queue_len(&mut dispatch.tx, new.device.id).await? >= QUEUE_MAX {
        return Err(AppError::conflict(format!(
            "{QUEUE_MAX} runs wait for this device already"
        )));
    }
    let spec = spec(new.agent, &new.asked, new.config);
    let mut run = RunRow {
        id: RunId::from_random(secrets::bytes()),
        number: 0,
        org: new.org,
        owner: new.owner,
        thread: thread.id,
        rollout: thread.active_rollout_id,
        agent: new.agent.id,
        agent_slug: new.agent.slug.clone(),
        node: new.device.id,
        origin,
        spec,
        metadata: new.metadata,
        state,
        outcome: Outcome::default(),
        created_at: now,
        accepted_at: (origin == RunOrigin::Device).then_some(now),
        started_at: None,
        completed_at: None,
    };
    run.number = store::runs::insert(&mut dispatch.tx, &run).await?;
    if !new.asked.earlier.is_empty() {
        dispatch.append(Place::of(&thread), &new.asked.earlier).await?;
    }
    let asked = EventDraft {
        event_type: EventType::UserMessage,
        payload: json!({ "text": run.spec.prompt }),
        client_event_id: None,
    };
    dispatch.append(place(&run), &[asked]).await?;
    Ok(run)
}

/// What the device is asked: what the run says wins over what its agent says.
fn spec(agent: &Agent, asked: &Conversation, config: RunConfig) -> RunSpec {
    let settings = &agent.settings;
    RunSpec {
        runner: settings.runner.clone(),
        system_prompt: joined(settings.system_prompt.clone(), asked.system.clone()),
        prompt: asked.prompt.clone(),
        folder_hint: settings.default_folder_hint.clone(),
        env: settings.env.clone(),
        limits: RunLimits {
            duration_s_max: None,
            turns_max: config.max_turns.or(settings.max_iterations),
            tokens_max: config.max_tokens.or(settings.max_tokens),
        },
        model: settings.model.clone(),
        temperature: config.temperature.or(settings.temperature),
        settings: RunSettings {
            tools: settings.tools.clone(),
            top_p: settings.top_p,
            top_k: settings.top_k,
            provider_options: settings.provider_options.clone(),
            resources: settings
                .resources
                .iter()
                .map(|resource| json!(resource))
                .collect(),
        },
    }
}

/// The thread to go on with, which must be the owner's, or a new one.
async fn thread_for(dispatch: &mut DispatchTx<'_>, new: &NewRun<'_>) -> Result<Thread, AppError> {
    if let Some(id) = new.thread {
        let row = store::threads::find(&mut dispatch.tx, new.org, id).await?;
        let thread = row
            .map(|row| row.thread)
            .filter(|thread| thread.owner_user_id == new.owner);
        let thread = thread.ok_or_else(|| AppError::not_found("thread"))?;
        let open = store::runs::open_of_thread(&mut dispatch.tx, id).await?;
        if new.origin() == RunOrigin::Device && !open.is_empty() {
            return Err(AppError::conflict("another run of this thread is not over yet"));
        }
        return Ok(thread);
    }
    let printable = new
        .asked
        .prompt
        .chars()
        .map(|c| if types::names::is_unprintable(c) { ' ' } else { c });
    let title: String = printable.take(TITLE_CHARS_MAX.min(80)).collect();
    let thread = Thread {
        id: ThreadId::from_random(secrets::bytes()),
        org_id: new.org,
        owner_user_id: new.owner,
        agent_id: Some(new.agent.id),
        title: Some(title.trim().to_owned()),
        execution_mode: new.agent.settings.execution_mode,
        archived: false,
        active_rollout_id: RolloutId::from_random(secrets::bytes()),
        created_at: dispatch.now,
        updated_at: dispatch.now,
    };
    store::threads::insert(&mut dispatch.tx, &thread).await?;
    Ok(thread)
}

async fn executor(conn: &mut Conn, agent: &Agent) -> Result<DeviceRow, AppError> {
    let mode = agent.settings.execution_mode;
    if mode != ExecutionMode::LocalMac {
        let name = store::name_of(&mode);
        let message = format!("this server has no executor for executionMode {name} yet; use local-mac");
        return Err(AppError::conflict(message));
    }
    let node = agent.settings.target_device_id.ok_or_else(AppError::internal)?;
    let device = store::runs::device(conn, node).await?;
    let device = device.filter(|device| device.org == agent.org_id && !device.revoked);
    let message = "the device that this agent is bound to was revoked; bind it to another";
    device.ok_or_else(|| AppError::new(ErrorCode::DeviceRevoked, message))
}

async fn repeated(
    dispatch: &mut DispatchTx<'_>,
    key: (OrgId, &str, &str),
    request_hash: &str,
) -> Result<Option<RunRow>, AppError> {
    let since = dispatch.now - KEY_LIFETIME;
    let Some((id, hash)) = store::runs::by_key(&mut dispatch.tx, key, since).await? else {
        return Ok(None);
    };
    if hash != request_hash {
        return Err(AppError::conflict(
            "this idempotency key was used for another request",
        ));
    }
    reload(&mut dispatch.tx, id).await.map(Some)
}

async fn reload(conn: &mut Conn, id: RunId) -> Result<RunRow, AppError> {
    store::runs::get(conn, id).await?.ok_or_else(AppError::internal)
}

async fn visible(conn: &mut Conn, caller: &Caller, id: RunId) -> Result<RunRow, AppError> {
    let run = store::runs::get(conn, id).await?;
    let run = run.filter(|run| run.org == caller.org && (caller.is_admin() || run.owner == caller.user));
    run.ok_or_else(|| AppError::not_found("run"))
}

/// What the API shows of a run; to an admin who is not the owner without what was said in it.
async fn shown(conn: &mut Conn, caller: &Caller, run: RunRow) -> Result<Run, AppError> {
    let status = run.state.status();
    let is_queued = status == RunStatus::Queued;
    let queue_position = if is_queued {
        Some(store::runs::queue_position(conn, &run).await?)
    } else {
        None
    };
    let is_taken = matches!(run.state.phase, Phase::Accepted | Phase::Running);
    let is_owner = run.owner == caller.user;
    let queue_ttl = (run.origin == RunOrigin::Api).then(|| waits(&run));
    Ok(Run {
        receipt: RunReceipt {
            run_id: run.id,
            thread_id: run.thread,
            rollout_id: run.rollout,
            execution_mode: run.execution_mode(),
            target_device_id: Some(run.node),
            sandbox_id: None,
            status,
            result: run.outcome.result.filter(|_| is_owner),
            usage: run.outcome.usage,
            iterations: run.outcome.iterations,
            queue_position,
            queue_expires_at: is_queued.then_some(run.state.queue_until),
        },
        org_id: run.org,
        owner_user_id: run.owner,
        agent_id: run.agent,
        agent_slug: run.agent_slug,
        origin: run.origin,
        attempt: run.state.attempt.0,
        suspended: is_taken && run.state.away_since.is_some(),
        cancel_requested: run.state.cancel_at.is_some() || status == RunStatus::Cancelled,
        reason: run.outcome.reason,
        message: run.outcome.message.filter(|_| is_owner),
        metadata: run.metadata.filter(|_| is_owner),
        queue_ttl,
        created_at: run.created_at,
        accepted_at: run.accepted_at,
        started_at: run.started_at,
        completed_at: run.completed_at,
    })
}

/// How long a run could wait, in seconds.
fn waits(run: &RunRow) -> u32 {
    let span = run.state.queue_until.unix_ms() - run.created_at.unix_ms();
    u32::try_from(span / 1000).unwrap_or_default()
}

fn deed(action: &'static str, actor: Actor, run: &RunRow) -> Deed {
    Deed {
        action,
        target: Some(("run", run.id.to_string())),
        actor,
        attributes: Map::from_iter([
            ("agent".to_owned(), json!(run.agent_slug)),
            ("nodeId".to_owned(), json!(run.node)),
            ("threadId".to_owned(), json!(run.thread)),
        ]),
    }
}
