//! What every agent must do, whichever it is.

use std::process::Command;

use e2e::processes::text;
use e2e::world::DEVICE;
use serde_json::json;

use crate::stage::{Run, Stage};

/// Between `begun` and the end of this tool there is time to do something to the agent.
const LONG_TOOL: &str = "shell: touch begun; sleep 3219";

/// Leaves a proof, and prints what only a tool can know.
const PROOF: &str = "shell: touch proof.txt; cat NOTES.md";

/// What stands in that file, and what the answer must therefore quote.
const NOTES: &str = "Check the harbour's own table.";

/// Gemini writes the file of a session that it loads anew before it looks for it, if both fall into the same minute.
const LOSES_SESSIONS: [&str; 1] = ["gemini"];

/// Claude's adapter may end, and the run with it, before the program that it started has written its session.
const LOSES_A_SESSION_NOW_AND_THEN: [&str; 1] = ["claude"];

/// Gemini tells its client of a shell command and its end, but not what it printed.
const HIDES_OUTPUT: [&str; 1] = ["gemini"];

pub(crate) fn uses_a_tool(agent: &'static str) {
    let Some(stage) = Stage::set(agent, "allow") else {
        return;
    };
    let run = stage.run(PROOF, None);
    assert_eq!(run.status(), "completed", "{:#?}", run.events);
    assert!(
        stage.file("proof.txt").exists(),
        "the tool did not run: {:#?}",
        run.events
    );
    let calls = run.of("tool_call");
    let results = run.of("tool_result");
    assert!(
        !calls.is_empty() && calls.len() == results.len(),
        "each call has one result: {:#?}",
        run.events
    );
    assert!(
        results.iter().all(|result| result["permission"] == "allowed"),
        "{results:#?}"
    );
    let shown = results.iter().any(|result| result.to_string().contains(NOTES));
    assert!(
        shown || HIDES_OUTPUT.contains(&agent),
        "the thread does not show what the tool said: {results:#?}"
    );
    assert!(run.answer().contains(NOTES), "{:#?}", run.events);
    assert_eq!(text(run.end(), "result"), run.answer(), "{:#?}", run.events);
    stage.nothing_is_left(text(&run.run, "runId"), &[]);
}

pub(crate) fn is_told_no(agent: &'static str) {
    let Some(stage) = Stage::set(agent, "reject") else {
        return;
    };
    let run = stage.run(PROOF, None);
    assert!(
        !stage.file("proof.txt").exists(),
        "the tool ran: {:#?}",
        run.events
    );
    let results = run.of("tool_result");
    let rejected = results.iter().all(|result| result["permission"] == "rejected");
    assert!(!results.is_empty() && rejected, "{:#?}", run.events);
    assert!(!run.answer().contains(NOTES), "{:#?}", run.events);
    // Some agents go on without the tool, some give up.
    let gave_up = run.status() == "failed" && text(run.end(), "reason") == "permission_denied";
    assert!(run.status() == "completed" || gave_up, "{:#?}", run.end());
}

pub(crate) fn is_cancelled(agent: &'static str) {
    let Some(stage) = Stage::set(agent, "allow") else {
        return;
    };
    let receipt = stage.world.dispatch(LONG_TOOL).expect("dispatched");
    let run_id = text(&receipt, "runId");
    let seen = stage.wait_for_file("begun", run_id);
    stage
        .world
        .api
        .call(&["cancel", run_id])
        .expect("cancel is taken");
    let run = stage.end_of(&receipt);
    assert_eq!(
        (run.status(), text(run.end(), "reason")),
        ("cancelled", "cancelled"),
        "{:#?}",
        run.end()
    );
    calls_are_closed(&run);
    stage.nothing_is_left(run_id, &seen);
}

pub(crate) fn is_killed(agent: &'static str) {
    let Some(stage) = Stage::set(agent, "allow") else {
        return;
    };
    let receipt = stage.world.dispatch(LONG_TOOL).expect("dispatched");
    let run_id = text(&receipt, "runId");
    let seen = stage.wait_for_file("begun", run_id);
    let is_first = |id: u32| seen.iter().all(|process| process.id != id);
    let leader = seen
        .iter()
        .find(|process| is_first(process.parent))
        .expect("the agent itself");
    assert_eq!(leader.id, leader.group, "the agent leads a group of its own");
    let killed = Command::new("kill").args(["-9", &leader.id.to_string()]).status();
    assert!(killed.expect("kill runs").success());
    let run = stage.end_of(&receipt);
    assert_eq!(
        (run.status(), text(run.end(), "reason")),
        ("failed", "agent_exited"),
        "{:#?}",
        run.end()
    );
    assert!(
        text(run.end(), "message").contains("signal 9"),
        "{:#?}",
        run.end()
    );
    calls_are_closed(&run);
    stage.nothing_is_left(run_id, &seen);
    let next = stage.run("say: still here", Some(text(&receipt, "threadId")));
    assert_eq!(
        (next.status(), next.answer().trim()),
        ("completed", "still here"),
        "{:#?}",
        next.events
    );
}

pub(crate) fn remembers(agent: &'static str) {
    let Some(stage) = Stage::set(agent, "allow") else {
        return;
    };
    let tries = if LOSES_A_SESSION_NOW_AND_THEN.contains(&agent) {
        3
    } else {
        1
    };
    let is_known = (0..tries).any(|_| finds_its_session(&stage)) || LOSES_SESSIONS.contains(&agent);
    assert!(is_known, "{agent} never found its own session again");
}

/// Tells whether the agent found its own session again in a second run; if not, the thread was told to it.
fn finds_its_session(stage: &Stage) -> bool {
    let first = stage.run("say: the harbour is called Lindholm", None);
    assert_eq!(first.status(), "completed", "{:#?}", first.events);
    let second = stage.run("recall: Lindholm", Some(text(&first.run, "threadId")));
    assert_eq!(second.status(), "completed", "{:#?}", second.events);
    let finds = match second.answer().trim() {
        "I remember Lindholm." => true,
        "I was told Lindholm." => false,
        _ => panic!("it knows nothing: {:#?}", second.events),
    };
    let said = second.of("assistant_message");
    let replayed = said
        .iter()
        .any(|said| text(said, "text").contains("the harbour is called"));
    assert!(!replayed, "the first run is told twice: {:#?}", second.events);
    finds
}

pub(crate) fn tells_what_was_not_applied(agent: &'static str) {
    let Some(stage) = Stage::set(agent, "allow") else {
        return;
    };
    let runner = format!("acp:{agent}");
    let create = [
        "agents", "create", "picky", "--device", DEVICE, "--runner", &runner,
    ];
    let wishes = ["--model", "no-such-model", "--max-tokens", "9"];
    let created = stage.world.api.call(&[&create[..], &wishes[..]].concat());
    created.expect("an agent with wishes");
    let run = stage.run_by(&["run", "picky", "say: hello", "--detach"]);
    assert_eq!(
        (run.status(), run.answer().trim()),
        ("completed", "hello"),
        "{:#?}",
        run.events
    );
    assert_eq!(
        run.end()["notApplied"],
        json!(["maxTokens", "model"]),
        "{:#?}",
        run.end()
    );
}

fn calls_are_closed(run: &Run) {
    let (calls, results) = (run.of("tool_call"), run.of("tool_result"));
    assert!(
        !calls.is_empty() && calls.len() == results.len(),
        "{:#?}",
        run.events
    );
}
