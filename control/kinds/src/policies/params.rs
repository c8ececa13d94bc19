//! The parameters of a policy that a binding names. Upstream: `policy/generic/policy_dispatcher.go`.

use kontiki_machinery::admission::{Lookup, Request};
use kontiki_model::resource::NAMESPACES;
use serde_json::Value;

use super::known::Head;
use crate::rows::{
    selector,
    value::{at, get, some, text},
};

/// The parameters to ask a policy with, one after another; a null where there are none to have.
///
/// # Errors
/// They cannot be had.
pub(super) fn collect(
    policy: &Head,
    wanted: Option<&Value>,
    request: &Request<'_>,
    cluster: &dyn Lookup,
) -> Result<Vec<Value>, String> {
    let (Some((version, kind)), Some(wanted)) = (&policy.params, wanted) else { return Ok(vec![Value::Null]) };
    let (group, own) = version.split_once('/').unwrap_or(("", version));
    let def = cluster.row(group, own, kind);
    let def =
        def.ok_or_else(|| format!("failed to find resource referenced by paramKind: '{version}, Kind={kind}'"))?;
    let said = some(wanted, "namespace").and_then(Value::as_str).filter(|it| !it.is_empty());
    let about_namespaces = request.def.group_resource() == NAMESPACES;
    let namespace = match (def.namespaced(), said) {
        (true, Some(said)) => Some(said),
        (true, None) => Some(
            request
                .namespace
                .filter(|_| !about_namespaces)
                .ok_or("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources")?,
        ),
        (false, Some(_)) => {
            return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned());
        }
        (false, None) => None,
    };
    let (resource, name) = (def.group_resource(), text(wanted, "name"));
    let read = |why: kontiki_machinery::Status| why.message;
    let found = if name.is_empty() {
        let all = match namespace {
            Some(namespace) => cluster.within(resource, namespace),
            None => cluster.objects(resource),
        };
        let labels = get(wanted, "selector");
        let labels = selector::parse(labels).filter(|_| !selector::is_empty(labels));
        let fits =
            |it: &Value| labels.as_ref().is_none_or(|known| selector::matches(known, at(it, &["metadata", "labels"])));
        all.map_err(read)?.into_iter().filter(fits).collect()
    } else {
        cluster.glance(resource, namespace, name).map_err(read)?.into_iter().collect::<Vec<_>>()
    };
    if found.is_empty() && text(wanted, "parameterNotFoundAction") == "Deny" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
    }
    Ok(found)
}
