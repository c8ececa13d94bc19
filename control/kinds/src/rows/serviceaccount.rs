//! ServiceAccounts, and the requests for their tokens.

use jiff::Timestamp;
use serde_json::Value;

use super::value::{child, default_to, get, num};
use super::vocab::Errors;
use super::{READ_WRITE, cells};
use crate::{FieldError, GroupResource, Path, ResourceDef, Scope, Strategy, Subresource, meta};

/// The row.
pub static DEF: ResourceDef = ResourceDef {
    group: "",
    version: "v1",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    kind: "ServiceAccount",
    scope: Scope::Namespaced,
    verbs: READ_WRITE,
    short: &["sa"],
    categories: &[],
    subresources: &[Subresource {
        name: "token",
        group: "authentication.k8s.io",
        version: "v1",
        kind: "TokenRequest",
        verbs: &["create"],
    }],
    schema: SCHEMA,
    storage: GroupResource { group: "", resource: "serviceaccounts" },
    storage_kind: ("v1", "ServiceAccount"),
    strategy: &ServiceAccounts,
};

const SCHEMA: &str = "io.k8s.api.core.v1.ServiceAccount";

struct ServiceAccounts;

impl Strategy for ServiceAccounts {
    fn validate_update(&self, new: &Value, _old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        meta::validate_object_meta(new, true, &|name, prefix| self.name_errors(name, prefix))
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        vec![cells::name(obj), cells::age(obj, now)]
    }
}

/// Defaults of a TokenRequest: an hour.
pub fn default_token_request(request: &mut Value) {
    default_to(child(request, "spec"), "expirationSeconds", 3600);
}

/// Checks a TokenRequest.
#[must_use]
pub fn check_token_request(request: &Value) -> Errors {
    let mut errs = Errors::new();
    let path = Path::new("spec").child("expirationSeconds");
    let seconds = num(get(request, "spec"), "expirationSeconds");
    if seconds < 600 {
        errs.push(FieldError::invalid(&path, seconds, "may not specify a duration less than 10 minutes"));
    }
    if seconds > 1 << 32 {
        errs.push(FieldError::invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds"));
    }
    errs
}
