//! RangeStream: a range of any size, in chunks.
//!
//! Invariants
//! - All chunks are of one revision: the one asked for, else the one that was current at first.
//! - Merged, they are the answer to Range. Header, `more` and `count` come with the last one, and only
//!   that one may be without keys.
//! - What waits in memory is bounded whatever the range holds, and a client that does not read keeps
//!   no superseded state there for longer than [`HELD`].

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use futures::Stream;
use kontiki_proto::etcd::{KeyValue, RangeRequest, RangeResponse, RangeStreamResponse};
use kontiki_store::{End, Entry, KeyRange, Order, RangeQuery, RangeResult, Revision, Snapshot, SortBy};
use prost::Message as _;
use tokio::{
    sync::mpsc::{self, Permit},
    time::{Instant, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::{
    Api,
    convert::{self, key_value},
    error,
};

/// Bytes of keys and values in one chunk; one that is larger has a chunk of its own.
const CHUNK: usize = 512 << 10;
/// Chunks that may wait for the client, beside what its connection takes.
const QUEUE: usize = 1;
/// Keys that are read at once, and their bytes. Of the past it takes all of history to read some, so
/// few windows are better.
const WINDOW: (usize, usize) = (32_768, 16 << 20);
/// How long a stream that waits for its client keeps the state it reads; then it goes on from history.
const HELD: Duration = Duration::from_secs(5);

type Chunk = Result<RangeStreamResponse, Status>;
pub(crate) type Chunks = Pin<Box<dyn Stream<Item = Chunk> + Send>>;

/// Checks a request and starts its stream.
pub(crate) async fn serve(api: &Api, request: RangeRequest) -> Result<Chunks, Status> {
    let linearizable = !request.serializable;
    let query = convert::query(request)?;
    can_stream(&query)?;
    if linearizable {
        api.store.barrier().await.map_err(error::read)?;
    }
    let whole = query.count_only || query.by != SortBy::Key;
    let reading = if whole { Reading::whole(api, query).await? } else { Reading::new(api, query)? };
    let (out, chunks) = mpsc::channel(QUEUE);
    tokio::spawn(reading.run(out));
    Ok(Box::pin(ReceiverStream::new(chunks)))
}

/// Refuses what etcd leaves to Range; clients know this code and go there.
fn can_stream(query: &RangeQuery) -> Result<(), Status> {
    if query.order == Order::Descend || (query.order == Order::Ascend && query.by != SortBy::Key) {
        return Err(Status::unimplemented("RangeStream does not support custom sort orders"));
    }
    if [query.min_mod, query.max_mod, query.min_create, query.max_create] != [0; 4] {
        return Err(Status::unimplemented("RangeStream does not support revision filters"));
    }
    Ok(())
}

/// A stream on its way.
struct Reading {
    api: Api,
    rest: Rest,
    /// What was current at first, which the header tells.
    current: Revision,
    /// Keys that may still be sent.
    left: u64,
    sent: u64,
    /// `more` and `count`, if they are known beforehand.
    known: Option<(bool, u64)>,
}

impl Reading {
    fn new(api: &Api, query: RangeQuery) -> Result<Self, Status> {
        let now = api.store.snapshot();
        let current = now.revision();
        // A negative revision is the present.
        let at = u64::try_from(query.revision).ok().filter(|at| *at > 0).map_or(current, Revision);
        if at > current {
            return Err(error::future_revision());
        }
        if at < now.compacted() {
            return Err(error::compacted());
        }
        let rest = Rest::new(query.range, at, (at == current).then_some(now), query.keys_only);
        let left = if query.limit == 0 { u64::MAX } else { query.limit };
        Ok(Self { api: api.clone(), rest, current, left, sent: 0, known: None })
    }

    /// Knows all that it will send: a count only, or what is sorted by something else than the key.
    async fn whole(api: &Api, query: RangeQuery) -> Result<Self, Status> {
        let query = RangeQuery { revision: query.revision.max(0), ..query };
        let (found, current) = api.store.query(query, false).await.map_err(error::query)?;
        let (known, rest) = (Some((found.more, found.count)), Rest::of(found.entries));
        Ok(Self { api: api.clone(), rest, current, left: u64::MAX, sent: 0, known })
    }

    async fn run(mut self, out: mpsc::Sender<Chunk>) {
        while let Some(room) = self.room(&out).await {
            let chunk = self.chunk().await;
            let last = chunk.as_ref().map_or(true, |chunk| chunk.header.is_some());
            room.send(chunk.map(|chunk| RangeStreamResponse { range_response: Some(chunk) }));
            if last {
                return;
            }
        }
    }

    /// Waits for room for one chunk; `None` if the client has gone.
    async fn room<'a>(&mut self, out: &'a mpsc::Sender<Chunk>) -> Option<Permit<'a, Chunk>> {
        if let Ok(room) = timeout_at(self.rest.held_until, out.reserve()).await {
            return room.ok();
        }
        self.rest.let_go();
        out.reserve().await.ok()
    }

    async fn chunk(&mut self) -> Result<RangeResponse, Status> {
        let (mut kvs, mut size) = (Vec::new(), 0);
        while self.left > 0
            && let Some(kv) = self.rest.peek(&self.api).await?
        {
            size += kv.encoded_len();
            if size > CHUNK && !kvs.is_empty() {
                return Ok(RangeResponse { kvs, ..RangeResponse::default() });
            }
            kvs.push(kv);
            self.rest.window.pop_front();
            self.sent += 1;
            self.left -= 1;
        }
        self.last(kvs).await
    }

    async fn last(&mut self, kvs: Vec<KeyValue>) -> Result<RangeResponse, Status> {
        let (more, count) = match self.known {
            Some(known) => known,
            None => {
                let beyond = self.rest.count(&self.api).await?;
                (beyond > 0, self.sent + beyond)
            }
        };
        Ok(RangeResponse { header: Some(self.api.header(self.current)), kvs, more, count: count.cast_signed() })
    }
}

