//! The order of all writes, from the revisions the store itself gave, and everything held against it.
//!
//! Every acknowledged write names its revision, every key read names the revision of its last change,
//! every event names its own. Together they give one [`Journal`], in which a write of unknown outcome
//! appears where somebody saw it. Replaying the journal gives the state at every revision, and then, in
//! time linear in the history:
//! - no revision has two writes, no write two revisions, no refused write any;
//! - every guard held, or failed to, in the state just before its revision;
//! - every read, also of several keys and also serializable ones, is the state at its header's revision;
//! - a revision is never below one that was known to anybody before the operation began (serializable
//!   reads are free of this), nor seen before the write that made it was asked for;
//! - where a watch over all keys was open, every revision has a change.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::{
    history::{Answer, Guard, History, Item, Nanos, Op, Outcome, Part, Rev, Step, WatchStep},
    linear::show,
    verdict::Verdict,
};

/// Why a row is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An operation of the history, by index.
    Op(usize),
    /// Leases that ended together.
    Leases(BTreeSet<i64>),
    /// Nothing that anybody asked for.
    Nothing,
}

/// One key's change: before and after.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub key: String,
    pub before: Option<Item>,
    pub after: Option<Item>,
}

/// All that happened at one revision.
#[derive(Clone, Debug)]
pub struct Row {
    pub revision: Rev,
    pub cause: Cause,
    pub changes: Vec<Change>,
}

/// All that happened, in order.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    pub rows: Vec<Row>,
}

impl Journal {
    /// The rows above `after`, up to and with `upto`.
    #[must_use]
    pub fn between(&self, after: Rev, upto: Rev) -> &[Row] {
        let start = self.rows.partition_point(|row| row.revision <= after);
        let end = self.rows.partition_point(|row| row.revision <= upto);
        &self.rows[start..end.max(start)]
    }
}

/// A moment at which somebody knew that a revision existed.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    pub at: Nanos,
    pub revision: Rev,
}

/// Every such moment, in no order.
#[must_use]
pub fn known(history: &History) -> Vec<Known> {
    let answers = history.ops.iter().filter_map(|op| Some(Known { at: op.end, revision: op.answer()?.revision }));
    let events = history.watches.iter().filter_map(|step| match &step.step {
        WatchStep::Batch { events, .. } => Some(Known { at: step.at, revision: events.last()?.revision }),
        _ => None,
    });
    answers.chain(events).collect()
}

/// What was seen of one revision before anything is replayed.
#[derive(Default)]
struct Evidence<'a> {
    op: Option<usize>,
    put: BTreeMap<&'a str, &'a str>,
    deleted: BTreeSet<&'a str>,
}

struct Replay<'a> {
    ops: &'a [Op],
    /// Revisions between these are all known from a watch over all keys.
    complete: Option<(Rev, Rev)>,
    rows: BTreeMap<Rev, Evidence<'a>>,
    /// Who writes a value, and to which key.
    writers: HashMap<&'a str, (usize, &'a str)>,
    /// Deletes of unknown outcome by key, and those that were found.
    deletes: HashMap<&'a str, Vec<usize>>,
    used: HashSet<usize>,
    /// Keys with a put of unknown outcome.
    unsure: HashSet<&'a str>,
    state: BTreeMap<String, Item>,
    verdict: Verdict,
}

/// Judges the whole history by revision.
#[must_use]
pub fn check(history: &History) -> (Verdict, Journal) {
    let mut replay = Replay {
        ops: &history.ops,
        complete: complete(history),
        rows: BTreeMap::new(),
        writers: HashMap::new(),
        deletes: HashMap::new(),
        used: HashSet::new(),
        unsure: HashSet::new(),
        state: BTreeMap::new(),
        verdict: Verdict::default(),
    };
    replay.writers_and_acknowledged();
    replay.observations(history);
    replay.adopt();
    let journal = replay.run();
    let mut verdict = replay.verdict;
    real_time(history, &journal, &mut verdict);
    if let Some((from, to)) = replay.complete {
        let rows = journal.between(from - 1, to);
        let have: HashSet<Rev> = rows.iter().map(|row| row.revision).collect();
        for missing in (from..=to).filter(|revision| !have.contains(revision)).take(5) {
            verdict.fail("revision-without-change", format!("nothing happened at revision {missing}"));
        }
    }
    verdict.saw("revisions", journal.rows.len());
    (verdict, journal)
}

