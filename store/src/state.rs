//! The state machine proper: a pure function of the log.
//!
//! Invariants
//! - No clock, randomness, I/O or configuration: two members that applied the same entries are equal.
//! - The revision starts at 1 and rises by exactly one with each transaction that changed something.
//! - A transaction makes at most one event per key: what the key became, against what it was before.
//! - Compares see the state before the transaction.
//!
//! Not here: persistence and publication (see `machine`).

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use imbl::OrdMap;

use crate::{
    Compare, CompareOp, Entry, Event, EventKind, Op, Revision, Snapshot, Term, Txn, TxnResult,
    command::{Action, Outcome},
    planted::{self, Bug},
};

/// All current keys, and the counters that every member agrees on.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct State {
    pub map: OrdMap<Bytes, Arc<Entry>>,
    pub revision: Revision,
    /// History up to here is gone; this revision itself can still be read.
    pub compacted: Revision,
    /// Keys that expire, soonest first.
    pub expiring: BTreeSet<(u64, Bytes)>,
}

/// What one entry did.
pub(crate) struct Applied {
    pub outcome: Outcome,
    /// The changes, all at `State::revision`; none if nothing changed.
    pub events: Vec<Event>,
}

impl Default for State {
    fn default() -> Self {
        Self { map: OrdMap::new(), revision: Revision(1), compacted: Revision(1), expiring: BTreeSet::new() }
    }
}

impl State {
    /// Applies one command of an entry of `term`.
    pub fn apply(&mut self, action: &Action, term: Term) -> Applied {
        match action {
            Action::Txn(txn) => self.txn(txn, term),
            Action::Compact { upto } => {
                self.compacted = self.compacted.max((*upto).min(self.revision));
                self.done(Vec::new())
            }
            Action::Expire { deadline, limit } => self.expire(*deadline, *limit),
        }
    }

    /// A view of the current keys as of log entry `applied`.
    pub fn snapshot(&self, applied: u64) -> Snapshot {
        Snapshot { map: self.map.clone(), revision: self.revision, applied }
    }

    /// Puts back what a row of the database says. Rows come in the order of their revisions.
    pub fn restore(&mut self, kind: EventKind, entry: Entry) {
        match kind {
            EventKind::Put => {
                self.set(Arc::new(entry));
            }
            EventKind::Delete => {
                self.unset(&entry.key);
            }
        }
    }

    fn txn(&mut self, txn: &Txn, term: Term) -> Applied {
        if txn.fence.is_some_and(|fence| fence != term) && !planted::is(Bug::FenceIgnored) {
            return Applied { outcome: Outcome::Fenced, events: Vec::new() };
        }
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let current = if succeeded {
            Vec::new()
        } else {
            txn.compares.iter().map(|compare| self.map.get(compare.key()).cloned()).collect()
        };
        let events = self.execute(if succeeded { &txn.success } else { &txn.failure });
        let outcome = Outcome::Txn(TxnResult { succeeded, revision: self.revision, current });
        Applied { outcome, events }
    }

    fn expire(&mut self, deadline: u64, limit: u64) -> Applied {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let due = self.expiring.iter().take_while(|(expires, _)| *expires <= deadline).take(limit);
        let ops: Vec<Op> = due.map(|(_, key)| Op::Delete { key: key.clone() }).collect();
        let events = self.execute(&ops);
        self.done(events)
    }

    fn done(&self, events: Vec<Event>) -> Applied {
        Applied { outcome: Outcome::Done { revision: self.revision }, events }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let entry = self.map.get(compare.key());
        match compare {
            Compare::ModRevision { op, rev, .. } => test(*op, &entry.map_or(Revision(0), |e| e.mod_revision), rev),
            Compare::CreateRevision { op, rev, .. } => {
                test(*op, &entry.map_or(Revision(0), |e| e.create_revision), rev)
            }
            Compare::Version { op, version, .. } => test(*op, &entry.map_or(0, |e| e.version), version),
            Compare::Value { op, value, .. } => entry.is_some_and(|entry| test(*op, &entry.value, value)),
        }
    }

