//! `metav1.Status`, the shape of every error answer, and its constructors with upstream's wording
//! (`apimachinery/pkg/api/errors`).

use std::collections::HashSet;

use kontiki_model::GroupResource;
use serde::{Deserialize, Serialize};

use crate::FieldError;

/// An answer that is not an object: an error, or the success of a delete.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Always `Status`.
    pub kind: String,
    /// Always `v1`.
    pub api_version: String,
    /// Empty; clients expect it to be there.
    pub metadata: ListMeta,
    /// `Failure` or `Success`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// For programs: `NotFound`, `Conflict`, …
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<StatusDetails>,
    /// The HTTP code.
    #[serde(skip_serializing_if = "is_zero")]
    pub code: u16,
}

/// Metadata of a Status or list.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListMeta {
    /// Revision of a list.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// Token for the next page.
    #[serde(rename = "continue", skip_serializing_if = "String::is_empty")]
    pub continue_token: String,
    /// How many items follow this page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining_item_count: Option<i64>,
}

/// What a Status is about.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusDetails {
    /// Name of the object (or the operation, for timeouts).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// API group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Resource or kind.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// UID of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// One entry per finding.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<StatusCause>,
    /// When to try again.
    #[serde(skip_serializing_if = "is_zero_seconds")]
    pub retry_after_seconds: u32,
}

