//! What the OpenAPI document says of texts, ids and enums whose types live in `types`: names of shapes, never values.
//!
//! Each is a type only so that a field can name it: `#[schema(value_type = schema::RunId)]`. Patterns of printable text
//! are made from the very predicate that the server asks, and the variants of enums are matched exhaustively, so that
//! neither can fall behind `types`.

use std::fmt::Write as _;
use std::sync::OnceLock;

use serde_json::{Value, json};
use types::names::{DISPLAY_TEXT_CHARS_MAX, LABEL_LEN_MAX, is_unprintable};
use types::policy;
use types::thread::TITLE_CHARS_MAX;
use utoipa::openapi::schema::{AdditionalProperties, KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::{ArrayBuilder, OneOfBuilder, RefOr};
use utoipa::{PartialSchema, ToSchema};

/// Any text without the NUL character, which PostgreSQL cannot store.
pub const TEXT: &str = r"^[^\u0000]*$";

/// A DNS label, beside its length.
const LABEL: &str = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$";

/// 32 bytes in standard base64, but neither 0 nor 1: those are the points of low order that a client may come across.
const KEY: &str = "^(?!A[AQ]A{41}=$)[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$";

/// A UUID as the server writes it.
const UUID: &str = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$";

macro_rules! shapes {
    ($($(#[doc = $doc:literal])+ $name:ident = $schema:expr;)+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug)]
        pub struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let description = concat!($($doc),+).trim_start();
                let builder: ObjectBuilder = $schema;
                builder.description(Some(description)).into()
            }
        }

        impl ToSchema for $name {}
    )+};
}

shapes! {
    /// A UUID in lower case, with hyphens.
    Id = text(UUID).format(Some(SchemaFormat::KnownFormat(KnownFormat::Uuid)));
    /// Names a run.
    RunId = id("run_");
    /// Names a thread.
    ThreadId = id("thr_");
    /// Names a rollout.
    RolloutId = id("rol_");
    /// Names a request in the server's log.
    RequestId = id("req_");
    /// Lower-case letters, digits and inner hyphens: a DNS label.
    Label = text(LABEL).min_length(Some(1)).max_length(Some(LABEL_LEN_MAX));
    /// A WireGuard (X25519) or signing (Ed25519) public key: 32 bytes in base64. A point of low order is refused.
    PublicKey = text(KEY).min_length(Some(44)).max_length(Some(44));
    /// 1 to 128 characters, not all of them white space, none of them a control character or an invisible mark.
    DisplayText = text(printable_not_blank()).min_length(Some(1)).max_length(Some(DISPLAY_TEXT_CHARS_MAX));
    /// Up to 128 characters, none of them a control character or an invisible mark. White space alone counts as nothing.
    Claim = text(printable()).max_length(Some(DISPLAY_TEXT_CHARS_MAX));
    /// 1 to 200 characters, not all of them white space, none of them a control character or an invisible mark.
    Title = text(printable_not_blank()).min_length(Some(1)).max_length(Some(TITLE_CHARS_MAX));
    /// An e-mail address, at most 254 bytes of UTF-8.
    Email = text(address()).min_length(Some(3)).max_length(Some(254));
    /// Any text without the NUL character.
    Text = text(TEXT);
    /// Not only white space, without the NUL character.
    Words = text(not_blank()).min_length(Some(1));
    /// What is asked: not only white space, without the NUL character, up to 256 KiB of UTF-8.
    Prompt = text(not_blank()).min_length(Some(1)).max_length(Some(crate::runs::PROMPT_BYTES_MAX));
    /// A number of hexadecimal digits: a SHA-256.
    Hash = text("^[0-9a-f]{64}$");
    /// Six upper-case letters and digits without look-alikes.
    LinkCode = text("^[A-HJ-NP-Z2-9]{6}$");
    /// Two digits.
    MatchNumber = text("^[0-9]{2}$");
    /// Where the next page starts; opaque. Whatever has this form is a place in the list.
    Cursor = text(crate::page::CURSOR_PATTERN).max_length(Some(crate::page::CURSOR_LEN_MAX));
    /// A whole number from 1 that fits into 32 bits.
    Whole = integer(1).maximum(Some(4_294_967_295_usize));
    /// The number of an event, or 0: it fits into 64 bits.
    Sequence = integer(0).maximum(Some(18_446_744_073_709_551_615_usize));
    /// A time: RFC 3339. The server writes it in UTC, with milliseconds and `Z`.
    Time = text("").format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
    /// Environment variables: names of letters, digits and `_`, values of up to 4096 bytes without NUL.
    Environment = ObjectBuilder::new()
        .schema_type(Type::Object)
        .max_properties(Some(64))
        .property_names(Some(text("^[A-Za-z_][A-Za-z0-9_]*$").max_length(Some(128)).build()))
        .additional_properties(Some(AdditionalProperties::from(text(TEXT).max_length(Some(4096)))));
}

