//! What nodes say of what they and what runs on them use, as measured kinds are made of.
//!
//! Invariants
//! - Nothing is stored, and nobody is asked unless somebody wants to know; a node no more often than every [`RESOLUTION`],
//!   however many want to.
//! - CPU is what was used between two answers of a node. The first answer after a while has nothing to be compared with:
//!   then it is what the node itself says of the time just before.
//! - A node that is slow, silent or says too much costs its own numbers and nobody else's, and is left alone for
//!   [`PAUSE`].
//! - Kept is one answer's numbers for each node that somebody asked about within [`KEEP`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt as _};
use jiff::Timestamp;
use kontiki_machinery::measured::{Measurement, Usage};
use kontiki_proto::node::{Open, Stats, open::What};
use parking_lot::Mutex as Short;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::{timeout, timeout_at};

use crate::node_proxy::{NodeProxy, NodeProxyError};

/// An answer that old is good enough; metrics-server asks as often.
const RESOLUTION: Duration = Duration::from_secs(15);
/// How long a node that did not answer is not asked again.
const PAUSE: Duration = Duration::from_secs(5);
/// For one node's answer: it looks twice, a second apart, if nobody asked before.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long answers are kept that nobody asks for.
const KEEP: Duration = Duration::from_secs(120);
/// Longest answer that is taken: some thousand containers.
const MOST: usize = 8 << 20;
/// Nodes that are asked at once.
const AT_ONCE: usize = 64;
/// The least time between two answers that are compared: less says little.
const SHORTEST: Duration = Duration::from_secs(1);
/// For how long a node's own rate is, at least.
const JUST_BEFORE: Duration = Duration::from_secs(1);

/// The last answers of nodes.
#[derive(Default)]
pub(crate) struct Answers {
    nodes: Short<HashMap<String, Wanted>>,
}

struct Wanted {
    last: Instant,
    /// Whoever holds it asks; others wait and have the same answer.
    answer: Arc<Mutex<Answer>>,
}

#[derive(Default)]
struct Answer {
    /// When the node was asked last, and whether it answered.
    asked: Option<(Instant, bool)>,
    said: Option<Arc<Measurement>>,
    totals: Totals,
}

/// CPU time until a moment, in nanoseconds, of each container (the object's uid and its own name), and of all (no names).
type Totals = HashMap<(String, String), (Timestamp, u64)>;

impl Answers {
    /// What these nodes say, without those that say nothing until `deadline`.
    pub async fn of(
        &self,
        proxy: &dyn NodeProxy,
        nodes: BTreeSet<String>,
        deadline: Instant,
    ) -> BTreeMap<String, Arc<Measurement>> {
        self.forget();
        let ask = |node: String| async move {
            let said = self.ask(proxy, &node).await?;
            Some((node, said))
        };
        let mut answers = stream::iter(nodes.into_iter().map(ask)).buffer_unordered(AT_ONCE);
        let mut found = BTreeMap::new();
        while let Ok(Some(answer)) = timeout_at(deadline.into(), answers.next()).await {
            found.extend(answer);
        }
        found
    }

    fn forget(&self) {
        self.nodes.lock().retain(|_, wanted| wanted.last.elapsed() < KEEP);
    }

    fn wanted(&self, node: &str) -> Arc<Mutex<Answer>> {
        let mut nodes = self.nodes.lock();
        let fresh = || Wanted { last: Instant::now(), answer: Arc::default() };
        let wanted = nodes.entry(node.to_owned()).or_insert_with(fresh);
        wanted.last = Instant::now();
        Arc::clone(&wanted.answer)
    }

    async fn ask(&self, proxy: &dyn NodeProxy, node: &str) -> Option<Arc<Measurement>> {
        let wanted = self.wanted(node);
        let mut answer = wanted.lock().await;
        let enough = |(at, answered): (Instant, bool)| at.elapsed() < if answered { RESOLUTION } else { PAUSE };
        if answer.asked.is_some_and(enough) {
            return answer.said.clone();
        }
        let document = document(proxy, node, "").await;
        let summary = document.map_err(|error| error.message).and_then(|document| Summary::read(&document));
        let summary =
            summary.inspect_err(|error| tracing::debug!(%node, %error, "a node does not tell its usage")).ok();
        answer.asked = Some((Instant::now(), summary.is_some()));
        answer.said = summary.as_ref().map(|summary| Arc::new(summary.since(&answer.totals)));
        if let Some(summary) = summary {
            answer.totals = summary.totals();
        }
        answer.said.clone()
    }
}

