//! What an agent wants written, until it is written.
//!
//! Invariants
//! - Nothing is lost while the session lives: a write that could not be made (no leader, no quorum)
//!   is tried again. When the session ends the agent reports anew on the next.
//! - Of several reports about one object only the newest is written; two writes about one object
//!   never overlap.
//! - What waits is bounded (`bounds`): a report beyond that ends the session, an event is dropped.
//! - Every write is for one incarnation (uid) and made in the node's own name, so the API's rules for
//!   nodes apply to it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use kontiki_api::{Client, DeleteOptions, PatchKind, Status, Target};
use kontiki_model::GroupResource;
use kontiki_proto::node::{PodGone, Upsert};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    bounds::{self, Rate},
    cache::Caches,
    report,
};

/// Writes under way at once, per node.
const PARALLEL: usize = 8;
/// Events not yet written; more are dropped, oldest first, as events are best effort.
const EVENTS: usize = 1000;
const EVENT_ATTEMPTS: u32 = 5;
/// New events at once, and how often one more. An agent counts what repeats and sends it rarely.
const EVENT_RATE: (u32, Duration) = (500, Duration::from_millis(50));
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

const NODES: GroupResource<'static> = GroupResource { group: "", resource: "nodes" };
const PODS: GroupResource<'static> = GroupResource { group: "", resource: "pods" };
const EVENTS_RESOURCE: GroupResource<'static> = GroupResource { group: "", resource: "events" };

/// What a write is about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Subject {
    Node,
    Pod { namespace: String, name: String, uid: String },
}

/// The newest report about one subject.
#[derive(Clone, Default, Debug)]
struct Report {
    status: Option<Value>,
    /// Bytes of the status, as it came.
    size: usize,
    gone: bool,
}

struct State {
    pending: BTreeMap<Subject, Report>,
    /// Bytes of what is pending.
    size: usize,
    writing: BTreeSet<Subject>,
    events: VecDeque<(String, String, Value)>,
    event_rate: Rate,
    writing_event: bool,
}

impl State {
    /// Adds to the report about `subject`.
    fn report(&mut self, subject: Subject, status: Option<(Value, usize)>, gone: bool) -> Result<(), &'static str> {
        let known = self.pending.get(&subject);
        let size = self.size - known.map_or(0, |report| report.size) + status.as_ref().map_or(0, |(_, size)| *size);
        if (known.is_none() && self.pending.len() >= bounds::REPORTS) || size > bounds::REPORTED {
            return Err("the agent reports faster than can be written");
        }
        let report = self.pending.entry(subject).or_default();
        if let Some((status, bytes)) = status {
            (report.status, report.size, self.size) = (Some(status), bytes, size);
        }
        report.gone |= gone;
        Ok(())
    }

    fn take(&mut self, subject: &Subject) -> Option<Report> {
        let report = self.pending.remove(subject)?;
        self.size -= report.size;
        Some(report)
    }
}

enum Job {
    Report(Subject, Report),
    Event { namespace: String, name: String, event: Value },
}

/// Why an attempt did not succeed.
enum WriteFailure {
    /// It never will.
    Final(Status),
    /// It may soon.
    Retry(Status),
}

impl From<Status> for WriteFailure {
    fn from(status: Status) -> Self {
        match status.code {
            408 | 429 | 500 | 502 | 503 | 504 => Self::Retry(status),
            _ => Self::Final(status),
        }
    }
}

/// One session's writes.
pub struct Outbox {
    node: String,
    client: Client,
    caches: Arc<Caches>,
    began: Instant,
    state: Mutex<State>,
    changed: Notify,
}

impl Outbox {
    /// An empty outbox of `node`; `client` acts as the node.
    #[must_use]
    pub fn new(node: &str, client: Client, caches: Arc<Caches>) -> Self {
        let state = State {
            pending: BTreeMap::new(),
            size: 0,
            writing: BTreeSet::new(),
            events: VecDeque::new(),
            event_rate: Rate::new(EVENT_RATE.0, EVENT_RATE.1),
            writing_event: false,
        };
        let (state, changed) = (Mutex::new(state), Notify::new());
        Self { node: node.to_owned(), client, caches, began: Instant::now(), state, changed }
    }