    fn execute(&mut self, ops: &[Op]) -> Vec<Event> {
        let revision = self.revision.next();
        let mut journal = Journal::new(ops.len());
        for op in ops {
            match op {
                Op::Put { key, value, expires } => journal.record(self.put(revision, key, value, *expires)),
                Op::Delete { key } => {
                    if let Some(event) = self.delete(revision, key) {
                        journal.record(event);
                    }
                }
                Op::DeletePrefix { prefix } => {
                    let doomed: Vec<Bytes> = self.snapshot(0).range(prefix).map(|entry| entry.key.clone()).collect();
                    doomed.iter().filter_map(|key| self.delete(revision, key)).for_each(|event| journal.record(event));
                }
            }
        }
        let events = journal.finish();
        let reused = planted::is(Bug::RevisionReused) && events.iter().all(|event| event.kind == EventKind::Delete);
        if !events.is_empty() && !reused {
            self.revision = revision;
        }
        events
    }

    fn put(&mut self, revision: Revision, key: &Bytes, value: &Bytes, expires: Option<u64>) -> Event {
        let old = self.map.get(key);
        let (create_revision, version) = old.map_or((revision, 1), |old| (old.create_revision, old.version + 1));
        // The command's buffer holds a whole batch; a small key must not keep it all alive. Key
        // and value are copied once, together.
        let mut own = Vec::with_capacity(key.len() + value.len());
        own.extend_from_slice(key);
        own.extend_from_slice(value);
        let own = Bytes::from(own);
        let entry = Entry {
            key: own.slice(..key.len()),
            value: own.slice(key.len()..),
            create_revision,
            mod_revision: revision,
            version,
            expires,
        };
        let entry = Arc::new(entry);
        let prev = self.set(Arc::clone(&entry));
        Event { kind: EventKind::Put, entry, prev }
    }

    fn delete(&mut self, revision: Revision, key: &Bytes) -> Option<Event> {
        let prev = self.unset(key)?;
        let entry = Entry {
            key: prev.key.clone(),
            value: Bytes::new(),
            create_revision: Revision(0),
            mod_revision: revision,
            version: 0,
            expires: None,
        };
        Some(Event { kind: EventKind::Delete, entry: Arc::new(entry), prev: Some(prev) })
    }

    fn set(&mut self, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        if let Some(expires) = entry.expires {
            self.expiring.insert((expires, entry.key.clone()));
        }
        let expires = entry.expires;
        let old = self.map.insert(entry.key.clone(), entry)?;
        if old.expires.is_some() && old.expires != expires {
            self.forget_expiry(&old);
        }
        Some(old)
    }

    fn unset(&mut self, key: &Bytes) -> Option<Arc<Entry>> {
        let old = self.map.remove(key)?;
        self.forget_expiry(&old);
        Some(old)
    }

    fn forget_expiry(&mut self, old: &Entry) {
        if let Some(expires) = old.expires {
            self.expiring.remove(&(expires, old.key.clone()));
        }
    }
}

/// The events of one transaction, one per key.
struct Journal {
    events: Vec<Option<Event>>,
    /// Where a key's event is. A single operation cannot touch a key twice and needs none.
    places: Option<HashMap<Bytes, usize>>,
}

impl Journal {
    fn new(ops: usize) -> Self {
        Self { events: Vec::with_capacity(ops), places: (ops > 1).then(HashMap::new) }
    }

    fn record(&mut self, event: Event) {
        if let Some(places) = &mut self.places
            && let Some(at) = places.insert(event.entry.key.clone(), self.events.len())
            && let Some(earlier) = self.events[at].take()
        {
            // Made and removed within the transaction is as if nothing had been.
            if event.kind == EventKind::Put || earlier.prev.is_some() {
                self.events.push(Some(Event { prev: earlier.prev, ..event }));
            } else {
                places.remove(&event.entry.key);
            }
            return;
        }
        self.events.push(Some(event));
    }

    fn finish(self) -> Vec<Event> {
        self.events.into_iter().flatten().collect()
    }
}

