//! Nobody gives away what they do not have: who writes a role must hold what it allows, or the verb `escalate` on it; who
//! writes a binding must hold what its role allows, or the verb `bind` on that. A new label is a write as well; only what
//! garbage collection changes is none (`pkg/registry/rbac/*/policybased` of upstream).
//!
//! It comes last of the mutating steps: what it judges is what validation sees.

use kontiki_machinery::access::{Attributes, Rule, User};
use kontiki_machinery::admission::{Guard, Lookup, Request, Step};
use kontiki_model::{GroupResource, rule::missing};
use serde_json::Value;

use crate::{
    Scope, Status,
    authorize::{describe, quoted},
    field_error::quote,
    rows::{
        rbac::GROUP,
        value::{at, get, list, text, unset},
    },
};

pub(super) struct PrivilegeEscalation;

impl Step for PrivilegeEscalation {
    fn name(&self) -> &'static str {
        "PrivilegeEscalation"
    }

    fn admit(&self, request: &Request<'_>, object: &mut Value, cluster: &mut dyn Lookup) -> Result<(), Status> {
        let concerned = request.def.group == GROUP && request.sub.is_none();
        if !concerned || request.user.in_group("system:masters") || only_for_collection(request, object) {
            return Ok(());
        }
        if object.get("roleRef").is_some() {
            return check_binding(request, object, cluster);
        }
        check_role(request, object, cluster)
    }
}

/// Whether an update changes nothing but what garbage collection does.
fn only_for_collection(request: &Request<'_>, object: &Value) -> bool {
    let rest = |object: &Value| {
        let mut rest = object.clone();
        if let Some(meta) = rest.get_mut("metadata") {
            ["ownerReferences", "finalizers", "managedFields"].iter().for_each(|field| unset(meta, field));
        }
        rest
    };
    request.old.is_some_and(|old| rest(old) == rest(object))
}

fn check_role(request: &Request<'_>, role: &Value, cluster: &mut dyn Lookup) -> Result<(), Status> {
    let namespace = request.namespace.unwrap_or_default();
    // The name of a new object is not part of what was asked for.
    let name = request.old.map_or("", |_| text(get(role, "metadata"), "name"));
    let asked = of(&request.def.plural, "escalate", namespace, name);
    if cluster.allows(request.user, &asked) {
        return Ok(());
    }
    let held = cluster.rules(request.user, namespace);
    confirm(request.user, &held, &Rule::list(role)).map_err(|why| request.forbid(role, why))?;
    let gathers = |role: &Value| !list(at(role, &["aggregationRule"]), "clusterRoleSelectors").is_empty();
    let any = gathers(role) || request.old.is_some_and(gathers);
    // It may gather anything.
    if any && !missing(&held, &Rule::everything()).is_empty() {
        return Err(request.forbid(role, "must have cluster-admin privileges to use an aggregationRule"));
    }
    Ok(())
}

fn check_binding(request: &Request<'_>, binding: &Value, cluster: &mut dyn Lookup) -> Result<(), Status> {
    let namespace = request.namespace.unwrap_or_default();
    let role = get(binding, "roleRef");
    let (plural, place) = match (text(role, "kind"), request.def.scope) {
        ("ClusterRole", _) => ("clusterroles", None),
        ("Role", Scope::Namespaced) => ("roles", request.namespace),
        // Validation refuses it.
        _ => return Ok(()),
    };
    let name = text(role, "name");
    if cluster.allows(request.user, &of(plural, "bind", namespace, name)) {
        return Ok(());
    }
    let resource = GroupResource { group: GROUP, resource: plural };
    let found = cluster.object(resource, place, name, Guard::Unchanged)?;
    let found = found.ok_or_else(|| Status::not_found(resource, name))?;
    let held = cluster.rules(request.user, namespace);
    confirm(request.user, &held, &Rule::list(&found)).map_err(|why| request.forbid(binding, why))
}

fn of<'a>(resource: &'a str, verb: &'a str, namespace: &'a str, name: &'a str) -> Attributes<'a> {
    Attributes { verb, group: GROUP, resource, namespace, name, ..Attributes::default() }
}

/// Why somebody may not give `wanted` away.
fn confirm(user: &User, held: &[Rule], wanted: &[Rule]) -> Result<(), String> {
    let missing = missing(held, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let (name, groups, missing) = (quote(&user.name), quoted(&user.groups), describe(&missing).join("\n"));
    Err(format!("user {name} (groups={groups}) is attempting to grant RBAC permissions not currently held:\n{missing}"))
}