/// The revisions that some watch over all keys covers.
fn complete(history: &History) -> Option<(Rev, Rev)> {
    let all = || history.watches.iter().filter(|step| step.from.is_empty() && step.to.is_empty());
    if all().any(|step| matches!(step.step, WatchStep::Compacted(_))) {
        return None;
    }
    let first = all().filter_map(|step| match step.step {
        WatchStep::Open { start, .. } => Some(start),
        _ => None,
    });
    let last = all().filter_map(|step| match &step.step {
        WatchStep::Batch { events, .. } => Some(events.last()?.revision),
        _ => None,
    });
    Some((first.min()?, last.max()?))
}

impl<'a> Replay<'a> {
    fn writers_and_acknowledged(&mut self) {
        for (index, op) in self.ops.iter().enumerate() {
            for step in op.ask.then.iter().chain(&op.ask.otherwise) {
                match step {
                    Step::Put { key, value, .. } => {
                        if op.unknown() {
                            self.unsure.insert(key);
                        }
                        if self.writers.insert(value, (index, key)).is_some() {
                            self.verdict.fail("broken-history", format!("{value} is written twice"));
                        }
                    }
                    Step::Delete { key } if op.unknown() => self.deletes.entry(key).or_default().push(index),
                    _ => {}
                }
            }
            let Some(revision) = op.wrote() else { continue };
            let row = self.rows.entry(revision).or_default();
            if let Some(other) = row.op.replace(index) {
                let text = format!("{revision}: {} and {}", show(&self.ops[other]), show(op));
                self.verdict.fail("two-writes-at-one-revision", text);
            }
        }
        for list in self.deletes.values_mut() {
            list.sort_by_key(|index| self.ops[*index].start);
        }
    }

    fn observations(&mut self, history: &'a History) {
        for op in &history.ops {
            let parts = op.answer().map_or(&[][..], |answer| &answer.parts);
            for part in parts {
                let Part::Items(items) = part else { continue };
                for item in items {
                    self.saw_put(&item.key, &item.value, item.modified);
                }
            }
            let held = op.answer().is_some_and(|answer| answer.succeeded);
            for guard in op.ask.guards.iter().filter(|guard| held && guard.revision > 0) {
                if let Some(value) = &guard.value {
                    self.saw_put(&guard.key, value, guard.revision);
                }
            }
        }
        for step in &history.watches {
            let WatchStep::Batch { events, .. } = &step.step else { continue };
            for event in events {
                match &event.item {
                    Some(item) => self.saw_put(&item.key, &item.value, item.modified),
                    None => {
                        self.rows.entry(event.revision).or_default().deleted.insert(&event.key);
                    }
                }
            }
        }
    }

    fn saw_put(&mut self, key: &'a str, value: &'a str, modified: Rev) {
        let row = self.rows.entry(modified).or_default();
        let other = row.put.insert(key, value);
        if let Some(other) = other.filter(|other| *other != value) {
            let text = format!("{key} has {other} and {value} at revision {modified}");
            self.verdict.fail("two-values-at-one-revision", text);
        }
    }

    /// Gives each row the operation whose values were seen there. What such an operation of unknown
    /// outcome had as its guard was there too, so it goes on until nothing new is found.
    fn adopt(&mut self) {
        let mut found: HashMap<usize, Rev> = HashMap::new();
        let mut todo: Vec<(Rev, &str, &str)> = Vec::new();
        for (revision, row) in &self.rows {
            todo.extend(row.put.iter().map(|(key, value)| (*revision, *key, *value)));
        }
        while let Some((revision, key, value)) = todo.pop() {
            let Some((writer, _)) = self.writers.get(value).copied().filter(|(_, at)| *at == key) else {
                self.verdict.fail("invented-value", format!("{key} = {value} at revision {revision}"));
                continue;
            };
            self.adopt_one(revision, key, value, writer);
            if found.get(&writer).is_some_and(|other| *other != revision) {
                let text = format!("at {} and at {revision}: {}", found[&writer], show(&self.ops[writer]));
                self.verdict.fail("write-applied-twice", text);
            } else if found.insert(writer, revision).is_none() && self.ops[writer].unknown() {
                for guard in self.ops[writer].ask.guards.iter().filter(|guard| guard.revision > 0) {
                    if let Some(value) = &guard.value {
                        self.saw_put(&guard.key, value, guard.revision);
                        todo.push((guard.revision, &guard.key, value));
                    }
                }
            }
        }
    }

