//! Pods tolerate the nodes that are kept free for the extended resources which they ask for.

use std::collections::BTreeSet;

use kontiki_machinery::admission::{Lookup, Request, Step};
use kontiki_model::resource::PODS;
use serde_json::{Value, json};

use crate::{
    Status,
    rows::template::resources::extended,
    rows::value::{child, entries, fields, get, list, text},
};

pub(super) struct ExtendedResourceToleration;

impl Step for ExtendedResourceToleration {
    fn name(&self) -> &'static str {
        "ExtendedResourceToleration"
    }

    fn admit(&self, request: &Request<'_>, pod: &mut Value, _cluster: &mut dyn Lookup) -> Result<(), Status> {
        if request.is(PODS) {
            tolerate(child(pod, "spec"));
        }
        Ok(())
    }
}

fn tolerate(spec: &mut Value) {
    let lists = ["containers", "initContainers"].into_iter();
    let containers = lists.flat_map(|field| list(spec, field));
    let asked = containers.flat_map(|container| entries(get(container, "resources"), "requests"));
    let names: BTreeSet<String> = asked.map(|(name, _)| name.clone()).filter(|name| extended(name)).collect();
    for name in names {
        let same = |known: &Value| {
            text(known, "key") == name && text(known, "operator") == "Exists" && text(known, "effect") == "NoSchedule"
        };
        if list(spec, "tolerations").iter().any(same) {
            continue;
        }
        let slot = fields(spec).entry("tolerations").or_insert_with(|| json!([]));
        if let Some(list) = slot.as_array_mut() {
            list.push(json!({"key": name, "operator": "Exists", "effect": "NoSchedule"}));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_extended_resource_is_tolerated_once() {
        let mut spec = json!({"containers": [{"resources": {"requests": {"cpu": "1", "a.b/gpu": "1"}}}]});
        tolerate(&mut spec);
        let once = json!([{"key": "a.b/gpu", "operator": "Exists", "effect": "NoSchedule"}]);
        assert_eq!(spec["tolerations"], once);
        tolerate(&mut spec);
        assert_eq!(spec["tolerations"], once);
    }
}
