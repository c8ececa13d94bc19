//! Watch: many watches on one stream.
//!
//! Invariants
//! - What one watch sends is in order, and comes after "created" and before "canceled".
//! - Events that several watches send are encoded once.
//! - The stream's queue is bounded; a slow client's watches wait, fall behind and read on from history.
//! - Progress is told for a stream only when all its watches have sent everything up to there.

use std::{collections::HashMap, pin::Pin, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use kontiki_proto::{
    EncodedWatchResponse,
    etcd::{
        self, ResponseHeader, WatchCreateRequest, WatchRequest, WatchResponse, event::EventType,
        watch_create_request::FilterType, watch_request::RequestUnion,
    },
    etcd_encoded::watch_server::Watch,
};
use kontiki_store::{Batch, Event, EventKind, HistoryError, KeyRange, Revision, WatchItem};
use prost::Message as _;
use tokio::{
    sync::{mpsc, watch as signal},
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::{Api, convert::key_value, error};

/// Answers that may wait for the client.
const QUEUE: usize = 64;
/// How often a watch that wants it is told how far it is. etcd's default.
const PROGRESS: Duration = Duration::from_secs(600);
/// Bytes of events in one answer, where the client takes fragments.
const FRAGMENT: usize = 2 << 20;
/// How long a client that asked for a leader does without one.
const LEADERLESS: Duration = Duration::from_secs(3);

type Answer = Result<EncodedWatchResponse, Status>;

#[async_trait]
impl Watch for Api {
    type WatchStream = Pin<Box<dyn Stream<Item = Answer> + Send>>;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let needs_leader = request.metadata().get("hasleader").is_some_and(|value| value == "true");
        let (out, rx) = mpsc::channel(QUEUE);
        let session = Session::new(self.clone(), out);
        tokio::spawn(session.run(request.into_inner(), needs_leader));
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }
}

/// A question to all watches of a stream: have you sent everything up to here?
#[derive(Clone, Copy, Default)]
struct Question {
    number: u64,
    upto: Revision,
}

/// What watches tell their stream.
enum Told {
    /// The answer to a question; `None` if it will not come to that soon.
    Seen { number: u64, seen: bool },
    /// The watch has ended by itself.
    Ended(i64),
}

struct Session {
    api: Api,
    out: mpsc::Sender<Answer>,
    watches: HashMap<i64, JoinHandle<()>>,
    next_id: i64,
    question: signal::Sender<Question>,
    /// Watches that have not answered the question yet.
    open: usize,
    tell: mpsc::Sender<Told>,
    told: mpsc::Receiver<Told>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.watches.values().for_each(JoinHandle::abort);
    }
}

impl Session {
    fn new(api: Api, out: mpsc::Sender<Answer>) -> Self {
        let (tell, told) = mpsc::channel(QUEUE);
        let question = signal::channel(Question::default()).0;
        Self { api, out, watches: HashMap::new(), next_id: 0, question, open: 0, tell, told }
    }