/// The document of one node: the summary (`""`), `resource` or `cadvisor`, as `node.proto` has it.
///
/// # Errors
/// The node is not connected, did not answer in time, or said too much.
pub async fn document(proxy: &dyn NodeProxy, node: &str, form: &str) -> Result<Bytes, NodeProxyError> {
    within(DEADLINE, proxy, node, form).await
}

async fn within(deadline: Duration, proxy: &dyn NodeProxy, node: &str, form: &str) -> Result<Bytes, NodeProxyError> {
    let open = Open { node: node.to_owned(), what: Some(What::Stats(Stats { form: form.to_owned() })) };
    let whole = async {
        let mut stream = proxy.open(open).await?;
        let mut out = BytesMut::new();
        while let Some(piece) = stream.rx.recv().await {
            out.extend_from_slice(&piece?);
            if out.len() > MOST {
                return Err(NodeProxyError { code: 502, message: format!("node {node} said too much") });
            }
        }
        Ok(out.freeze())
    };
    let late = |_| NodeProxyError { code: 504, message: format!("node {node} did not tell its usage in time") };
    timeout(deadline, whole).await.map_err(late)?
}

#[derive(Deserialize)]
struct Summary {
    node: Numbers,
    #[serde(default)]
    pods: Vec<Runs>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Runs {
    pod_ref: Reference,
    #[serde(default)]
    containers: Vec<Container>,
}

#[derive(Deserialize)]
struct Reference {
    uid: String,
}

#[derive(Deserialize)]
struct Container {
    name: String,
    #[serde(flatten)]
    numbers: Numbers,
}

#[derive(Default, Deserialize)]
struct Numbers {
    #[serde(default)]
    cpu: Cpu,
    #[serde(default)]
    memory: Memory,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Cpu {
    time: String,
    usage_nano_cores: u64,
    usage_core_nano_seconds: u64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Memory {
    working_set_bytes: u64,
}

impl Summary {
    fn read(document: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(document).map_err(|error| error.to_string())
    }

    /// Every container, with the uid of what it belongs to.
    fn containers(&self) -> impl Iterator<Item = (&str, &Container)> {
        self.pods.iter().flat_map(|runs| runs.containers.iter().map(|container| (runs.pod_ref.uid.as_str(), container)))
    }

    fn totals(&self) -> Totals {
        let own = self.node.total().map(|total| ((String::new(), String::new()), total));
        let each = self.containers().filter_map(|(uid, container)| {
            Some(((uid.to_owned(), container.name.clone()), container.numbers.total()?))
        });
        own.into_iter().chain(each).collect()
    }

    /// What is used now, where these were the totals before.
    fn since(&self, before: &Totals) -> Measurement {
        let known = |uid: &str, name: &str| before.get(&(uid.to_owned(), name.to_owned())).copied();
        let mut containers = BTreeMap::<String, Vec<(String, Usage)>>::new();
        for (uid, container) in self.containers() {
            if let Some(usage) = container.numbers.since(known(uid, &container.name)) {
                containers.entry(uid.to_owned()).or_default().push((container.name.clone(), usage));
            }
        }
        Measurement { whole: self.node.since(known("", "")), containers }
    }
}

impl Numbers {
    /// CPU time, and until when.
    fn total(&self) -> Option<(Timestamp, u64)> {
        Some((self.cpu.time.parse().ok()?, self.cpu.usage_core_nano_seconds))
    }

    /// `None`: it was not measured.
    fn since(&self, before: Option<(Timestamp, u64)>) -> Option<Usage> {
        let (at, total) = self.total()?;
        let between = before.and_then(|(then, before)| {
            let window = Duration::try_from(at.duration_since(then)).ok()?;
            // One that was started anew counts from zero again.
            let used = total.checked_sub(before)?;
            (SHORTEST..KEEP).contains(&window).then(|| (rate(used, window), window))
        });
        let (cpu, window) = between.unwrap_or((self.cpu.usage_nano_cores, JUST_BEFORE));
        Some(Usage { at, window, cpu, memory: self.memory.working_set_bytes })
    }
}

/// Nanoseconds of CPU in a time that is not zero, as billionths of a core.
fn rate(used: u64, window: Duration) -> u64 {
    let rate = u128::from(used) * 1_000_000_000 / window.as_nanos();
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures::future::BoxFuture;
    use tokio::sync::mpsc;

    use super::*;
    use crate::node_proxy::NodeStream;

    /// How often each was asked, all together.
    #[derive(Default)]
    struct Nodes(AtomicU64);

    impl NodeProxy for Nodes {
        fn open(&self, open: Open) -> BoxFuture<'_, Result<NodeStream, NodeProxyError>> {
            let asked = self.0.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                let ((tx, _), (to_api, rx)) = (mpsc::channel(1), mpsc::channel(8));
                let text = match open.node.as_str() {
                    "lost" => return Err(NodeProxyError { code: 503, message: "lost".into() }),
                    "odd" => "[]".to_owned(),
                    _ => summary(asked, 5),
                };
                tokio::spawn(async move {
                    for piece in text.as_bytes().chunks(50) {
                        let _ = to_api.send(Ok(Bytes::copy_from_slice(piece))).await;
                    }
                    while open.node == "wordy" && to_api.send(Ok(vec![b' '; 1 << 20].into())).await.is_ok() {}
                    if open.node == "silent" {
                        std::future::pending::<()>().await;
                    }
                });
                Ok(NodeStream { tx, rx })
            })
        }
    }

