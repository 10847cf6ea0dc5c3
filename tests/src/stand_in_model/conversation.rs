//! What was said so far, whatever the protocol, and what the stand-in model says next. It knows no wire format.

use serde_json::{Value, json};

use super::Refused;

/// What the tool call runs when the prompt does not say: it really looks into the repository.
pub const INSPECT_COMMAND: &str = "git log --oneline -5 && ls";
/// How much of a tool's output the answer quotes, in characters.
const QUOTED_CHARS_MAX: usize = 2000;
/// The names that agents give to their shell, the likeliest first.
const SHELL_NAMES: [&str; 6] = [
    "shell",
    "exec_command",
    "bash",
    "run_shell_command",
    "terminal",
    "execute",
];

/// One thing that was said.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    User(String),
    Assistant(String),
    Call { id: String },
    Result { id: String, text: String },
}

/// A tool on offer: its name and the JSON schema of its arguments.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tool {
    pub(super) name: String,
    pub(super) schema: Value,
}

impl Tool {
    /// Takes a tool whose schema is one of an object, as every protocol demands.
    pub(super) fn new(name: &Value, schema: &Value) -> Result<Self, Refused> {
        let name = name.as_str().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| Refused::because("a tool has no name"))?;
        let kind = schema["type"].as_str().unwrap_or_default();
        if !kind.eq_ignore_ascii_case("object") {
            return Err(Refused::because(format!("the arguments of {name} are no object")));
        }
        Ok(Self {
            name: name.to_owned(),
            schema: schema.clone(),
        })
    }
}

/// A conversation that a model could be asked to go on with.
#[derive(Debug, PartialEq)]
pub(super) struct Conversation {
    said: Vec<Said>,
    tools: Vec<Tool>,
}

/// What the model says next.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Turn {
    Say(String),
    Call { tool: String, arguments: Value },
}

impl Conversation {
    /// Takes a conversation that makes sense: each result answers one call made before it, each call has one result before
    /// the user speaks again, and the model is not asked to answer itself.
    pub(super) fn new(said: Vec<Said>, tools: Vec<Tool>) -> Result<Self, Refused> {
        let mut open: Vec<&str> = Vec::new();
        for one in &said {
            match one {
                Said::Call { id } if open.contains(&id.as_str()) => {
                    return Err(Refused::because(format!("two open calls are named {id}")));
                }
                Said::Call { id } => open.push(id),
                Said::Result { id, .. } => match open.iter().position(|call| call == id) {
                    Some(at) => drop(open.remove(at)),
                    None => return Err(Refused::because(format!("{id} is the result of no open call"))),
                },
                Said::User(_) if !open.is_empty() => {
                    return Err(Refused::because(format!(
                        "no result for the calls {}",
                        open.join(", ")
                    )));
                }
                Said::User(_) | Said::Assistant(_) => {}
            }
        }
        match said.last() {
            Some(Said::User(_) | Said::Result { .. }) if open.is_empty() => Ok(Self { said, tools }),
            Some(_) => Err(Refused::because("there is nothing to answer")),
            None => Err(Refused::because("nothing was said")),
        }
    }

    /// Decides.
    pub(super) fn next(&self) -> Turn {
        let last_user = self.said.iter().rposition(|one| matches!(one, Said::User(_)));
        let since = &self.said[last_user.map_or(0, |at| at + 1)..];
        let results: Vec<&str> = since.iter().filter_map(result_text).collect();
        if !results.is_empty() {
            return Turn::Say(quote(&results.join("\n")));
        }
        let prompt = last_user.map_or("", |at| spoken(&self.said[at]));
        if let Some(text) = directive(prompt, "say:") {
            return Turn::Say(text.to_owned());
        }
        if let Some(words) = directive(prompt, "recall:") {
            return Turn::Say(self.recall(words, last_user.unwrap_or(0)));
        }
        let command = directive(prompt, "shell:").unwrap_or(INSPECT_COMMAND);
        self.shell_call(command)
            .unwrap_or_else(|| Turn::Say("Inspect a local repository".to_owned()))
    }

    /// Finds words in what was said before the prompt, or beside them in the prompt itself, and tells which.
    fn recall(&self, words: &str, prompt_at: usize) -> String {
        let holds = |one: &Said| {
            let mut lines = spoken(one).lines().map(str::trim);
            lines.any(|line| line.contains(words) && !line.starts_with("recall:"))
        };
        if self.said[..prompt_at].iter().any(holds) {
            format!("I remember {words}.")
        } else if holds(&self.said[prompt_at]) {
            format!("I was told {words}.")
        } else {
            "I know nothing of it.".to_owned()
        }
    }

    /// Chooses the shell among the tools on offer, and fills in what its schema requires.
    fn shell_call(&self, command: &str) -> Option<Turn> {
        let is = |tool: &&Tool, name: &str| {
            let own = tool.name.to_lowercase();
            own == name || own.ends_with(&format!("__{name}")) || own.ends_with(&format!(".{name}"))
        };
        let named = |name: &&str| self.tools.iter().find(|tool| is(tool, name));
        let tool = SHELL_NAMES.iter().find_map(named)?;
        let properties = &tool.schema["properties"];
        let key = match properties.get("cmd") {
            Some(_) => "cmd",
            None => "command",
        };
        let is_list = properties[key]["type"]
            .as_str()
            .is_some_and(|kind| kind.eq_ignore_ascii_case("array"));
        let value = if is_list {
            json!(["sh", "-c", command])
        } else {
            json!(command)
        };
        let mut arguments = json!({ key: value });
        if properties.get("description").is_some() {
            arguments["description"] = json!("Look into the repository");
        }
        // Codex asks nobody about what it runs in its own sandbox.
        if properties.get("sandbox_permissions").is_some() {
            arguments["sandbox_permissions"] = json!("require_escalated");
            arguments["justification"] = json!("The repository may be written to.");
        }
        Some(Turn::Call {
            tool: tool.name.clone(),
            arguments,
        })
    }
}

