//! The annotation in which kubectl's client-side apply keeps what it applied last, as far as the server minds it.

use serde_json::Value;

use super::{compare::compare, conflict::Conflict, fields::fields_of, set::Set, value};
use crate::{meta::MAX_ANNOTATIONS, schema::shape::Shape};

/// The manager that it is minded for.
pub(super) const KUBECTL: &str = "kubectl";
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Which of the conflicts are left, as what was applied on the client's side may be changed by the same client's apply on
/// the server's side. What has been changed by somebody else since is not.
pub(super) fn conflicts(live: &Value, api_version: &str, shape: &Shape, found: Vec<Conflict>) -> Vec<Conflict> {
    match owned_by_client(live, api_version, shape) {
        Some(owned) => found.into_iter().filter(|conflict| !owned.has(&conflict.path)).collect(),
        None => found,
    }
}

fn owned_by_client(live: &Value, api_version: &str, shape: &Shape) -> Option<Set> {
    let applied: Value = serde_json::from_str(last_applied(live)?).ok()?;
    if applied["apiVersion"] != api_version {
        return None;
    }
    super::typed::validate(&applied, shape, false).ok()?;
    let since = compare(&applied, live, shape).ok()?;
    let set = fields_of(&applied, shape).ok()?;
    Some(set.difference(&since.modified).difference(&since.added).difference(&since.removed))
}

fn last_applied(object: &Value) -> Option<&str> {
    object["metadata"]["annotations"][ANNOTATION].as_str().filter(|text| !text.is_empty())
}

/// Brings an annotation that is there up to date with what is applied now.
pub(super) fn renew(object: &mut Value, config: &Value) {
    if last_applied(object).is_none() {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = config["metadata"]["annotations"].as_object_mut() {
        annotations.remove(ANNOTATION);
    } else if let Some(metadata) = config["metadata"].as_object_mut() {
        metadata.remove("annotations");
    }
    let mut text = String::new();
    value::go_json(&config, &mut text);
    text.push('\n');
    let Some(annotations) = object["metadata"]["annotations"].as_object_mut() else { return };
    annotations.insert(ANNOTATION.into(), text.into());
    let size: usize = annotations.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if size > MAX_ANNOTATIONS {
        annotations.remove(ANNOTATION);
    }
}
