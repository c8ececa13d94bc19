//! AdmissionReview: the question that a webhook is asked, and what it may answer
//! (`k8s.io/apiserver/pkg/admission/plugin/webhook/request`).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kontiki_machinery::{
    ResourceDef, Status,
    admission::{Phase, Request},
};
use serde_json::{Map, Value, json};

use crate::matching;

/// A version of AdmissionReview.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Version {
    V1,
    V1Beta1,
}

impl Version {
    /// The version of this name, if it is spoken.
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "v1" => Some(Self::V1),
            "v1beta1" => Some(Self::V1Beta1),
            _ => None,
        }
    }

    fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "admission.k8s.io/v1",
            Self::V1Beta1 => "admission.k8s.io/v1beta1",
        }
    }
}

/// What a webhook said.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Answer {
    pub allowed: bool,
    /// Why not.
    pub status: Status,
    /// What it changes: operations, at least one.
    pub patch: Option<Value>,
    pub warnings: Vec<String>,
    /// What the audit log is to say, under keys of its own.
    pub annotations: Vec<(String, String)>,
}

/// The document that asks about a request, as one for `def`.
pub(super) fn question(
    version: Version,
    uid: &str,
    request: &Request<'_>,
    def: &ResourceDef,
    (object, old): (&Value, Option<&Value>),
) -> Value {
    let mut asked = about(request, def, (object, old));
    for (field, value) in [("uid", json!(uid)), ("object", json!(object)), ("oldObject", json!(old))] {
        asked[field] = value;
    }
    json!({"kind": "AdmissionReview", "apiVersion": version.api_version(), "request": asked})
}

/// What a review says of a request besides the objects, as one for `def`.
pub(crate) fn about(request: &Request<'_>, def: &ResourceDef, (object, old): (&Value, Option<&Value>)) -> Value {
    let mut asked = json!({
        "kind": kind(request, def),
        "resource": resource(def),
        "requestKind": kind(request, request.def),
        "requestResource": resource(request.def),
        "operation": request.operation.word(),
        "userInfo": user(request),
        "dryRun": request.dry_run,
        "options": options(request),
    });
    let mut put = |field: &str, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            asked[field] = value.into();
        }
    };
    put("subResource", request.sub);
    put("requestSubResource", request.sub);
    let subject = if object.is_null() { old.unwrap_or(object) } else { object };
    let named = subject["metadata"]["name"].as_str().filter(|_| request.name.is_empty());
    put("name", named.or(Some(request.name)));
    put("namespace", matching::namespace_of(request, subject));
    asked
}

fn resource(def: &ResourceDef) -> Value {
    json!({"group": def.group, "version": def.version, "resource": def.plural})
}

/// The kind of the object that is asked about, which a subresource may have of its own.
fn kind(request: &Request<'_>, def: &ResourceDef) -> Value {
    match request.sub.and_then(|sub| def.subresource(sub)) {
        Some(sub) => json!({"group": sub.group, "version": sub.version, "kind": sub.kind}),
        None => json!({"group": def.group, "version": def.version, "kind": def.kind}),
    }
}

fn user(request: &Request<'_>) -> Value {
    let user = request.user;
    let mut out = Map::new();
    let mut put = |field: &str, value: Value, empty: bool| {
        if !empty {
            out.insert(field.to_owned(), value);
        }
    };
    put("username", json!(user.name), user.name.is_empty());
    put("uid", json!(user.uid), user.uid.is_empty());
    put("groups", json!(user.groups), user.groups.is_empty());
    put("extra", json!(user.extra), user.extra.is_empty());
    Value::Object(out)
}

fn options(request: &Request<'_>) -> Value {
    use kontiki_machinery::admission::Operation::{Connect, Create, Delete, Update};
    let kind = match request.operation {
        Create => "CreateOptions",
        Update => "UpdateOptions",
        Delete => "DeleteOptions",
        Connect => return Value::Null,
    };
    let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    if request.dry_run {
        options["dryRun"] = json!(["All"]);
    }
    options
}

