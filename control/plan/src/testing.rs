//! A model of a cluster for fixed-point tests: objects in a map, actions applied as the API would.
//!
//! Pods that are created come up ready at once, and deletion ends pods at once; what matters is
//! that a planner's own actions lead it to rest.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::{
    Container, Pod, PodCondition, PodSpec, PodStatus, PodTemplateSpec, ReplicationController, ReplicationControllerSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kontiki_model::{GroupResource, ObjectKey};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::action::{Action, Condition, Kind, key_of, to_value};
use crate::object::{Labels, controller_reference, time};

/// The time of all tests.
pub const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

/// A label map from `k=v` pairs.
pub fn map(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// Metadata of an object in namespace `ns`, an hour old.
pub fn meta(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.into()),
        namespace: Some("ns".into()),
        uid: Some(format!("uid-{name}")),
        resource_version: Some("1".into()),
        generation: Some(1),
        creation_timestamp: Some(time(Timestamp::new(NOW.as_second() - 3600, 0).unwrap())),
        ..ObjectMeta::default()
    }
}

/// A pod template with label `app: <app>`.
pub fn template(app: &str) -> PodTemplateSpec {
    let container = Container { name: "c".into(), image: Some("image".into()), ..Container::default() };
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(map(&[("app", app)])), ..ObjectMeta::default() }),
        spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }),
    }
}

pub fn selector(app: &str) -> LabelSelector {
    LabelSelector { match_labels: Some(map(&[("app", app)])), match_expressions: None }
}

pub fn replica_set(name: &str, replicas: i32) -> ReplicaSet {
    let spec = ReplicaSetSpec {
        replicas: Some(replicas),
        selector: selector(name),
        template: Some(template(name)),
        min_ready_seconds: None,
    };
    ReplicaSet { metadata: meta(name), spec, status: None }
}

pub fn replication_controller(name: &str, replicas: i32) -> ReplicationController {
    let spec = ReplicationControllerSpec {
        replicas: Some(replicas),
        selector: Some(map(&[("app", name)])),
        template: Some(template(name)),
        min_ready_seconds: None,
    };
    ReplicationController { metadata: meta(name), spec: Some(spec), status: None }
}

pub fn pod_condition(kind: &str, status: &str) -> PodCondition {
    PodCondition {
        type_: kind.into(),
        status: status.into(),
        last_transition_time: Some(time(Timestamp::new(NOW.as_second() - 60, 0).unwrap())),
        ..PodCondition::default()
    }
}

/// A ready pod on node `n1`.
pub fn pod(name: &str, labels: &[(&str, &str)]) -> Pod {
    let spec = template("").spec.map(|spec| PodSpec { node_name: Some("n1".into()), ..spec });
    let status = PodStatus {
        phase: Some("Running".into()),
        conditions: Some(vec![pod_condition("Ready", "True")]),
        pod_ip: Some("10.244.0.9".into()),
        ..PodStatus::default()
    };
    Pod { metadata: ObjectMeta { labels: Some(map(labels)), ..meta(name) }, spec, status: Some(status) }
}

/// Pods of the ReplicaSet `set`, from the tiny notation of its tests.
pub fn pods(set: &str, text: &str) -> Vec<Arc<Pod>> {
    text.split_whitespace()
        .map(|word| {
            let name = word.trim_end_matches(['!', '~', '.', '?', '^', '-']);
            let mut pod = pod(name, &[("app", set)]);
            pod.metadata.owner_references = Some(vec![controller_reference(&replica_set(set, 0))]);
            for mark in word[name.len()..].chars() {
                match mark {
                    '!' => pod.status.as_mut().unwrap().conditions = Some(vec![pod_condition("Ready", "False")]),
                    '~' => pod.metadata.deletion_timestamp = Some(time(NOW)),
                    '.' => pod.status.as_mut().unwrap().phase = Some("Failed".into()),
                    '?' => pod.metadata.owner_references = None,
                    '^' => pod.metadata.owner_references = Some(vec![controller_reference(&replica_set("other", 0))]),
                    _ => pod.metadata.labels = Some(map(&[("app", "changed")])),
                }
            }
            Arc::new(pod)
        })
        .collect()
}

/// Actions in short: `+name` creation, `-name` deletion, `patch name`, `status name`, `!Reason`.
pub fn show(actions: &[Action]) -> String {
    let words: Vec<String> = actions.iter().map(show_one).collect();
    words.join(" ")
}