macro_rules! enums {
    ($($(#[doc = $doc:literal])+ $name:ident { $($variant:ident),+ })+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug)]
        pub struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                /// Does not compile when a variant is missing from the list.
                #[allow(dead_code, reason = "only its compilation matters")]
                fn is_whole(value: types::$name) {
                    match value { $(types::$name::$variant => (),)+ }
                }
                let values = [$(json!(types::$name::$variant)),+];
                names(values, concat!($($doc),+))
            }
        }

        impl ToSchema for $name {}
    )+};
}

enums! {
    /// What runs behind a node's key.
    NodeKind { Device, Sandbox, Platform }
    /// Whether a node may take part, and whether it does.
    NodeStatus { Online, Offline, Revoked }
    /// How packets reach a node.
    PathKind { Direct, Relay }
    /// Why the path is the one it is.
    PathReason {
        EndpointAnswered, Probing, NoCandidate, NoAnswer, UdpBlocked, PeerUdpBlocked, SymmetricBoth, SymmetricOne, PathLost, NoRelay, PeerAsleep, NoCommonFamily, Idle
    }
    /// Where an agent's runs are executed; `local-mac` is any registered device.
    ExecutionMode { InSandbox, Managed, LocalMac }
    /// The state of a run.
    RunStatus { Registered, Queued, Dispatched, Running, Completed, Failed, Cancelled, Expired, Lost }
    /// What is carried inside IP.
    Protocol { Tcp, Udp, Icmp }
    /// What happened in a thread.
    EventType {
        RunStarted, RunCompleted, UserMessage, AssistantMessage, ToolCall, ToolResult, CompactionStarted,
        CompactionCompleted, ThreadRenamed, ThreadArchived, ThreadDeleted
    }
    /// What a frame shows that is not stored.
    LiveType {
        Snapshot, AssistantMessageDelta, AssistantThinkingDelta, AssistantMessageSource, ToolCallStarted,
        ToolOutputDelta, ToolCallCompleted
    }
}

macro_rules! words {
    ($($(#[doc = $doc:literal])+ $name:ident = [$($word:literal),+];)+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug)]
        pub struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                names([$(json!($word)),+], concat!($($doc),+))
            }
        }

        impl ToSchema for $name {}
    )+};
}

words! {
    /// The types of events that a caller may write; the others are the server's.
    WritableEventType = ["user_message", "assistant_message", "tool_call", "tool_result"];
    /// Who says something.
    MessageRole = ["user", "assistant"];
    /// Who says something, or that it belongs to the system prompt.
    RunMessageRole = ["user", "assistant", "system"];
    /// What a thread is doing.
    ThreadActivity = ["idle", "waiting", "running"];
    /// Not only the active rollout.
    Include = ["all_rollouts"];
    /// A run that a caller of the API starts.
    ApiOrigin = ["api"];
    /// Who may see and run an agent: its owner and admins.
    Visibility = ["private"];
    /// Whether an agent can be run.
    AgentStatus = ["active"];
    /// The first frame of a live connection.
    SnapshotType = ["snapshot"];
}

