//! Agents: settings checked field by field, upserted by slug, seen by their owner and by admins.

use api::ErrorCode;
use api::activity::{ResourceType, Severity};
use api::agents::{Agent, AgentSettings, AgentsQuery, PutAction, PutAgent, PutAgentResult};
use serde_json::{Map, Value, json};
use types::{AgentId, AgentSlug, ExecutionMode, NodeId, RunnerSpec};

use super::activity::Happening;
use super::audit::Deed;
use super::{App, AppError, Caller, Page, Window, activity, audit, display_text, without_nul};
use crate::secrets;
use crate::store::{self, Conn, StoreError};

const DESCRIPTION_CHARS_MAX: usize = 2000;
const SYSTEM_PROMPT_BYTES_MAX: usize = 64 * 1024;
const NAME_LEN_MAX: usize = 128;
const TOOLS_MAX: usize = 128;
const ENV_MAX: usize = 64;
const ENV_VALUE_BYTES_MAX: usize = 4096;
const JSON_BYTES_MAX: usize = 16 * 1024;
const RESOURCES_MAX: usize = 32;
/// All of an agent's resources together: they travel with every run.
const RESOURCES_BYTES_MAX: usize = 64 * 1024;
const FOLDER_CHARS_MAX: usize = 1024;

/// Creates an agent or replaces its settings.
pub(crate) async fn put(app: &App, caller: &Caller, request: PutAgent) -> Result<PutAgentResult, AppError> {
    let settings = checked(request.settings, &request.slug)?;
    check_mode(&settings).map_err(AppError::bad_request)?;
    let mut tx = app.store.write().await?;
    check_target(&mut tx, caller, &settings).await?;
    let now = app.clock.wall();
    let known = store::agents::by_slug(&mut tx, caller.org, &request.slug).await?;
    let (agent, action) = match known {
        Some(known) if !may_use(caller, &known) => {
            return Err(AppError::conflict(
                "slug is taken by another member of the organization",
            ));
        }
        Some(known) => {
            let agent = Agent {
                settings,
                version: known.version.saturating_add(1),
                updated_at: now,
                ..known
            };
            store::agents::update(&mut tx, &agent).await?;
            (agent, PutAction::Updated)
        }
        None => {
            let agent = Agent {
                id: AgentId::from_random(secrets::bytes()),
                org_id: caller.org,
                owner_user_id: caller.user,
                slug: request.slug,
                settings,
                visibility: "private".to_owned(),
                status: "active".to_owned(),
                version: 1,
                created_at: now,
                updated_at: now,
            };
            store::agents::insert(&mut tx, &agent).await?;
            (agent, PutAction::Created)
        }
    };
    let done = match action {
        PutAction::Created => "agent.created",
        PutAction::Updated => "agent.updated",
    };
    record(app, &mut tx, caller, (done, &agent)).await?;
    tx.commit().await?;
    Ok(PutAgentResult {
        id: agent.id,
        endpoint: format!("/v1/agents/{}/run", agent.slug),
        slug: agent.slug,
        action,
        version: agent.version,
        sandbox_id: None,
        target_device_id: agent.settings.target_device_id,
    })
}

/// Changes the settings that `changes` names; null clears one.
pub(crate) async fn patch(
    app: &App,
    caller: &Caller,
    slug: &AgentSlug,
    changes: Map<String, Value>,
) -> Result<Agent, AppError> {
    let mut tx = app.store.write().await?;
    let known = by_slug(&mut tx, caller, slug).await?;
    let mut merged = serde_json::to_value(&known.settings).map_err(|_| AppError::internal())?;
    if let Value::Object(merged) = &mut merged {
        for (field, value) in changes {
            match value {
                Value::Null => merged.remove(&field),
                value => merged.insert(field, value),
            };
        }
    }
    let settings: AgentSettings = serde_json::from_value(merged)
        .map_err(|error| AppError::bad_request(format!("the settings cannot be read: {error}")))?;
    let settings = checked(settings, slug)?;
    // What was asked is well-formed; it is the settings that stand already which it does not go with.
    check_mode(&settings).map_err(AppError::conflict)?;
    if settings == known.settings {
        return Ok(known);
    }
    check_target(&mut tx, caller, &settings).await?;
    let agent = Agent {
        settings,
        version: known.version.saturating_add(1),
        updated_at: app.clock.wall(),
        ..known
    };
    store::agents::update(&mut tx, &agent).await?;
    record(app, &mut tx, caller, ("agent.updated", &agent)).await?;
    tx.commit().await?;
    Ok(agent)
}

/// Returns an agent that the caller may see.
pub(crate) async fn find(app: &App, caller: &Caller, slug: &AgentSlug) -> Result<Agent, AppError> {
    let mut conn = app.store.read().await?;
    by_slug(&mut conn, caller, slug).await
}

