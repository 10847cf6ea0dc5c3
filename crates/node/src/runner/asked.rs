//! What an order asks of its runner beside the prompt, and the variables in which every program can read it.

use std::collections::BTreeMap;

use types::{RunLimits, RunOrder};

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
            history: order.history.clone(),
        }
    }

    /// What is asked for and the Agent Client Protocol, version 1, has no word for.
    pub(super) fn beyond_acp(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        if self.temperature.is_some() {
            names.push("temperature");
        }
        if self.limits.tokens_max.is_some() {
            names.push("maxTokens");
        }
        names
    }
}

/// The variables that a program gets beside its own environment. They win over everything else of the same name.
#[must_use]
pub fn variables(order: &RunOrder) -> BTreeMap<String, String> {
    let number = |number: Option<u32>| number.map(|number| number.to_string());
    let all = [
        ("RUNMESH_THREAD_ID", Some(order.thread_id.to_string())),
        ("RUNMESH_AGENT", Some(order.agent_slug.to_string())),
        ("RUNMESH_MODEL", order.model.clone()),
        ("RUNMESH_TEMPERATURE", order.temperature.map(|t| t.to_string())),
        ("RUNMESH_MAX_TURNS", number(order.limits.turns_max)),
        ("RUNMESH_MAX_TOKENS", number(order.limits.tokens_max)),
        ("RUNMESH_SYSTEM_PROMPT", order.system_prompt.clone()),
        ("RUNMESH_HISTORY", order.history.clone()),
    ];
    let fits = |value: &String| value.len() <= VALUE_BYTES_MAX && !value.contains('\0');
    let set = |(name, value): (&str, Option<String>)| Some((name.to_owned(), value.filter(fits)?));
    all.into_iter().filter_map(set).collect()
}