/// Which program of a device executes a run.
#[derive(Clone, Copy, Debug)]
pub struct RunnerSpec;

impl PartialSchema for RunnerSpec {
    fn schema() -> RefOr<Schema> {
        let kind = |kind: &str| {
            ObjectBuilder::new()
                .schema_type(Type::Object)
                .property("type", names([json!(kind)], "What the program speaks."))
                .property("name", DisplayText::schema())
                .required("type")
                .required("name")
        };
        OneOfBuilder::new()
            .item(kind("acp"))
            .item(kind("command"))
            .description(Some(
                "Which program of the device executes a run, by its name in the device's policy file: an agent that speaks \
                 the Agent Client Protocol, or any command.",
            ))
            .into()
    }
}

impl ToSchema for RunnerSpec {}

/// A policy document, as far as JSON Schema can say what one is.
#[derive(Clone, Copy, Debug)]
pub struct PolicyDocument;

/// How a policy names people, and tags.
const PERSON: &str =
    "^(user:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|group:[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)$";
const NAME: &str = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?";

impl PartialSchema for PolicyDocument {
    fn schema() -> RefOr<Schema> {
        let list = |item: RefOr<Schema>, most: usize| ArrayBuilder::new().items(item).max_items(Some(most));
        let some = |item: RefOr<Schema>, most: usize| list(item, most).min_items(Some(1));
        let nodes = |more: &str| {
            RefOr::from(text(format!(
                "^(\\*|kind:(device|sandbox{more}|(tag|group|node):{NAME}|user:[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}})$"
            )))
        };
        let port = "[1-9][0-9]{0,4}";
        let ports = text(format!("^(\\*|icmp|(tcp|udp):(\\*|{port}(-{port})?))$"));
        let people = |prefix: &str, most: usize| {
            ObjectBuilder::new()
                .schema_type(Type::Object)
                .max_properties(Some(policy::NAMES_MAX))
                .property_names(Some(text(format!("^{prefix}:{NAME}$")).build()))
                .additional_properties(Some(AdditionalProperties::from(RefOr::from(Schema::from(list(
                    text(PERSON).into(),
                    most,
                ))))))
        };
        let closed = || {
            ObjectBuilder::new()
                .schema_type(Type::Object)
                .additional_properties(Some(AdditionalProperties::FreeForm(false)))
        };
        let or_null = |schema: RefOr<Schema>| {
            let null = ObjectBuilder::new().schema_type(Type::Null);
            OneOfBuilder::new().item(null).item(schema)
        };
        let port_number = integer(1).maximum(Some(65_535_usize));
        let grant = closed()
            .property("src", some(nodes("|platform)"), policy::SELECTORS_MAX))
            .property("dst", some(nodes(")|owner:self"), policy::SELECTORS_MAX))
            .property("ports", some(ports.into(), policy::PORTS_MAX))
            .property("comment", or_null(DisplayText::schema()))
            .required("src")
            .required("dst")
            .required("ports");
        let test = closed()
            .property("src", nodes("|platform)"))
            .property("dst", nodes("|platform)"))
            .property("proto", Protocol::schema())
            .property("port", or_null(port_number.into()))
            .property(
                "expect",
                names([json!("accept"), json!("deny")], "What must come of it."),
            )
            .required("src")
            .required("dst")
            .required("expect");
        closed()
            .property("groups", people("group", policy::MEMBERS_MAX))
            .property("tagOwners", people("tag", policy::SELECTORS_MAX))
            .property("grants", list(grant.into(), policy::GRANTS_MAX))
            .property("tests", list(test.into(), policy::TESTS_MAX))
            .required("grants")
            .description(Some(
                "Who may reach what; what no grant says is denied. How it is read is described in docs/concepts/policy.md.",
            ))
            .into()
    }
}

