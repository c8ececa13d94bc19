//! One of the two stores: sends an operation and waits for all that it owes.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use kontiki_proto::etcd::{self as pb, kv_client::KvClient};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming, transport::Channel};

use super::{
    Answer, Item, Op,
    watches::{Log, OWN_IDS},
};
use crate::{
    client::Clients,
    group::{Group, Kind},
    wait::until,
};

/// No operation of the test takes a store this long.
const ANSWER: Duration = Duration::from_secs(15);
/// Requests wait for no more than the one sent before them.
const QUEUE: usize = 16;
/// A watch on a key that only [`Target::canary`] writes.
const CANARY: i64 = OWN_IDS;
const CANARY_KEY: &str = "~canary";

pub struct Target {
    pub kind: Kind,
    pub name: &'static str,
    clients: Clients,
    log: Log,
    watch_tx: mpsc::Sender<pb::WatchRequest>,
    following: JoinHandle<()>,
    alive_tx: mpsc::Sender<pb::LeaseKeepAliveRequest>,
    alive: Option<Streaming<pb::LeaseKeepAliveResponse>>,
    alive_rx: Option<mpsc::Receiver<pb::LeaseKeepAliveRequest>>,
    /// The next id for a watch that only marks a place among the answers.
    mark: i64,
    /// A watch was made since the last canary: it may still be reading the past.
    reads_past: bool,
}

impl Target {
    /// The first member of a group.
    ///
    /// # Errors
    /// The streams do not open.
    pub async fn of(group: &Group) -> Result<Self> {
        Self::new(group.kind(), group.clients(0)?).await
    }

    async fn new(kind: Kind, mut clients: Clients) -> Result<Self> {
        let (watch_tx, watch_rx) = mpsc::channel(QUEUE);
        let canary =
            pb::WatchCreateRequest { key: CANARY_KEY.into(), watch_id: CANARY, ..pb::WatchCreateRequest::default() };
        watch_tx.send(create(canary)).await?; // etcd answers the call itself with the first answer
        let stream = clients.watch.watch(ReceiverStream::new(watch_rx)).await?.into_inner();
        let log = Log::default();
        let following = tokio::spawn(log.clone().follow(stream));
        let (alive_tx, alive_rx) = mpsc::channel(QUEUE);
        let (alive, alive_rx, mark) = (None, Some(alive_rx), OWN_IDS + 1);
        let (name, reads_past) = (kind.name(), false);
        let target =
            Self { kind, name, clients, log, watch_tx, following, alive_tx, alive, alive_rx, mark, reads_past };
        until("the canary's watch", ANSWER, async || {
            ensure!(target.log.answers() == 1, "no answer");
            Ok(())
        })
        .await?;
        Ok(target)
    }

    pub fn log(&self) -> Log {
        self.log.clone()
    }

    pub fn clients(&self) -> Clients {
        self.clients.clone()
    }

    pub fn revision(&self) -> i64 {
        self.log.revision()
    }

    /// The revision the canary was last put at, as text for a report.
    pub fn watched(&self) -> String {
        format!("the store is at revision {}", self.log.revision())
    }

    /// Sends one operation and waits for its answer.
    ///
    /// # Errors
    /// The store cannot be reached or does not answer; an error it answers with is an [`Answer`].
    pub async fn apply(&mut self, op: &Op) -> Result<Answer> {
        let name = self.name;
        let answer = timeout(ANSWER, self.send(op));
        let answer = answer.await.with_context(|| format!("{name} does not answer {op:?}"))??;
        if let Answer::Failed { code: tonic::Code::Unavailable, message } = &answer {
            bail!("{name} is gone at {op:?}: {message}");
        }
        if let Some(revision) = answer.revision() {
            self.log.note(revision);
        }
        Ok(answer)
    }