fn show_one(action: &Action) -> String {
    match action {
        Action::Create { object, .. } => {
            let metadata = &object["metadata"];
            let name = metadata["name"].as_str().or(metadata["generateName"].as_str());
            format!("+{}", name.unwrap_or_default())
        }
        Action::Patch(patch) => format!("{} {}", patch.subresource.unwrap_or("patch"), patch.key.name),
        Action::FirstOf(choices) => {
            let words: Vec<String> = choices.iter().map(|(_, patch)| show_one(&Action::Patch(patch.clone()))).collect();
            format!("[{}]", words.join(" | "))
        }
        Action::Delete { key, .. } => format!("-{}", key.name),
        Action::FinalizeNamespace { name, .. } => format!("finalize {name}"),
        Action::Event(event) => format!("!{}", event.reason),
    }
}

/// All objects, and a log of what was done to them.
#[derive(Default)]
pub struct Cluster {
    objects: BTreeMap<ObjectKey, Value>,
    version: u64,
    log: String,
}

impl Cluster {
    pub fn add<K: Kind + Serialize>(&mut self, object: &K) {
        self.objects.insert(key_of(object), to_value(object));
    }

    pub fn list<K: Kind + DeserializeOwned>(&self) -> Vec<Arc<K>> {
        let mine = self.objects.iter().filter(|(key, _)| key.resource == K::URL_PATH_SEGMENT);
        mine.map(|(_, value)| Arc::new(serde_json::from_value(value.clone()).unwrap())).collect()
    }

    pub fn only<K: Kind + DeserializeOwned + Clone>(&self) -> K {
        K::clone(&self.list::<K>()[0])
    }

    pub fn trace(&self) -> &str {
        &self.log
    }

    /// Applies plans until one is empty; false if `turns` were not enough.
    pub fn settle(&mut self, turns: usize, mut plan: impl FnMut(&Self) -> Vec<Action>) -> bool {
        for _ in 0..turns {
            let actions = plan(self);
            let _ = writeln!(self.log, "{}", show(&actions));
            if actions.iter().all(|action| matches!(action, Action::Event(_))) {
                return true;
            }
            actions.into_iter().for_each(|action| self.apply(action));
        }
        false
    }

    pub fn apply(&mut self, action: Action) {
        match action {
            Action::Create { group, resource, namespace, object, .. } => {
                self.create(GroupResource { group, resource }, namespace.as_deref(), object);
            }
            Action::Patch(patch) => {
                let version = self.next();
                let Some(object) = self.objects.get_mut(&patch.key) else { return };
                let wanted = &patch.body["metadata"]["resourceVersion"];
                if !wanted.is_null() && *wanted != object["metadata"]["resourceVersion"] {
                    let _ = writeln!(self.log, "conflict {}", patch.key);
                    return;
                }
                let spec = object["spec"].clone();
                merge(object, &patch.body);
                object["metadata"]["resourceVersion"] = json!(version);
                if object["spec"] != spec {
                    let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
                    object["metadata"]["generation"] = json!(generation + 1);
                }
            }
            Action::FirstOf(choices) => {
                // Everything is allowed, and a signature is whatever it is.
                let Some((condition, mut patch)) = choices.into_iter().next() else { return };
                if matches!(condition, Condition::Signed(_)) {
                    patch.body["status"]["certificate"] = json!("AAEC");
                }
                self.apply(Action::Patch(patch));
            }
            Action::Delete { key, .. } => drop(self.objects.remove(&key)),
            Action::FinalizeNamespace { name, .. } => {
                self.objects.retain(|key, _| key.resource != "namespaces" || key.name != name);
            }
            Action::Event(_) => {}
        }
    }

    fn next(&mut self) -> String {
        self.version += 1;
        format!("v{}", self.version)
    }

    fn create(&mut self, resource: GroupResource<'_>, namespace: Option<&str>, mut object: Value) {
        let version = self.next();
        let metadata = &mut object["metadata"];
        if metadata["name"].is_null() {
            metadata["name"] = json!(format!("{}{version}", metadata["generateName"].as_str().unwrap()));
        }
        let name = metadata["name"].as_str().unwrap().to_owned();
        metadata["uid"] = json!(format!("uid-{name}"));
        metadata["resourceVersion"] = json!(version);
        metadata["generation"] = json!(1);
        metadata["creationTimestamp"] = json!(time(NOW));
        if resource.resource == "pods" {
            object["status"] = to_value(&pod("x", &[]).status);
        }
        self.objects.insert(ObjectKey::new(resource, namespace, &name), object);
    }
}

/// RFC 7386.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key.as_str()], value);
        }
    }
}