/// One finding.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusCause {
    /// For programs: `FieldValueRequired`, …
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The field.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero(code: &u16) -> bool {
    *code == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero_seconds(seconds: &u32) -> bool {
    *seconds == 0
}

impl Default for Status {
    fn default() -> Self {
        Self {
            kind: "Status".into(),
            api_version: "v1".into(),
            metadata: ListMeta::default(),
            status: String::new(),
            message: String::new(),
            reason: String::new(),
            details: None,
            code: 0,
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

fn of_resource(gr: GroupResource<'_>, name: &str) -> StatusDetails {
    StatusDetails { name: name.into(), group: gr.group.into(), kind: gr.resource.into(), ..StatusDetails::default() }
}

fn retry_after(seconds: u32) -> StatusDetails {
    StatusDetails { retry_after_seconds: seconds, ..StatusDetails::default() }
}

impl Status {
    /// A failure in the caller's own words.
    #[must_use]
    pub fn failure(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self { status: "Failure".into(), message: message.into(), reason: reason.into(), code, ..Self::default() }
    }

    /// A success, as a delete answers.
    #[must_use]
    pub fn success(details: Option<StatusDetails>) -> Self {
        Self { status: "Success".into(), details, ..Self::default() }
    }

    /// The same with other details.
    #[must_use]
    pub fn with_details(mut self, details: StatusDetails) -> Self {
        self.details = Some(details);
        self
    }

    /// 404: no such object.
    #[must_use]
    pub fn not_found(gr: GroupResource<'_>, name: &str) -> Self {
        Self::failure(404, "NotFound", format!("{gr} {} not found", quoted(name))).with_details(of_resource(gr, name))
    }

    /// 404: no such path.
    #[must_use]
    pub fn no_such_resource() -> Self {
        Self::failure(404, "NotFound", "the server could not find the requested resource")
            .with_details(StatusDetails::default())
    }

    /// 409: the name is taken.
    #[must_use]
    pub fn already_exists(gr: GroupResource<'_>, name: &str) -> Self {
        Self::failure(409, "AlreadyExists", format!("{gr} {} already exists", quoted(name)))
            .with_details(of_resource(gr, name))
    }

    /// 409: no free name could be made from `generateName`.
    #[must_use]
    pub fn generated_name_exists(gr: GroupResource<'_>, name: &str) -> Self {
        let text = "already exists, the server was not able to generate a unique name for the object";
        let details = StatusDetails { retry_after_seconds: 1, ..of_resource(gr, name) };
        Self::failure(409, "AlreadyExists", format!("{gr} {} {text}", quoted(name))).with_details(details)
    }

    /// 409: the object is not in the state that the request assumes.
    #[must_use]
    pub fn conflict(gr: GroupResource<'_>, name: &str, message: impl std::fmt::Display) -> Self {
        Self::failure(409, "Conflict", format!("Operation cannot be fulfilled on {gr} {}: {message}", quoted(name)))
            .with_details(of_resource(gr, name))
    }

    /// 409: the resourceVersion in the request is not the object's.
    #[must_use]
    pub fn modified(gr: GroupResource<'_>, name: &str) -> Self {
        Self::conflict(
            gr,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 422: validation found something. `group` and `kind` name the type.
    #[must_use]
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let causes = errors
            .iter()
            .map(|e| StatusCause { reason: e.kind.reason().into(), message: e.body(), field: e.path.clone() })
            .collect();
        let details = StatusDetails {
            name: name.into(),
            group: group.into(),
            kind: kind.into(),
            causes,
            ..StatusDetails::default()
        };
        let dot = if group.is_empty() { "" } else { "." };
        let mut message = format!("{kind}{dot}{group} {} is invalid", quoted(name));
        if let Some(all) = aggregate(errors.iter().map(ToString::to_string)) {
            message.push_str(": ");
            message.push_str(&all);
        }
        Self::failure(422, "Invalid", message).with_details(details)
    }

    /// 400.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, "BadRequest", message)
    }

    /// 400: the body names a kind but does not fit it. `got` is what the body says it is.
    #[must_use]
    pub fn undecodable(got_kind: &str, got_version: &str, wanted_kind: &str, detail: impl std::fmt::Display) -> Self {
        Self::bad_request(format!(
            "{got_kind} in version {} cannot be handled as a {wanted_kind}: {detail}",
            quoted(got_version)
        ))
    }

    /// 400: the body is no object of any known kind.
    #[must_use]
    pub fn unrecognized(wanted_kind: &str, detail: impl std::fmt::Display) -> Self {
        Self::bad_request(format!("the object provided is unrecognized (must be of type {wanted_kind}): {detail}"))
    }

    /// 401.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::failure(401, "Unauthorized", "Unauthorized")
    }

    /// 403. Empty `gr.resource`: a path; empty name: a collection.
    #[must_use]
    pub fn forbidden(gr: GroupResource<'_>, name: &str, message: impl std::fmt::Display) -> Self {
        let text = match (gr.resource, name) {
            ("", _) => format!("forbidden: {message}"),
            (_, "") => format!("{gr} is forbidden: {message}"),
            _ => format!("{gr} {} is forbidden: {message}", quoted(name)),
        };
        Self::failure(403, "Forbidden", text).with_details(of_resource(gr, name))
    }

    /// 405: the path exists, the method does not.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self::failure(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
            .with_details(StatusDetails::default())
    }

    /// 405: the resource has no such verb.
    #[must_use]
    pub fn method_not_supported(gr: GroupResource<'_>, action: &str) -> Self {
        Self::failure(
            405,
            "MethodNotAllowed",
            format!("{action} is not supported on resources of kind {}", quoted(&gr.to_string())),
        )
        .with_details(of_resource(gr, ""))
    }

    /// 406.
    #[must_use]
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let text = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::failure(406, "NotAcceptable", text)
    }

    /// 415.
    #[must_use]
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let text = "the body of the request was in an unknown format - accepted media types include";
        Self::failure(415, "UnsupportedMediaType", format!("{text}: {}", accepted.join(", ")))
    }

    /// 413.
    #[must_use]
    pub fn too_large(message: impl std::fmt::Display) -> Self {
        Self::failure(413, "RequestEntityTooLarge", format!("Request entity too large: {message}"))
    }

    /// 410: what the client asks for is no longer kept.
    #[must_use]
    pub fn gone(message: impl Into<String>) -> Self {
        Self::failure(410, "Gone", message)
    }

    /// 410: a resourceVersion or continue token is too old.
    #[must_use]
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, "Expired", message)
    }

    /// 504: the outcome is unknown, or took too long.
    #[must_use]
    pub fn timeout(message: impl std::fmt::Display, retry_after_seconds: u32) -> Self {
        Self::failure(504, "Timeout", format!("Timeout: {message}")).with_details(retry_after(retry_after_seconds))
    }

    /// 500: an operation could not be done in time and was not done.
    #[must_use]
    pub fn server_timeout(gr: GroupResource<'_>, operation: &str, retry_after_seconds: u32) -> Self {
        let text =
            format!("The {operation} operation against {gr} could not be completed at this time, please try again.");
        let details = StatusDetails { retry_after_seconds, ..of_resource(gr, operation) };
        Self::failure(500, "ServerTimeout", text).with_details(details)
    }

    /// 429.
    #[must_use]
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::failure(429, "TooManyRequests", message).with_details(retry_after(retry_after_seconds))
    }

    /// 500: our fault.
    #[must_use]
    pub fn internal(message: impl std::fmt::Display) -> Self {
        let causes = vec![StatusCause { message: message.to_string(), ..StatusCause::default() }];
        Self::failure(500, "InternalError", format!("Internal error occurred: {message}"))
            .with_details(StatusDetails { causes, ..StatusDetails::default() })
    }

    /// 503.
    #[must_use]
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::failure(503, "ServiceUnavailable", message)
    }

    /// Whether it is a 404 for an object.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.reason == "NotFound"
    }

    /// Whether a precondition failed.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.reason == "Conflict"
    }

    /// Whether a creation was refused because its namespace is on its way out: it will never be allowed.
    #[must_use]
    pub fn is_namespace_terminating(&self) -> bool {
        let causes = self.details.iter().flat_map(|details| &details.causes);
        causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
    }

    /// Whether the name is taken.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        self.reason == "AlreadyExists"
    }
}

