//! Events for people: recorded beside the work, never in its way.
//!
//! Invariants
//! - Recording never waits and never fails its caller: a full queue drops the event and counts it.
//! - The same thing said again raises a count; it does not make another Event. Names are derived
//!   from what is said, so that this holds across leaders too.
//! - What is said on and on is written less and less often ([`Pace`]), with the whole count.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ObjectReference;
use kontiki_model::pace::Pace;
use kontiki_model::resource::EVENTS;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::clock::format_time;
use crate::{Client, PatchKind, Status, Target, Writer};

/// Events that may wait to be written. A controller that says more at once has a problem that the
/// first thousand describe well enough.
const QUEUE: usize = 1024;
/// Events written together.
const TOGETHER: usize = 16;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Said {
    namespace: String,
    name: String,
    uid: String,
    kind: String,
    component: &'static str,
    warning: bool,
    reason: String,
    message: String,
}

/// What limits how much is written about one object: upstream's spam filter looks at the same.
type Subject = (&'static str, String, String);

impl Said {
    fn subject(&self) -> Subject {
        (self.component, self.kind.clone(), format!("{}/{}/{}", self.namespace, self.name, self.uid))
    }
}

struct Occurrence {
    said: Said,
    regarding: ObjectReference,
    writer: Writer,
}

/// Occurrences of one thing that came in together.
struct Heap {
    regarding: ObjectReference,
    writer: Writer,
    count: u32,
}

/// Records events through a client. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Occurrence>,
    dropped: Arc<AtomicU64>,
    writer: Writer,
}

impl Recorder {
    /// A recorder whose writes are counted for `writer`, and the work behind it, which ends with the last clone or
    /// with `stop`.
    pub fn new(client: Client, writer: Writer, stop: CancellationToken) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, inbox) = mpsc::channel(QUEUE);
        (Self { queue, dropped: Arc::default(), writer }, run(client, inbox, stop))
    }

    /// The same recorder, for another writer.
    #[must_use]
    pub fn counted_for(&self, writer: Writer) -> Self {
        Self { writer, ..self.clone() }
    }

    /// Records that `reason` happened to `regarding`.
    pub fn record(
        &self,
        regarding: &ObjectReference,
        component: &'static str,
        warning: bool,
        reason: &str,
        message: &str,
    ) {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let said = Said {
            namespace: regarding.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".into()),
            name: text(&regarding.name),
            uid: text(&regarding.uid),
            kind: text(&regarding.kind),
            component,
            warning,
            reason: reason.to_owned(),
            message: message.chars().take(1024).collect(),
        };
        let occurrence = Occurrence { said, regarding: regarding.clone(), writer: self.writer };
        if self.queue.try_send(occurrence).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Events that were not recorded because too many were waiting.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

async fn run(client: Client, mut inbox: mpsc::Receiver<Occurrence>, stop: CancellationToken) {
    let mut batch = Vec::new();
    let mut pace: Pace<Subject, Said> = Pace::default();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // Cancel-safe: nothing is taken out when it is dropped.
            received = inbox.recv_many(&mut batch, QUEUE) => if received == 0 { return },
        }
        let now = Instant::now();
        let due = heaps(batch.drain(..)).into_iter().filter_map(|(said, heap)| {
            let telling = pace.happened(said.subject(), said.clone(), heap.count, now)?;
            Some((said, heap, telling.untold))
        });
        let writes = due.collect::<Vec<_>>().into_iter().map(|(said, heap, count)| {
            let client = client.counted_for(heap.writer);
            async move {
                if let Err(error) = write(&client, &said, &heap.regarding, count).await {
                    debug!(reason = said.reason, object = said.name, %error, "an event was not recorded");
                }
            }
        });
        futures::stream::iter(writes).buffer_unordered(TOGETHER).collect::<()>().await;
    }
}

fn heaps(batch: impl Iterator<Item = Occurrence>) -> HashMap<Said, Heap> {
    let mut heaps: HashMap<Said, Heap> = HashMap::new();
    for Occurrence { said, regarding, writer } in batch {
        heaps.entry(said).or_insert(Heap { regarding, writer, count: 0 }).count += 1;
    }
    heaps
}

/// `<object>.<hash of what is said>`.
fn event_name(said: &Said) -> String {
    let parts = [&said.uid, &said.kind, said.component, &said.reason, &said.message];
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0, u8::from(said.warning)]);
    }
    let hash: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let name: String = said.name.chars().take(200).collect();
    format!("{name}.{hash}")
}

async fn write(client: &Client, said: &Said, regarding: &ObjectReference, count: u32) -> Result<(), Status> {
    let name = event_name(said);
    let now = format_time(client.now());
    let target = Target { resource: EVENTS, namespace: Some(&said.namespace), name: &name, subresource: None };
    match client.get(target).await {
        Ok(old) => {
            let count = old["count"].as_u64().unwrap_or(0) + u64::from(count);
            let body = json!({"count": count, "lastTimestamp": now});
            client.patch(target, PatchKind::Merge, body).await.map(drop)
        }
        Err(error) if error.is_not_found() => {
            let event = event(said, regarding, &name, &now, count);
            client.create(EVENTS, Some(&said.namespace), event).await.map(drop)
        }
        Err(error) => Err(error),
    }
}

fn event(said: &Said, regarding: &ObjectReference, name: &str, now: &str, count: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": name, "namespace": said.namespace},
        "involvedObject": regarding,
        "reason": said.reason,
        "message": said.message,
        "type": if said.warning { "Warning" } else { "Normal" },
        "source": {"component": said.component},
        "reportingComponent": said.component,
        "reportingInstance": "",
        "firstTimestamp": now, "lastTimestamp": now, "count": count,
    })
}
