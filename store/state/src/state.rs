//! The state machine proper: a pure function of the log.
//!
//! Invariants
//! - No clock, randomness, I/O or configuration: two members that applied the same entries are equal.
//! - The revision starts at 1 and rises by exactly one with each transaction that changed something.
//! - A transaction makes one event per key: what the key became, against what it was before; two if
//!   it put the key and deleted it again, as in etcd.
//! - Compares see the state before the transaction.
//!
//! Not here: persistence and publication (see `machine`).

use std::{
    collections::{BTreeSet, HashMap},
    ops::Deref,
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    Entry, Event, EventKind, KeyRange, Lease, Level, Op, Put, PutLease, Refusal, Response, ResponseKind, Revision,
    Snapshot, Term, Txn, TxnResult,
    command::{Action, Outcome},
    keys::End,
    packed::{Numbers, Packed},
    planted::{self, Bug},
    rows::{LeaseRow, RowKind},
    snapshot::Path,
};

/// All current keys and leases, and the counters that every member agrees on.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct State {
    /// What readers see.
    now: Snapshot,
    /// Keys that expire, soonest first.
    pub expiring: BTreeSet<(u64, Bytes)>,
}

/// What one entry did.
pub struct Applied {
    pub outcome: Outcome,
    /// The changes, all at `State::revision`; none if nothing changed.
    pub events: Vec<Event>,
    /// The leases that were made or ended.
    pub leases: Vec<LeaseRow>,
}

impl Deref for State {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.now
    }
}

impl State {
    /// A state without keys, to which rows are added by `restore`.
    pub fn empty(revision: Revision, compacted: Option<Revision>, applied: u64) -> Self {
        Self { now: Snapshot { revision, compacted, applied, ..Snapshot::default() }, ..Self::default() }
    }

    /// Goes on to the log entry at `index`, whose command is applied next.
    pub fn enter(&mut self, index: u64) {
        self.now.applied = index;
    }

    /// Applies one command of an entry of `term`.
    pub fn apply(&mut self, action: &Action, term: Term) -> Applied {
        if action.needs() > self.now.level {
            // Whoever does not know it yet does nothing either.
            return refused(Refusal::Malformed);
        }
        match action {
            Action::Txn(txn) => self.txn(txn, term),
            Action::Compact { upto } => self.compact(*upto),
            Action::Expire { deadline, limit } => self.expire(*deadline, *limit),
            Action::Grant { id, ttl } => self.grant(*id, *ttl),
            Action::Revoke { id, fence } => self.revoke(*id, *fence, term),
            Action::EndLeases { ids, fence } => self.end_leases(ids, *fence, term),
            Action::RaiseLevel { to, fence } => self.raise_level(*to, *fence, term),
        }
    }

    /// A view of the current keys.
    pub fn snapshot(&self) -> Snapshot {
        self.now.clone()
    }

    /// Puts back what a row of the database says. Rows come in the order of their revisions, after
    /// the leases.
    pub fn restore(&mut self, kind: RowKind, entry: Entry) {
        match kind {
            RowKind::Put | RowKind::DeleteAndPut => {
                self.set(Packed::from(&entry));
            }
            RowKind::Delete | RowKind::PutAndDelete => {
                self.unset(&entry.key);
            }
        }
    }

    /// Puts back a lease.
    pub fn restore_lease(&mut self, row: LeaseRow) {
        if let Some(ttl) = row.ttl {
            self.add_lease(row.id, ttl, row.granted);
        }
    }

    /// Puts back the level.
    pub fn restore_level(&mut self, level: Level) {
        self.now.level = level;
    }

    fn txn(&mut self, txn: &Txn, term: Term) -> Applied {
        if txn.fence.is_some_and(|fence| fence != term) && !planted::is(Bug::FenceIgnored) {
            return refused(Refusal::Fenced);
        }
        let path = match self.path(txn) {
            Ok(path) => path,
            Err(refusal) => return refused(refusal),
        };
        let mut work = Work::new(self.now.revision.next(), path.inner.is_empty() && path.ops.len() < 2);
        let mut result = self.execute(&path, &mut work);
        let events = self.finish(work);
        result.revision = self.now.revision;
        Applied { outcome: Outcome::Txn(result), events, leases: Vec::new() }
    }

