//! Pod specs, wherever they stand: in a Pod, or as the template of a Deployment or ReplicaSet.
//!
//! Defaulting and validation follow upstream's `pkg/apis/core/v1/defaults.go` and
//! `pkg/apis/core/validation/validation.go`, finding for finding. One walk, many files: each
//! part of a spec (volumes, containers, probes, …) has its own.

pub mod containers;
mod credentials;
pub mod defaults;
pub mod env;
pub mod mounts;
mod overlaps;
pub mod probes;
pub mod profiles;
pub mod resources;
pub mod scheduling;
pub mod security;
pub mod spec;
pub mod volumes;
pub mod warnings;

use serde_json::Value;

use super::selector;
use super::value::{at, get, has, list, text};
use super::vocab::{self, Errors};
use crate::{Bad, FieldError, Path};

/// Where a spec stands.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// In a Pod itself, not in a template.
    pub is_pod: bool,
    /// Name of that pod; empty in templates.
    pub pod_name: &'a str,
}

impl Context<'_> {
    /// A template's spec.
    pub const TEMPLATE: Context<'static> = Context { is_pod: false, pod_name: "" };
}

/// Checks a pod template.
pub fn check(errs: &mut Errors, path: &Path, template: &Value) {
    let meta = get(template, "metadata");
    vocab::labels(errs, &path.child("labels"), get(meta, "labels"));
    errs.extend(crate::meta::validate_annotations(get(meta, "annotations"), &path.child("annotations")));
    let pod_spec = get(template, "spec");
    check_annotations(errs, &path.child("annotations"), meta, pod_spec);
    spec::check(errs, &path.child("spec"), pod_spec, Context::TEMPLATE);
    if !list(pod_spec, "ephemeralContainers").is_empty() {
        let message = "ephemeral containers not allowed in pod template";
        errs.push(FieldError::forbidden(path.child("spec").child("ephemeralContainers"), message));
    }
}

/// Checks the annotations that say something about a pod.
pub fn check_annotations(errs: &mut Errors, path: &Path, meta: &Value, spec: &Value) {
    let annotation = |key| at(meta, &["annotations"]).get(key).and_then(Value::as_str);
    if let Some(mirror) = annotation("kubernetes.io/config.mirror")
        && text(spec, "nodeName").is_empty()
    {
        let message = "must set spec.nodeName if mirror pod annotation is set";
        errs.push(FieldError::invalid(path.key("kubernetes.io/config.mirror"), mirror, message));
    }
    const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
    if let Some(cost) = annotation(COST) {
        let plain = !cost.starts_with('+') && (cost == "0" || !cost.trim_start_matches('-').starts_with('0'));
        if !plain || cost.parse::<i32>().is_err() {
            errs.push(FieldError::invalid(path.key(COST), cost, "must be a 32bit integer"));
        }
    }
}

/// Checks the template of a set (of `kind`) of pods that `set_selector` must find. `emptied` says that an
/// update took the labels away, which upstream shows as an empty map and not as null.
pub fn check_for_set(
    errs: &mut Errors,
    path: &Path,
    template: &Value,
    set_selector: &Value,
    kind: &str,
    emptied: bool,
) {
    check_fit(errs, path, template, set_selector, emptied);
    check_of_set(errs, path, template, kind);
}

/// Checks that the labels of a template are those that `set_selector` looks for. `emptied`: see [`check_for_set`].
pub fn check_fit(errs: &mut Errors, path: &Path, template: &Value, set_selector: &Value, emptied: bool) {
    // No selector at all matches nothing; an empty one is refused elsewhere.
    let wanted = if set_selector.is_null() { None } else { selector::parse(set_selector) };
    let labels = at(template, &["metadata", "labels"]);
    let unmatched = match &wanted {
        None => true,
        Some(wanted) => !wanted.is_empty() && !selector::matches(wanted, labels),
    };
    if unmatched {
        let shown = if labels.is_null() && emptied { Bad::Raw("{}".into()) } else { Bad::Json(labels.clone()) };
        let message = "`selector` does not match template `labels`";
        errs.push(FieldError::invalid(path.child("metadata").child("labels"), shown, message));
    }
}

/// Checks a template whose pods a set (of `kind`) keeps running.
pub fn check_of_set(errs: &mut Errors, path: &Path, template: &Value, kind: &str) {
    check(errs, path, template);
    let pod_spec = get(template, "spec");
    let spec_path = path.child("spec");
    let policy = text(pod_spec, "restartPolicy");
    if policy != "Always" {
        errs.push(FieldError::not_supported(spec_path.child("restartPolicy"), policy, &["Always"]));
    }
    if has(pod_spec, "activeDeadlineSeconds") {
        let message = format!("activeDeadlineSeconds in {kind} is not Supported");
        errs.push(FieldError::forbidden(spec_path.child("activeDeadlineSeconds"), message));
    }
}

/// All containers of a spec with their paths: init, regular, ephemeral.
pub fn every_container<'a>(spec: &'a Value, path: &'a Path) -> impl Iterator<Item = (&'a Value, Path)> + 'a {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(move |field| {
        let path = path.child(field);
        list(spec, field).iter().enumerate().map(move |(i, container)| (container, path.index(i)))
    })
}

/// Names and images of the regular containers, joined, as tables show them.
#[must_use]
pub fn show_containers(template: &Value) -> (String, String) {
    let containers = list(get(template, "spec"), "containers");
    let join = |field| containers.iter().map(|c| text(c, field)).collect::<Vec<_>>().join(",");
    (join("name"), join("image"))
}
