//! Pods.

mod container;
mod evict;
mod qos;
mod resize;
mod status;
mod table;
mod update;

use serde_json::{Value, json};

use super::binding;
use super::cells::Cell;
use super::proxy;
use super::template::{self, Context, defaults, warnings};
use super::value::{
    carry_generation, child, copy, get, has, int, list, on, set, set_generation, some, some_mut, text, unset,
};
use super::vocab::{self, Errors};
use crate::{
    FieldError, Handler, Path, ResourceDef, Status, Strategy, Subresource, Verb, Verbs,
    apply::{Counted, Element},
    meta,
    resource::{names, without},
    subresource::{NodeCall, OnNode},
};

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        short: names(&["po"]),
        categories: names(&["all"]),
        fields: names(FIELDS),
        delete_returns_object: true,
        ..ResourceDef::new(("", "v1"), ("pods", "pod", "Pod"), SCHEMA, Pods)
    }
    .with_part("ephemeralcontainers", Verbs::PART)
    .with_part("resize", Verbs::PART)
    .with_part("status", Verbs::PART)
    .with(binding::subresource())
    .with(evict::subresource())
    .with(node_call("attach", "PodAttachOptions", NodeCall::Stream))
    .with(node_call("exec", "PodExecOptions", NodeCall::Stream))
    .with(node_call("log", "Pod", NodeCall::Log))
    .with(node_call("portforward", "PodPortForwardOptions", NodeCall::Stream))
    .with(proxy::subresource("PodProxyOptions", &proxy::PodProxy))
}

const SCHEMA: &str = "io.k8s.api.core.v1.Pod";

/// Fields that selectors may name. Upstream accepts `status.podIPs`, but no pod has a value for it.
const FIELDS: &[&str] = &[
    "spec.hostNetwork",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.nominatedNodeName",
    "status.phase",
    "status.podIP",
    "status.podIPs",
];

fn node_call(name: &'static str, kind: &'static str, call: NodeCall) -> Subresource {
    let verbs = match call {
        NodeCall::Log => Verbs::of(&[Verb::Get]),
        NodeCall::Stream => Verbs::of(&[Verb::Create, Verb::Get]),
    };
    let handler = Handler::Node(call, &Pods);
    Subresource { name: name.into(), group: "".into(), version: "v1".into(), kind: kind.into(), verbs, handler }
}

struct Pods;

/// What a write through one of the parts of a Pod counts for, where that is not what is usual.
fn counted(sub: Option<&str>) -> Option<Counted> {
    let field = |name: &str| Some(Element::field(name));
    let of_containers = |list: &str, part: &str| vec![field("spec"), field(list), None, field(part)];
    match sub? {
        "status" => Some(without(&["spec", "metadata.deletionTimestamp", "metadata.ownerReferences"])),
        "ephemeralcontainers" => Some(Counted::Only(vec![vec![field("spec"), field("ephemeralContainers")]])),
        "resize" => {
            let lists = ["containers", "initContainers"].into_iter();
            let parts = lists.flat_map(|list| ["resources", "resizePolicy"].map(|part| of_containers(list, part)));
            Some(Counted::Only(parts.collect()))
        }
        _ => None,
    }
}

impl Strategy for Pods {
    fn counted(&self, sub: Option<&str>) -> Option<Counted> {
        counted(sub)
    }

    fn default(&self, obj: &mut Value) {
        defaults::pod(obj);
        defaults::spec(child(obj, "spec"));
        addresses(child(obj, "status"));
    }