/// Reads the answer to the question of this `uid`.
///
/// # Errors
/// It is none. The text goes on from "failed calling webhook …: ".
pub(super) fn answer(version: Version, uid: &str, phase: Phase, body: &[u8]) -> Result<Answer, String> {
    let review: Value = serde_json::from_slice(body)
        .map_err(|why| format!("failed to call webhook: couldn't get version/kind; json parse error: {why}"))?;
    let invalid = |why: String| format!("received invalid webhook response: {why}");
    let response = match &review["response"] {
        Value::Object(response) => response,
        _ => return Err(invalid("webhook response was absent".into())),
    };
    check(version, uid, &review, response).map_err(invalid)?;
    let field = |name: &str| response.get(name).filter(|value| !value.is_null());
    let words = |name: &str| field(name).and_then(Value::as_str);
    let patch = words("patch").unwrap_or_default();
    check_patch(version, phase, patch, words("patchType")).map_err(invalid)?;
    let warnings = field("warnings").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    Ok(Answer {
        allowed: field("allowed") == Some(&Value::Bool(true)),
        status: field("status").and_then(|status| serde_json::from_value(status.clone()).ok()).unwrap_or_default(),
        patch: if phase == Phase::Mutating { decode_patch(patch)? } else { None },
        warnings: warnings.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        annotations: field("auditAnnotations").map(texts_of).unwrap_or_default(),
    })
}

/// The texts of a map.
fn texts_of(map: &Value) -> Vec<(String, String)> {
    let entries = map.as_object().into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

fn check(version: Version, uid: &str, review: &Value, response: &Map<String, Value>) -> Result<(), String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let got = response.get("uid").map(text).unwrap_or_default();
    if version == Version::V1 && got != uid {
        return Err(format!("expected response.uid=\"{uid}\", got \"{got}\""));
    }
    let (api_version, kind) = (text(&review["apiVersion"]), text(&review["kind"]));
    let said_nothing = api_version.is_empty() && kind.is_empty();
    if version == Version::V1Beta1 && said_nothing
        || (api_version == version.api_version() && kind == "AdmissionReview")
    {
        return Ok(());
    }
    let (group, got) = api_version.split_once('/').unwrap_or(("", &api_version));
    let expected = version.api_version();
    Err(format!("expected webhook response of {expected}, Kind=AdmissionReview, got {group}/{got}, Kind={kind}"))
}

fn check_patch(version: Version, phase: Phase, patch: &str, kind: Option<&str>) -> Result<(), String> {
    let why = match (version, phase, patch, kind) {
        (Version::V1Beta1, ..) => return Ok(()),
        (_, Phase::Validating, "", None) => return Ok(()),
        (_, Phase::Validating, "", Some(_)) => "validating webhook may not return response.patchType",
        (_, Phase::Validating, ..) => "validating webhook may not return response.patch",
        (.., "", Some(_)) => "webhook returned response.patchType but not response.patch",
        (.., "", None) => return Ok(()),
        (.., None) => "webhook returned response.patch but not response.patchType",
        (.., Some("")) => "webhook returned invalid response.patchType of \"\"",
        (.., Some("JSONPatch")) => return Ok(()),
        (.., Some(other)) => return Err(format!("unsupported patch type \"{other}\"")),
    };
    Err(why.to_owned())
}

/// The operations of a patch in base64; `None` if there are none.
fn decode_patch(patch: &str) -> Result<Option<Value>, String> {
    let undecodable = |why: String| format!("received undecodable patch in webhook response: {why}");
    if patch.is_empty() {
        return Ok(None);
    }
    let bytes = STANDARD.decode(patch).map_err(|why| undecodable(why.to_string()))?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let patch: Value = serde_json::from_slice(&bytes).map_err(|why| undecodable(why.to_string()))?;
    match &patch {
        Value::Array(operations) if operations.is_empty() => Ok(None),
        Value::Array(_) => Ok(Some(patch)),
        _ => Err(undecodable("it is no list of operations".into())),
    }
}

/// What a client is told whom the webhook `name` refused.
pub(super) fn refusal(name: &str, mut status: Status) -> Status {
    let denied = format!("admission webhook \"{name}\" denied the request");
    status.message = match (status.message.as_str(), status.reason.as_str()) {
        ("", "") => format!("{denied} without explanation"),
        ("", why) | (why, _) => format!("{denied}: {why}"),
    };
    // Whatever it says, a refusal is a failure of HTTP.
    status.code = match status.code {
        code @ 400..=599 => code,
        600.. => 500,
        _ => 400,
    };
    status.status = "Failure".into();
    status.kind = "Status".into();
    status.api_version = "v1".into();
    status
}