    async fn send(&mut self, op: &Op) -> Result<Answer> {
        let Clients { kv, lease, .. } = &mut self.clients;
        Ok(match op.clone() {
            Op::Put(put) => Answer::of(kv.put(put).await, Answer::Put),
            Op::Range(range) => Answer::of(kv.range(range).await, Answer::Range),
            Op::RangeStream(range) => self.range_stream(range).await?,
            Op::Delete(delete) => Answer::of(kv.delete_range(delete).await, Answer::Delete),
            Op::Txn(txn) => Answer::of(kv.txn(txn).await, Answer::Txn),
            Op::Compact(compact) => Answer::of(kv.compact(compact).await, Answer::Compact),
            Op::Grant(grant) => Answer::of(lease.lease_grant(grant).await, Answer::Grant),
            Op::Revoke(id) => Answer::of(lease.lease_revoke(pb::LeaseRevokeRequest { id }).await, Answer::Revoke),
            Op::TimeToLive(ask) => Answer::of(lease.lease_time_to_live(ask).await, Answer::TimeToLive),
            Op::Leases => Answer::of(lease.lease_leases(pb::LeaseLeasesRequest {}).await, Answer::Leases),
            Op::ShortLease(grant) => self.short_lease(grant).await,
            Op::KeepAlive(id) => self.keep_alive(id).await?,
            Op::Watch(request) => self.ask(create(request)).await?,
            Op::CancelWatch(watch_id) => self.ask(cancel(watch_id)).await?,
            Op::Progress { answered } => self.progress(answered).await?,
            Op::Settle => bail!("the harness settles"),
        })
    }

    /// All chunks as one answer, which has to be that of Range.
    async fn range_stream(&mut self, range: pb::RangeRequest) -> Result<Answer> {
        let mut kv = self.clients.kv.clone();
        let merged = match streamed(&mut kv, range.clone()).await {
            Ok(merged) => Answer::RangeStream(merged?).normalized(),
            Err(status) => return Ok(Answer::of(Err::<Response<()>, _>(status), |()| Answer::Watch(Vec::new()))),
        };
        match (Answer::of(kv.range(range).await, Answer::Range), &merged) {
            (Answer::Range(whole), Answer::RangeStream(merged)) if whole == *merged => {}
            (whole, _) => bail!("{}: Range answers {whole}, and in chunks it is {merged}", self.name),
        }
        Ok(merged)
    }

    async fn short_lease(&mut self, grant: pb::LeaseGrantRequest) -> Answer {
        let id = grant.id;
        let granted = match self.clients.lease.lease_grant(grant).await {
            Ok(granted) => granted.into_inner(),
            Err(status) => return Answer::of(Err(status), Answer::Grant),
        };
        let revoked = self.clients.lease.lease_revoke(pb::LeaseRevokeRequest { id }).await;
        Answer::of(revoked, |revoked| Answer::ShortLease(granted, revoked))
    }

    async fn keep_alive(&mut self, id: i64) -> Result<Answer> {
        self.alive_tx.send(pb::LeaseKeepAliveRequest { id }).await?;
        if let Some(requests) = self.alive_rx.take() {
            let stream = self.clients.lease.lease_keep_alive(ReceiverStream::new(requests)).await?;
            self.alive = Some(stream.into_inner());
        }
        let stream = self.alive.as_mut().context("a stream of keep-alives")?;
        let answer = stream.message().await?.context("the stream of keep-alives has ended")?;
        Ok(Answer::KeepAlive(answer).normalized())
    }

    /// Sends a request whose answer, if there is one, comes before the answer to the next request.
    async fn ask(&mut self, request: pb::WatchRequest) -> Result<Answer> {
        let start = self.log.answers();
        self.reads_past = true;
        self.watch_tx.send(request).await?;
        let mark = self.mark("~mark", 0).await?;
        let said = self.wait(start, |id, item| id == mark && matches!(item, Item::Created { .. })).await?;
        self.watch_tx.send(cancel(mark)).await?;
        Ok(Answer::Watch(said))
    }

    async fn mark(&mut self, key: &'static str, start_revision: i64) -> Result<i64> {
        self.mark += 1;
        let (key, watch_id) = (key.into(), self.mark);
        let request = pb::WatchCreateRequest { key, watch_id, start_revision, ..pb::WatchCreateRequest::default() };
        self.watch_tx.send(create(request)).await?;
        Ok(watch_id)
    }

