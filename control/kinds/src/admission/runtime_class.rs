//! A pod's RuntimeClass must exist, and lends it overhead and places to run (KEP-688).

use kontiki_machinery::admission::{Guard, Lookup, Request, Step};
use kontiki_model::{GroupResource, resource::PODS};
use serde_json::{Value, json};

use crate::{
    Status,
    rows::value::{child, fields, get, has, list, set, text, text_entries},
};

const CLASSES: GroupResource<'static> = GroupResource { group: "node.k8s.io", resource: "runtimeclasses" };

pub(super) struct RuntimeClass;

impl Step for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn admit(&self, request: &Request<'_>, pod: &mut Value, cluster: &mut dyn Lookup) -> Result<(), Status> {
        if !(request.is(PODS) && request.creates()) {
            return Ok(());
        }
        let name = text(get(pod, "spec"), "runtimeClassName").to_owned();
        let class = match name.as_str() {
            "" => None,
            name => match cluster.object(CLASSES, None, name, Guard::Unchanged)? {
                None => return Err(request.forbid(pod, format!("pod rejected: RuntimeClass \"{name}\" not found"))),
                found => found,
            },
        };
        lend(pod, class.as_ref().unwrap_or(&Value::Null)).map_err(|why| request.forbid(pod, why))
    }
}

/// Gives a pod what its class has for it; null for none.
fn lend(pod: &mut Value, class: &Value) -> Result<(), String> {
    let spec = child(pod, "spec");
    let (fixed, own) = (get(get(class, "overhead"), "podFixed"), get(spec, "overhead"));
    let asks = own.as_object().is_some_and(|own| !own.is_empty());
    if fixed.is_null() && asks {
        return Err("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".to_owned());
    }
    if !fixed.is_null() && asks && own != fixed {
        return Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".to_owned());
    }
    if !fixed.is_null() {
        set(spec, "overhead", fixed.clone());
    }
    let rules = get(class, "scheduling");
    for (key, value) in text_entries(rules, "nodeSelector") {
        let own = text(get(spec, "nodeSelector"), key);
        if has(get(spec, "nodeSelector"), key) && own != value {
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {own}"
            ));
        }
        set(child(spec, "nodeSelector"), key, value);
    }
    for toleration in list(rules, "tolerations") {
        if !list(spec, "tolerations").contains(toleration) {
            let slot = fields(spec).entry("tolerations").or_insert_with(|| json!([]));
            if let Some(list) = slot.as_array_mut() {
                list.push(toleration.clone());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_lends_what_does_not_contradict_the_pod() {
        let class = json!({"overhead": {"podFixed": {"cpu": "1"}},
            "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "k"}]}});
        let lent = json!({"overhead": {"cpu": "1"}, "nodeSelector": {"a": "b"}, "tolerations": [{"key": "k"}]});
        for (what, spec, class, expect) in [
            ("no class", json!({}), &Value::Null, Ok(json!({}))),
            ("all of it", json!({}), &class, Ok(lent.clone())),
            ("what it has", lent.clone(), &class, Ok(lent)),
            ("overhead of its own", json!({"overhead": {"cpu": "2"}}), &class, Err("doesn't match")),
            ("overhead without a class", json!({"overhead": {"cpu": "2"}}), &Value::Null, Err("without corresponding")),
            ("another node", json!({"nodeSelector": {"a": "c"}}), &class, Err("nodeSelector[a] = b; pod")),
        ] {
            let mut pod = json!({ "spec": spec });
            match (lend(&mut pod, class), expect) {
                (Ok(()), Ok(spec)) => assert_eq!(pod["spec"], spec, "{what}"),
                (Err(why), Err(part)) => assert!(why.contains(part), "{what}: {why}"),
                (found, _) => panic!("{what}: {found:?}"),
            }
        }
    }
}