    /// Of a second, until which `seconds` of CPU were used.
    fn summary(second: u64, seconds: u64) -> String {
        let at = Timestamp::from_second(i64::try_from(second).expect("a time")).expect("a time");
        let total = seconds * 1_000_000_000;
        format!(
            r#"{{"node": {{"cpu": {{"time": "{at}", "usageNanoCores": 5, "usageCoreNanoSeconds": {total}}},
                "memory": {{"workingSetBytes": 6}}}},
                "pods": [{{"podRef": {{"name": "p", "namespace": "a", "uid": "u"}}, "more": 1,
                "containers": [{{"name": "c", "rootfs": {{}},
                    "cpu": {{"time": "{at}", "usageNanoCores": 7, "usageCoreNanoSeconds": {total}}}}},
                    {{"name": "not measured"}}]}}]}}"#
        )
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[tokio::test]
    async fn a_node_that_does_not_tell_costs_its_own_numbers_only() {
        let (answers, proxy) = (Answers::default(), Nodes::default());
        let nodes = || ["lost", "odd", "wordy", "n1"].map(str::to_owned).into();
        let got = answers.of(&proxy, nodes(), soon()).await;
        assert_eq!(got.keys().collect::<Vec<_>>(), ["n1"]);
        let said = &got["n1"];
        let whole = said.whole.expect("it is measured");
        assert_eq!((whole.cpu, whole.memory, whole.window), (5, 6, JUST_BEFORE));
        let containers: Vec<(&str, u64)> =
            said.containers["u"].iter().map(|(name, used)| (&**name, used.cpu)).collect();
        assert_eq!(containers, [("c", 7)]);
        // Nobody is asked again so soon.
        let asked = proxy.0.load(Ordering::Relaxed);
        assert_eq!(answers.of(&proxy, nodes(), soon()).await, got);
        assert_eq!(proxy.0.load(Ordering::Relaxed), asked);
        let late = within(Duration::from_millis(20), &proxy, "silent", "").await;
        assert_eq!(late.map_err(|error| error.code), Err(504));
        let none = answers.of(&proxy, ["silent".to_owned()].into(), Instant::now()).await;
        assert!(none.is_empty(), "a list does not wait longer than whoever asks for it");
    }

    #[test]
    fn rates_lie_between_two_answers() {
        let read = |second, seconds| Summary::read(summary(second, seconds).as_bytes()).expect("a summary");
        let before = read(100, 50).totals();
        for (what, second, seconds, expect) in [
            ("half a core for twenty seconds", 120, 60, (500_000_000, Duration::from_secs(20))),
            ("counted anew", 120, 10, (5, JUST_BEFORE)),
            ("no time between", 100, 50, (5, JUST_BEFORE)),
            ("a clock that went back", 90, 60, (5, JUST_BEFORE)),
            ("long ago", 1000, 60, (5, JUST_BEFORE)),
        ] {
            let whole = read(second, seconds).since(&before).whole.expect("it is measured");
            assert_eq!((whole.cpu, whole.window), expect, "{what}");
        }
    }
}
