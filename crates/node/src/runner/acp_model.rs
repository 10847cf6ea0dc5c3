//! How an ACP agent is told which model to use: by a configuration option of category `model`, or by the older
//! `session/set_model`, whichever it offers when a session is opened.

use serde_json::{Value, json};

/// What to call.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct SetModel {
    pub(super) method: &'static str,
    pub(super) params: Value,
}

/// What an agent's answer says about a wished model.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Model {
    /// It is the one in use.
    InUse,
    /// It must be asked for.
    Set(SetModel),
    /// The agent does not offer it.
    NotOffered,
}

/// Looks for `model`, an id or a name, in the answer that opened a session.
pub(super) fn choose(opened: &Value, session: &str, model: &str) -> Model {
    option(opened, session, model)
        .or_else(|| listed(opened, session, model))
        .unwrap_or(Model::NotOffered)
}

fn option(opened: &Value, session: &str, model: &str) -> Option<Model> {
    let options = opened.get("configOptions")?.as_array()?;
    let is_it = |option: &&Value| option["category"] == "model" && option["type"] == "select";
    options.iter().filter(is_it).find_map(|option| {
        // Values stand in a list or in groups of lists.
        let choices = option["options"].as_array()?;
        let flat = choices
            .iter()
            .flat_map(|choice| match choice["options"].as_array() {
                Some(group) => group.iter().collect::<Vec<_>>(),
                None => vec![choice],
            });
        let value = find(flat, "value", model)?;
        let params = json!({ "sessionId": session, "configId": option["id"], "value": value });
        Some(decided(
            &option["currentValue"],
            &value,
            ("session/set_config_option", params),
        ))
    })
}

fn listed(opened: &Value, session: &str, model: &str) -> Option<Model> {
    let models = opened.get("models")?;
    let value = find(models["availableModels"].as_array()?, "modelId", model)?;
    let params = json!({ "sessionId": session, "modelId": value });
    Some(decided(
        &models["currentModelId"],
        &value,
        ("session/set_model", params),
    ))
}

fn find<'a>(choices: impl IntoIterator<Item = &'a Value>, id: &str, model: &str) -> Option<Value> {
    let fits = |choice: &&Value| choice[id] == model || choice["name"] == model;
    choices.into_iter().find(fits).map(|choice| choice[id].clone())
}

fn decided(current: &Value, value: &Value, (method, params): (&'static str, Value)) -> Model {
    if current == value {
        Model::InUse
    } else {
        Model::Set(SetModel { method, params })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_found_by_id_or_name_in_lists_and_groups() {
        let flat = json!({ "configOptions": [
            { "id": "mode", "category": "mode", "type": "select", "currentValue": "a", "options": [{ "value": "big", "name": "x" }] },
            { "id": "m", "category": "model", "type": "select", "currentValue": "small",
              "options": [{ "value": "small", "name": "Small" }, { "value": "big", "name": "Big One" }] },
        ] });
        let set = |value: &str| {
            let params = json!({ "sessionId": "s", "configId": "m", "value": value });
            Model::Set(SetModel {
                method: "session/set_config_option",
                params,
            })
        };
        assert_eq!(choose(&flat, "s", "big"), set("big"));
        assert_eq!(choose(&flat, "s", "Big One"), set("big"));
        assert_eq!(choose(&flat, "s", "small"), Model::InUse);
        assert_eq!(choose(&flat, "s", "huge"), Model::NotOffered);
        let groups = json!({ "configOptions": [{ "id": "m", "category": "model", "type": "select", "currentValue": "x",
            "options": [{ "group": "g", "name": "G", "options": [{ "value": "big", "name": "B" }] }] }] });
        assert_eq!(choose(&groups, "s", "big"), set("big"));
    }

    #[test]
    fn an_older_agent_lists_its_models_elsewhere_and_nonsense_offers_nothing() {
        let older = json!({ "models": { "currentModelId": "a", "availableModels": [{ "modelId": "b", "name": "B" }] } });
        let params = json!({ "sessionId": "s", "modelId": "b" });
        let set = SetModel {
            method: "session/set_model",
            params,
        };
        assert_eq!(choose(&older, "s", "b"), Model::Set(set));
        for odd in [
            json!(null),
            json!({ "configOptions": 7, "models": [] }),
            json!({ "models": { "availableModels": {} } }),
        ] {
            assert_eq!(choose(&odd, "s", "b"), Model::NotOffered);
        }
    }
}