fn quoted(text: &str) -> String {
    crate::field_error::quote(text)
}

/// Several messages as one: repeated ones once, brackets round more than one. `None` if there are none.
#[must_use]
pub fn aggregate(messages: impl IntoIterator<Item = String>) -> Option<String> {
    let mut seen = HashSet::new();
    let distinct: Vec<String> = messages.into_iter().filter(|message| seen.insert(message.clone())).collect();
    match distinct.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(format!("[{}]", many.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PODS: GroupResource<'static> = GroupResource { group: "", resource: "pods" };
    const DEPLOYMENTS: GroupResource<'static> = GroupResource { group: "apps", resource: "deployments" };

    #[test]
    fn errors_have_the_shape_clients_know() {
        assert_eq!(
            serde_json::to_value(Status::not_found(DEPLOYMENTS, "a")).expect("plain data"),
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "NotFound", "code": 404,
                   "message": "deployments.apps \"a\" not found", "details": {"name": "a", "group": "apps", "kind": "deployments"}})
        );
    }

    #[test]
    fn messages_agree_with_upstream() {
        let twice = [FieldError::required("a", ""), FieldError::required("a", "")];
        for (status, code, message) in [
            (Status::already_exists(PODS, "a"), 409, "pods \"a\" already exists"),
            (Status::conflict(PODS, "a", "x"), 409, "Operation cannot be fulfilled on pods \"a\": x"),
            (
                Status::invalid("apps", "Deployment", "a", &twice),
                422,
                "Deployment.apps \"a\" is invalid: a: Required value",
            ),
            (
                Status::invalid("", "Pod", "", &[FieldError::required("a", ""), FieldError::required("b", "")]),
                422,
                "Pod \"\" is invalid: [a: Required value, b: Required value]",
            ),
            (Status::forbidden(PODS, "", "no"), 403, "pods is forbidden: no"),
            (Status::forbidden(PODS, "a", "no"), 403, "pods \"a\" is forbidden: no"),
            (Status::internal("x"), 500, "Internal error occurred: x"),
            (Status::timeout("x", 1), 504, "Timeout: x"),
        ] {
            assert_eq!((status.code, status.message.as_str()), (code, message));
        }
        let invalid = Status::invalid("apps", "Deployment", "a", &twice);
        assert_eq!(invalid.details.map(|d| d.causes.len()), Some(2), "causes keep repeats");
    }
}