impl ToSchema for PolicyDocument {}

/// An error code of the contract.
#[derive(Clone, Copy, Debug)]
pub struct ErrorCode;

impl PartialSchema for ErrorCode {
    fn schema() -> RefOr<Schema> {
        let codes = crate::ErrorCode::ALL.iter().map(|code| json!(code));
        names(
            codes,
            "What went wrong, for programs. A newer server may know more.",
        )
    }
}

impl ToSchema for ErrorCode {}

fn text(pattern: impl Into<String>) -> ObjectBuilder {
    let pattern = Some(pattern.into()).filter(|pattern| !pattern.is_empty());
    ObjectBuilder::new().schema_type(Type::String).pattern(pattern)
}

fn integer(least: usize) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(least))
}

fn id(prefix: &str) -> ObjectBuilder {
    text(format!("^{prefix}[0-9a-f]{{32}}$"))
}

fn names(values: impl IntoIterator<Item = Value>, description: &str) -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(values))
        .description(Some(description.trim_start()))
        .into()
}

fn printable() -> String {
    static PATTERN: OnceLock<String> = OnceLock::new();
    PATTERN
        .get_or_init(|| format!("^[^{}]*$", class(is_unprintable)))
        .clone()
}

fn printable_not_blank() -> String {
    static PATTERN: OnceLock<String> = OnceLock::new();
    PATTERN
        .get_or_init(|| {
            let printable = class(is_unprintable);
            let blank = class(|c| is_unprintable(c) || c.is_whitespace());
            format!("^[^{printable}]*[^{blank}][^{printable}]*$")
        })
        .clone()
}

fn address() -> String {
    let outside = class(|c| c == '@' || c.is_whitespace() || c.is_control());
    format!("^[^{outside}]+@[^{outside}]+$")
}

fn not_blank() -> String {
    let blank = class(|c| c == '\0' || c.is_whitespace());
    format!("^[^\\u0000]*[^{blank}][^\\u0000]*$")
}

/// Writes the ranges of characters that `has` as a class of a regular expression that every dialect reads.
fn class(has: impl Fn(char) -> bool) -> String {
    let mut class = String::new();
    let mut start = None;
    let mut before = '\0';
    for c in '\0'..=char::MAX {
        match (has(c), start) {
            (true, None) => start = Some(c),
            (false, Some(first)) => {
                range(&mut class, first, before);
                start = None;
            }
            _ => {}
        }
        before = c;
    }
    class
}

fn range(class: &mut String, first: char, last: char) {
    one(class, first);
    if first != last {
        class.push('-');
        one(class, last);
    }
}

fn one(class: &mut String, c: char) {
    let code = u32::from(c);
    // An escape of more than four digits is written differently in each dialect; the character itself is not.
    let written = if code <= 0xffff {
        write!(class, "\\u{code:04X}")
    } else {
        write!(class, "{c}")
    };
    written.expect("a string takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_names_ranges_and_single_characters() {
        assert_eq!(
            class(|c| matches!(c, 'a'..='c' | 'x' | '\u{E0000}'..='\u{E0001}')),
            "\\u0061-\\u0063\\u0078\u{E0000}-\u{E0001}"
        );
    }

    #[test]
    fn enums_are_written_as_they_are_sent() {
        let values =
            |schema: RefOr<Schema>| serde_json::to_value(schema).expect("serializes")["enum"].clone();
        assert_eq!(
            values(ExecutionMode::schema()),
            json!(["in_sandbox", "managed", "local-mac"])
        );
        assert_eq!(values(EventType::schema()), json!(types::EventType::ALL));
        assert_eq!(values(LiveType::schema()), json!(types::LiveType::ALL));
        assert_eq!(values(ErrorCode::schema()), json!(crate::ErrorCode::ALL));
    }
}
