//! A claim grows only once it is bound, and if its class says that its volumes can.

use kontiki_machinery::admission::{Guard, Lookup, Operation, Request, Step};
use kontiki_model::GroupResource;
use serde_json::Value;

use crate::{
    Status,
    rows::{
        storage::class_of,
        value::{at, get, on, text},
    },
    schema::quantity::Amount,
};

const CLAIMS: GroupResource<'static> = GroupResource { group: "", resource: "persistentvolumeclaims" };
const CLASSES: GroupResource<'static> = GroupResource { group: "storage.k8s.io", resource: "storageclasses" };

pub(super) struct PersistentVolumeClaimResize;

impl Step for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    fn validate(&self, request: &Request<'_>, claim: &Value, cluster: &mut dyn Lookup) -> Result<(), Status> {
        let Some(old) = request.old.filter(|_| request.is(CLAIMS)) else { return Ok(()) };
        let class = match class_of(claim).filter(|class| !class.is_empty() && class_of(old) == Some(class)) {
            Some(class) if size(claim) > size(old) => cluster.object(CLASSES, None, class, Guard::Present)?,
            _ => None,
        };
        refusal(claim, old, class.as_ref()).map_or(Ok(()), |why| Err(request.forbid(claim, why)))
    }
}

/// Why a claim may not be as large as it is to be. `class`: the class that it keeps.
fn refusal(claim: &Value, old: &Value, class: Option<&Value>) -> Option<&'static str> {
    if size(claim) <= size(old) {
        return None;
    }
    if text(get(old, "status"), "phase") != "Bound" {
        return Some("Only bound persistent volume claims can be expanded");
    }
    let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
    (!class.is_some_and(|class| on(class, "allowVolumeExpansion"))).then_some(why)
}

fn size(claim: &Value) -> Amount {
    Amount::of(at(claim, &["spec", "resources", "requests", "storage"])).unwrap_or(Amount::ZERO)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_bound_claims_of_a_class_that_allows_it_grow() {
        let claim = |size: &str, phase: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}, "status": {"phase": phase}});
        let allows = json!({"allowVolumeExpansion": true});
        for (what, phase, size, class, expect) in [
            ("the same size", "Pending", "1Gi", None, None),
            ("less", "Bound", "1Mi", None, None),
            ("more, too soon", "Pending", "2Gi", Some(&allows), Some("Only bound")),
            ("more, without a class", "Bound", "2Gi", None, Some("only dynamically")),
            ("more, of a class that says nothing", "Bound", "2Gi", Some(&Value::Null), Some("only dynamically")),
            ("more", "Bound", "2Gi", Some(&allows), None),
        ] {
            let found = refusal(&claim(size, phase), &claim("1Gi", phase), class);
            assert_eq!(found.is_some(), expect.is_some(), "{what}");
            assert!(found.zip(expect).is_none_or(|(found, expect)| found.starts_with(expect)), "{what}: {found:?}");
        }
    }
}