    async fn run(mut self, mut requests: Streaming<WatchRequest>, needs_leader: bool) {
        let leaderless = leaderless(self.api.clone(), needs_leader);
        tokio::pin!(leaderless);
        loop {
            let request = tokio::select! {
                () = self.out.closed() => return,
                () = self.api.store.stopped() => return self.fail(error::stopped()).await,
                () = &mut leaderless => return self.fail(error::no_leader()).await,
                // Cancel-safe: what was told stays queued.
                Some(told) = self.told.recv() => {
                    if self.hear(told).await.is_err() {
                        return;
                    }
                    continue;
                }
                // Cancel-safe: a partly received message stays in the stream.
                request = requests.next() => request,
            };
            let Some(Ok(request)) = request else { return };
            let done = match request.request_union {
                Some(RequestUnion::CreateRequest(create)) => self.create(create).await,
                Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id).await,
                Some(RequestUnion::ProgressRequest(_)) => {
                    self.ask();
                    Ok(())
                }
                None => Ok(()),
            };
            if done.is_err() {
                return;
            }
        }
    }

    async fn fail(&self, status: Status) {
        // The client may have gone.
        let _ = self.out.send(Err(status)).await;
    }

    async fn send(&self, response: WatchResponse) -> Result<(), Gone> {
        send(&self.out, response, Bytes::new()).await
    }

    async fn create(&mut self, create: WatchCreateRequest) -> Result<(), Gone> {
        let now = self.api.store.snapshot().revision();
        let header = Some(self.api.header(now));
        // An empty key is the least one there is.
        let key = if create.key.is_empty() { Bytes::from_static(b"\0") } else { create.key.clone() };
        let range = KeyRange::of(key, create.range_end.clone());
        let refused = |why: &str| WatchResponse {
            header,
            watch_id: -1,
            created: true,
            canceled: true,
            cancel_reason: why.to_owned(),
            ..WatchResponse::default()
        };
        if create.start_revision < 0 {
            return self.send(refused(error::compacted().message())).await;
        }
        if range.is_empty() {
            return self.send(refused("mvcc: watcher range is empty")).await;
        }
        if create.watch_id != 0 && self.watches.contains_key(&create.watch_id) {
            return self.send(refused("mvcc: duplicate watch ID provided on the WatchStream")).await;
        }
        let id = if create.watch_id == 0 { self.free_id() } else { create.watch_id };
        // From now on means from the next revision, whenever the watch gets going.
        let from = u64::try_from(create.start_revision).ok().filter(|from| *from > 0).map_or(now.next(), Revision);
        let watch = self.api.store.watch_range(range, Some(from));
        self.send(WatchResponse { header, watch_id: id, created: true, ..WatchResponse::default() }).await?;
        let mut watch = match watch {
            Ok(watch) => watch,
            Err(HistoryError::Compacted { oldest }) => return self.send(compacted(id, oldest)).await,
            Err(error) => return self.send(canceled(id, header, error.to_string())).await,
        };
        watch.set_progress_interval(PROGRESS);
        let voice = Voice {
            id,
            api: self.api.clone(),
            out: self.out.clone(),
            prev_kv: create.prev_kv,
            fragment: create.fragment,
            progress: create.progress_notify,
            puts: !create.filters.contains(&(FilterType::Noput as i32)),
            deletes: !create.filters.contains(&(FilterType::Nodelete as i32)),
        };
        let task = Task { watch, voice, tell: self.tell.clone(), question: self.question.subscribe() };
        self.watches.insert(id, tokio::spawn(task.run()));
        Ok(())
    }

    fn free_id(&mut self) -> i64 {
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    async fn cancel(&mut self, id: i64) -> Result<(), Gone> {
        let Some(task) = self.watches.remove(&id) else { return Ok(()) };
        task.abort();
        // After it has really ended it sends nothing any more.
        let _ = task.await;
        self.send(canceled(id, Some(self.api.header_now()), String::new())).await?;
        self.ask_again();
        Ok(())
    }

    /// Asks all watches whether they have sent everything that has happened. Without one there is
    /// nothing to tell.
    fn ask(&mut self) {
        self.ask_again_from(self.api.store.published());
    }

    /// A watch has gone while a question was open: the others are asked anew.
    fn ask_again(&mut self) {
        if self.open > 0 {
            let upto = self.question.borrow().upto;
            self.ask_again_from(upto);
        }
    }

    fn ask_again_from(&mut self, upto: Revision) {
        self.open = self.watches.len();
        self.question.send_modify(|question| *question = Question { number: question.number + 1, upto });
    }

    async fn hear(&mut self, told: Told) -> Result<(), Gone> {
        match told {
            Told::Ended(id) => {
                self.watches.remove(&id);
                self.ask_again();
            }
            Told::Seen { number, seen } if number == self.question.borrow().number && self.open > 0 => {
                self.open = if seen { self.open - 1 } else { 0 };
                if seen && self.open == 0 {
                    return self.progress().await;
                }
            }
            Told::Seen { .. } => {}
        }
        Ok(())
    }

    async fn progress(&self) -> Result<(), Gone> {
        let header = Some(self.api.header(self.question.borrow().upto));
        self.send(WatchResponse { header, watch_id: -1, ..WatchResponse::default() }).await
    }
}

/// Ends when there has been no leader for a while; never, if that does not matter.
async fn leaderless(api: Api, matters: bool) {
    if !matters {
        std::future::pending::<()>().await;
    }
    let mut status = api.store.status();
    loop {
        if status.wait_for(|status| status.leader.is_none()).await.is_err() {
            return;
        }
        if tokio::time::timeout(LEADERLESS, status.wait_for(|status| status.leader.is_some())).await.is_err() {
            return;
        }
    }
}

/// The client has gone.
struct Gone;

async fn send(out: &mpsc::Sender<Answer>, own: WatchResponse, shared: Bytes) -> Result<(), Gone> {
    let own = Bytes::from(own.encode_to_vec());
    out.send(Ok(EncodedWatchResponse { own, shared })).await.map_err(|_| Gone)
}

fn canceled(watch_id: i64, header: Option<ResponseHeader>, cancel_reason: String) -> WatchResponse {
    WatchResponse { header, watch_id, canceled: true, cancel_reason, ..WatchResponse::default() }
}

fn compacted(id: i64, oldest: Revision) -> WatchResponse {
    WatchResponse {
        compact_revision: oldest.0.cast_signed(),
        ..canceled(id, Some(ResponseHeader::default()), String::new())
    }
}

/// One watch.
struct Task {
    watch: kontiki_store::Watch,
    voice: Voice,
    tell: mpsc::Sender<Told>,
    question: signal::Receiver<Question>,
}

/// How one watch speaks to its client.
struct Voice {
    id: i64,
    api: Api,
    out: mpsc::Sender<Answer>,
    prev_kv: bool,
    fragment: bool,
    progress: bool,
    puts: bool,
    deletes: bool,
}

