//! The stand-in model over HTTP, as an agent sees it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::*;

async fn post(path: &str, headers: &str, body: &Value) -> (u16, String) {
    let model = StandInModel::start(([127, 0, 0, 1], 0).into())
        .await
        .expect("it starts");
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: model\r\nconnection: close\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let address = model.address;
    let exchange = move || {
        let mut stream = TcpStream::connect(address).expect("connected");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
    };
    let answer = tokio::task::spawn_blocking(exchange).await.expect("exchanged");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status"), answer)
}

const OPENAI: &str = "authorization: Bearer key\r\n";
const ANTHROPIC: &str = "x-api-key: a-long-key\r\nanthropic-version: 2023-06-01\r\n";
const GEMINI: &str = "x-goog-api-key: a-long-key\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn every_protocol_streams_a_shell_call() {
    let schema = json!({"type": "object", "properties": {"command": {"type": "string"}}});
    let user = json!({"role": "user", "content": "shell: echo hi"});
    let chat = json!({"model": "m", "stream": true, "messages": [user],
        "tools": [{"type": "function", "function": {"name": "shell", "parameters": schema}}]});
    let responses = json!({"model": "m", "stream": true, "input": "shell: echo hi",
        "tools": [{"type": "function", "name": "shell", "parameters": schema}]});
    let anthropic = json!({"model": "m", "stream": true, "max_tokens": 9, "messages": [user],
        "tools": [{"name": "Bash", "input_schema": schema}]});
    let gemini = json!({"contents": [{"role": "user", "parts": [{"text": "shell: echo hi"}]}],
        "tools": [{"functionDeclarations": [{"name": "run_shell_command", "parametersJsonSchema": schema}]}]});
    for (path, headers, body, wanted) in [
        ("/v1/chat/completions", OPENAI, chat, "data: [DONE]"),
        ("/v1/responses", OPENAI, responses, "event: response.completed"),
        (
            "/v1/messages?beta=true",
            ANTHROPIC,
            anthropic,
            "event: message_stop",
        ),
        (
            "/v1beta/models/m:streamGenerateContent?alt=sse",
            GEMINI,
            gemini,
            "\"finishReason\":\"STOP\"",
        ),
    ] {
        let (status, answer) = post(path, headers, &body).await;
        assert_eq!(status, 200, "{path}: {answer}");
        assert!(
            answer.contains("content-type: text/event-stream"),
            "{path}: {answer}"
        );
        assert!(
            answer.contains("echo") && answer.contains(wanted),
            "{path}: {answer}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_or_with_nonsense_nothing_is_answered() {
    let chat = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    let anthropic = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    for (path, headers, body, why) in [
        ("/v1/chat/completions", "", &chat, "no key"),
        (
            "/v1/chat/completions",
            OPENAI,
            &json!({"messages": []}),
            "model is missing",
        ),
        (
            "/v1/chat/completions",
            OPENAI,
            &json!({"model": "m"}),
            "messages is no list",
        ),
        (
            "/v1/responses",
            OPENAI,
            &json!({"model": "m"}),
            "input is no list",
        ),
        (
            "/v1/messages",
            "x-api-key: a-long-key\r\n",
            &anthropic,
            "anthropic-version",
        ),
        ("/v1/messages", ANTHROPIC, &anthropic, "max_tokens"),
        (
            "/v1beta/models/m:streamGenerateContent",
            GEMINI,
            &json!({}),
            "no method",
        ),
    ] {
        let (status, answer) = post(path, headers, body).await;
        assert_eq!(status, 400, "{path}: {answer}");
        assert!(answer.contains(why), "{path}: {answer}");
    }
    assert_eq!(post("/v1/nonesuch", OPENAI, &chat).await.0, 404);
}
