//! How long a pod stays on a node that is gone, unless it says so itself.

use kontiki_machinery::admission::{Lookup, Request, Step};
use kontiki_model::resource::PODS;
use serde_json::{Value, json};

use crate::{
    Status,
    rows::value::{child, fields, list, text},
};

/// Holds the seconds.
pub(super) struct DefaultTolerationSeconds(pub i64);

impl Step for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn admit(&self, request: &Request<'_>, pod: &mut Value, _cluster: &mut dyn Lookup) -> Result<(), Status> {
        if request.is(PODS) {
            tolerate(pod, self.0);
        }
        Ok(())
    }
}

/// Gives the pod the tolerations that keep it on a node that does not answer for `seconds`,
/// unless it brings its own.
fn tolerate(pod: &mut Value, seconds: i64) {
    let spec = child(pod, "spec");
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = list(spec, "tolerations").iter().any(|toleration| {
            [key, ""].contains(&text(toleration, "key")) && ["NoExecute", ""].contains(&text(toleration, "effect"))
        });
        if tolerated {
            continue;
        }
        let toleration = json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        let slot = fields(spec).entry("tolerations").or_insert_with(|| json!([]));
        if let Some(list) = slot.as_array_mut() {
            list.push(toleration);
        }
    }
}