impl Task {
    async fn run(mut self) {
        let mut asked = false;
        loop {
            if asked && let Some(told) = self.answer() {
                asked = false;
                if self.tell.send(told).await.is_err() {
                    return;
                }
            }
            let item = tokio::select! {
                // Cancel-safe: nothing is lost of a watch.
                item = self.watch.next() => item,
                // Cancel-safe: only looks at a version.
                changed = self.question.changed(), if !asked => match changed {
                    Ok(()) => { asked = true; continue }
                    Err(_) => return,
                },
            };
            let sent = match item {
                Some(WatchItem::Events(batch)) => self.voice.events(&batch).await,
                Some(WatchItem::Progress(revision)) => self.voice.progress(revision).await,
                Some(WatchItem::Lagged) | None => break,
            };
            if sent.is_err() {
                return;
            }
        }
        // Ended: what it still needed was compacted, or the store stops.
        let oldest = self.voice.api.store.compacted();
        if self.watch.position() < oldest && self.voice.say(compacted(self.voice.id, oldest)).await.is_err() {
            return;
        }
        // Nobody is there to hear it once the stream has ended.
        let _ = self.tell.send(Told::Ended(self.voice.id)).await;
    }

    /// Answers the stream's question, if it can be answered yet.
    fn answer(&mut self) -> Option<Told> {
        let Question { number, upto } = *self.question.borrow_and_update();
        let seen = self.watch.has_seen(upto);
        // What is under way will have been sent soon. A watch that starts later, or is reading
        // history, is not waited for.
        if !seen && self.watch.is_live() && self.watch.starts_by(upto) {
            return None;
        }
        Some(Told::Seen { number, seen })
    }
}

impl Voice {
    async fn say(&self, response: WatchResponse) -> Result<(), Gone> {
        send(&self.out, response, Bytes::new()).await
    }

    async fn progress(&self, upto: Revision) -> Result<(), Gone> {
        if !self.progress {
            return Ok(());
        }
        let header = Some(self.api.header(upto));
        self.say(WatchResponse { header, watch_id: self.id, ..WatchResponse::default() }).await
    }

    async fn events(&self, batch: &Batch) -> Result<(), Gone> {
        let revision = batch.first().map_or(Revision(0), |event| event.entry.mod_revision);
        let header = Some(self.api.header(revision));
        let own = WatchResponse { header, watch_id: self.id, ..WatchResponse::default() };
        let shared = if self.puts && self.deletes {
            let prev_kv = self.prev_kv;
            batch.encoded(usize::from(prev_kv), |events| encode(events.iter(), prev_kv))
        } else {
            encode(batch.iter().filter(|event| self.wants(event)), self.prev_kv)
        };
        if shared.is_empty() {
            return Ok(());
        }
        if !self.fragment || shared.len() <= FRAGMENT {
            return send(&self.out, own, shared).await;
        }
        let events: Vec<&Event> = batch.iter().filter(|event| self.wants(event)).collect();
        let mut rest = fragments(&events, self.prev_kv).into_iter().peekable();
        while let Some(part) = rest.next() {
            let fragment = rest.peek().is_some();
            send(&self.out, WatchResponse { fragment, ..own.clone() }, part).await?;
        }
        Ok(())
    }

    fn wants(&self, event: &Event) -> bool {
        match event.kind {
            EventKind::Put => self.puts,
            EventKind::Delete => self.deletes,
        }
    }
}

/// The field number of `WatchResponse.events`.
const EVENTS: u32 = 11;

/// Events as the encoded field of a `WatchResponse`.
fn encode<'a>(events: impl Iterator<Item = &'a Event>, prev_kv: bool) -> Bytes {
    let mut out = BytesMut::new();
    events.for_each(|event| encode_event(&mut out, event, prev_kv));
    out.freeze()
}

fn encode_event(out: &mut BytesMut, event: &Event, prev_kv: bool) {
    let kind = match event.kind {
        EventKind::Put => EventType::Put,
        EventKind::Delete => EventType::Delete,
    };
    let prev = event.prev.as_ref().filter(|_| prev_kv);
    let event = etcd::Event {
        r#type: kind.into(),
        kv: Some(key_value(&event.entry)),
        prev_kv: prev.map(|entry| key_value(entry)),
    };
    prost::encoding::message::encode(EVENTS, &event, out);
}

fn fragments(events: &[&Event], prev_kv: bool) -> Vec<Bytes> {
    let mut parts = Vec::new();
    let mut out = BytesMut::new();
    for event in events {
        let before = out.len();
        encode_event(&mut out, event, prev_kv);
        if out.len() > FRAGMENT && before > 0 {
            let last = out.split_off(before);
            parts.push(std::mem::replace(&mut out, last).freeze());
        }
    }
    parts.push(out.freeze());
    parts
}