    fn compact(&mut self, upto: Revision) -> Applied {
        if self.now.compacted.is_some_and(|compacted| upto <= compacted) {
            return refused(Refusal::Compacted);
        }
        if upto > self.now.revision {
            return refused(Refusal::Future);
        }
        self.now.compacted = Some(upto);
        self.done(Vec::new())
    }

    fn expire(&mut self, deadline: u64, limit: u64) -> Applied {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let due = self.expiring.iter().take_while(|(expires, _)| *expires <= deadline).take(limit);
        let due: Vec<Bytes> = due.map(|(_, key)| key.clone()).collect();
        self.delete_keys(&due)
    }

    fn grant(&mut self, id: i64, ttl: i64) -> Applied {
        if self.now.leases.contains_key(&id) {
            return refused(Refusal::LeaseExists);
        }
        let granted = self.now.applied;
        self.add_lease(id, ttl, granted);
        Applied { leases: vec![LeaseRow { id, ttl: Some(ttl), granted }], ..self.done(Vec::new()) }
    }

    fn add_lease(&mut self, id: i64, ttl: i64, granted: u64) {
        let lease = Lease { ttl, granted, ..Lease::default() };
        self.now.sum.add_lease(id, &lease);
        self.now.leases.insert(id, lease);
    }

    fn revoke(&mut self, id: i64, fence: Option<Term>, term: Term) -> Applied {
        if fence.is_some_and(|fence| fence != term) {
            return refused(Refusal::Fenced);
        }
        if !self.now.leases.contains_key(&id) {
            return refused(Refusal::LeaseNotFound);
        }
        self.remove_leases(&[id])
    }

    /// Ends those of the leases that there are; their keys go at one revision.
    fn end_leases(&mut self, ids: &[i64], fence: Term, term: Term) -> Applied {
        if fence != term {
            return refused(Refusal::Fenced);
        }
        self.remove_leases(ids)
    }

    fn remove_leases(&mut self, ids: &[i64]) -> Applied {
        let known = ids.iter().filter_map(|id| Some((*id, self.now.leases.get(id)?)));
        let known: Vec<(i64, Lease)> = known.map(|(id, lease)| (id, lease.clone())).collect();
        let keys: Vec<Bytes> = known.iter().flat_map(|(_, lease)| lease.keys.iter().cloned()).collect();
        let mut applied = self.delete_keys(&keys);
        for (id, lease) in known {
            // An id may be named twice.
            if self.now.leases.remove(&id).is_some() {
                self.now.sum.remove_lease(id, &lease);
                applied.leases.push(LeaseRow { id, ttl: None, granted: lease.granted });
            }
        }
        applied
    }

    fn raise_level(&mut self, to: Level, fence: Term, term: Term) -> Applied {
        if fence != term {
            return refused(Refusal::Fenced);
        }
        // Raised twice, by whoever did not hear of the first time: it never falls.
        self.now.level = self.now.level.max(to);
        self.done(Vec::new())
    }

    fn delete_keys(&mut self, keys: &[Bytes]) -> Applied {
        let mut work = Work::new(self.now.revision.next(), true);
        for key in keys {
            if let Some((event, _)) = self.delete(work.revision, key) {
                work.record(event);
            }
        }
        let events = self.finish(work);
        self.done(events)
    }

    fn done(&self, events: Vec<Event>) -> Applied {
        Applied { outcome: Outcome::Done { revision: self.now.revision }, events, leases: Vec::new() }
    }

    fn execute(&mut self, path: &Path<'_>, work: &mut Work) -> TxnResult {
        let mut inner = path.inner.iter();
        let mut responses = Vec::with_capacity(path.ops.len());
        for op in path.ops {
            let kind = match op {
                Op::Put(put) => self.execute_put(put, work),
                Op::Delete { range, prev } => self.execute_delete(range, *prev, work),
                Op::Range(wanted) => self.now.look(wanted, work.changed()),
                Op::Txn(_) => match inner.next() {
                    Some(path) => ResponseKind::Txn(self.execute(path, work)),
                    None => continue,
                },
            };
            responses.push(Response { revision: work.seen(self.now.revision), kind });
        }
        TxnResult { succeeded: path.succeeded, revision: work.seen(self.now.revision), responses }
    }

