//! RuntimeClasses.

use serde_json::{Value, json};

use super::cells::{self, Cell};
use super::template::{resources, scheduling, warnings};
use super::value::{entries, get, list, text};
use super::vocab::{self, Errors};
use crate::{Bad, FieldError, Path, ResourceDef, Scope, Strategy, meta};

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        scope: Scope::Cluster,
        ..ResourceDef::new(
            ("node.k8s.io", "v1"),
            ("runtimeclasses", "runtimeclass", "RuntimeClass"),
            "io.k8s.api.node.v1.RuntimeClass",
            RuntimeClasses,
        )
    }
}

struct RuntimeClasses;

impl Strategy for RuntimeClasses {
    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let labels = entries(get(obj, "scheduling"), "nodeSelector");
        let messages = labels.filter_map(|(key, _)| warnings::deprecated_label(key));
        messages.map(|message| format!("scheduling.nodeSelector: {message}")).collect()
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let handler = text(obj, "handler");
        if handler.is_empty() {
            errs.push(FieldError::required("handler", ""));
        } else {
            vocab::label(&mut errs, &Path::new("handler"), handler);
        }
        let overhead = json!({"limits": get(get(obj, "overhead"), "podFixed")});
        let path = Path::new("overhead").child("podFixed");
        resources::check(&mut errs, &path, &overhead, resources::Of::Container, &[]);
        check_scheduling(&mut errs, &Path::new("scheduling"), get(obj, "scheduling"));
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = meta::validate_object_meta(new, false, &|name, prefix| self.name_errors(name, prefix));
        vocab::immutable(&mut errs, "handler", get(new, "handler"), get(old, "handler"));
        errs
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        vec![cells::name(obj), cells::of(text(obj, "handler")), cells::age(obj)]
    }
}

fn check_scheduling(errs: &mut Errors, path: &Path, rules: &Value) {
    vocab::labels(errs, &path.child("nodeSelector"), get(rules, "nodeSelector"));
    let (path, tolerations) = (path.child("tolerations"), list(rules, "tolerations"));
    scheduling::check_tolerations(errs, &path, tolerations);
    for (i, toleration) in tolerations.iter().enumerate() {
        if tolerations[..i].contains(toleration) {
            errs.push(FieldError::duplicate(path.index(i), Bad::Raw(shown(toleration))));
        }
    }
}

/// A toleration as upstream's internal type prints it.
fn shown(toleration: &Value) -> String {
    let field = |name: &str| json!(text(toleration, name));
    format!(
        "{{\"Key\":{},\"Operator\":{},\"Value\":{},\"Effect\":{},\"TolerationSeconds\":{}}}",
        field("key"),
        field("operator"),
        field("value"),
        field("effect"),
        get(toleration, "tolerationSeconds"),
    )
}
