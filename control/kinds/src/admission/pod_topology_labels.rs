//! A pod that gets its node learns in which zone and region that is (KEP-4742).

use kontiki_machinery::admission::{Guard, Lookup, Request, Step};
use kontiki_model::resource::{NODES, PODS};
use serde_json::Value;

use crate::{
    Status,
    rows::value::{child, get, set, text, text_entries},
};

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

pub(super) struct PodTopologyLabels;

impl Step for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    /// The object is a pod that is made with its node, or the binding of one.
    fn admit(&self, request: &Request<'_>, object: &mut Value, cluster: &mut dyn Lookup) -> Result<(), Status> {
        let node = match request.sub {
            _ if !request.creates() || request.def.group_resource() != PODS => "",
            None => text(get(object, "spec"), "nodeName"),
            Some("binding") => text(get(object, "target"), "name"),
            Some(_) => "",
        };
        if node.is_empty() {
            return Ok(());
        }
        // Whether there is such a node is for others to say.
        if let Some(node) = cluster.object(NODES, None, node, Guard::Present)? {
            label(object, &node);
        }
        Ok(())
    }
}

fn label(object: &mut Value, node: &Value) {
    let labels = get(get(node, "metadata"), "labels");
    for (name, _) in text_entries(get(node, "metadata"), "labels").filter(|(name, _)| LABELS.contains(name)) {
        set(child(child(object, "metadata"), "labels"), name, text(labels, name));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_nodes_place_is_copied_and_nothing_else() {
        let node = json!({"metadata": {"labels": {LABELS[0]: "z", "other": "o"}}});
        let mut pod = json!({"metadata": {"labels": {"a": "b", LABELS[0]: "x"}}});
        label(&mut pod, &node);
        assert_eq!(pod, json!({"metadata": {"labels": {"a": "b", LABELS[0]: "z"}}}));
        let mut bare = json!({});
        label(&mut bare, &json!({"metadata": {}}));
        assert_eq!(bare, json!({}));
    }
}