/// Lists agents, oldest first: the caller's own, or with `all` (admins) everyone's.
pub(crate) async fn list(app: &App, caller: &Caller, query: &AgentsQuery) -> Result<Page<Agent>, AppError> {
    let everyone = query.all.unwrap_or(false);
    if everyone {
        caller.demand_admin()?;
    }
    let window = Window::oldest_first(&query.page())?;
    let owner = (!everyone).then_some(caller.user);
    let mut conn = app.store.read().await?;
    let rows = store::agents::list(&mut conn, caller.org, owner, window.key(), window.fetch()).await?;
    Ok(window.cut(rows, |row| (row.created_at.unix_ms(), row.id.to_string())))
}

/// Deletes an agent. Its threads and runs stay, and what was dispatched goes on.
pub(crate) async fn delete(app: &App, caller: &Caller, slug: &AgentSlug) -> Result<(), AppError> {
    let mut tx = app.store.write().await?;
    let agent = by_slug(&mut tx, caller, slug).await?;
    store::agents::delete(&mut tx, agent.id).await?;
    record(app, &mut tx, caller, ("agent.deleted", &agent)).await?;
    Ok(tx.commit().await?)
}

/// Finds an agent by what callers name it: slug or id.
pub(crate) async fn by_name(conn: &mut Conn, caller: &Caller, name: &str) -> Result<Agent, AppError> {
    if let Ok(id) = name.parse::<AgentId>()
        && let Some(agent) = store::agents::by_id(conn, caller.org, id).await?
    {
        return visible(caller, Some(agent));
    }
    // A slug may look like an id.
    let slug = name.parse().map_err(|_| AppError::not_found("agent"))?;
    by_slug(conn, caller, &slug).await
}

/// Finds of which agent a list is asked for: one that is there, or one that was, by a run of the caller's (an admin: of
/// anybody's), since its threads and runs outlive it.
pub(crate) async fn once_by_name(conn: &mut Conn, caller: &Caller, name: &str) -> Result<AgentId, AppError> {
    match by_name(conn, caller, name).await {
        Ok(agent) => Ok(agent.id),
        Err(error) if error.code == ErrorCode::NotFound => {
            let owner = (!caller.is_admin()).then_some(caller.user);
            let id = store::runs::agent_called(conn, (caller.org, owner), name).await?;
            id.ok_or(error)
        }
        Err(error) => Err(error),
    }
}

async fn by_slug(conn: &mut Conn, caller: &Caller, slug: &AgentSlug) -> Result<Agent, AppError> {
    let agent = store::agents::by_slug(conn, caller.org, slug).await?;
    visible(caller, agent)
}

fn visible(caller: &Caller, agent: Option<Agent>) -> Result<Agent, AppError> {
    let agent = agent.filter(|agent| may_use(caller, agent));
    agent.ok_or_else(|| AppError::not_found("agent"))
}

fn may_use(caller: &Caller, agent: &Agent) -> bool {
    caller.is_admin() || agent.owner_user_id == caller.user
}

/// The device must be one that the caller may send work to: their own, or for an admin any of the org.
async fn check_target(conn: &mut Conn, caller: &Caller, settings: &AgentSettings) -> Result<(), AppError> {
    let Some(node) = settings.target_device_id else {
        return Ok(());
    };
    usable_device(conn, caller, node).await?.ok_or_else(|| {
        AppError::conflict("targetDeviceId: there is no such device, or it is not yours, or it was revoked")
    })
}

async fn usable_device(conn: &mut Conn, caller: &Caller, node: NodeId) -> Result<Option<()>, StoreError> {
    let device = store::runs::device(conn, node).await?;
    let usable = device.filter(|device| {
        let may = caller.is_admin() || device.owner == Some(caller.user);
        device.org == caller.org && !device.revoked && may
    });
    Ok(usable.map(|_| ()))
}

/// Checks settings, and fills in the name that nobody gave.
fn checked(mut settings: AgentSettings, slug: &AgentSlug) -> Result<AgentSettings, AppError> {
    settings.name.get_or_insert_with(|| slug.to_string());
    check_texts(&settings)?;
    check_numbers(&settings)?;
    check_env(&settings)?;
    check_lists(&settings)?;
    Ok(settings)
}

fn check_texts(settings: &AgentSettings) -> Result<(), AppError> {
    if let Some(name) = &settings.name {
        display_text("name", name)?;
    }
    if let Some(model) = &settings.model {
        display_text("model", model)?;
    }
    let chars = |field: &str, text: &Option<String>, max: usize| {
        let text = text.as_deref().unwrap_or_default();
        without_nul(field, text)?;
        let len = text.chars().count();
        demand(len <= max, || format!("{field} must be at most {max} characters"))
    };
    chars("description", &settings.description, DESCRIPTION_CHARS_MAX)?;
    chars(
        "defaultFolderHint",
        &settings.default_folder_hint,
        FOLDER_CHARS_MAX,
    )?;
    let folder = settings.default_folder_hint.as_deref().unwrap_or_default();
    demand(!folder.chars().any(char::is_control), || {
        "defaultFolderHint must not contain control characters".to_owned()
    })?;
    let prompt = settings.system_prompt.as_deref().unwrap_or_default();
    without_nul("systemPrompt", prompt)?;
    demand(prompt.len() <= SYSTEM_PROMPT_BYTES_MAX, || {
        format!("systemPrompt must be at most {SYSTEM_PROMPT_BYTES_MAX} bytes")
    })?;
    if let Some(RunnerSpec::Acp { name } | RunnerSpec::Command { name }) = &settings.runner {
        display_text("runner.name", name)?;
    }
    Ok(())
}