    fn execute_put(&mut self, put: &Put, work: &mut Work) -> ResponseKind {
        let event = self.put(work, put);
        let prev = if put.prev { event.prev.clone() } else { None };
        work.record(event);
        ResponseKind::Put(prev)
    }

    fn execute_delete(&mut self, range: &KeyRange, prev: bool, work: &mut Work) -> ResponseKind {
        let (mut deleted, mut told) = (0, Vec::new());
        let mut delete = |state: &mut Self, key: &Bytes| {
            if let Some((event, old)) = state.delete(work.revision, key) {
                deleted += 1;
                if prev {
                    told.push(old);
                }
                work.record(event);
            }
        };
        if range.end == End::Key {
            delete(self, &range.start);
        } else {
            self.entries(range).iter().for_each(|entry| delete(self, &entry.key));
        }
        ResponseKind::Delete(deleted, told)
    }

    /// Ends a transaction: raises the revision if it changed something.
    fn finish(&mut self, work: Work) -> Vec<Event> {
        let revision = work.revision;
        let events = work.events();
        let reused = planted::is(Bug::RevisionReused) && events.iter().all(|event| event.kind == EventKind::Delete);
        if !events.is_empty() && !reused {
            self.now.revision = revision;
        }
        events
    }

    fn put(&mut self, work: &Work, put: &Put) -> Event {
        let revision = work.revision;
        let old = self.now.keys.get(&put.key[..]);
        let numbers = old.map(Packed::numbers);
        let (create_revision, version) = numbers.map_or((revision, 1), |old| (old.create_revision, old.version + 1));
        // What is to be kept of a key that this transaction has deleted is what it was before.
        let before = || work.before(&put.key);
        let kept_value = || old.map(Packed::value).or_else(|| before().map(|old| &old.value[..])).unwrap_or_default();
        let value = put.value.as_deref().unwrap_or_else(kept_value);
        let value = match planted::is(Bug::StateDiverges) && revision.0.is_multiple_of(64) {
            true => b"diverged",
            false => value,
        };
        let lease = match put.lease {
            PutLease::Set(lease) => lease,
            PutLease::Keep => numbers.map(|old| old.lease).or_else(|| before().map(|old| old.lease)).unwrap_or(0),
        };
        let numbers = Numbers { create_revision, mod_revision: revision, version, expires: put.expires, lease };
        // A copy: the command's buffer holds a whole batch, and a small key must not keep it all alive.
        let key = Packed::new(&put.key, numbers, value);
        let entry = Arc::new(key.entry());
        let prev = self.set(key).map(|old| Arc::new(old.entry()));
        Event { kind: EventKind::Put, entry, prev }
    }

    /// Removes a key; tells the event and what the key was.
    fn delete(&mut self, revision: Revision, key: &Bytes) -> Option<(Event, Arc<Entry>)> {
        let old = Arc::new(self.unset(key)?.entry());
        let entry = Entry {
            key: old.key.clone(),
            value: Bytes::new(),
            create_revision: Revision(0),
            mod_revision: revision,
            version: 0,
            expires: None,
            lease: 0,
        };
        let event = Event { kind: EventKind::Delete, entry: Arc::new(entry), prev: Some(Arc::clone(&old)) };
        Some((event, old))
    }

    fn set(&mut self, key: Packed) -> Option<Packed> {
        let Numbers { expires, lease, .. } = key.numbers();
        self.now.sum.add(&key);
        self.now.bytes += key.bytes().len() as u64;
        if let Some(expires) = expires {
            self.expiring.insert((expires, Bytes::copy_from_slice(key.key())));
        }
        if lease != 0
            && let Some(lease) = self.now.leases.get_mut(&lease)
        {
            lease.keys.insert(Bytes::copy_from_slice(key.key()));
        }
        let old = self.now.keys.insert(key)?;
        let numbers = old.numbers();
        self.gone(&old);
        if numbers.expires != expires {
            self.forget_expiry(&old, numbers);
        }
        if numbers.lease != lease {
            self.detach(&old, numbers);
        }
        Some(old)
    }

