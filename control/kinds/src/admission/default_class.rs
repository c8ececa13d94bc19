//! The class of a claim or an Ingress that names none: the one that is marked as default; of several the newest.

use std::cmp::Reverse;

use kontiki_machinery::admission::{Lookup, Request, Step};
use kontiki_model::GroupResource;
use serde_json::Value;

use crate::{
    Status,
    rows::{
        networking::ingress::CLASS,
        storage::{class::DEFAULT, class_of},
        value::{annotation, at, child, get, has, set, text},
    },
};

const CLAIMS: GroupResource<'static> = GroupResource { group: "", resource: "persistentvolumeclaims" };
const STORAGE_CLASSES: GroupResource<'static> = GroupResource { group: "storage.k8s.io", resource: "storageclasses" };
const INGRESSES: GroupResource<'static> = GroupResource { group: "networking.k8s.io", resource: "ingresses" };
const INGRESS_CLASSES: GroupResource<'static> =
    GroupResource { group: "networking.k8s.io", resource: "ingressclasses" };
const DEFAULT_INGRESS: [&str; 1] = ["ingressclass.kubernetes.io/is-default-class"];

pub(super) struct DefaultStorageClass;

impl Step for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn admit(&self, request: &Request<'_>, claim: &mut Value, cluster: &mut dyn Lookup) -> Result<(), Status> {
        if request.is(CLAIMS) && request.creates() && class_of(claim).is_none() {
            give(claim, "storageClassName", &cluster.objects(STORAGE_CLASSES)?, &DEFAULT);
        }
        Ok(())
    }
}

pub(super) struct DefaultIngressClass;

impl Step for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn admit(&self, request: &Request<'_>, ingress: &mut Value, cluster: &mut dyn Lookup) -> Result<(), Status> {
        let named = |ingress| has(get(ingress, "spec"), "ingressClassName") || annotation(ingress, CLASS).is_some();
        if request.is(INGRESSES) && request.creates() && !named(ingress) {
            give(ingress, "ingressClassName", &cluster.objects(INGRESS_CLASSES)?, &DEFAULT_INGRESS);
        }
        Ok(())
    }
}

/// Names the default among `classes` in `field` of an object's spec, if there is one.
fn give(object: &mut Value, field: &str, classes: &[Value], marks: &[&str]) {
    let marked = |class: &&Value| marks.iter().any(|mark| annotation(class, mark) == Some("true"));
    let age = |class: &&Value| text(get(class, "metadata"), "creationTimestamp").to_owned();
    let name = |class: &Value| at(class, &["metadata", "name"]).as_str().unwrap_or("").to_owned();
    if let Some(class) = classes.iter().filter(marked).min_by_key(|class| (Reverse(age(class)), name(class))) {
        set(child(object, "spec"), field, name(class));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_newest_default_counts() {
        let class = |name: &str, age: &str, mark: &str| json!({"metadata": {"name": name, "creationTimestamp": format!("2001-01-0{age}T00:00:00Z"), "annotations": {mark: "true"}}});
        let [mark, older] = DEFAULT;
        for (what, classes, expect) in [
            ("none", vec![class("a", "1", "other")], json!({})),
            ("one", vec![class("a", "1", "other"), class("b", "1", older)], json!({"spec": {"f": "b"}})),
            ("the newest", vec![class("a", "1", mark), class("b", "2", mark)], json!({"spec": {"f": "b"}})),
            ("of one age", vec![class("b", "1", mark), class("a", "1", mark)], json!({"spec": {"f": "a"}})),
        ] {
            let mut object = json!({});
            give(&mut object, "f", &classes, &DEFAULT);
            assert_eq!(object, expect, "{what}");
        }
    }
}
