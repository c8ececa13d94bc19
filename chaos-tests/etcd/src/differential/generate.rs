//! Random operations over few keys, few leases and few watches, so that they meet.

use bytes::Bytes;
use kontiki_proto::etcd::{self as pb, compare::TargetUnion, request_op::Request, watch_create_request::FilterType};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    Answer, Item, Op,
    quirks::{Quirk, Quirks},
};

/// With the canary fewer than a dozen: of more than that etcd's sorting leaves equals in no defined order.
const KEYS: [&[u8]; 10] = [b"a", b"a\0", b"aa", b"ab", b"b", b"c", b"c\xff", b"\xff", b"\xff\xff", b"\0"];
const VALUES: [&[u8]; 6] = [b"", b"0", b"1", b"one", b"two", b"\xff\0"];
const LEASES: [i64; 8] = [1, 2, 3, 4, 77, -1, i64::MAX, i64::MIN];
/// Longer than any run: a lease that expires does so at a time of its own.
const TTLS: [i64; 5] = [600, 601, 1_000, 9_000_000_000, 86_400];
const TOO_LONG: [i64; 3] = [9_000_000_001, i64::MAX, 10_000_000_000];
/// Watches at a time; above it cancels become likely.
const WATCHES: usize = 12;
/// An id that neither a client nor a server gives.
const NO_WATCH: i64 = 50_000;
const MOST_OPS: usize = 128;
const DEPTH: usize = 3;

pub struct Generator {
    rng: StdRng,
    quirks: Quirks,
    revision: i64,
    compacted: i64,
    leases: Vec<i64>,
    /// Live watches and where they start.
    watches: Vec<(i64, i64)>,
    /// Ids of watches that started in the compacted past: etcd ends them and yet keeps their ids.
    ended: Vec<i64>,
    /// The transaction being made deletes; else it may put with `ignore_value` and `ignore_lease`.
    txn_deletes: bool,
}

