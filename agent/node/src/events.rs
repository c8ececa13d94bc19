//! Events about pods and the node, with kubelet's reasons and messages.
//!
//! Invariants
//! - The same thing said again within [`REMEMBERED`] distinct things raises the count of the first
//!   Event instead of making another.

use std::{collections::BTreeMap, sync::Mutex};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::outbox::Outbox;

const REMEMBERED: usize = 2000;

/// How an event is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Normal,
    Warning,
}

#[derive(Clone)]
struct Known {
    name: String,
    first: Timestamp,
    count: u32,
}

/// (object uid, reason, message, field path): events alike in these are counted, not repeated.
type Likeness = (String, &'static str, String, String);

/// Records events.
pub struct Recorder {
    node: String,
    known: Mutex<BTreeMap<Likeness, Known>>,
}

impl Recorder {
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self { node: node.to_owned(), known: Mutex::default() }
    }

    /// An event about a pod, or about one of its containers.
    pub fn pod(
        &self,
        outbox: &Outbox,
        pod: &Pod,
        container: Option<(&str, bool)>,
        kind: Kind,
        reason: &'static str,
        message: &str,
    ) {
        let meta = &pod.metadata;
        let own = |text: &Option<String>| text.clone().unwrap_or_default();
        let (namespace, name, uid) = (own(&meta.namespace), own(&meta.name), own(&meta.uid));
        let list = |init| if init { "initContainers" } else { "containers" };
        let path = container.map(|(name, init)| format!("spec.{}{{{name}}}", list(init)));
        let mut involved = json!({
            "kind": "Pod", "apiVersion": "v1", "namespace": namespace, "name": name, "uid": uid,
            "resourceVersion": meta.resource_version,
        });
        if let Some(path) = &path {
            involved["fieldPath"] = json!(path);
        }
        self.record(outbox, &namespace, &name, &uid, involved, path.unwrap_or_default(), kind, reason, message);
    }

    /// An event about this node.
    pub fn node(&self, outbox: &Outbox, kind: Kind, reason: &'static str, message: &str) {
        let involved = json!({"kind": "Node", "name": self.node, "uid": self.node});
        self.record(outbox, "default", &self.node, &self.node, involved, String::new(), kind, reason, message);
    }

    fn record(
        &self,
        outbox: &Outbox,
        namespace: &str,
        name: &str,
        uid: &str,
        involved: Value,
        path: String,
        kind: Kind,
        reason: &'static str,
        message: &str,
    ) {
        let now = Timestamp::now();
        let known = self.count((uid.to_owned(), reason, message.to_owned(), path), name, now);
        let seconds = |at: Timestamp| Timestamp::from_second(at.as_second()).unwrap_or(at).to_string();
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": known.name, "namespace": namespace},
            "involvedObject": involved,
            "reason": reason, "message": message,
            "type": match kind { Kind::Normal => "Normal", Kind::Warning => "Warning" },
            "source": {"component": "kubelet", "host": self.node},
            "reportingComponent": "kubelet", "reportingInstance": self.node,
            "firstTimestamp": seconds(known.first), "lastTimestamp": seconds(now),
            "count": known.count, "eventTime": null,
        });
        outbox.event(namespace, &known.name, event.to_string());
    }

    fn count(&self, key: (String, &'static str, String, String), name: &str, now: Timestamp) -> Known {
        let mut known = self.known.lock().expect("no holder panics");
        if known.len() >= REMEMBERED && !known.contains_key(&key) {
            known.clear(); // counts start anew; only their grouping is lost
        }
        let entry = known.entry(key).or_insert_with(|| Known {
            name: format!("{name}.{:x}{:04x}", now.as_nanosecond(), rand::random::<u16>()),
            first: now,
            count: 0,
        });
        entry.count += 1;
        entry.clone()
    }
}