    async fn progress(&mut self, answered: bool) -> Result<Answer> {
        let start = self.log.answers();
        let union = pb::watch_request::RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
        self.watch_tx.send(pb::WatchRequest { request_union: Some(union) }).await?;
        if !answered {
            // Taken before anything that could end what it waits for.
            let mark = self.mark("~mark", 0).await?;
            self.wait(start, |id, item| id == mark && matches!(item, Item::Created { .. })).await?;
            self.watch_tx.send(cancel(mark)).await?;
            return Ok(Answer::Watch(Vec::new()));
        }
        Ok(Answer::Watch(self.wait(start, |id, item| id == -1 && matches!(item, Item::Progress { .. })).await?))
    }

    /// What came from `start` to the answer that `last` knows.
    async fn wait(&self, start: usize, last: impl Fn(i64, &Item) -> bool) -> Result<Vec<(i64, Item)>> {
        let said = until("an answer on the watch stream", ANSWER, async || {
            let said = self.log.answers_from(start);
            if said.iter().any(|(id, item)| last(*id, item)) { Ok(said) } else { Err(format!("{said:?}")) }
        });
        // The end of a watch that starts in the compacted past comes when it likes, and is in the log.
        let by_itself = |item: &Item| matches!(item, Item::Canceled { compact_revision, .. } if *compact_revision > 0);
        Ok(said.await?.into_iter().filter(|(id, item)| *id < OWN_IDS && !by_itself(item)).collect())
    }

    /// Writes the canary and waits until its watch has heard of that; gives the revision.
    ///
    /// # Errors
    /// The watch does not hear of it.
    pub async fn canary(&mut self) -> Result<i64> {
        let put = pb::PutRequest { key: CANARY_KEY.into(), ..pb::PutRequest::default() };
        let header = self.clients.kv.put(put).await?.into_inner().header;
        let revision = header.context("a header")?.revision;
        self.log.note(revision);
        self.hears(CANARY, revision).await?;
        if std::mem::take(&mut self.reads_past) {
            // Made after those that read the past, and reading it too: it is not ahead of them.
            let mark = self.mark(CANARY_KEY, revision).await?;
            self.hears(mark, revision).await?;
            self.watch_tx.send(cancel(mark)).await?;
        }
        Ok(revision)
    }

    async fn hears(&self, watch: i64, revision: i64) -> Result<()> {
        until(&format!("{}'s watch of the canary", self.name), ANSWER, async || {
            let heard = self.log.heard(watch);
            ensure!(heard >= revision, "heard of {heard}, not of {revision}");
            Ok(())
        })
        .await
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.following.abort();
    }
}

/// The chunks of a stream as one answer.
///
/// # Errors
/// What the store refuses; inside, what no store may send: header, more and count before the last chunk,
/// a chunk without keys before it, or no last chunk.
pub async fn streamed(
    kv: &mut KvClient<Channel>,
    range: pb::RangeRequest,
) -> Result<Result<pb::RangeResponse>, Status> {
    let mut stream = kv.range_stream(range).await?.into_inner();
    let mut merged = pb::RangeResponse::default();
    while let Some(chunk) = stream.message().await? {
        let Some(chunk) = chunk.range_response else { return Ok(Err(anyhow!("a chunk of nothing"))) };
        let last = chunk.header.is_some();
        if merged.header.is_some() || !last && (chunk.more || chunk.count != 0 || chunk.kvs.is_empty()) {
            return Ok(Err(anyhow!("after {} keys: {chunk:?}", merged.kvs.len())));
        }
        merged.kvs.extend(chunk.kvs);
        (merged.header, merged.more, merged.count) = (chunk.header, chunk.more, chunk.count);
    }
    Ok(if merged.header.is_some() { Ok(merged) } else { Err(anyhow!("no last chunk: {merged:?}")) })
}

fn create(request: pb::WatchCreateRequest) -> pb::WatchRequest {
    pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(request)) }
}

fn cancel(watch_id: i64) -> pb::WatchRequest {
    let request = pb::WatchCancelRequest { watch_id };
    pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CancelRequest(request)) }
}
