//! JSON-RPC lines as agents write them, made out as far as can be: several in one line, text that is no UTF-8, halves of
//! characters. What cannot be made out is garbage, and counted by whoever reads.

use serde_json::{Value, json};

use super::Output;
use super::bounded::{LineTooLong, Lines, printable};

/// One thing that an agent said.
#[derive(Debug, PartialEq)]
pub(super) enum Incoming {
    Request {
        id: Value,
        method: String,
        params: Value,
    },
    Notification {
        method: String,
        params: Value,
    },
    Answer {
        id: Value,
        result: Result<Value, Value>,
    },
    /// No message; how it begins.
    Garbage(String),
}

/// Cuts what an agent writes into messages.
#[derive(Debug)]
pub(super) struct Reader {
    lines: Lines,
}

impl Reader {
    pub(super) fn new(line_bytes_max: usize) -> Self {
        Self {
            lines: Lines::new(line_bytes_max),
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Incoming>, LineTooLong> {
        let lines = self.lines.push(bytes)?;
        let said = lines.iter().filter(|line| !line.is_empty());
        Ok(said.flat_map(|line| read(line)).collect())
    }
}

fn read(line: &[u8]) -> Vec<Incoming> {
    let value = serde_json::from_slice(line)
        .or_else(|_| serde_json::from_str(&mended(&String::from_utf8_lossy(line))));
    match value {
        Ok(Value::Array(batch)) if !batch.is_empty() => batch.into_iter().map(message).collect(),
        Ok(value @ Value::Object(_)) => vec![message(value)],
        _ => vec![garbage(line)],
    }
}

fn garbage(line: &[u8]) -> Incoming {
    let begin = String::from_utf8_lossy(&line[..line.len().min(200)]);
    Incoming::Garbage(printable(&begin, 100))
}

fn message(value: Value) -> Incoming {
    let Value::Object(mut message) = value else {
        return garbage(value.to_string().as_bytes());
    };
    let id = message.remove("id");
    let params = message.remove("params").unwrap_or(Value::Null);
    match (message.remove("method"), id) {
        // An update that was given an id, or a null one, is an update nonetheless; nobody waits for its answer.
        (Some(Value::String(method)), Some(id)) if !id.is_null() || method != "session/update" => {
            Incoming::Request { id, method, params }
        }
        (Some(Value::String(method)), _) => Incoming::Notification { method, params },
        (_, Some(id)) => {
            let result = match message.remove("error") {
                Some(error) if !error.is_null() => Err(error),
                _ => Ok(message.remove("result").unwrap_or(Value::Null)),
            };
            Incoming::Answer { id, result }
        }
        _ => garbage(Value::Object(message).to_string().as_bytes()),
    }
}

/// Tells whether an answer's id is the one that we gave; some agents send numbers back as text.
pub(super) fn is_ours(id: &Value, ours: i64) -> bool {
    match id {
        Value::Number(number) => number.as_i64() == Some(ours) || number.as_f64() == Some(ours as f64),
        Value::String(text) => text.parse() == Ok(ours),
        _ => false,
    }
}

pub(super) fn write_line(message: &Value, out: &mut Output) {
    out.stdin.extend_from_slice(message.to_string().as_bytes());
    out.stdin.push(b'\n');
}

pub(super) fn write_result(id: &Value, result: impl serde::Serialize, out: &mut Output) {
    write_line(&json!({ "jsonrpc": "2.0", "id": id, "result": result }), out);
}

pub(super) fn write_error(id: &Value, code: i64, message: &str, out: &mut Output) {
    let error = json!({ "code": code, "message": message });
    write_line(&json!({ "jsonrpc": "2.0", "id": id, "error": error }), out);
}

/// Replaces escapes of half characters: an agent that cuts text between the two halves of one (JavaScript counts them
/// singly) writes JSON that holds no text, and loses the message for it.
fn mended(json: &str) -> String {
    let mut mended = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        mended.push_str(&rest[..at]);
        rest = &rest[at..];
        let (first, second) = (unit(rest), rest.get(6..).and_then(unit));
        let taken = match (first, second) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                mended.push_str("\\ufffd");
                rest = &rest[6..];
                continue;
            }
            (Some(_), _) => 6,
            // The backslash and what it escapes, which may be any character or the end.
            (None, _) => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
        };
        mended.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    mended.push_str(rest);
    mended
}

