//! Which container of a pod is meant.

use serde_json::Value;

use super::super::value::{annotation, get, list, text};
use crate::Status;

fn names<'a>(pod: &'a Value, field: &str) -> Vec<&'a str> {
    list(get(pod, "spec"), field).iter().map(|container| text(container, "name")).collect()
}

/// The container that is meant: the one named, or the only one, or the annotated default.
pub(super) fn choose(pod: &Value, wanted: &str) -> Result<String, Status> {
    let pod_name = text(get(pod, "metadata"), "name");
    let regular = names(pod, "containers");
    let (init, ephemeral) = (names(pod, "initContainers"), names(pod, "ephemeralContainers"));
    if !wanted.is_empty() {
        let known = regular.contains(&wanted) || init.contains(&wanted) || ephemeral.contains(&wanted);
        let unknown = || Status::bad_request(format!("container {wanted} is not valid for pod {pod_name}"));
        return if known { Ok(wanted.to_owned()) } else { Err(unknown()) };
    }
    let default = annotation(pod, "kubectl.kubernetes.io/default-container");
    if let Some(default) = default.filter(|name| regular.contains(name)) {
        return Ok(default.to_owned());
    }
    match (regular.as_slice(), init.is_empty()) {
        ([only], true) => Ok((*only).to_owned()),
        ([], _) => Err(Status::bad_request(format!("a container name must be specified for pod {pod_name}"))),
        (all, _) => {
            let mut text =
                format!("a container name must be specified for pod {pod_name}, choose one of: [{}]", all.join(" "));
            if !init.is_empty() {
                text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(Status::bad_request(text))
        }
    }
}