    fn prepare_create(&self, obj: &mut Value) {
        set_generation(obj, 1);
        template::scheduling::settle_label_keys(obj);
        template::profiles::from_annotations(obj);
        let class = qos::class(get(obj, "spec"));
        set(obj, "status", json!({"phase": "Pending", "qosClass": class}));
        if !list(&obj["spec"], "schedulingGates").is_empty() {
            let condition = json!({
                "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastProbeTime": null, "lastTransitionTime": null,
            });
            set(child(obj, "status"), "conditions", json!([condition]));
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        match sub {
            Some("status") => status::prepare(new, old),
            Some("ephemeralcontainers") => {
                keep_but(new, old, |pod, sent| copy(child(pod, "spec"), get(sent, "spec"), "ephemeralContainers"));
            }
            Some("resize") => keep_but(new, old, resize::take),
            _ => {
                copy(new, old, "status");
                // Whoever does not know them drops them.
                if !has(get(new, "spec"), "resources") {
                    copy(child(new, "spec"), get(old, "spec"), "resources");
                }
            }
        }
        let changed = new.get("spec") != old.get("spec");
        carry_generation(new, old, changed);
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        check_annotations(&mut errs, obj);
        check_spec(&mut errs, obj);
        let spec = get(obj, "spec");
        let path = Path::new("spec");
        if !list(spec, "ephemeralContainers").is_empty() {
            errs.push(FieldError::forbidden(path.child("ephemeralContainers"), "cannot be set on create"));
        }
        if !text(spec, "nodeName").is_empty() && !list(spec, "schedulingGates").is_empty() {
            let message = "cannot be set until all schedulingGates have been cleared";
            errs.push(FieldError::forbidden(path.child("nodeName"), message));
        }
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        if sub == Some("status") {
            return status::check(new, old);
        }
        let mut errs = meta::validate_object_meta(new, true, &|name, prefix| self.name_errors(name, prefix));
        check_annotations(&mut errs, new);
        // What it was is legal: most updates change the metadata alone.
        if new.get("spec") != old.get("spec") {
            check_spec(&mut errs, new);
        }
        if sub != Some("resize") {
            update::check_annotations(&mut errs, new, old);
        }
        match sub {
            Some("ephemeralcontainers") => update::check_ephemeral(&mut errs, new, old),
            Some("resize") => resize::check(&mut errs, new, old),
            _ => update::check(&mut errs, new, old),
        }
        errs
    }

    fn managed_generation(&self) -> bool {
        true
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        // People seldom change pods themselves, and others do so all the time.
        if old.is_some() {
            return out;
        }
        let messages = vocab::label_errors(text(get(obj, "metadata"), "name"));
        // A name that cannot be a host name is legal and still surprises.
        if !messages.is_empty() {
            let what = "this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended";
            out.push(format!("metadata.name: {what}: [{}]", messages.join(" ")));
        }
        out.extend(template::profiles::warnings(obj));
        out.extend(warnings::of(&Path::new(""), obj));
        out
    }

    fn status_warnings(&self, obj: &Value) -> Vec<String> {
        status::warnings(obj)
    }

    fn grace_period(&self, obj: &Value, requested: Option<i64>) -> Option<i64> {
        let spec = get(obj, "spec");
        let asked = requested.or_else(|| int(spec, "terminationGracePeriodSeconds")).unwrap_or(0);
        let over = ["Failed", "Succeeded"].contains(&text(get(obj, "status"), "phase"));
        // Nobody runs it: there is nothing to wait for.
        if text(spec, "nodeName").is_empty() || over { Some(0) } else { Some(if asked < 0 { 1 } else { asked }) }
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        table::row(obj)
    }

    fn field(&self, obj: &Value, path: &str) -> String {
        let (spec, status) = (get(obj, "spec"), get(obj, "status"));
        match path {
            "spec.hostNetwork" => on(spec, "hostNetwork").to_string(),
            "status.podIPs" => String::new(),
            _ => match path.split_once('.') {
                Some(("spec", field)) => text(spec, field).to_owned(),
                Some((_, field)) => text(status, field).to_owned(),
                None => String::new(),
            },
        }
    }
}

impl OnNode for Pods {
    fn node<'a>(&self, obj: &'a Value) -> &'a str {
        text(get(obj, "spec"), "nodeName")
    }

    fn container(&self, obj: &Value, wanted: &str) -> Result<String, Status> {
        container::choose(obj, wanted)
    }
}

fn check_annotations(errs: &mut Errors, obj: &Value) {
    let (meta, spec) = (get(obj, "metadata"), get(obj, "spec"));
    template::check_annotations(errs, &Path::new("metadata").child("annotations"), meta, spec);
}

/// What holds for a pod's spec at any time, and what templates are spared.
fn check_spec(errs: &mut Errors, obj: &Value) {
    let (meta, spec) = (get(obj, "metadata"), get(obj, "spec"));
    let path = Path::new("spec");
    template::spec::check(errs, &path, spec, Context { is_pod: true, pod_name: text(meta, "name") });
    if text(spec, "serviceAccountName").is_empty() {
        check_tokens(errs, &path.child("volumes"), spec);
    }
    for field in ["containers", "initContainers"] {
        template::containers::check_images(errs, &path, spec, field);
    }
}

fn check_tokens(errs: &mut Errors, path: &Path, spec: &Value) {
    for (i, volume) in list(spec, "volumes").iter().enumerate() {
        for (j, source) in list(get(volume, "projected"), "sources").iter().enumerate() {
            if has(source, "serviceAccountToken") {
                let path = path.index(i).child("projected").child("sources").index(j).child("serviceAccountToken");
                errs.push(FieldError::forbidden(path, "must not be specified when serviceAccountName is not set"));
            }
        }
    }
}

/// `podIP` is an old name of the first of `podIPs`: it wins where they disagree.
fn addresses(status: &mut Value) {
    let first = list(status, "podIPs").first().map(|ip| text(ip, "ip").to_owned());
    let ip = text(status, "podIP").to_owned();
    if !ip.is_empty() && first.as_deref() != Some(ip.as_str()) {
        set(status, "podIPs", json!([{ "ip": ip }]));
    } else if let (true, Some(first)) = (ip.is_empty(), first) {
        set(status, "podIP", first);
    }
}

/// The stored pod with one part of what was sent: the update of a subresource that owns only that
/// part. Identity and version are the sent ones, as they are preconditions.
fn keep_but(new: &mut Value, old: &Value, take: impl Fn(&mut Value, &Value)) {
    let sent = std::mem::replace(new, old.clone());
    for field in ["name", "namespace", "resourceVersion", "uid"] {
        copy(child(new, "metadata"), get(&sent, "metadata"), field);
    }
    take(new, &sent);
    if let Some(spec) = some_mut(new, "spec")
        && list(spec, "ephemeralContainers").is_empty()
        && some(spec, "ephemeralContainers").is_some()
    {
        unset(spec, "ephemeralContainers");
    }
}
