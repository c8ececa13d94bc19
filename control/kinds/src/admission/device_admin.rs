//! Devices that others use are for claims in namespaces that are marked for administrators (KEP-5018).

use kontiki_machinery::{
    FieldError,
    admission::{Guard, Lookup, Request, Step},
};
use kontiki_model::{GroupResource, resource::NAMESPACES};
use serde_json::Value;

use crate::{
    Path, Status,
    rows::value::{at, get, list, on, text},
};

const GROUP: &str = "resource.k8s.io";
const CLAIMS: GroupResource<'static> = GroupResource { group: GROUP, resource: "resourceclaims" };
const TEMPLATES: GroupResource<'static> = GroupResource { group: GROUP, resource: "resourceclaimtemplates" };
const LABEL: &str = "resource.kubernetes.io/admin-access";

pub(super) struct DeviceAdminAccess;

impl Step for DeviceAdminAccess {
    fn name(&self) -> &'static str {
        "DeviceAdminAccess"
    }

    fn validate(&self, request: &Request<'_>, object: &Value, cluster: &mut dyn Lookup) -> Result<(), Status> {
        let Some(path) = asked(request, object) else { return Ok(()) };
        let Some(namespace) = request.namespace else { return Ok(()) };
        let marked = cluster.object(NAMESPACES, None, namespace, Guard::Unchanged)?;
        if marked.is_some_and(|namespace| text(at(&namespace, &["metadata", "labels"]), LABEL) == "true") {
            return Ok(());
        }
        let why = format!("admin access to devices requires the `{LABEL}: true` label on the containing namespace");
        let errors = [FieldError::forbidden(path, why)];
        let name = text(get(object, "metadata"), "name");
        Err(Status::invalid(&request.def.group, &request.def.kind, name, &errors))
    }
}

/// Where an object asks for such access, if it is new in that: the rest never changes.
fn asked(request: &Request<'_>, object: &Value) -> Option<Path> {
    let wanted = |requests: &[Value]| requests.iter().position(|one| on(get(one, "exactly"), "adminAccess"));
    // Upstream names the place in a template as it would that in a claim.
    let place = |i| Path::new("spec").child("devices").child("requests").index(i).child("adminAccess");
    if request.creates() && request.is(CLAIMS) {
        return wanted(list(at(object, &["spec", "devices"]), "requests")).map(place);
    }
    if request.creates() && request.is(TEMPLATES) {
        return wanted(list(at(object, &["spec", "spec", "devices"]), "requests")).map(place);
    }
    if request.def.group_resource() != CLAIMS || request.sub != Some("status") {
        return None;
    }
    let granted = |object: &Value| {
        let results = list(at(object, &["status", "allocation", "devices"]), "results");
        results.iter().position(|result| on(result, "adminAccess"))
    };
    let results = Path::new("status").child("allocation").child("devices").child("results");
    let before = request.old.and_then(granted);
    granted(object).filter(|_| before.is_none()).map(|i| results.index(i).child("adminAccess"))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use kontiki_machinery::{access::User, admission::Operation};
    use serde_json::json;

    use super::*;
    use crate::rows;

    /// A cluster of one namespace.
    struct One(Value);

    impl Lookup for One {
        fn object(
            &mut self,
            _: GroupResource<'_>,
            _: Option<&str>,
            _: &str,
            _: Guard,
        ) -> Result<Option<Value>, Status> {
            Ok(Some(self.0.clone()))
        }

        fn objects(&self, _: GroupResource<'_>) -> Result<Vec<Value>, Status> {
            Ok(Vec::new())
        }

        fn random(&mut self) -> u64 {
            0
        }

        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }
    }

    #[test]
    fn administrators_have_namespaces_of_their_own() {
        let def = rows::devices::defs().into_iter().find(|def| def.plural == "resourceclaims").expect("a row");
        let user = User::default();
        let request = Request {
            operation: Operation::Create,
            user: &user,
            def: &def,
            sub: None,
            namespace: Some("a"),
            name: "",
            old: None,
            dry_run: false,
        };
        let claim = |admin: bool| json!({"spec": {"devices": {"requests": [{"exactly": {"adminAccess": admin}}]}}});
        let marked = json!({"metadata": {"labels": {LABEL: "true"}}});
        for (object, namespace, code) in
            [(claim(false), json!({}), None), (claim(true), json!({}), Some(422)), (claim(true), marked, None)]
        {
            let refused = DeviceAdminAccess.validate(&request, &object, &mut One(namespace)).err();
            assert_eq!(refused.map(|status| status.code), code, "{object}");
        }
    }
}