impl Generator {
    pub fn new(seed: u64, quirks: Quirks) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        Self {
            rng,
            quirks,
            revision: 1,
            compacted: 0,
            leases: Vec::new(),
            watches: Vec::new(),
            ended: Vec::new(),
            txn_deletes: false,
        }
    }

    /// Takes from the answer what later operations refer to.
    pub fn learn(&mut self, op: &Op, answer: &Answer) {
        if let Some(revision) = answer.revision() {
            self.revise(revision);
        }
        match (op, answer) {
            (Op::Compact(request), Answer::Compact(_)) => self.compacted = request.revision,
            (Op::Grant(request), Answer::Grant(_)) => self.leases.push(request.id),
            (Op::Revoke(id), Answer::Revoke(_)) => self.leases.retain(|lease| lease != id),
            (Op::Watch(request), Answer::Watch(said)) => {
                let start = request.start_revision;
                let ends = self.is_compacted(start);
                for (id, _) in said.iter().filter(|(_, item)| matches!(item, Item::Created { .. })) {
                    if ends { self.ended.push(*id) } else { self.watches.push((*id, start)) }
                }
            }
            (Op::CancelWatch(id), Answer::Watch(_)) => self.watches.retain(|(watch, _)| watch != id),
            _ => {}
        }
    }

    pub fn revise(&mut self, revision: i64) {
        self.revision = self.revision.max(revision);
    }

    #[expect(clippy::should_implement_trait, reason = "it never ends, and what it gives depends on what it learns")]
    pub fn next(&mut self) -> Op {
        match self.rng.random_range(0..1_000) {
            0..280 => Op::Put(self.put()),
            280..460 => Op::Range(self.range()),
            460..500 => self.range_stream(),
            500..570 => Op::Delete(self.delete()),
            570..770 => Op::Txn(self.txn()),
            770..800 => Op::Grant(self.grant()),
            800..815 => Op::Revoke(self.lease()),
            815..850 => Op::TimeToLive(pb::LeaseTimeToLiveRequest { id: self.lease(), keys: self.chance(70) }),
            850..870 => Op::KeepAlive(self.lease()),
            870..880 => Op::Leases,
            880..890 => self.short_lease(),
            890..910 => self.compact(),
            910..955 => self.watch(),
            955..975 => self.cancel(),
            975..980 => self.progress(),
            _ => Op::Settle,
        }
    }

    /// Whether some watch waits for a revision that is not yet reached.
    pub fn waits_for_the_future(&self) -> bool {
        self.watches.iter().any(|(_, start)| *start > self.revision)
    }

    fn progress(&mut self) -> Op {
        let future = self.waits_for_the_future();
        let left_out = (future && self.quirks.has(Quirk::ProgressWithoutWaiting))
            || (!self.ended.is_empty() && self.quirks.has(Quirk::EndedWatchStopsProgress));
        if left_out { Op::Settle } else { Op::Progress { answered: !future } }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_ratio(percent, 100)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.rng.random_range(0..from.len())]
    }

    fn key(&mut self) -> Bytes {
        if self.chance(2) { Bytes::new() } else { Bytes::from_static(self.pick(&KEYS)) }
    }

    /// A key and where its range ends: mostly one key, but also a prefix, an inverted or an open range.
    fn span(&mut self) -> (Bytes, Bytes) {
        let key = self.key();
        let end = match self.rng.random_range(0..100) {
            0..50 => Bytes::new(),
            50..65 => prefix_end(&key),
            65..83 => self.key(),
            83..92 => Bytes::from_static(b"\0"),
            92..96 => key.clone(),
            _ => return (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
        };
        (key, end)
    }

    fn value(&mut self) -> Bytes {
        if self.chance(80) {
            return Bytes::from_static(self.pick(&VALUES));
        }
        let length = self.rng.random_range(0..40);
        (0..length).map(|_| self.rng.random::<u8>()).collect()
    }

    /// A lease that most likely exists.
    fn lease(&mut self) -> i64 {
        if self.leases.is_empty() || self.chance(12) {
            return if self.chance(10) { 0 } else { self.pick(&LEASES) };
        }
        let at = self.rng.random_range(0..self.leases.len());
        self.leases[at]
    }

    /// Zero, past, compacted, current, future or negative.
    fn any_revision(&mut self) -> i64 {
        match self.rng.random_range(0..100) {
            0..50 => 0,
            50..80 => self.rng.random_range(self.compacted.min(self.revision)..=self.revision),
            80..85 => self.compacted,
            85..90 => self.compacted - 1,
            90..94 => self.revision + 1,
            94..97 => self.revision + 1_000,
            _ => -self.rng.random_range(1..5),
        }
    }

    /// For the filters by revision and for comparisons: mostly one that some key has.
    fn near(&mut self) -> i64 {
        self.rng.random_range((self.revision - 40).max(0)..=self.revision + 1)
    }

    fn put(&mut self) -> pb::PutRequest {
        let (ignore_value, ignore_lease) = (self.chance(6), self.chance(6));
        let lease = if self.chance(if ignore_lease { 10 } else { 35 }) { self.lease() } else { 0 };
        let value = if ignore_value && self.chance(80) { Bytes::new() } else { self.value() };
        pb::PutRequest { key: self.key(), value, lease, prev_kv: self.chance(40), ignore_value, ignore_lease }
    }

    fn range(&mut self) -> pb::RangeRequest {
        let (key, range_end) = self.span();
        let (sort_order, sort_target) = self.sort();
        let filter = |generator: &mut Self| if generator.chance(8) { generator.near() } else { 0 };
        let bounds = [filter(self), filter(self), filter(self), filter(self)];
        pb::RangeRequest {
            key,
            range_end,
            limit: if self.chance(40) { self.rng.random_range(-1..6) } else { 0 },
            revision: self.any_revision(),
            sort_order,
            sort_target,
            serializable: self.chance(30),
            keys_only: self.chance(15),
            count_only: self.chance(8),
            min_mod_revision: bounds[0],
            max_mod_revision: bounds[1],
            min_create_revision: bounds[2],
            max_create_revision: bounds[3],
        }
    }

    /// Order and target, sometimes ones that there are not.
    fn sort(&mut self) -> (i32, i32) {
        match self.rng.random_range(0..100) {
            0..60 => (0, 0),
            60..62 if !self.quirks.has(Quirk::DiesOfUnknownSorts) => {
                (self.rng.random_range(-1..5), self.rng.random_range(-1..7))
            }
            _ => (self.rng.random_range(0..3), self.rng.random_range(0..5)),
        }
    }

    /// Mostly with what a stream takes.
    fn range_stream(&mut self) -> Op {
        let mut range = self.range();
        if self.quirks.has(Quirk::NoRangeStream) {
            return Op::Range(range);
        }
        if self.chance(80) {
            (range.min_mod_revision, range.max_mod_revision) = (0, 0);
            (range.min_create_revision, range.max_create_revision) = (0, 0);
            range.sort_order = if self.chance(20) { 1 } else { 0 };
            range.sort_target = if range.sort_order == 0 && self.chance(20) { self.rng.random_range(0..5) } else { 0 };
        }
        let by_chunk = range.sort_order == 0 && (1..5).contains(&range.sort_target);
        if by_chunk && self.quirks.has(Quirk::StreamSortsByChunk) {
            // Four keys, fewer than etcd's first chunk holds.
            (range.key, range.range_end) = (Bytes::from_static(b"a"), Bytes::from_static(b"b"));
            range.limit = if self.chance(50) { 0 } else { self.rng.random_range(4..20) };
        }
        Op::RangeStream(range)
    }

    fn inner_range(&mut self) -> pb::RangeRequest {
        let range = self.range();
        pb::RangeRequest { keys_only: range.keys_only && !self.quirks.has(Quirk::KeysOnlyShowsLeases), ..range }
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        let (key, range_end) = self.span();
        pb::DeleteRangeRequest { key, range_end, prev_kv: self.chance(50) }
    }

    fn txn(&mut self) -> pb::TxnRequest {
        if self.chance(4) {
            return self.large_txn();
        }
        self.txn_deletes = self.chance(70);
        self.txn_of(DEPTH)
    }

    fn txn_of(&mut self, depth: usize) -> pb::TxnRequest {
        let compares = self.rng.random_range(0..3);
        pb::TxnRequest {
            compare: (0..compares).map(|_| self.compare()).collect(),
            success: self.branch(depth),
            failure: self.branch(depth),
        }
    }

    fn branch(&mut self, depth: usize) -> Vec<pb::RequestOp> {
        let count = self.rng.random_range(0..4);
        (0..count).map(|_| self.request_op(depth)).collect()
    }

    fn request_op(&mut self, depth: usize) -> pb::RequestOp {
        let request = match self.rng.random_range(0..100) {
            0..40 if self.txn_deletes && self.quirks.has(Quirk::DiesOfDeleteAndIgnoringPut) => {
                Request::RequestPut(pb::PutRequest { ignore_value: false, ignore_lease: false, ..self.put() })
            }
            0..40 => Request::RequestPut(self.put()),
            40..65 => Request::RequestRange(self.inner_range()),
            65..82 if self.txn_deletes => Request::RequestDeleteRange(self.delete()),
            65..99 if depth > 1 => Request::RequestTxn(self.txn_of(depth - 1)),
            65..99 => Request::RequestRange(self.inner_range()),
            _ => return pb::RequestOp { request: None },
        };
        pb::RequestOp { request: Some(request) }
    }

    /// Around the greatest number of operations, in one branch, in the compares, or in a nested one.
    fn large_txn(&mut self) -> pb::TxnRequest {
        let count = self.rng.random_range(MOST_OPS - 1..=MOST_OPS + 1);
        let op = |i: usize| {
            let key = Bytes::from(format!("many/{i}"));
            let request = Request::RequestRange(pb::RangeRequest { key, ..pb::RangeRequest::default() });
            pb::RequestOp { request: Some(request) }
        };
        let many = |count: usize| (0..count).map(op).collect::<Vec<_>>();
        match self.rng.random_range(0..4) {
            0 => pb::TxnRequest { success: many(count), ..pb::TxnRequest::default() },
            1 => pb::TxnRequest { failure: many(count), ..pb::TxnRequest::default() },
            2 => {
                let compare = (0..count).map(|_| self.compare()).collect();
                pb::TxnRequest { compare, success: many(1), failure: many(1) }
            }
            _ => {
                let inner = pb::TxnRequest { success: many(count - 64), ..pb::TxnRequest::default() };
                let mut success = many(63);
                success.push(pb::RequestOp { request: Some(Request::RequestTxn(inner)) });
                pb::TxnRequest { success, ..pb::TxnRequest::default() }
            }
        }
    }

    fn compare(&mut self) -> pb::Compare {
        let (key, end) = self.span();
        let union = match self.rng.random_range(0..6) {
            0 => TargetUnion::Version(self.rng.random_range(0..4)),
            1 => TargetUnion::CreateRevision(if self.chance(30) { 0 } else { self.near() }),
            2 => TargetUnion::ModRevision(if self.chance(30) { 0 } else { self.near() }),
            3 => TargetUnion::Lease(if self.chance(40) { 0 } else { self.lease() }),
            _ => TargetUnion::Value(self.value()),
        };
        let fitting = match union {
            TargetUnion::Version(_) => 0,
            TargetUnion::CreateRevision(_) => 1,
            TargetUnion::ModRevision(_) => 2,
            TargetUnion::Value(_) => 3,
            TargetUnion::Lease(_) => 4,
        };
        pb::Compare {
            result: if self.chance(3) { self.pick(&[-1, 4, 99]) } else { self.rng.random_range(0..4) },
            target: if self.chance(4) { self.rng.random_range(-1..7) } else { fitting },
            key,
            target_union: if self.chance(3) { None } else { Some(union) },
            range_end: if self.chance(30) { end } else { Bytes::new() },
        }
    }

    fn grant(&mut self) -> pb::LeaseGrantRequest {
        let ttl = if self.chance(10) { self.pick(&TOO_LONG) } else { self.pick(&TTLS) };
        pb::LeaseGrantRequest { ttl, id: self.pick(&LEASES) }
    }

    fn short_lease(&mut self) -> Op {
        let id = 1_000 + self.rng.random_range(0..10);
        Op::ShortLease(pb::LeaseGrantRequest { ttl: self.pick(&[0, -1, 1, 2, i64::MIN]), id })
    }

    fn compact(&mut self) -> Op {
        let revision = match self.rng.random_range(0..100) {
            0..70 if self.compacted < self.revision => {
                let most = (self.compacted + 60).min(self.revision);
                self.rng.random_range(self.compacted..=most)
            }
            70..75 => self.revision,
            _ => self.any_revision(),
        };
        Op::Compact(pb::CompactionRequest { revision, physical: self.chance(50) })
    }

    fn watch(&mut self) -> Op {
        if self.watches.len() >= WATCHES {
            return self.cancel();
        }
        let (key, range_end) = self.span();
        let filters = match self.rng.random_range(0..10) {
            0 => vec![FilterType::Noput as i32],
            1 => vec![FilterType::Nodelete as i32],
            2 => vec![FilterType::Noput as i32, FilterType::Nodelete as i32],
            3 => vec![7],
            _ => Vec::new(),
        };
        let start_revision = match self.any_revision() {
            negative if negative < 0 && self.quirks.has(Quirk::StartsBeforeTheFirstRevision) => 0,
            compacted if compacted == self.compacted && self.quirks.has(Quirk::ForgetsDeletesAtCompaction) => 0,
            other => other,
        };
        Op::Watch(pb::WatchCreateRequest {
            key,
            range_end,
            start_revision,
            progress_notify: self.chance(20),
            filters,
            prev_kv: self.chance(50),
            watch_id: if self.chance(60) { 0 } else { self.watch_id(start_revision) },
            fragment: self.chance(20),
        })
    }

    /// An id of its own for a watch that ends at once; else one that may be in use.
    fn watch_id(&mut self, start: i64) -> i64 {
        if self.is_compacted(start) {
            return 10_000 + i64::try_from(self.ended.len()).unwrap_or(0);
        }
        let free: Vec<i64> = (1..9).filter(|id| !self.ended.contains(id)).collect();
        if free.is_empty() { 0 } else { self.pick(&free) }
    }

    fn is_compacted(&self, start: i64) -> bool {
        start > 0 && start < self.compacted
    }

    fn cancel(&mut self) -> Op {
        if self.watches.is_empty() || self.chance(10) {
            return Op::CancelWatch(NO_WATCH);
        }
        let at = self.rng.random_range(0..self.watches.len());
        Op::CancelWatch(self.watches[at].0)
    }
}

/// The first key after all that start with `key`; a key of only 0xff has none, hence "to the end".
fn prefix_end(key: &[u8]) -> Bytes {
    let mut end = key.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(b"\0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_replays() {
        let ops = |seed| {
            let mut generator = Generator::new(seed, Quirks::default());
            (0..500).map(|_| generator.next()).collect::<Vec<_>>()
        };
        assert_eq!(ops(1), ops(1));
        assert_ne!(ops(1), ops(2));
    }
}
