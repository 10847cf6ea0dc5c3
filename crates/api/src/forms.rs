//! Shapes of bodies and frames with rules that span fields, as the OpenAPI document states them. They are never values.

use serde_json::{Value, json};
use types::ExecutionMode;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{AllOfBuilder, OneOfBuilder, Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use crate::agents::{AgentSettings, PutAgent};
use crate::events::{Event, FRAMES_VERSION};
use crate::nodes::PatchNode;
use crate::runs::StartRun;
use crate::schema;
use crate::threads::ThreadSnapshot;

/// The body of `POST /v1/run` as the OpenAPI document states it: an agent, and exactly one of `prompt` and `messages`.
#[derive(Clone, Copy, Debug)]
pub struct StartRunOfAnyAgent;

/// The same on the path that names the agent.
#[derive(Clone, Copy, Debug)]
pub struct StartRunOfAgent;

impl PartialSchema for StartRunOfAnyAgent {
    fn schema() -> RefOr<Schema> {
        let agent = |form: ObjectBuilder| form.property("agent", schema::Text::schema()).required("agent");
        with_forms::<StartRun>(asked().map(agent))
    }
}

impl ToSchema for StartRunOfAnyAgent {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        component::<StartRun>(schemas);
    }
}

impl PartialSchema for StartRunOfAgent {
    fn schema() -> RefOr<Schema> {
        with_forms::<StartRun>(asked())
    }
}

impl ToSchema for StartRunOfAgent {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        component::<StartRun>(schemas);
    }
}

/// The two ways to say what is asked.
fn asked() -> [ObjectBuilder; 2] {
    let form = |given: &str, other: &str| {
        let any = ObjectBuilder::new().schema_type(if given == "prompt" {
            Type::String
        } else {
            Type::Array
        });
        ObjectBuilder::new()
            .schema_type(Type::Object)
            .property(given, any)
            .property(other, nothing())
            .required(given)
    };
    [form("prompt", "messages"), form("messages", "prompt")]
}

/// The body of a change of a node as the OpenAPI document states it: a name under one of its names, tags, or both.
#[derive(Clone, Copy, Debug)]
pub struct PatchNodeForms;

impl PartialSchema for PatchNodeForms {
    fn schema() -> RefOr<Schema> {
        let form = |name: &str| {
            ObjectBuilder::new()
                .schema_type(Type::Object)
                .property(name, schema::Label::schema())
                .required(name)
        };
        let other = form("deviceLabel").property("name", nothing());
        let tags = ObjectBuilder::new()
            .schema_type(Type::Object)
            .property("name", nothing())
            .property("deviceLabel", nothing())
            .property("tags", ObjectBuilder::new().schema_type(Type::Array))
            .required("tags");
        with_forms::<PatchNode>([form("name"), other, tags])
    }
}

impl ToSchema for PatchNodeForms {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        component::<PatchNode>(schemas);
    }
}

/// The body of an upsert as the OpenAPI document states it: what each `executionMode` requires.
#[derive(Clone, Copy, Debug)]
pub struct PutAgentForms;

impl PartialSchema for PutAgentForms {
    fn schema() -> RefOr<Schema> {
        let form = |mode: ExecutionMode| {
            let mode = ObjectBuilder::new()
                .schema_type(Type::String)
                .enum_values(Some([json!(mode)]));
            ObjectBuilder::new()
                .schema_type(Type::Object)
                .property("executionMode", mode)
        };
        let sandbox = ObjectBuilder::new().schema_type(Type::Object);
        with_forms::<PutAgent>([
            form(ExecutionMode::InSandbox)
                .property("sandbox", sandbox)
                .required("sandbox"),
            form(ExecutionMode::Managed).required("executionMode"),
            form(ExecutionMode::LocalMac)
                .required("executionMode")
                .property("sandbox", nothing())
                .property("targetDeviceId", schema::Id::schema())
                .required("targetDeviceId"),
        ])
    }
}

impl ToSchema for PutAgentForms {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        component::<PutAgent>(schemas);
    }
}

/// The body of a patch as the OpenAPI document states it: any settings, each of which null clears.
#[derive(Clone, Copy, Debug)]
pub struct PatchAgent;

