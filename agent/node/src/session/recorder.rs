//! Events about pods, with kubelet's reasons and messages, and about Services.
//!
//! Invariants
//! - The same thing said again within [`REMEMBERED`] distinct things raises the count of the first
//!   Event instead of making another.
//! - What is said on and on is sent less and less often ([`Pace`]), with the whole count.

use std::{collections::HashMap, sync::Mutex, time::Instant};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Pod, Service},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kontiki_agent_plan::rules;
use kontiki_model::pace::Pace;
use serde_json::json;

use super::outbox::Outbox;

const REMEMBERED: usize = 2000;

/// The `type` of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum EventType {
    Normal,
    Warning,
}

/// The Event that all repetitions of one thing are counted in.
#[derive(Clone)]
struct Known {
    name: String,
    first: Timestamp,
}

/// What an event is about, and who says it.
struct About<'a> {
    kind: &'static str,
    meta: &'a ObjectMeta,
    /// The part of it.
    path: Option<String>,
    component: &'static str,
}

/// (object uid, reason, message, field path): events alike in these are counted, not repeated.
type EventKey = (String, &'static str, String, String);

#[derive(Default)]
struct State {
    pace: Pace<String, EventKey>,
    known: HashMap<EventKey, Known>,
}

/// Records events.
pub struct Recorder {
    node: String,
    state: Mutex<State>,
}

impl Recorder {
    pub(crate) fn new(node: &str) -> Self {
        Self { node: node.to_owned(), state: Mutex::default() }
    }

    /// An event about a pod, or about one of its containers.
    pub(crate) fn pod(
        &self,
        outbox: &Outbox,
        pod: &Pod,
        container: Option<&str>,
        type_: EventType,
        reason: &'static str,
        message: &str,
    ) {
        let list = |name| pod.spec.as_ref().map_or("containers", |spec| rules::list_of(spec, name));
        let path = container.map(|name| format!("spec.{}{{{name}}}", list(name)));
        let about = About { kind: "Pod", meta: &pod.metadata, path, component: "kubelet" };
        self.record(outbox, about, type_, reason, message);
    }

    /// A warning about a Service.
    pub(crate) fn service(
        &self,
        outbox: &Outbox,
        service: &Service,
        component: &'static str,
        reason: &'static str,
        message: &str,
    ) {
        let about = About { kind: "Service", meta: &service.metadata, path: None, component };
        self.record(outbox, about, EventType::Warning, reason, message);
    }

    fn record(&self, outbox: &Outbox, about: About<'_>, type_: EventType, reason: &'static str, message: &str) {
        let About { kind, meta, path, component } = about;
        let own = |text: &Option<String>| text.clone().unwrap_or_default();
        let (namespace, name, uid) = (own(&meta.namespace), own(&meta.name), own(&meta.uid));
        let mut involved = json!({
            "kind": kind, "apiVersion": "v1", "namespace": namespace, "name": name, "uid": uid,
            "resourceVersion": meta.resource_version,
        });
        if let Some(path) = &path {
            involved["fieldPath"] = json!(path);
        }
        let now = Timestamp::now();
        let like = (uid, reason, message.to_owned(), path.unwrap_or_default());
        let Some((known, count)) = self.count(like, &name, now) else { return };
        let seconds = |at: Timestamp| Timestamp::from_second(at.as_second()).unwrap_or(at).to_string();
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": known.name, "namespace": namespace},
            "involvedObject": involved,
            "reason": reason, "message": message,
            "type": match type_ { EventType::Normal => "Normal", EventType::Warning => "Warning" },
            "source": {"component": component, "host": self.node},
            "reportingComponent": component, "reportingInstance": self.node,
            "firstTimestamp": seconds(known.first), "lastTimestamp": seconds(now),
            "count": count, "eventTime": null,
        });
        outbox.event(&namespace, &known.name, event.to_string());
    }

    /// The Event to write, and how often it happened; `None`: not now.
    fn count(&self, like: EventKey, name: &str, now: Timestamp) -> Option<(Known, u32)> {
        let mut state = self.state.lock().expect("no holder panics");
        let telling = state.pace.happened(like.0.clone(), like.clone(), 1, Instant::now())?;
        if state.known.len() >= REMEMBERED {
            state.known.clear(); // counts go on in another Event
        }
        let fresh =
            || Known { name: format!("{name}.{:x}{:04x}", now.as_nanosecond(), rand::random::<u16>()), first: now };
        if telling.count == telling.untold {
            state.known.remove(&like); // the Event that it had has expired
        }
        Some((state.known.entry(like).or_insert_with(fresh).clone(), telling.count))
    }
}

#[cfg(test)]
mod tests {
    use kontiki_proto::node::from_agent::Message;
    use serde_json::Value;

    use super::*;

    #[test]
    fn repetitions_share_an_event_and_become_rare() {
        let (recorder, outbox) = (Recorder::new("n1"), Outbox::default());
        let pod = Pod::default();
        for _ in 0..100 {
            recorder.pod(&outbox, &pod, None, EventType::Warning, "BackOff", "again");
        }
        recorder.pod(&outbox, &pod, None, EventType::Warning, "BackOff", "something else");
        let sent: Vec<(String, u64)> = outbox
            .take()
            .into_iter()
            .map(|message| {
                let Some(Message::Event(event)) = message.message else { panic!("not an event") };
                let json: Value = serde_json::from_str(&event.json).expect("JSON");
                (event.name, json["count"].as_u64().expect("a count"))
            })
            .collect();
        assert_eq!(sent.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [1, 2, 3, 1]);
        assert!(sent[0].0 == sent[2].0 && sent[0].0 != sent[3].0, "{sent:?}");
    }

    #[test]
    fn a_service_is_told_of_in_its_namespace() {
        let (recorder, outbox) = (Recorder::new("n1"), Outbox::default());
        let metadata = ObjectMeta {
            name: Some("web".into()),
            namespace: Some("shop".into()),
            uid: Some("u".into()),
            ..ObjectMeta::default()
        };
        let service = Service { metadata, ..Service::default() };
        recorder.service(&outbox, &service, "announcer", "AddressInUse", "by another");
        let sent = outbox.take();
        let [only] = &sent[..] else { panic!("one event: {sent:?}") };
        let Some(Message::Event(event)) = &only.message else { panic!("not an event") };
        let json: Value = serde_json::from_str(&event.json).expect("JSON");
        let about = json["involvedObject"]["kind"].as_str();
        assert_eq!((&*event.namespace, about, &json["involvedObject"]["uid"]), ("shop", Some("Service"), &json!("u")));
        assert_eq!(
            (&json["type"], &json["source"]),
            (&json!("Warning"), &json!({"component": "announcer", "host": "n1"}))
        );
    }
}