/// Keys that were not sent yet, all as they were at one revision.
struct Rest {
    at: Revision,
    keys_only: bool,
    /// The state at that revision, as long as it is at hand.
    held: Option<Snapshot>,
    held_until: Instant,
    /// Keys that were read.
    window: VecDeque<Arc<Entry>>,
    /// Where those begin that were not read; `None` if all were.
    next: Option<Bytes>,
    end: End,
}

impl Rest {
    fn new(range: KeyRange, at: Revision, held: Option<Snapshot>, keys_only: bool) -> Self {
        let end = match range.end {
            End::Key => End::Before(after(&range.start)),
            other => other,
        };
        let (window, next) = (VecDeque::new(), Some(range.start));
        Self { at, keys_only, held, held_until: Instant::now() + HELD, window, next, end }
    }

    /// These, as they are.
    fn of(entries: Vec<Arc<Entry>>) -> Self {
        let nothing = Self::new(KeyRange::key(""), Revision(0), None, false);
        Self { window: entries.into(), next: None, ..nothing }
    }

    /// The next key, if there is one.
    async fn peek(&mut self, api: &Api) -> Result<Option<KeyValue>, Status> {
        while self.window.is_empty()
            && let Some(start) = self.next.take()
        {
            self.read(api, start).await?;
        }
        Ok(self.window.front().map(|entry| match self.keys_only {
            false => key_value(entry),
            true => KeyValue { value: Bytes::new(), lease: 0, ..key_value(entry) },
        }))
    }

    /// Reads the next window.
    async fn read(&mut self, api: &Api, start: Bytes) -> Result<(), Status> {
        let range = KeyRange { start, end: self.end.clone() };
        let now = self.held.clone().unwrap_or_else(|| api.store.snapshot());
        let (entries, next) = window(&now, &range);
        self.window = if self.held.is_some() {
            entries
        } else {
            let end = next.clone().map_or(range.end, End::Before);
            self.past(api, RangeQuery::new(KeyRange { end, ..range })).await?.entries.into()
        };
        self.next = next;
        Ok(())
    }

    async fn past(&self, api: &Api, query: RangeQuery) -> Result<RangeResult, Status> {
        let query = RangeQuery { revision: self.at.0.cast_signed(), ..query };
        Ok(api.store.query(query, false).await.map_err(error::query)?.0)
    }

    /// How many there are.
    async fn count(&self, api: &Api) -> Result<u64, Status> {
        let read = self.window.len() as u64;
        let Some(start) = self.next.clone() else { return Ok(read) };
        let range = KeyRange { start, end: self.end.clone() };
        let query = RangeQuery { count_only: true, ..RangeQuery::new(range) };
        let unread = match &self.held {
            Some(now) => now.query(&query),
            None => self.past(api, query).await?,
        };
        Ok(read + unread.count)
    }

    /// Gives back the state, and will read again what was read of it.
    fn let_go(&mut self) {
        if self.held.take().is_some()
            && let Some(entry) = self.window.pop_front()
        {
            self.next = Some(entry.key.clone());
            self.window.clear();
        }
    }
}

/// The first key after `key`.
fn after(key: &Bytes) -> Bytes {
    let mut after = BytesMut::with_capacity(key.len() + 1);
    after.put_slice(key);
    after.put_u8(0);
    after.freeze()
}

/// The first keys of a range, and the one that follows them there.
fn window(now: &Snapshot, range: &KeyRange) -> (VecDeque<Arc<Entry>>, Option<Bytes>) {
    let first = now.get(&range.start);
    let others = now.range_from(b"", &range.start);
    let mut entries = VecDeque::new();
    let mut size = 0;
    for entry in first.into_iter().chain(others).take_while(|entry| range.contains(&entry.key)) {
        if entries.len() >= WINDOW.0 || size >= WINDOW.1 {
            return (entries, Some(entry.key.clone()));
        }
        size += entry.value.len();
        entries.push_back(entry);
    }
    (entries, None)
}