/// The number in `\uXXXX` at the beginning of a text.
fn unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Incoming {
        let mut all = read(line.as_bytes());
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    #[test]
    fn requests_notifications_and_answers_are_told_apart_by_method_and_id() {
        for id in [json!(7), json!("x"), Value::Null] {
            let request = one(&json!({ "id": id, "method": "m", "params": 1 }).to_string());
            let (method, params) = ("m".to_owned(), json!(1));
            assert_eq!(request, Incoming::Request { id, method, params });
        }
        for line in [
            r#"{"method":"session/update"}"#,
            r#"{"method":"session/update","id":null}"#,
        ] {
            assert!(matches!(one(line), Incoming::Notification { .. }), "{line}");
        }
        let answer = one(r#"{"id":1,"error":null,"result":2}"#);
        assert_eq!(
            answer,
            Incoming::Answer {
                id: json!(1),
                result: Ok(json!(2))
            }
        );
        let answer = one(r#"{"id":null,"error":{"code":-32700}}"#);
        assert!(matches!(
            answer,
            Incoming::Answer {
                id: Value::Null,
                result: Err(_)
            }
        ));
    }

    #[test]
    fn a_batch_is_taken_one_by_one_and_what_is_no_message_is_garbage() {
        let batch = read(br#"[{"method":"a"},7,{"method":"b"},{}]"#);
        let is_garbage: Vec<bool> = batch
            .iter()
            .map(|one| matches!(one, Incoming::Garbage(_)))
            .collect();
        assert_eq!(is_garbage, [false, true, false, true]);
        for line in ["[]", "7", "Welcome!", "{", "\"text\"", "[1"] {
            assert!(matches!(one(line), Incoming::Garbage(_)), "{line}");
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(
            matches!(one(&deep), Incoming::Garbage(_)),
            "deep nesting is no stack overflow"
        );
    }

    #[test]
    fn an_answer_is_ours_as_a_number_or_as_text() {
        for id in [json!(3), json!(3.0), json!("3")] {
            assert!(is_ours(&id, 3), "{id}");
        }
        for id in [json!(4), json!("x"), Value::Null, json!([3]), json!(3.5)] {
            assert!(!is_ours(&id, 3), "{id}");
        }
    }

    #[test]
    fn text_that_is_no_utf_8_and_half_characters_cost_only_themselves() {
        let mut line = br#"{"method":"m","params":"a"#.to_vec();
        line.extend(b"\xff b\"}");
        let said = read(&line);
        assert!(
            matches!(&said[0], Incoming::Notification { params, .. } if params == "a\u{fffd} b"),
            "{said:?}"
        );
        for (given, wanted) in [
            (r"\ud83d\ude00", "😀"),
            (r"x\ud83d", "x\u{fffd}"),
            (r"\ude00y", "\u{fffd}y"),
            (r"\ud83d\ud83d\ude00", "\u{fffd}😀"),
            (r"\\ud83d é\n\u00e9", "\\ud83d é\né"),
        ] {
            // A half at another place makes every text of the line go through the mending.
            let line = format!(r#"{{"method":"\ud83d","params":"{given}"}}"#);
            let said = one(&line);
            assert!(
                matches!(&said, Incoming::Notification { params, .. } if params == wanted),
                "{line} {said:?}"
            );
        }
        for cut in ["\\", "\\u", "\\ud83", "é\\é", "\\u\u{20ac}x", "\\ud83d\\u12"] {
            mended(cut);
        }
    }

    #[test]
    fn a_reader_survives_any_cutting() {
        let text = "{\"method\":\"é\"}\n\n{\"id\":1}\n";
        let mut reader = Reader::new(100);
        let said: Vec<Incoming> = text
            .bytes()
            .flat_map(|byte| reader.push(&[byte]).expect("short"))
            .collect();
        assert_eq!(said.len(), 2, "{said:?}");
        reader.push(&[b'x'; 101]).expect_err("too long");
    }
}
