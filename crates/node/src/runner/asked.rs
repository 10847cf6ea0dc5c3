//! What an order asks of its runner beside the prompt, and the variables in which every program can read it.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use types::{RunLimits, RunOrder, RunSettings};

/// The longest value of one variable, in bytes: Linux takes no string above 128 KiB.
const VALUE_BYTES_MAX: usize = 100 * 1024;

/// What an agent's definition and a run's `config` ask for.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Asked {
    /// Which model.
    pub model: Option<String>,
    /// How freely it should speak, 0 to 2.
    pub temperature: Option<f64>,
    /// How far it may go.
    pub limits: RunLimits,
    /// What else the agent's definition asks.
    pub settings: RunSettings,
    /// What was said in the thread before.
    pub history: Option<String>,
}

impl Asked {
    /// Takes it out of an order.
    #[must_use]
    pub fn of(order: &RunOrder) -> Self {
        Self {
            model: order.model.clone(),
            temperature: order.temperature,
            limits: order.limits,
            settings: order.settings.clone(),
            history: order.history.clone(),
        }
    }

    /// What is asked for and the Agent Client Protocol, version 1, has no word for: by the names that the API has.
    pub(super) fn beyond_acp(&self) -> Vec<(&'static str, Value)> {
        let settings = &self.settings;
        let all = [
            ("temperature", json!(self.temperature)),
            ("maxTokens", json!(self.limits.tokens_max)),
            ("topP", json!(settings.top_p)),
            ("topK", json!(settings.top_k)),
            ("tools", json!(settings.tools)),
            ("providerOptions", json!(settings.provider_options)),
            (
                "resources",
                list(&settings.resources).map_or(Value::Null, |list| json!(list)),
            ),
        ];
        all.into_iter().filter(|(_, value)| !value.is_null()).collect()
    }
}

/// No resource at all is nothing to tell.
fn list(resources: &[Value]) -> Option<&[Value]> {
    Some(resources).filter(|resources| !resources.is_empty())
}

/// The variables that a program gets beside its own environment. They win over everything else of the same name.
#[must_use]
pub fn variables(order: &RunOrder) -> BTreeMap<String, String> {
    let number = |number: Option<u32>| number.map(|number| number.to_string());
    let settings = &order.settings;
    let all = [
        ("RUNMESH_THREAD_ID", Some(order.thread_id.to_string())),
        ("RUNMESH_AGENT", Some(order.agent_slug.to_string())),
        ("RUNMESH_MODEL", order.model.clone()),
        ("RUNMESH_TEMPERATURE", order.temperature.map(|t| t.to_string())),
        ("RUNMESH_TOP_P", settings.top_p.map(|p| p.to_string())),
        ("RUNMESH_TOP_K", number(settings.top_k)),
        ("RUNMESH_TOOLS", settings.tools.as_ref().map(text)),
        (
            "RUNMESH_PROVIDER_OPTIONS",
            settings.provider_options.as_ref().map(text),
        ),
        ("RUNMESH_RESOURCES", list(&settings.resources).map(text)),
        ("RUNMESH_MAX_TURNS", number(order.limits.turns_max)),
        ("RUNMESH_MAX_TOKENS", number(order.limits.tokens_max)),
        ("RUNMESH_SYSTEM_PROMPT", order.system_prompt.clone()),
        ("RUNMESH_HISTORY", order.history.clone()),
    ];
    let fits = |value: &String| value.len() <= VALUE_BYTES_MAX && !value.contains('\0');
    let set = |(name, value): (&str, Option<String>)| Some((name.to_owned(), value.filter(fits)?));
    all.into_iter().filter_map(set).collect()
}

fn text<T: serde::Serialize>(value: T) -> String {
    json!(value).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(more: Value) -> RunOrder {
        let id = "00000000000000000000000000000000";
        let mut order = json!({
            "runId": format!("run_{id}"), "threadId": format!("thr_{id}"), "rolloutId": format!("rol_{id}"),
            "agentId": "00000000-0000-4000-8000-000000000000", "agentSlug": "a", "prompt": "hello", "env": {},
            "limits": {}, "createdAt": "2026-01-01T00:00:00.000Z",
        });
        for (field, value) in more.as_object().expect("fields") {
            order[field] = value.clone();
        }
        serde_json::from_value(order).expect("an order")
    }

    #[test]
    fn a_program_reads_what_is_asked_from_its_variables() {
        let settings = json!({
            "tools": ["shell", "edit"], "topP": 0.25, "topK": 40, "providerOptions": { "seed": 1 },
            "resources": [{ "type": "repo", "resourceId": "r" }],
        });
        let set = variables(&order(json!({ "settings": settings })));
        for (name, value) in [
            ("RUNMESH_TOOLS", json!(["shell", "edit"])),
            ("RUNMESH_TOP_P", json!(0.25)),
            ("RUNMESH_TOP_K", json!(40)),
            ("RUNMESH_PROVIDER_OPTIONS", json!({ "seed": 1 })),
            (
                "RUNMESH_RESOURCES",
                json!([{ "type": "repo", "resourceId": "r" }]),
            ),
        ] {
            let read = set
                .get(name)
                .map(|text| serde_json::from_str(text).expect("JSON"));
            assert_eq!(read, Some(value), "{name}");
        }
    }

    #[test]
    fn an_order_of_an_older_control_plane_asks_nothing_more() {
        let order = order(json!({}));
        assert_eq!(order.settings, RunSettings::default());
        let set = variables(&order);
        let names: Vec<&str> = set.keys().map(String::as_str).collect();
        assert_eq!(names, ["RUNMESH_AGENT", "RUNMESH_THREAD_ID"]);
        assert_eq!(Asked::of(&order).beyond_acp(), []);
    }
}