    fn unset(&mut self, key: &[u8]) -> Option<Packed> {
        let old = self.now.keys.remove(key)?;
        let numbers = old.numbers();
        self.gone(&old);
        self.forget_expiry(&old, numbers);
        self.detach(&old, numbers);
        Some(old)
    }

    fn gone(&mut self, old: &Packed) {
        self.now.sum.remove(old);
        self.now.bytes -= old.bytes().len() as u64;
    }

    fn forget_expiry(&mut self, old: &Packed, numbers: Numbers) {
        if let Some(expires) = numbers.expires {
            self.expiring.remove(&(expires, Bytes::copy_from_slice(old.key())));
        }
    }

    fn detach(&mut self, old: &Packed, numbers: Numbers) {
        if numbers.lease != 0
            && let Some(lease) = self.now.leases.get_mut(&numbers.lease)
        {
            lease.keys.remove(old.key());
        }
    }
}

fn refused(refusal: Refusal) -> Applied {
    Applied { outcome: Outcome::Refused(refusal), events: Vec::new(), leases: Vec::new() }
}

/// What a transaction has done so far.
struct Work {
    /// The revision of whatever it changes.
    revision: Revision,
    events: Vec<Option<Event>>,
    /// Where a key's events are: the first, and the second if there are two. A single operation
    /// cannot touch a key twice and needs none.
    places: Option<HashMap<Bytes, (usize, Option<usize>)>>,
}

impl Work {
    /// `apart`: no key is touched twice.
    fn new(revision: Revision, apart: bool) -> Self {
        Self { revision, events: Vec::new(), places: (!apart).then(HashMap::new) }
    }

    fn changed(&self) -> bool {
        !self.events.is_empty()
    }

    /// The revision that is seen now, given the one before the transaction.
    fn seen(&self, before: Revision) -> Revision {
        if self.changed() { self.revision } else { before }
    }

    /// What a key was before the transaction, if the transaction has changed it.
    fn before(&self, key: &Bytes) -> Option<&Arc<Entry>> {
        let (first, _) = self.places.as_ref()?.get(key)?;
        self.events[*first].as_ref()?.prev.as_ref()
    }

    /// Notes a change. A key has one event, against what it was before the transaction; one that was
    /// both put and deleted has both, as in etcd.
    fn record(&mut self, mut event: Event) {
        let at = self.events.len();
        if let Some(places) = &mut self.places {
            match places.get_mut(&event.entry.key) {
                None => {
                    places.insert(event.entry.key.clone(), (at, None));
                }
                Some((first, second)) => {
                    if let Some(second) = second.take() {
                        self.events[second] = None;
                    }
                    let earlier = self.events[*first].take();
                    let before = earlier.as_ref().and_then(|earlier| earlier.prev.clone());
                    match earlier {
                        Some(earlier) if earlier.kind != event.kind => {
                            event.prev = if event.kind == EventKind::Delete { before } else { None };
                            self.events[*first] = Some(earlier);
                            *second = Some(at);
                        }
                        _ => {
                            event.prev = before;
                            *first = at;
                        }
                    }
                }
            }
        }
        self.events.push(Some(event));
    }

    fn events(self) -> Vec<Event> {
        self.events.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Compare, CompareOp, RangeQuery, Target};

