//! An agent that nobody would want: `hostile-agent HABIT` speaks the Agent Client Protocol, version 1, as badly as its habit
//! says. The tests of runners start it.

use std::io::{BufRead as _, Write as _, stdin, stdout};
use std::process::{Command, Stdio, exit};
use std::time::Duration;

use serde_json::{Value, json};

fn main() {
    let habit = std::env::args().nth(1).unwrap_or_default();
    match habit.as_str() {
        "exits-at-once" => exit(0),
        "never-answers" => loop {
            read();
        },
        "floods-stderr" => loop {
            eprintln!("{}", "all work and no play ".repeat(100));
        },
        "cannot-read" => {
            read();
            say(&json!({"id": null, "error": {"code": -32700, "message": "Parse error"}}));
            read();
        }
        "speaks-version-2" => {
            let asked = read();
            say(&json!({"id": asked["id"], "result": {"protocolVersion": 2}}));
            read();
        }
        "refuses-with-data" => {
            greet();
            let asked = read();
            let data = json!({"hint": "log in", "noise": "x".repeat(200_000)});
            say(
                &json!({"id": asked["id"], "error": {"code": -32603, "message": "No\u{1b}[2J", "data": data}}),
            );
            read();
        }
        "replays-late" => replay_late(),
        habit => in_a_turn(habit),
    }
}

/// Says that a session is loaded, and only then what was said in it.
fn replay_late() {
    let asked = read();
    let result = json!({"protocolVersion": 1, "agentCapabilities": {"loadSession": true}});
    say(&json!({"id": asked["id"], "result": result}));
    let asked = read();
    assert_eq!(asked["method"], "session/load");
    say(&json!({"id": asked["id"], "result": {}}));
    for word in ["an ", "old ", "answer"] {
        std::thread::sleep(Duration::from_millis(20));
        tell(word);
    }
    let prompt = read();
    tell("a new answer");
    end(&prompt["id"]);
    read();
}

/// What comes before the prompt is as it should be.
fn in_a_turn(habit: &str) {
    greet();
    let asked = read();
    say(&json!({"id": asked["id"], "result": {"sessionId": "s"}}));
    let prompt = read();
    match habit {
        "unknown-words" => unknown_words(),
        "wants-files" => wants_files(&prompt),
        "odd-ids" => odd_ids(),
        "batches" => batches(),
        "bytes" => bytes(),
        "no-text" => no_text(),
        "huge-lines" => tell(&"x".repeat(3 << 20)),
        "too-huge-lines" => tell(&"x".repeat(5 << 20)),
        "same-ids" => same_ids(),
        "answers-first" => {
            end(&prompt["id"]);
            tool("t", "late");
            tell("Too late?");
            return;
        }
        "leaves-children" => leave_children(),
        "dies" => {
            tell("Half an ans");
            exit(0);
        }
        other => panic!("no habit is called {other}"),
    }
    let id = &prompt["id"];
    // Some give numbers back as text.
    let id = if habit == "odd-ids" {
        json!(id.to_string())
    } else {
        id.clone()
    };
    end(&id);
    // An agent stays until its input is closed.
    while read_line().is_some() {}
}

fn unknown_words() {
    update(json!({"sessionUpdate": "hologram", "beam": [1, 2]}));
    say(&json!({"method": "_vendor/notice", "params": {"x": 1}}));
    say(&json!({"method": 7}));
    let answer = ask(json!("r1"), "_vendor/question", json!({}));
    tell(&format!("answered {} {}", answer["id"], answer["error"]["code"]));
}

/// Tries whatever this client might be talked into, in the folder and outside of it.
fn wants_files(prompt: &Value) {
    let text = prompt["params"]["prompt"][0]["text"].as_str().unwrap_or_default();
    let mut codes = Vec::new();
    for path in text.split(' ') {
        let read = json!({"sessionId": "s", "path": path});
        let write = json!({"sessionId": "s", "path": path, "content": "overwritten"});
        codes.push(ask(json!(1), "fs/read_text_file", read)["error"]["code"].clone());
        codes.push(ask(json!(2), "fs/write_text_file", write)["error"]["code"].clone());
    }
    let command = json!({"sessionId": "s", "command": "touch", "args": ["terminal.txt"]});
    codes.push(ask(json!(3), "terminal/create", command)["error"]["code"].clone());
    tell(&json!(codes).to_string());
}

