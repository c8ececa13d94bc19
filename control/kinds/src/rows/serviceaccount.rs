//! ServiceAccounts.

use serde_json::Value;

use super::cells::{self, Cell};
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

impl Strategy for ServiceAccounts {
    fn validate_update(&self, new: &Value, _old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        meta::validate_object_meta(new, true, &|name, prefix| self.name_errors(name, prefix))
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        vec![cells::name(obj), cells::age(obj)]
    }
}