fn check_numbers(settings: &AgentSettings) -> Result<(), AppError> {
    let whole = |field: &str, value: Option<u32>, max: u32| {
        let fits = value.is_none_or(|value| (1..=max).contains(&value));
        demand(fits, || format!("{field} must be 1 to {max}"))
    };
    whole("maxIterations", settings.max_iterations, 100)?;
    whole("maxTokens", settings.max_tokens, 128_000)?;
    whole("topK", settings.top_k, u32::MAX)?;
    let part = |field: &str, value: Option<f64>, max: f64| {
        let fits = value.is_none_or(|value| (0.0..=max).contains(&value));
        demand(fits, || format!("{field} must be 0 to {max}"))
    };
    part("temperature", settings.temperature, 2.0)?;
    part("topP", settings.top_p, 1.0)
}

fn check_env(settings: &AgentSettings) -> Result<(), AppError> {
    demand(settings.env.len() <= ENV_MAX, || {
        format!("env must have at most {ENV_MAX} variables")
    })?;
    for (name, value) in &settings.env {
        let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        demand(starts && is_name && name.len() <= NAME_LEN_MAX, || {
            "env: a name must be letters, digits and _, at most 128, no digit first".to_owned()
        })?;
        let fits = value.len() <= ENV_VALUE_BYTES_MAX && !value.contains('\0');
        demand(fits, || {
            format!("env.{name} must be at most {ENV_VALUE_BYTES_MAX} bytes without NUL")
        })?;
    }
    Ok(())
}

fn check_lists(settings: &AgentSettings) -> Result<(), AppError> {
    let tools = settings.tools.as_deref().unwrap_or_default();
    demand(tools.len() <= TOOLS_MAX, || {
        format!("tools must be at most {TOOLS_MAX} names")
    })?;
    for tool in tools {
        display_text("tools", tool)?;
    }
    demand(settings.resources.len() <= RESOURCES_MAX, || {
        format!("resources must be at most {RESOURCES_MAX}")
    })?;
    for resource in &settings.resources {
        display_text("resources.type", &resource.resource_type)?;
        display_text("resources.resourceId", &resource.resource_id)?;
        if let Some(alias) = &resource.alias {
            display_text("resources.alias", alias)?;
        }
        small("resources.config", &json!(resource.config), JSON_BYTES_MAX)?;
    }
    small("resources", &json!(settings.resources), RESOURCES_BYTES_MAX)?;
    small(
        "providerOptions",
        &json!(settings.provider_options),
        JSON_BYTES_MAX,
    )?;
    small("sandbox", &json!(settings.sandbox), JSON_BYTES_MAX)
}

/// Says what the mode lacks, or has too much.
fn check_mode(settings: &AgentSettings) -> Result<(), &'static str> {
    let has_sandbox = settings.sandbox.is_some();
    match settings.execution_mode {
        ExecutionMode::LocalMac if settings.target_device_id.is_none() => {
            Err("executionMode local-mac requires targetDeviceId")
        }
        ExecutionMode::LocalMac if has_sandbox => Err("executionMode local-mac must not have sandbox"),
        ExecutionMode::InSandbox if !has_sandbox => {
            Err("executionMode in_sandbox (the default) requires sandbox")
        }
        _ => Ok(()),
    }
}

fn small(field: &str, value: &Value, max: usize) -> Result<(), AppError> {
    demand(value.to_string().len() <= max, || {
        format!("{field} must be at most {max} bytes")
    })
}

fn demand(holds: bool, message: impl FnOnce() -> String) -> Result<(), AppError> {
    if holds {
        Ok(())
    } else {
        Err(AppError::bad_request(message()))
    }
}

/// Writes a change of an agent into the audit log and the activity list.
async fn record(
    app: &App,
    conn: &mut Conn,
    caller: &Caller,
    (done, agent): (&'static str, &Agent),
) -> Result<(), StoreError> {
    let attributes = Map::from_iter([
        ("slug".to_owned(), json!(agent.slug)),
        ("version".to_owned(), json!(agent.version)),
        ("executionMode".to_owned(), json!(agent.settings.execution_mode)),
    ]);
    let deed = Deed {
        action: done,
        target: Some(("agent", agent.id.to_string())),
        actor: caller.actor(),
        attributes: attributes.clone(),
    };
    audit::record(app, conn, caller.org, deed).await?;
    let verb = done.rsplit('.').next().unwrap_or(done);
    let happening = Happening {
        actor: caller.actor(),
        resource: (ResourceType::Agent, agent.id.to_string()),
        event_type: done,
        severity: Severity::Info,
        status: None,
        title: format!("{} was {verb}", agent.slug),
        attributes,
        thread: None,
        run: None,
        node: agent.settings.target_device_id,
    };
    activity::record(app, conn, caller.org, happening).await
}