fn result_text(one: &Said) -> Option<&str> {
    match one {
        Said::Result { text, .. } => Some(text),
        _ => None,
    }
}

fn spoken(one: &Said) -> &str {
    match one {
        Said::User(text) | Said::Assistant(text) | Said::Result { text, .. } => text,
        Said::Call { .. } => "",
    }
}

fn quote(output: &str) -> String {
    let shown: String = output.trim().chars().take(QUOTED_CHARS_MAX).collect();
    format!("I looked into the repository. The tool answered:\n\n{shown}\n")
}

/// The last of them counts: agents put what was said earlier before the prompt.
fn directive<'a>(prompt: &'a str, name: &str) -> Option<&'a str> {
    let found = |line: &'a str| line.trim().strip_prefix(name).map(str::trim);
    prompt.lines().rev().find_map(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(text: &str) -> Said {
        Said::User(text.to_owned())
    }

    fn call(id: &str) -> Said {
        Said::Call { id: id.to_owned() }
    }

    fn result(id: &str, text: &str) -> Said {
        let (id, text) = (id.to_owned(), text.to_owned());
        Said::Result { id, text }
    }

    fn shell() -> Tool {
        let schema = json!({"type": "object", "properties": {"command": {"type": "string"}}});
        Tool::new(&json!("developer__shell"), &schema).expect("a tool")
    }

    fn next(said: Vec<Said>) -> Turn {
        Conversation::new(said, vec![shell()])
            .expect("makes sense")
            .next()
    }

    #[test]
    fn a_prompt_is_answered_by_a_shell_call_and_its_result_is_quoted() {
        let Turn::Call { tool, arguments } = next(vec![user("Inspect")]) else {
            panic!("no call");
        };
        assert_eq!(
            (tool.as_str(), &arguments["command"]),
            ("developer__shell", &json!(INSPECT_COMMAND))
        );
        let turn = next(vec![
            user("Inspect"),
            call("a"),
            result("a", "abc123 first commit"),
        ]);
        assert!(matches!(turn, Turn::Say(text) if text.contains("abc123 first commit")));
    }

    #[test]
    fn a_new_prompt_after_a_finished_turn_calls_again_and_the_last_directive_counts() {
        let done = Said::Assistant("done".to_owned());
        let turn = next(vec![
            user("Inspect"),
            call("a"),
            result("a", "old"),
            done,
            user("say: x\nshell: sleep 9"),
        ]);
        assert!(matches!(&turn, Turn::Say(text) if text == "x"), "{turn:?}");
        let turn = next(vec![user("shell: ls\nshell: sleep 9\nthanks")]);
        assert!(
            matches!(&turn, Turn::Call { arguments, .. } if arguments["command"] == "sleep 9"),
            "{turn:?}"
        );
    }

    #[test]
    fn what_is_recalled_was_really_said() {
        let say = |said: Vec<Said>| match next(said) {
            Turn::Say(text) => text,
            Turn::Call { .. } => panic!("a call"),
        };
        let ask = user("recall: blue whale");
        assert_eq!(say(vec![ask.clone()]), "I know nothing of it.");
        assert_eq!(
            say(vec![user("say: a blue whale"), ask]),
            "I remember blue whale."
        );
        let told = user("Earlier: a blue whale\n\nrecall: blue whale");
        assert_eq!(say(vec![told]), "I was told blue whale.");
    }

    #[test]
    fn nonsense_is_refused() {
        let refused = |said: Vec<Said>| Conversation::new(said, Vec::new()).expect_err("nonsense");
        refused(Vec::new());
        refused(vec![user("a"), Said::Assistant("b".to_owned())]);
        refused(vec![user("a"), call("1")]);
        refused(vec![user("a"), call("1"), user("b")]);
        refused(vec![user("a"), result("1", "x")]);
        refused(vec![user("a"), call("1"), result("1", "x"), result("1", "x")]);
        refused(vec![user("a"), call("1"), call("1"), result("1", "x")]);
        Tool::new(&json!(""), &json!({"type": "object"})).expect_err("no name");
        Tool::new(&json!("x"), &json!({"type": "string"})).expect_err("no object");
    }

    #[test]
    fn a_shell_that_takes_a_list_gets_one() {
        let schema =
            json!({"type": "OBJECT", "properties": {"command": {"type": "ARRAY"}, "description": {}}});
        let tools = vec![Tool::new(&json!("shell"), &schema).expect("a tool")];
        let turn = Conversation::new(vec![user("shell: ls")], tools)
            .expect("sense")
            .next();
        let Turn::Call { arguments, .. } = turn else {
            panic!("no call");
        };
        assert_eq!(arguments["command"], json!(["sh", "-c", "ls"]));
        assert!(arguments["description"].is_string());
    }
}