    fn b(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    /// `a=1` puts, `-a` deletes, `-a*` deletes a prefix, `a=1@9` puts with an expiry.
    fn op(text: &str) -> Op {
        if let Some(prefix) = text.strip_prefix('-').and_then(|rest| rest.strip_suffix('*')) {
            return Op::delete_prefix(b(prefix));
        }
        if let Some(key) = text.strip_prefix('-') {
            return Op::delete(b(key));
        }
        let (key, value) = text.split_once('=').unwrap();
        let (value, expires) = value.split_once('@').map_or((value, None), |(v, e)| (v, Some(e.parse().unwrap())));
        Op::put_until(b(key), b(value), expires)
    }

    fn write(ops: &str) -> Action {
        Action::Txn(Txn::write(ops.split_whitespace().map(op).collect()))
    }

    fn show(state: &State) -> String {
        let keys = state.keys.iter().map(|key| {
            let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
            let e = key.entry();
            format!("{}={} c{} m{} v{}", text(&e.key), text(&e.value), e.create_revision, e.mod_revision, e.version)
        });
        format!("r{} | {}", state.revision, keys.collect::<Vec<_>>().join(", "))
    }

    #[test]
    fn transactions_apply_as_etcd_users_expect() {
        for (name, steps, expect, events) in [
            ("a new store", &[][..], "r1 | ", 0),
            ("a put makes a key at the next revision", &["a=1"], "r2 | a=1 c2 m2 v1", 1),
            ("the same value again still counts", &["a=1", "a=1"], "r3 | a=1 c2 m3 v2", 1),
            ("a delete starts the key anew", &["a=1", "-a", "a=2"], "r4 | a=2 c4 m4 v1", 1),
            ("deleting nothing changes nothing", &["a=1", "-b"], "r2 | a=1 c2 m2 v1", 0),
            ("many keys, one revision", &["a=1 b=2"], "r2 | a=1 c2 m2 v1, b=2 c2 m2 v1", 2),
            ("a prefix goes at once", &["a/1=x a/2=y b=z", "-a/*"], "r3 | b=z c2 m2 v1", 2),
            ("made and removed at once is both", &["a=1 -a"], "r2 | ", 2),
            ("changed and removed at once is both", &["a=1", "a=2 -a"], "r3 | ", 2),
            ("and made again is one", &["a=1", "a=2 -a a=3"], "r3 | a=3 c3 m3 v1", 1),
            ("put twice is one event", &["a=1 a=2"], "r2 | a=2 c2 m2 v2", 1),
            ("removed and made again keeps no past", &["a=1", "-a a=2"], "r3 | a=2 c3 m3 v1", 2),
        ] {
            let mut state = State::default();
            let mut last = 0;
            for step in steps {
                last = state.apply(&write(step), Term(1)).events.len();
            }
            assert_eq!((show(&state).as_str(), last), (expect, events), "{name}");
        }
    }

    #[test]
    fn compares_guard_the_transaction() {
        let mut state = State::default();
        state.apply(&write("a=1"), Term(1));
        let range = |from: &'static str, to: &'static str, target| Compare {
            range: KeyRange::of(from.into(), to.into()),
            op: CompareOp::Eq,
            target,
        };
        for (name, compare, holds) in [
            ("unchanged", Compare::unchanged("a", Revision(2)), true),
            ("changed", Compare::unchanged("a", Revision(1)), false),
            ("absent", Compare::absent("b"), true),
            ("not absent", Compare::absent("a"), false),
            ("present", Compare::present("a"), true),
            ("value", Compare::value("a", "1"), true),
            ("a missing key fails on value", Compare::new("b", CompareOp::Ne, Target::Value(b("1"))), false),
            ("version", Compare::new("a", CompareOp::Gt, Target::Version(0)), true),
            ("lease", Compare::new("a", CompareOp::Eq, Target::Lease(0)), true),
            ("every key of a range", range("a", "c", Target::Version(1)), true),
            ("one of a range does not", range("a", "c", Target::CreateRevision(3)), false),
            ("no key of a range is like a missing one", range("x", "z", Target::Version(0)), true),
            ("and fails on value", range("x", "z", Target::Value(b(""))), false),
        ] {
            let txn = Txn::guarded(vec![compare], vec![]);
            let Outcome::Txn(result) = state.apply(&Action::Txn(txn), Term(1)).outcome else { panic!("{name}") };
            assert_eq!(result.succeeded, holds, "{name}");
            assert_eq!(result.responses.len(), usize::from(!holds), "{name}");
        }
    }

    #[test]
    fn a_deposed_leader_cannot_write() {
        let mut state = State::default();
        let fenced = |term| Action::Txn(Txn::write(vec![op("a=1")]).fenced(Some(Term(term))));
        assert_eq!(state.apply(&fenced(1), Term(2)).outcome, Outcome::Refused(Refusal::Fenced));
        assert_eq!(show(&state), "r1 | ");
        assert!(matches!(state.apply(&fenced(2), Term(2)).outcome, Outcome::Txn(_)));
    }

    #[test]
    fn keys_expire_by_command_only_and_in_order() {
        let mut state = State::default();
        state.apply(&write("a=1@10 b=1@20 c=1@30 d=1"), Term(1));
        state.apply(&write("b=2@40 c=2"), Term(1));
        let expired = state.apply(&Action::Expire { deadline: 30, limit: 10 }, Term(1));
        assert_eq!(expired.events.iter().map(|e| e.entry.key.clone()).collect::<Vec<_>>(), [b("a")]);
        assert_eq!(state.expiring.iter().cloned().collect::<Vec<_>>(), [(40, b("b"))]);
        assert_eq!(state.apply(&Action::Expire { deadline: 30, limit: 10 }, Term(1)).events.len(), 0);
        assert_eq!(state.revision, Revision(4));
    }

    #[test]
    fn compaction_goes_forward_and_never_passes_the_present() {
        let mut state = State::default();
        state.apply(&write("a=1"), Term(1));
        let mut compact = |upto| state.apply(&Action::Compact { upto: Revision(upto) }, Term(1)).outcome;
        let done = Outcome::Done { revision: Revision(2) };
        assert_eq!(compact(99), Outcome::Refused(Refusal::Future));
        assert_eq!((compact(0), compact(0)), (done.clone(), Outcome::Refused(Refusal::Compacted)));
        assert_eq!((compact(2), compact(1)), (done, Outcome::Refused(Refusal::Compacted)));
        assert_eq!(state.compacted(), Revision(2));
    }

    #[test]
    fn a_lease_takes_its_keys_along() {
        let mut state = State::default();
        let leased = |key: &'static str, lease| {
            let put = Put { key: b(key), value: Some(b("v")), expires: None, lease: PutLease::Set(lease), prev: false };
            Action::Txn(Txn::write(vec![Op::Put(put)]))
        };
        let refused = |refusal| Outcome::Refused(refusal);
        assert_eq!(state.apply(&leased("a", 7), Term(1)).outcome, refused(Refusal::LeaseNotFound));
        assert_eq!(
            state.apply(&Action::Grant { id: 7, ttl: 60 }, Term(1)).leases,
            [LeaseRow { id: 7, ttl: Some(60), granted: 0 }]
        );
        assert_eq!(state.apply(&Action::Grant { id: 7, ttl: 9 }, Term(1)).outcome, refused(Refusal::LeaseExists));
        for key in ["a", "b", "c"] {
            state.apply(&leased(key, 7), Term(1));
        }
        state.apply(&write("b=2 -c"), Term(1));
        assert_eq!(state.leases()[&7].keys.iter().cloned().collect::<Vec<_>>(), [b("a")]);
        let keep = Put { key: b("a"), value: None, expires: None, lease: PutLease::Keep, prev: true };
        state.apply(&Action::Txn(Txn::write(vec![Op::Put(keep.clone())])), Term(1));
        assert_eq!(show(&state), "r6 | a=v c2 m6 v2, b=2 c3 m5 v2");
        let missing = Action::Txn(Txn::write(vec![Op::Put(Put { key: b("x"), ..keep })]));
        assert_eq!(state.apply(&missing, Term(1)).outcome, refused(Refusal::KeyNotFound));
        let fenced = Action::Revoke { id: 7, fence: Some(Term(1)) };
        assert_eq!(state.apply(&fenced, Term(2)).outcome, refused(Refusal::Fenced));
        let revoked = state.apply(&Action::Revoke { id: 7, fence: None }, Term(2));
        assert_eq!((revoked.events.len(), revoked.leases), (1, vec![LeaseRow { id: 7, ttl: None, granted: 0 }]));
        assert_eq!(show(&state), "r7 | b=2 c3 m5 v2");
        let again = state.apply(&Action::Revoke { id: 7, fence: None }, Term(2));
        assert_eq!(again.outcome, refused(Refusal::LeaseNotFound));
    }

