//! A new node takes pods only once it has been seen to be ready.

use kontiki_machinery::admission::{Lookup, Request, Step};
use kontiki_model::resource::NODES;
use serde_json::{Value, json};

use crate::{
    Status,
    rows::value::{child, fields, list, text},
};

pub(super) struct TaintNodesByCondition;

impl Step for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn admit(&self, request: &Request<'_>, object: &mut Value, _cluster: &mut dyn Lookup) -> Result<(), Status> {
        if request.is(NODES) && request.creates() {
            taint_not_ready(object);
        }
        Ok(())
    }
}

fn taint_not_ready(node: &mut Value) {
    let spec = child(node, "spec");
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    let same =
        |other: &Value| text(other, "key") == text(&taint, "key") && text(other, "effect") == text(&taint, "effect");
    if list(spec, "taints").iter().any(same) {
        return;
    }
    let slot = fields(spec).entry("taints").or_insert_with(|| json!([]));
    if let Some(taints) = slot.as_array_mut() {
        taints.push(taint);
    }
}
