//! ServiceAccounts.

use serde_json::Value;

use super::cells::{self, Cell};
use super::value::{annotation, fields, items_mut};
use crate::{FieldError, Handler, ResourceDef, Strategy, Subresource, Verbs, meta, resource::names, schema};

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        short: names(&["sa"]),
        delete_returns_object: true,
        ..ResourceDef::new(("", "v1"), ("serviceaccounts", "serviceaccount", "ServiceAccount"), SCHEMA, ServiceAccounts)
    }
    .with(token_subresource())
}

const SCHEMA: &str = "io.k8s.api.core.v1.ServiceAccount";

fn token_subresource() -> Subresource {
    Subresource {
        name: "token".into(),
        group: "authentication.k8s.io".into(),
        version: "v1".into(),
        kind: "TokenRequest".into(),
        verbs: Verbs::CREATE,
        handler: Handler::Token(schema::known("io.k8s.api.authentication.v1.TokenRequest")),
    }
}

struct ServiceAccounts;

/// Pods may mount the secrets that the account names, and no others.
const ENFORCED: &str = "kubernetes.io/enforce-mountable-secrets";

/// Secrets are named, and nothing else is said of them.
fn only_names(obj: &mut Value) {
    for secret in items_mut(obj, "secrets") {
        fields(secret).retain(|field, _| field == "name");
    }
}

impl Strategy for ServiceAccounts {
    fn prepare_create(&self, obj: &mut Value) {
        only_names(obj);
    }

    fn prepare_update(&self, new: &mut Value, _old: &Value, _sub: Option<&str>) {
        only_names(new);
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        if annotation(obj, ENFORCED).is_none() || old.is_some_and(|old| annotation(old, ENFORCED).is_some()) {
            return Vec::new();
        }
        let advice = "prefer separate namespaces to isolate access to mounted secrets";
        vec![format!("metadata.annotations[{ENFORCED}]: deprecated in v1.32+; {advice}")]
    }

    fn validate_update(&self, new: &Value, _old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        meta::validate_object_meta(new, true, &|name, prefix| self.name_errors(name, prefix))
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        vec![cells::name(obj), cells::age(obj)]
    }
}