    #[test]
    fn leases_end_together_only_where_all_members_know_how() {
        let mut state = State::default();
        for id in [1, 2, 3] {
            state.apply(&Action::Grant { id, ttl: 60 }, Term(1));
            let key = Bytes::from(format!("k{id}"));
            let put = Put { key, value: Some(b("v")), expires: None, lease: PutLease::Set(id), prev: false };
            state.apply(&Action::Txn(Txn::write(vec![Op::Put(put)])), Term(1));
        }
        let end = |fence| Action::EndLeases { ids: vec![1, 3, 9, 1], fence: Term(fence) };
        let before = state.clone();
        assert_eq!(state.apply(&end(1), Term(1)).outcome, Outcome::Refused(Refusal::Malformed));
        assert_eq!(state, before, "as for a program that does not know it");
        let raise = |to, fence| Action::RaiseLevel { to: Level(to), fence: Term(fence) };
        assert_eq!(state.apply(&raise(1, 1), Term(2)).outcome, Outcome::Refused(Refusal::Fenced));
        assert_eq!(state.level(), Level(0));
        for to in [1, 0, 1] {
            assert_eq!(state.apply(&raise(to, 2), Term(2)).outcome, Outcome::Done { revision: Revision(4) });
            assert_eq!(state.level(), Level(1), "it never falls");
        }
        assert_eq!(state.apply(&end(1), Term(2)).outcome, Outcome::Refused(Refusal::Fenced));
        let ended = state.apply(&end(2), Term(2));
        let ids: Vec<i64> = ended.leases.iter().map(|row| row.id).collect();
        assert_eq!((ended.events.len(), ids, state.revision), (2, vec![1, 3], Revision(5)));
        assert_eq!(show(&state), "r5 | k2=v c3 m3 v1");
        assert_eq!(state.leases().keys().copied().collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn a_read_within_a_transaction_sees_what_it_has_written() {
        let mut state = State::default();
        state.apply(&write("a=1"), Term(1));
        let at = |revision| RangeQuery { revision, ..RangeQuery::new(KeyRange::key("a")) };
        let inner = Txn::guarded(vec![Compare::value("a", "1")], vec![Op::get("a"), Op::delete("a")]);
        let ops = vec![Op::get("a"), Op::put("a", "2"), Op::Range(at(2)), Op::Txn(inner), Op::get("a")];
        let Outcome::Txn(result) = state.apply(&Action::Txn(Txn::write(ops)), Term(1)).outcome else { panic!() };
        let told: Vec<String> = result.responses.iter().map(tell).collect();
        assert_eq!(told, ["r2 1", "r3 put", "r3 past 2", "r3 [r3 2, r3 deleted 1]", "r3 -"]);
        for (revision, refusal) in [(4, Refusal::Future), (1, Refusal::Compacted)] {
            state.apply(&Action::Compact { upto: Revision(2) }, Term(1));
            let txn = Txn::write(vec![Op::put("a", "3"), Op::Range(at(revision))]);
            assert_eq!(state.apply(&Action::Txn(txn), Term(1)).outcome, Outcome::Refused(refusal));
            assert_eq!(state.revision, Revision(3), "nothing was done");
        }
    }

    fn tell(response: &Response) -> String {
        let kind = match &response.kind {
            ResponseKind::Put(_) => "put".to_owned(),
            ResponseKind::Delete(count, _) => format!("deleted {count}"),
            ResponseKind::Past(query) => format!("past {}", query.revision),
            ResponseKind::Range(found) => {
                found.entries.first().map_or("-".to_owned(), |e| String::from_utf8_lossy(&e.value).into_owned())
            }
            ResponseKind::Txn(inner) => {
                format!("[{}]", inner.responses.iter().map(tell).collect::<Vec<_>>().join(", "))
            }
        };
        format!("r{} {kind}", response.revision)
    }

    fn any_op() -> impl Strategy<Value = Op> {
        let key = prop::sample::select(vec!["a", "a/1", "a/2", "b", "c"]);
        (0..5u8, key, any::<u8>(), prop::option::of(0..50u64)).prop_map(|(kind, key, value, expires)| match kind {
            0 => Op::delete(b(key)),
            1 => Op::delete_prefix(b(key)),
            2 => {
                let lease = PutLease::Set(i64::from(value % 3));
                Op::Put(Put { key: b(key), value: Some(b("v")), expires, lease, prev: true })
            }
            _ => Op::put_until(b(key), Bytes::copy_from_slice(&[value]), expires),
        })
    }

    fn any_action() -> impl Strategy<Value = Action> {
        let ops = || prop::collection::vec(any_op(), 0..5);
        let compare =
            (prop::sample::select(vec!["a", "b"]), 0..6u64).prop_map(|(k, r)| Compare::unchanged(k, Revision(r)));
        let txn = (prop::collection::vec(compare, 0..2), ops(), ops(), prop::option::of(0..3u64)).prop_map(
            |(compares, success, failure, fence)| {
                Action::Txn(Txn { compares, success, failure, fence: fence.map(Term) })
            },
        );
        prop_oneof![
            8 => txn,
            1 => (1..3i64, 0..2u8).prop_map(|(id, grant)| match grant {
                0 => Action::Grant { id, ttl: 60 },
                _ => Action::Revoke { id, fence: None },
            }),
            1 => prop::collection::vec(1..3i64, 0..3).prop_map(|ids| Action::EndLeases { ids, fence: Term(1) }),
            1 => Just(Action::RaiseLevel { to: Level(1), fence: Term(1) }),
            1 => (0..60u64, 0..4u64).prop_map(|(deadline, limit)| Action::Expire { deadline, limit }),
            1 => (0..40u64).prop_map(|upto| Action::Compact { upto: Revision(upto) }),
        ]
    }

    proptest! {
        /// Encoding and decoding each command, and starting from a copy half-way, change nothing.
        #[test]
        fn apply_is_deterministic(actions in prop::collection::vec((any_action(), 1..3u64), 0..60), cut in 0..60usize) {
            let mut one = State::default();
            let mut two = State::default();
            for (at, (action, term)) in actions.iter().enumerate() {
                let before = one.revision;
                let left = one.apply(action, Term(*term));
                let right = two.apply(&Action::decode(&action.encode()).unwrap(), Term(*term));
                prop_assert_eq!(&left.outcome, &right.outcome);
                prop_assert_eq!(&left.events, &right.events);
                prop_assert_eq!(one.revision.0, before.0 + u64::from(!left.events.is_empty()));
                if at == cut {
                    two = one.clone();
                }
            }
            prop_assert_eq!(&one, &two);
            let entries: Vec<Entry> = one.keys.iter().map(Packed::entry).collect();
            let expiring: BTreeSet<_> = entries.iter().filter_map(|e| Some((e.expires?, e.key.clone()))).collect();
            prop_assert_eq!(&one.expiring, &expiring);
            let mut sum = crate::digest::Sum::default();
            entries.iter().for_each(|entry| sum.add(&Packed::from(entry)));
            one.leases().iter().for_each(|(id, lease)| sum.add_lease(*id, lease));
            prop_assert_eq!(one.sum(), sum, "kept up with every change");
            let bytes: u64 = one.keys.iter().map(|key| key.bytes().len() as u64).sum();
            prop_assert_eq!(one.bytes(), bytes);
            for (id, lease) in one.leases() {
                let keys = entries.iter().filter(|e| e.lease == *id).map(|e| e.key.clone());
                prop_assert_eq!(lease.keys.clone(), keys.collect());
            }
            prop_assert!(entries.iter().all(|e| e.lease == 0 || one.leases().contains_key(&e.lease)));
        }
    }
}