    /// Takes a status. Malformed ones, and those that are too large, are dropped with a warning: the agent is at fault.
    ///
    /// # Errors
    /// Too much waits to be written: the session is to end.
    pub fn status(&self, upsert: Upsert) -> Result<(), &'static str> {
        let size = upsert.json.len();
        if size > bounds::STATUS {
            warn!(node = self.node, name = upsert.name, size, "the agent sent a status that is too large");
            return Ok(());
        }
        let Ok(status) = serde_json::from_str::<Value>(&upsert.json) else {
            warn!(node = self.node, name = upsert.name, "the agent sent a status that is not JSON");
            return Ok(());
        };
        let subject = match upsert.kind.as_str() {
            "Node" => Subject::Node,
            "Pod" => Subject::Pod { namespace: upsert.namespace, name: upsert.name, uid: upsert.uid },
            kind => {
                warn!(node = self.node, kind, "the agent sent a status of an unknown kind");
                return Ok(());
            }
        };
        self.state.lock().report(subject, Some((status, size)), false)?;
        self.changed.notify_one();
        Ok(())
    }

    /// Takes the news that a pod's containers are gone.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn pod_gone(&self, gone: PodGone) -> Result<(), &'static str> {
        let subject = Subject::Pod { namespace: gone.namespace, name: gone.name, uid: gone.uid };
        self.state.lock().report(subject, None, true)?;
        self.changed.notify_one();
        Ok(())
    }

    /// Takes an event, unless it is too large or there are too many: events are best effort.
    pub fn event(&self, upsert: Upsert) {
        if upsert.json.len() > bounds::EVENT || !self.state.lock().event_rate.admits(self.began.elapsed()) {
            debug!(node = self.node, name = upsert.name, "an event is dropped");
            return;
        }
        let Ok(event) = serde_json::from_str::<Value>(&upsert.json) else {
            warn!(node = self.node, name = upsert.name, "the agent sent an event that is not JSON");
            return;
        };
        let mut state = self.state.lock();
        if state.events.len() == EVENTS {
            state.events.pop_front();
        }
        state.events.push_back((upsert.namespace, upsert.name, event));
        drop(state);
        self.changed.notify_one();
    }

    /// Writes until `stop`.
    pub async fn drain(&self, stop: &CancellationToken) {
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < PARALLEL
                && let Some(job) = self.take()
            {
                running.push(self.perform(job));
            }
            tokio::select! {
                () = stop.cancelled() => return,
                // Cancel-safe: a lost wake-up is made good by the look at the state above.
                () = self.changed.notified() => {}
                Some(()) = running.next(), if !running.is_empty() => {}
            }
        }
    }

    fn take(&self) -> Option<Job> {
        let mut state = self.state.lock();
        let free = state.pending.keys().find(|subject| !state.writing.contains(*subject)).cloned();
        if let Some(subject) = free {
            let report = state.take(&subject)?;
            state.writing.insert(subject.clone());
            return Some(Job::Report(subject, report));
        }
        // Events go one at a time: the same one may be counted up twice in a row.
        if state.writing_event {
            return None;
        }
        let (namespace, name, event) = state.events.pop_front()?;
        state.writing_event = true;
        Some(Job::Event { namespace, name, event })
    }

    async fn perform(&self, job: Job) {
        match job {
            Job::Report(subject, mut report) => {
                let mut backoff = BACKOFF.0;
                while let Err(failure) = self.write(&subject, &report).await {
                    match failure {
                        WriteFailure::Final(status) => {
                            warn!(node = self.node, ?subject, reason = status.message, "a report was refused");
                            break;
                        }
                        WriteFailure::Retry(status) => {
                            debug!(node = self.node, ?subject, reason = status.message, "a report waits")
                        }
                    }
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF.1);
                    // What was reported meanwhile replaces what could not be written.
                    if let Some(newer) = self.state.lock().take(&subject) {
                        report.status = newer.status.or(report.status);
                        report.gone |= newer.gone;
                    }
                }
                self.state.lock().writing.remove(&subject);
            }
            Job::Event { namespace, name, event } => {
                for attempt in 1..=EVENT_ATTEMPTS {
                    match self.write_event(&namespace, &name, &event).await {
                        Ok(()) => break,
                        Err(WriteFailure::Final(status)) => {
                            debug!(node = self.node, name, reason = status.message, "an event was refused");
                            break;
                        }
                        Err(WriteFailure::Retry(_)) => tokio::time::sleep(BACKOFF.0 * 2u32.pow(attempt)).await,
                    }
                }
                self.state.lock().writing_event = false;
            }
        }
    }

    async fn write(&self, subject: &Subject, report: &Report) -> Result<(), WriteFailure> {
        match subject {
            Subject::Node => match &report.status {
                Some(status) => self.write_node(status).await,
                None => Ok(()),
            },
            Subject::Pod { namespace, name, uid } => {
                // The last status goes before the object: whoever watches sees how the pod ended.
                if let Some(status) = &report.status {
                    match self.write_pod(namespace, name, uid, status).await {
                        Err(WriteFailure::Final(status)) if report.gone => {
                            debug!(reason = status.message, "a last status was refused")
                        }
                        outcome => outcome?,
                    }
                }
                if report.gone { self.remove_pod(namespace, name, uid).await } else { Ok(()) }
            }
        }
    }

    async fn write_node(&self, status: &Value) -> Result<(), WriteFailure> {
        let target = Target { resource: NODES, namespace: None, name: &self.node, subresource: None };
        self.write_status(target, self.caches.node(&self.node), None, |old| report::node_status(old, status)).await
    }

    async fn write_pod(&self, namespace: &str, name: &str, uid: &str, status: &Value) -> Result<(), WriteFailure> {
        let target = Target { resource: PODS, namespace: Some(namespace), name, subresource: None };
        let cached = self.caches.pods.get(Some(namespace), name).map(|pod| pod.text.value());
        self.write_status(target, cached, Some(uid), |old| report::pod_status(old, status)).await
    }

    /// Replaces the status of one object, first over what the cache shows, then over what a read does.
    async fn write_status(
        &self,
        target: Target<'_>,
        cached: Option<Value>,
        uid: Option<&str>,
        lay_over: impl Fn(&Value) -> Value,
    ) -> Result<(), WriteFailure> {
        let mut current = cached;
        for _ in 0..4 {
            let certain = current.is_none();
            let mut object = match current.take() {
                Some(object) => object,
                None => match self.client.get(target).await {
                    Err(status) if status.is_not_found() => return Ok(()),
                    read => read?,
                },
            };
            if uid.is_some_and(|uid| object["metadata"]["uid"] != uid) {
                if certain {
                    return Ok(()); // Another incarnation: the report is about one that is gone.
                }
                continue;
            }
            let status = lay_over(&object["status"]);
            if object["status"] == status {
                if certain {
                    return Ok(());
                }
                // The cache may show an older state: only a read proves that nothing is to be written.
                continue;
            }
            object["status"] = status;
            match self.client.update(Target { subresource: Some("status"), ..target }, object).await {
                Err(status) if status.is_conflict() => continue,
                Err(status) if status.is_not_found() => return Ok(()),
                outcome => return Ok(outcome.map(drop)?),
            }
        }
        Err(WriteFailure::Retry(Status::failure(409, "Conflict", "the object keeps changing")))
    }

    async fn remove_pod(&self, namespace: &str, name: &str, uid: &str) -> Result<(), WriteFailure> {
        let target = Target { resource: PODS, namespace: Some(namespace), name, subresource: None };
        let options = DeleteOptions {
            grace_period_seconds: Some(0),
            precondition_uid: Some(uid.to_owned()),
            ..DeleteOptions::default()
        };
        match self.client.delete(target, options).await {
            // Gone, or another incarnation by now.
            Err(status) if status.is_not_found() => Ok(()),
            Err(status) if status.is_conflict() => self.still_there(target, uid).await,
            outcome => Ok(outcome.map(drop)?),
        }
    }

    /// A conflict means another uid, or a change at the same moment: only the latter is worth a retry.
    async fn still_there(&self, target: Target<'_>, uid: &str) -> Result<(), WriteFailure> {
        match self.client.get(target).await {
            Ok(object) if object["metadata"]["uid"] == uid => {
                Err(WriteFailure::Retry(Status::failure(409, "Conflict", "the pod changed while it was removed")))
            }
            Ok(_) => Ok(()),
            Err(status) if status.is_not_found() => Ok(()),
            Err(status) => Err(status.into()),
        }
    }

    async fn write_event(&self, namespace: &str, name: &str, event: &Value) -> Result<(), WriteFailure> {
        match self.client.create(EVENTS_RESOURCE, Some(namespace), event.clone()).await {
            Err(status) if status.is_already_exists() => {}
            outcome => return Ok(outcome.map(drop)?),
        }
        // The same event again: only what tells how often and when.
        let mut patch = json!({});
        for field in ["count", "lastTimestamp", "message", "series"] {
            if let Some(value) = event.get(field) {
                patch[field] = value.clone();
            }
        }
        let target = Target { resource: EVENTS_RESOURCE, namespace: Some(namespace), name, subresource: None };
        Ok(self.client.patch(target, PatchKind::Merge, patch).await.map(drop)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State {
            pending: BTreeMap::new(),
            size: 0,
            writing: BTreeSet::new(),
            events: VecDeque::new(),
            event_rate: Rate::new(1, Duration::from_secs(1)),
            writing_event: false,
        }
    }

    fn pod(number: usize) -> Subject {
        Subject::Pod { namespace: "a".to_owned(), name: number.to_string(), uid: "u".to_owned() }
    }

    #[test]
    fn what_waits_is_bounded_by_number_and_bytes() {
        let (mut many, mut large) = (state(), state());
        let refused = (0..10_000).position(|number| many.report(pod(number), None, true).is_err());
        assert_eq!(refused, Some(bounds::REPORTS), "of pods that need not exist");
        assert!(many.report(pod(0), Some((json!({}), 2)), false).is_ok(), "what is known may say more");
        let status = || Some((json!({}), bounds::STATUS));
        let refused = (0..10_000).position(|number| large.report(pod(number), status(), false).is_err());
        assert_eq!(refused, Some(bounds::REPORTED / bounds::STATUS));
        assert!(large.report(pod(1), status(), false).is_ok(), "the newest takes the place of the one before");
        assert!(large.take(&pod(0)).is_some());
        assert!(large.report(pod(20_000), status(), false).is_ok(), "what is written leaves its room");
        while let Some(subject) = large.pending.keys().next().cloned() {
            large.take(&subject);
        }
        assert_eq!(large.size, 0);
    }
}