impl PartialSchema for PatchAgent {
    fn schema() -> RefOr<Schema> {
        let RefOr::T(Schema::Object(mut settings)) = AgentSettings::schema() else {
            unreachable!("a struct of named fields is an object");
        };
        for field in settings.properties.values_mut() {
            let before = std::mem::replace(field, RefOr::T(Schema::default()));
            *field = cleared_by_null(before);
        }
        settings.description =
            Some("The settings to change; an absent one stays, null clears one.".to_owned());
        RefOr::T(Schema::Object(settings))
    }
}

impl ToSchema for PatchAgent {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        AgentSettings::schemas(schemas);
    }
}

/// A frame of a live connection, as the OpenAPI document states it: each `data:` of an event stream, each text message of
/// a WebSocket. The first is the snapshot, unless a run is followed; those with a `sequence` are stored events.
#[derive(Clone, Copy, Debug)]
pub struct LiveFrame;

impl PartialSchema for LiveFrame {
    fn schema() -> RefOr<Schema> {
        let version = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .enum_values(Some([FRAMES_VERSION]));
        let first = ObjectBuilder::new()
            .schema_type(Type::Object)
            .property("type", schema::SnapshotType::schema())
            .property("protocol_version", version)
            .required("type")
            .required("protocol_version");
        let snapshot = AllOfBuilder::new()
            .item(Ref::from_schema_name(ThreadSnapshot::name()))
            .item(first);
        let live = ObjectBuilder::new()
            .schema_type(Type::Object)
            .property("runId", schema::RunId::schema())
            .property("type", schema::LiveType::schema())
            .property("payload", ObjectBuilder::new().schema_type(Type::Object))
            .required("runId")
            .required("type")
            .required("payload");
        OneOfBuilder::new()
            .item(snapshot)
            .item(Ref::from_schema_name(Event::name()))
            .item(live)
            .description(Some(
                "A frame of a live connection: a snapshot, a stored event, or something to show that is not stored.",
            ))
            .into()
    }
}

impl ToSchema for LiveFrame {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        component::<ThreadSnapshot>(schemas);
        component::<Event>(schemas);
    }
}

/// One event of a `text/event-stream`.
#[derive(Clone, Copy, Debug)]
pub struct StreamedFrame;

impl PartialSchema for StreamedFrame {
    fn schema() -> RefOr<Schema> {
        let data = ObjectBuilder::new()
            .schema_type(Type::String)
            .content_media_type("application/json")
            .content_schema(Some(Ref::from_schema_name(LiveFrame::name())))
            .description(Some("The JSON of one `LiveFrame`."));
        let id = ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some("^[0-9]+$"))
            .description(Some(
                "The `sequence` of a stored event: what to send as `Last-Event-ID`.",
            ));
        ObjectBuilder::new()
            .schema_type(Type::Object)
            .property("data", data)
            .property("id", id)
            .required("data")
            .description(Some(
                "One event of a `text/event-stream`; idle streams are kept open by comments.",
            ))
            .into()
    }
}

impl ToSchema for StreamedFrame {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        component::<LiveFrame>(schemas);
    }
}

/// What `T` is, and besides one of these forms.
fn with_forms<T: ToSchema>(forms: impl IntoIterator<Item = ObjectBuilder>) -> RefOr<Schema> {
    let forms = forms.into_iter().fold(OneOfBuilder::new(), OneOfBuilder::item);
    let base = Ref::from_schema_name(T::name());
    AllOfBuilder::new().item(base).item(forms).into()
}

/// The component that a shape refers to, as it is registered.
fn component<T: ToSchema>(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    schemas.push((T::name().into_owned(), T::schema()));
    T::schemas(schemas);
}

/// What a field may be where null clears it. Defaults are left out: an absent field stays as it is.
fn cleared_by_null(mut field: RefOr<Schema>) -> RefOr<Schema> {
    match &mut field {
        RefOr::Ref(field) => field.default = None,
        RefOr::T(Schema::Object(field)) => field.default = None,
        RefOr::T(Schema::Array(field)) => field.default = None,
        RefOr::T(Schema::OneOf(field)) => field.default = None,
        RefOr::T(Schema::AllOf(field)) => field.default = None,
        RefOr::T(_) => {}
    }
    let written = json!(field);
    let types = written["type"].as_array().into_iter().flatten();
    let forms = written["oneOf"].as_array().into_iter().flatten();
    let null = |value: &Value| value == "null" || value["type"] == "null";
    if types.chain(forms).any(null) {
        return field;
    }
    OneOfBuilder::new().item(nothing()).item(field).into()
}

/// Nothing but null: the field is absent, or as good as that.
fn nothing() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Null)
}