    fn adopt_one(&mut self, revision: Rev, key: &str, value: &str, writer: usize) {
        let op = &self.ops[writer];
        let row = self.rows.entry(revision).or_default();
        if row.op.is_some_and(|other| other != writer) {
            let text = format!("{revision}: {key} = {value}, but also {}", show(op));
            self.verdict.fail("two-writes-at-one-revision", text);
        } else if matches!(op.outcome, Outcome::Failed(_)) {
            self.verdict.fail("refused-write-shows", format!("at revision {revision}: {}", show(op)));
        } else if op.answer().is_some() && op.wrote() != Some(revision) {
            self.verdict.fail("write-at-two-revisions", format!("at revision {revision}: {}", show(op)));
        } else {
            row.op = Some(writer);
        }
    }

    fn run(&mut self) -> Journal {
        let mut reads: Vec<(Rev, usize)> = Vec::new();
        for (index, op) in self.ops.iter().enumerate() {
            if let (Some(answer), None) = (op.answer(), op.wrote()) {
                reads.push((answer.revision, index));
            }
        }
        reads.sort_unstable();
        let mut reads = reads.into_iter().peekable();
        let mut journal = Journal::default();
        let total = reads.len();
        for (revision, row) in std::mem::take(&mut self.rows) {
            while let Some((at, index)) = reads.next_if(|(at, _)| *at < revision) {
                self.read(at, index);
            }
            let row = match row.op {
                Some(index) => self.write(revision, index, &row),
                None => self.ended(revision, &row),
            };
            journal.rows.push(row);
        }
        for (at, index) in reads {
            self.read(at, index);
        }
        self.verdict.saw("reads against the order", total);
        journal
    }

    /// An operation that changed nothing must have seen the state at its revision.
    fn read(&mut self, revision: Rev, index: usize) {
        let op = &self.ops[index];
        let Some(answer) = op.answer() else { return };
        self.guards(revision, op, answer.succeeded);
        let mut working = None;
        self.parts(revision, op, answer, &mut working);
    }

    fn guards(&mut self, revision: Rev, op: &Op, succeeded: bool) {
        let holds = |guard: &Guard, item: Option<&Item>| {
            if guard.by_value {
                item.map(|item| &item.value) == guard.value.as_ref()
            } else {
                item.map_or(0, |item| item.modified) == guard.revision
            }
        };
        if succeeded {
            for guard in &op.ask.guards {
                if guard.revision == 0 || guard.value.is_none() {
                    self.excuse(revision, &guard.key, op.end);
                }
            }
        }
        let all = op.ask.guards.iter().all(|guard| holds(guard, self.state.get(&guard.key)));
        if all != succeeded {
            let have: Vec<_> = op.ask.guards.iter().map(|guard| self.state.get(&guard.key)).collect();
            let text = format!("before revision {revision} the keys were {have:?}: {}", show(op));
            self.verdict.fail(if succeeded { "guard-did-not-hold" } else { "guard-held" }, text);
        }
    }

    /// Whether every change up to here was seen. Where not, a write of unknown outcome may have come and
    /// gone, and what a key was created at, its version and what a delete met prove nothing.
    fn exact(&self, revision: Rev) -> bool {
        self.complete.is_some_and(|(from, to)| from <= revision && revision <= to)
    }

    /// A key that was seen as missing may have been deleted at a revision that nobody saw.
    fn excuse(&mut self, revision: Rev, key: &str, seen: Nanos) {
        if self.exact(revision) {
            return;
        }
        let Some(item) = self.state.get(key) else { return };
        let list = self.deletes.get(key).map_or(&[][..], |list| list);
        let free = list.iter().find(|index| !self.used.contains(index) && self.ops[**index].start <= seen);
        if let Some(index) = free {
            self.used.insert(*index);
        }
        if free.is_some() || item.lease != 0 {
            self.state.remove(key);
        }
    }