fn odd_ids() {
    for (number, id) in [json!("text"), json!(7), json!(-1), json!(0), Value::Null]
        .into_iter()
        .enumerate()
    {
        let options = json!([{"optionId": "y", "name": "Yes", "kind": "allow_once"}]);
        let call = json!({"toolCallId": format!("t{number}"), "title": "rm"});
        let params = json!({"sessionId": "s", "toolCall": call, "options": options});
        let answer = ask(id, "session/request_permission", params);
        tell(&format!(
            "{} {}\n",
            answer["id"], answer["result"]["outcome"]["optionId"]
        ));
    }
}

fn batches() {
    let chunk =
        |text: &str| json!({"method": "session/update", "params": {"sessionId": "s", "update": chunk(text)}});
    say(&json!([chunk("one "), 7, chunk("two"), {"id": 5, "method": "nonesuch"}]));
    say(&json!([]));
    tell(&format!(" {}", read()["error"]["code"]));
}

/// One byte at a time.
fn bytes() {
    let params = json!({"sessionId": "s", "update": chunk("slowly 😀\r\n")});
    let line = format!("{}\r\n", json!({"method": "session/update", "params": params}));
    for byte in line.bytes() {
        write(&[byte]);
    }
}

fn no_text() {
    for broken in [&b"a\xff\xfeb "[..], b"\\ud83d ", b"\\u0000c"] {
        let mut line = br#"{"method":"session/update","params":{"sessionId":"s","update":{"sessionUpdate":"agent_message_chunk","content":{"type":"text","text":""#.to_vec();
        line.extend_from_slice(broken);
        line.extend_from_slice(b"\"}}}}\n");
        write(&line);
    }
}

fn same_ids() {
    for text in ["first", "second"] {
        tool("t", text);
    }
}

/// One that stays in the group, one that leaves it, one that holds our output open; none listens to SIGTERM.
fn leave_children() {
    let script = "(trap '' TERM HUP; sleep 3220 & setsid sleep 3220 & touch children; wait) &";
    let started = Command::new("sh")
        .args(["-c", script])
        .stdin(Stdio::null())
        .status();
    started.expect("sh runs");
    while !std::path::Path::new("children").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn tool(id: &str, output: &str) {
    update(json!({"sessionUpdate": "tool_call", "toolCallId": id, "title": "ls", "status": "pending"}));
    let content = json!([{"type": "content", "content": {"type": "text", "text": output}}]);
    update(
        json!({"sessionUpdate": "tool_call_update", "toolCallId": id, "status": "completed", "content": content}),
    );
}

fn greet() {
    let asked = read();
    // What is offered must be what is there, or an agent relies on it.
    let offered = &asked["params"]["clientCapabilities"];
    let files = &offered["fs"];
    let offers = [
        &files["readTextFile"],
        &files["writeTextFile"],
        &offered["terminal"],
    ];
    assert!(
        offers.iter().all(|offer| **offer != json!(true)),
        "offered: {offered}"
    );
    say(&json!({"id": asked["id"], "result": {"protocolVersion": 1}}));
}

fn chunk(text: &str) -> Value {
    json!({"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": text}})
}

fn tell(text: &str) {
    update(chunk(text));
}

fn update(update: Value) {
    say(&json!({"method": "session/update", "params": {"sessionId": "s", "update": update}}));
}

fn end(id: &Value) {
    say(&json!({"id": id, "result": {"stopReason": "end_turn"}}));
}

fn ask(id: Value, method: &str, params: Value) -> Value {
    say(&json!({"id": id, "method": method, "params": params}));
    read()
}

fn say(message: &Value) {
    write(format!("{message}\n").as_bytes());
}

fn write(bytes: &[u8]) {
    let mut out = stdout();
    if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
        exit(1);
    }
}

/// The next message; an agent whose input is closed ends.
fn read() -> Value {
    let line = read_line().unwrap_or_else(|| exit(0));
    serde_json::from_str(&line).expect("a client writes JSON")
}

fn read_line() -> Option<String> {
    let mut line = String::new();
    let len = stdin().lock().read_line(&mut line).ok()?;
    (len > 0).then_some(line)
}