fn test<T: Ord>(op: CompareOp, have: &T, want: &T) -> bool {
    match op {
        CompareOp::Eq => have == want,
        CompareOp::Ne => have != want,
        CompareOp::Gt => have > want,
        CompareOp::Lt => have < want,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn b(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    /// `a=1` puts, `-a` deletes, `-a*` deletes a prefix, `a=1@9` puts with an expiry.
    fn op(text: &str) -> Op {
        if let Some(prefix) = text.strip_prefix('-').and_then(|rest| rest.strip_suffix('*')) {
            return Op::DeletePrefix { prefix: b(prefix) };
        }
        if let Some(key) = text.strip_prefix('-') {
            return Op::Delete { key: b(key) };
        }
        let (key, value) = text.split_once('=').unwrap();
        let (value, expires) = value.split_once('@').map_or((value, None), |(v, e)| (v, Some(e.parse().unwrap())));
        Op::Put { key: b(key), value: b(value), expires }
    }

    fn write(ops: &str) -> Action {
        Action::Txn(Txn::write(ops.split_whitespace().map(op).collect()))
    }

    fn show(state: &State) -> String {
        let keys = state.map.iter().map(|(key, e)| {
            let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
            format!("{}={} c{} m{} v{}", text(key), text(&e.value), e.create_revision, e.mod_revision, e.version)
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
            ("made and removed at once is nothing", &["a=1 -a"], "r1 | ", 0),
            ("put twice is one event", &["a=1 a=2"], "r2 | a=2 c2 m2 v2", 1),
            ("removed and made again keeps no past", &["a=1", "-a a=2"], "r3 | a=2 c3 m3 v1", 1),
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
        for (name, compare, holds) in [
            ("unchanged", Compare::unchanged("a", Revision(2)), true),
            ("changed", Compare::unchanged("a", Revision(1)), false),
            ("absent", Compare::absent("b"), true),
            ("not absent", Compare::absent("a"), false),
            ("present", Compare::present("a"), true),
            ("value", Compare::Value { key: b("a"), op: CompareOp::Eq, value: b("1") }, true),
            ("a missing key fails on value", Compare::Value { key: b("b"), op: CompareOp::Ne, value: b("1") }, false),
            ("version", Compare::Version { key: b("a"), op: CompareOp::Gt, version: 0 }, true),
        ] {
            let txn = Txn { compares: vec![compare], success: vec![], failure: vec![], fence: None };
            let Outcome::Txn(result) = state.apply(&Action::Txn(txn), Term(1)).outcome else { panic!("{name}") };
            assert_eq!(result.succeeded, holds, "{name}");
            assert_eq!(result.current.len(), usize::from(!holds), "{name}");
        }
    }

    #[test]
    fn a_deposed_leader_cannot_write() {
        let mut state = State::default();
        let fenced = |term| Action::Txn(Txn::write(vec![op("a=1")]).fenced(Some(Term(term))));
        assert_eq!(state.apply(&fenced(1), Term(2)).outcome, Outcome::Fenced);
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
    fn compaction_never_passes_the_present() {
        let mut state = State::default();
        state.apply(&write("a=1"), Term(1));
        state.apply(&Action::Compact { upto: Revision(99) }, Term(1));
        assert_eq!(state.compacted, Revision(2));
        state.apply(&Action::Compact { upto: Revision(1) }, Term(1));
        assert_eq!(state.compacted, Revision(2));
    }

    fn any_op() -> impl Strategy<Value = Op> {
        let key = prop::sample::select(vec!["a", "a/1", "a/2", "b", "c"]);
        (0..4u8, key, any::<u8>(), prop::option::of(0..50u64)).prop_map(|(kind, key, value, expires)| match kind {
            0 => Op::Delete { key: b(key) },
            1 => Op::DeletePrefix { prefix: b(key) },
            _ => Op::Put { key: b(key), value: Bytes::copy_from_slice(&[value]), expires },
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
            let expiring: BTreeSet<_> = one.map.values().filter_map(|e| Some((e.expires?, e.key.clone()))).collect();
            prop_assert_eq!(&one.expiring, &expiring);
        }
    }
}