    /// Holds the parts of an answer against the state; `working` collects the changes of a write.
    fn parts(&mut self, revision: Rev, op: &Op, answer: &Answer, working: &mut Option<Vec<Change>>) {
        for (step, part) in op.ask.branch(answer.succeeded).iter().zip(&answer.parts) {
            match (step, part) {
                (Step::Delete { key }, Part::Deleted(count)) => {
                    if *count == 0 {
                        self.excuse(revision, key, op.end);
                    }
                    let have = i64::from(self.state.contains_key(key));
                    let unseen = have < *count && !self.exact(revision) && self.unsure.contains(key.as_str());
                    if have != *count && !unseen {
                        let text = format!("{have} keys were there at {revision}: {}", show(op));
                        self.verdict.fail("wrong-delete", text);
                    }
                }
                (Step::Get { key }, Part::Items(items)) => self.compare(revision, op, key, None, items),
                (Step::Range { from, to }, Part::Items(items)) => self.compare(revision, op, from, Some(to), items),
                _ => {}
            }
            if let Some(changes) = working {
                self.apply(revision, step, changes);
            }
        }
    }

    fn compare(&mut self, revision: Rev, op: &Op, from: &str, to: Option<&str>, items: &[Item]) {
        let found: HashSet<&str> = items.iter().map(|item| item.key.as_str()).collect();
        let inside = |state: &BTreeMap<String, Item>| -> Vec<Item> {
            match to {
                None => state.get(from).cloned().into_iter().collect(),
                Some(to) => {
                    let from = state.range(from.to_owned()..);
                    from.take_while(|(key, _)| to.is_empty() || key.as_str() < to)
                        .map(|(_, item)| item.clone())
                        .collect()
                }
            }
        };
        for item in inside(&self.state).iter().filter(|item| !found.contains(item.key.as_str())) {
            self.excuse(revision, &item.key, op.end);
        }
        let want = inside(&self.state);
        let exact = self.exact(revision);
        let same = |a: &Item, b: &Item| {
            let counted = (a.created, a.version) == (b.created, b.version);
            a.key == b.key
                && a.value == b.value
                && a.modified == b.modified
                && a.lease == b.lease
                && (counted || !exact)
        };
        if want.len() != items.len() || !want.iter().zip(items).all(|(a, b)| same(a, b)) {
            let odd = want.iter().find(|item| !items.contains(item)).map(|item| format!("{item:?}"));
            let more = items.iter().find(|item| !want.contains(item)).map(|item| format!("{item:?}"));
            let text = format!("state at {revision} has {odd:?}, the answer {more:?}: {}", show(op));
            self.verdict.fail("read-of-no-state", text);
        }
    }

    fn apply(&mut self, revision: Rev, step: &Step, changes: &mut Vec<Change>) {
        match step {
            Step::Put { key, value, lease } => {
                let before = self.state.get(key).cloned();
                let item = Item {
                    key: key.clone(),
                    value: value.clone(),
                    created: before.as_ref().map_or(revision, |item| item.created),
                    modified: revision,
                    version: before.as_ref().map_or(1, |item| item.version + 1),
                    lease: *lease,
                };
                self.state.insert(key.clone(), item.clone());
                changes.push(Change { key: key.clone(), before, after: Some(item) });
            }
            Step::Delete { key } => {
                if let Some(before) = self.state.remove(key) {
                    changes.push(Change { key: key.clone(), before: Some(before), after: None });
                }
            }
            _ => {}
        }
    }

    fn write(&mut self, revision: Rev, index: usize, seen: &Evidence) -> Row {
        let op = &self.ops[index];
        let succeeded = op.answer().is_none_or(|answer| answer.succeeded);
        self.guards(revision, op, succeeded);
        let mut changes = Some(Vec::new());
        match op.answer() {
            Some(answer) => self.parts(revision, op, answer, &mut changes),
            None => {
                self.used.insert(index);
                for step in op.ask.branch(true) {
                    self.apply(revision, step, changes.get_or_insert_default());
                }
            }
        }
        let changes = changes.unwrap_or_default();
        let put = |key: &str| changes.iter().any(|change| change.key == key && change.after.is_some());
        let gone = |key: &str| changes.iter().any(|change| change.key == key && change.after.is_none());
        let odd = seen.put.keys().find(|key| !put(key)).or_else(|| seen.deleted.iter().find(|key| !gone(key)));
        if let Some(key) = odd {
            self.verdict.fail("event-of-nothing", format!("{key} at revision {revision}: {}", show(op)));
        }
        Row { revision, cause: Cause::Op(index), changes }
    }

