//! Who names an owner needs the permission to delete what is owned; who makes an owner wait for it, the permission to set
//! finalizers on the owner (`OwnerReferencesPermissionEnforcement`, which upstream leaves off unless it is asked for).

use kontiki_machinery::access::Attributes;
use kontiki_machinery::admission::{Lookup, Request, Step};
use serde_json::Value;

use crate::{
    Status,
    rows::value::{at, list, on, text},
};

/// See the module.
pub struct OwnerReferencesPermissionEnforcement;

impl Step for OwnerReferencesPermissionEnforcement {
    fn name(&self) -> &'static str {
        "OwnerReferencesPermissionEnforcement"
    }

    fn validate(&self, request: &Request<'_>, object: &Value, cluster: &mut dyn Lookup) -> Result<(), Status> {
        let owners = |object| list(at(object, &["metadata"]), "ownerReferences");
        let old = request.old.map(owners).unwrap_or_default();
        if request.sub == Some("status") || owners(object) == old {
            return Ok(());
        }
        let base = Attributes { namespace: request.namespace.unwrap_or_default(), ..Attributes::default() };
        let own = Attributes {
            verb: "delete",
            group: &request.def.group,
            resource: &request.def.plural,
            subresource: request.sub.unwrap_or_default(),
            name: text(at(object, &["metadata"]), "name"),
            ..base
        };
        if !request.creates() && !cluster.allows(request.user, &own) {
            return Err(request.forbid(object, "cannot set an ownerRef on a resource you can't delete: , <nil>"));
        }
        let blocked = |owner: &&Value| {
            let before = old.iter().find(|before| text(before, "uid") == text(owner, "uid"));
            on(owner, "blockOwnerDeletion") && !before.is_some_and(|before| on(before, "blockOwnerDeletion"))
        };
        owners(object).iter().filter(blocked).try_for_each(|owner| check_owner(request, object, owner, cluster))
    }
}

fn check_owner(request: &Request<'_>, object: &Value, owner: &Value, cluster: &mut dyn Lookup) -> Result<(), Status> {
    let (version, kind) = (text(owner, "apiVersion"), text(owner, "kind"));
    let (group, number) = version.split_once('/').unwrap_or(("", version));
    let Some(row) = cluster.row(group, number, kind) else {
        let why = format!(
            "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {version} Kind \
             {kind}: no matches for kind \"{kind}\" in version \"{version}\""
        );
        return Err(request.forbid(object, why));
    };
    let namespace = request.namespace.filter(|_| row.namespaced()).unwrap_or_default();
    let asked = Attributes {
        verb: "update",
        group: &row.group,
        resource: &row.plural,
        subresource: "finalizers",
        namespace,
        name: text(owner, "name"),
        ..Attributes::default()
    };
    if cluster.allows(request.user, &asked) {
        return Ok(());
    }
    let why =
        "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: , <nil>";
    Err(request.forbid(object, why))
}