    /// A revision that only deletes, and that no acknowledged write made.
    fn ended(&mut self, revision: Rev, seen: &Evidence) -> Row {
        let mut changes = Vec::new();
        let cause = match self.unknown_delete(seen) {
            Some(index) => Cause::Op(index),
            None => self.ended_leases(seen).map_or(Cause::Nothing, Cause::Leases),
        };
        for key in &seen.deleted {
            let step = Step::Delete { key: (*key).to_owned() };
            self.apply(revision, &step, &mut changes);
        }
        if changes.len() != seen.deleted.len() || !seen.put.is_empty() {
            let text = format!("revision {revision} deletes {:?} and puts {:?}", seen.deleted, seen.put);
            self.verdict.fail("event-of-nothing", text);
        } else if cause == Cause::Nothing {
            let text = format!("revision {revision} deletes {:?} and nobody asked for it", seen.deleted);
            self.verdict.fail("unexplained-delete", text);
        }
        Row { revision, cause, changes }
    }

    /// The oldest unused delete of unknown outcome that deletes just these keys.
    fn unknown_delete(&mut self, seen: &Evidence) -> Option<usize> {
        let first = *seen.deleted.first()?;
        let fits = |index: &usize| {
            let op = &self.ops[*index];
            let mut keys = BTreeSet::new();
            for step in &op.ask.then {
                match step {
                    Step::Delete { key } if self.state.contains_key(key) => drop(keys.insert(key.as_str())),
                    Step::Put { .. } => return false,
                    _ => {}
                }
            }
            let guards = op
                .ask
                .guards
                .iter()
                .all(|guard| self.state.get(&guard.key).map(|item| &item.value) == guard.value.as_ref());
            guards && keys == seen.deleted && !self.used.contains(index)
        };
        let index = self.deletes.get(first)?.iter().copied().find(fits)?;
        self.used.insert(index);
        Some(index)
    }

    /// The leases whose keys these are, if each has one.
    fn ended_leases(&self, seen: &Evidence) -> Option<BTreeSet<i64>> {
        let lease = |key: &&str| self.state.get(*key).map(|item| item.lease).filter(|lease| *lease != 0);
        let leases: BTreeSet<i64> = seen.deleted.iter().map(lease).collect::<Option<_>>()?;
        (!leases.is_empty()).then_some(leases)
    }
}

/// Revisions against the clock.
fn real_time(history: &History, journal: &Journal, verdict: &mut Verdict) {
    let mut points = known(history);
    points.sort_unstable_by_key(|point| point.at);
    let mut floors = Vec::with_capacity(points.len());
    let mut highest = 0;
    for point in &points {
        highest = highest.max(point.revision);
        floors.push((point.at, highest));
    }
    for op in history.ops.iter().filter(|op| !op.ask.serializable) {
        let Some(answer) = op.answer() else { continue };
        let before = floors.partition_point(|(at, _)| *at < op.start);
        let floor = before.checked_sub(1).map_or(0, |index| floors[index].1);
        if op.wrote().is_some_and(|revision| revision <= floor) {
            verdict.fail("revision-went-back", format!("{floor} was known before: {}", show(op)));
        } else if answer.revision < floor {
            verdict.fail("stale-read", format!("{floor} was known before: {}", show(op)));
        }
    }
    let mut latest = Vec::new();
    let mut start = 0;
    for row in &journal.rows {
        if let Cause::Op(index) = row.cause {
            start = start.max(history.ops[index].start);
        }
        latest.push((row.revision, start));
    }
    for point in &points {
        let upto = latest.partition_point(|(revision, _)| *revision <= point.revision);
        let asked = upto.checked_sub(1).map_or(0, |index| latest[index].1);
        if asked > point.at {
            let text = format!(
                "revision {} was known at {} ns, a write up to it asked at {asked} ns",
                point.revision, point.at
            );
            verdict.fail("effect-before-cause", text);
        }
    }
}
