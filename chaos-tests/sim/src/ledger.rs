//! What is known to have happened, and the invariants.
//!
//! The first member to apply an index says what the group decided there; everybody else, and every
//! later life of the same member, has to agree. Clients and watchers are held against that.
//!
//! Invariants (their names are what a failure shows)
//! - *one leader*: a term has one leader at most; a member gives one vote per term.
//! - *log matching*: entries of the same index and term are the same, and so are those before them.
//! - *one state*: at equal index all members have the same state, also after a restart or a snapshot.
//! - *revisions*: a revision follows the one before it, and there is one per change.
//! - *nothing lost*: what was acknowledged is in the history, once; what was refused is not.
//! - *linearizable*: a read shows all that was acknowledged before it began, and nothing made up.
//! - *watch*: a watcher sees each change once and in order.
//! - *durable*: what a member made durable is there when it comes back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use kontiki_store::{Entry, Event, EventKind, Revision};

use crate::{
    report::Counts,
    world::{Applied, Seen},
};

/// Lines that a failure shows.
const LAST: usize = 60;

/// What broke.
#[derive(Clone, Debug)]
pub struct Violation {
    pub invariant: &'static str,
    pub detail: String,
}

#[derive(Clone, Debug)]
struct Decided {
    term: u64,
    digest: u64,
    revision: Revision,
    state: u64,
}

/// See the module.
#[derive(Default)]
pub struct Ledger {
    decided: BTreeMap<u64, Decided>,
    events: BTreeMap<u64, Vec<Event>>,
    /// What a key became at which revision.
    keys: BTreeMap<Bytes, Vec<(u64, Option<Entry>)>>,
    /// The revision of each client's transaction.
    done: BTreeMap<String, u64>,
    refused: BTreeSet<String>,
    acknowledged: u64,
    votes: BTreeMap<(u64, u64), u64>,
    leaders: BTreeMap<u64, u64>,
    /// By index and term: the entry, and the term of the entry before it.
    entries: BTreeMap<(u64, u64), u64>,
    applied: BTreeMap<u64, u64>,
    /// What watchers are at work, under which prefix, and up to where they have seen everything.
    watchers: BTreeMap<String, (&'static str, u64)>,
    /// The highest wall clock of any member, in Unix seconds.
    pub clock: u64,
    pub counts: Counts,
    last: VecDeque<String>,
    pub violation: Option<Violation>,
}

impl Ledger {
    /// Notes something for whoever reads a failure.
    pub fn note(&mut self, line: String) {
        if self.last.len() == LAST {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    pub fn last(&self) -> Vec<String> {
        self.last.iter().cloned().collect()
    }

    /// The first violation counts; what follows may be its consequence.
    pub fn broken(&mut self, invariant: &'static str, detail: String) {
        if self.violation.is_none() {
            self.note(format!("VIOLATION {invariant}: {detail}"));
            self.violation = Some(Violation { invariant, detail });
        }
    }

    /// The last revision that anybody applied.
    pub fn revision(&self) -> Revision {
        self.decided.last_key_value().map_or(Revision(1), |(_, decided)| decided.revision)
    }

    /// The revision that reads which begin now have to show.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Forgets what a member had, because its disk was taken away.
    pub fn forget(&mut self, member: u64) {
        self.votes.retain(|(of, _), _| *of != member);
        self.applied.remove(&member);
    }

    /// Takes in what members did.
    pub fn see(&mut self, seen: Seen) {
        match seen {
            Seen::Vote { member, term, candidate, committed } => self.vote(member, term, candidate, committed),
            Seen::Append { member, index, term, digest } => self.entry(member, index, term, digest),
            Seen::Truncate { member, from } => self.truncate(member, from),
            Seen::Applied(applied) => self.apply(applied),
            Seen::Installed { member, index, revision, state } => {
                self.counts.installed += 1;
                self.note(format!("member {member} installed a snapshot at index {index}, revision {revision}"));
                self.same_state(member, index, revision, state, "after a snapshot");
                self.applied.insert(member, index);
            }
            Seen::Recovered { member, vote, log, index, revision, state } => {
                self.note(format!(
                    "member {member} recovered: index {index}, revision {revision}, log {:?}..{:?}, vote {vote:?}",
                    log.first().map(|(index, term, _)| (index, term)),
                    log.last().map(|(index, term, _)| (index, term)),
                ));
                self.recovered(member, vote, &log);
                self.same_state(member, index, revision, state, "after a restart");
                self.applied.insert(member, index);
            }
        }
    }

    fn vote(&mut self, member: u64, term: u64, candidate: u64, committed: bool) {
        if committed {
            match self.leaders.insert(term, candidate) {
                None => {
                    self.counts.elections += 1;
                    self.note(format!("member {candidate} leads term {term}"));
                }
                Some(other) if other != candidate => {
                    self.broken("one leader", format!("{other} and {candidate} both lead term {term}"));
                }
                Some(_) => {}
            }
            return;
        }
        let before = self.votes.insert((member, term), candidate);
        if let Some(other) = before.filter(|other| *other != candidate) {
            self.broken("one leader", format!("{member} voted for {other} and for {candidate} in term {term}"));
        }
    }

    fn entry(&mut self, member: u64, index: u64, term: u64, digest: u64) {
        let known = *self.entries.entry((index, term)).or_insert(digest);
        if known != digest {
            self.broken("log matching", format!("{member} has another entry at index {index} of term {term}"));
        }
    }

    fn truncate(&mut self, member: u64, from: u64) {
        self.counts.truncated += 1;
        self.note(format!("member {member} drops its log from {from} on"));
        if self.applied.get(&member).is_some_and(|applied| from <= *applied) {
            self.broken("nothing lost", format!("{member} drops what it has applied, from index {from} on"));
        }
    }

    fn recovered(&mut self, member: u64, vote: Option<(u64, u64)>, log: &[(u64, u64, u64)]) {
        for (one, next) in log.iter().zip(log.iter().skip(1)) {
            if next.0 != one.0 + 1 || next.1 < one.1 {
                self.broken("durable", format!("the log of {member} goes from {:?} to {:?}", one, next));
            }
        }
        for (index, term, digest) in log {
            self.entry(member, *index, *term, *digest);
        }
        let voted = self.votes.keys().filter(|(of, _)| *of == member).map(|(_, term)| *term).max();
        if voted > vote.map(|(term, _)| term) {
            self.broken("durable", format!("{member} voted in term {voted:?} and came back with {vote:?}"));
        }
    }

    /// What everybody must have at an index.
    fn at(&self, index: u64) -> Option<&Decided> {
        self.decided.range(..=index).next_back().map(|(_, decided)| decided)
    }

    fn same_state(&mut self, member: u64, index: u64, revision: Revision, state: u64, when: &str) {
        let Some(decided) = self.at(index).cloned() else { return };
        if (decided.revision, decided.state) != (revision, state) {
            let detail = format!(
                "{when} {member} is at index {index} with revision {revision} (expected {}), {} state",
                decided.revision,
                if decided.state == state { "the same" } else { "another" }
            );
            self.broken("one state", detail);
        }
    }

    fn apply(&mut self, applied: Applied) {
        let Applied { member, index, term, digest, revision, state, .. } = applied;
        let last = self.applied.insert(member, index);
        if last.is_some_and(|last| index <= last) {
            self.broken("one state", format!("{member} applied index {index} after {last:?}"));
        }
        if let Some(decided) = self.decided.get(&index) {
            if (decided.term, decided.digest) != (term.0, digest) {
                let detail = format!("{member} applied another entry at index {index} (term {term})");
                self.broken("nothing lost", detail);
            } else {
                self.same_state(member, index, revision, state, "applying,");
            }
            return;
        }
        self.decide(&applied);
        self.decided.insert(index, Decided { term: term.0, digest, revision, state });
    }

    /// An index is applied for the first time.
    fn decide(&mut self, applied: &Applied) {
        let before = self.revision();
        let wanted = if applied.events.is_empty() { before } else { before.next() };
        if applied.revision != wanted {
            let detail = format!("index {} took {before} to {}, not {wanted}", applied.index, applied.revision);
            self.broken("revisions", detail);
        }
        if applied.fence.is_some_and(|fence| fence != applied.term) && !applied.fenced {
            let detail =
                format!("index {} of term {} ignores the fence {:?}", applied.index, applied.term, applied.fence);
            self.broken("fence", detail);
        }
        for event in &applied.events {
            if event.entry.mod_revision != applied.revision {
                self.broken("revisions", format!("an event of {} says {}", applied.revision, event.entry.mod_revision));
            }
            if applied.expiry {
                self.expired(event);
            }
            let now = (event.kind == EventKind::Put).then(|| Entry::clone(&event.entry));
            self.keys.entry(event.entry.key.clone()).or_default().push((applied.revision.0, now));
            self.happened(event, applied.revision.0);
        }
        if !applied.events.is_empty() {
            self.counts.revisions += 1;
            self.events.insert(applied.revision.0, applied.events.clone());
        }
    }

    fn expired(&mut self, event: &Event) {
        let Some(expires) = event.prev.as_ref().and_then(|prev| prev.expires) else { return };
        if expires > self.clock + 1 {
            let detail = format!("{:?} was to expire at {expires}, no clock is past {}", event.entry.key, self.clock);
            self.broken("expiry", detail);
        }
    }

    /// A value names the transaction that wrote it.
    fn happened(&mut self, event: &Event, revision: u64) {
        if event.kind != EventKind::Put {
            return;
        }
        let id = String::from_utf8_lossy(&event.entry.value).into_owned();
        if self.refused.contains(&id) {
            self.broken("nothing lost", format!("{id} was refused and happened at {revision}"));
        }
        let before = *self.done.entry(id.clone()).or_insert(revision);
        if before != revision {
            self.broken("nothing lost", format!("{id} happened at {before} and at {revision}"));
        }
    }

    /// A client was told that its transaction happened. `writes`: it put a value that names it.
    pub fn ack(&mut self, id: &str, revision: Revision, writes: bool) {
        self.counts.acknowledged += 1;
        if writes && self.done.get(id) != Some(&revision.0) {
            let found = self.done.get(id).copied();
            self.broken("nothing lost", format!("{id} was acknowledged at {revision}, found at {found:?}"));
        }
        if revision > self.revision() {
            self.broken("nothing lost", format!("{id} was acknowledged at {revision}, nobody is there"));
        }
        self.acknowledged = self.acknowledged.max(revision.0);
    }

    /// A client was told that its transaction did not and will not happen.
    pub fn refuse(&mut self, id: &str) {
        self.counts.refused += 1;
        if let Some(revision) = self.done.get(id).copied() {
            self.broken("nothing lost", format!("{id} was refused and happened at {revision}"));
        }
        self.refused.insert(id.to_owned());
    }

    /// What a range showed at a revision.
    pub fn check_range(&mut self, what: &'static str, prefix: &[u8], revision: u64, found: &[Entry]) {
        let wanted: Vec<&Entry> = self
            .keys
            .iter()
            .filter(|(key, _)| key.starts_with(prefix))
            .filter_map(|(_, changes)| {
                let upto = changes.partition_point(|(at, _)| *at <= revision);
                changes.get(upto.checked_sub(1)?)?.1.as_ref()
            })
            .collect();
        if wanted.iter().copied().ne(found.iter()) {
            let show = |entries: Vec<&Entry>| {
                entries.iter().map(|e| format!("{:?}@{}", e.key, e.mod_revision)).collect::<Vec<_>>()
            };
            let detail =
                format!("at {revision}: {:?} instead of {:?}", show(found.iter().collect()), show(wanted.clone()));
            self.broken(what, detail);
        }
    }

    /// A linearizable read ended. `floor`: what was acknowledged when it began.
    pub fn read(&mut self, member: u64, floor: u64, revision: Revision, found: &[Entry]) {
        self.counts.reads += 1;
        if revision.0 < floor {
            let detail = format!("a read at {member} showed {revision}, and {floor} was acknowledged before it began");
            self.broken("linearizable", detail);
        }
        self.check_range("linearizable", b"", revision.0, found);
        self.acknowledged = self.acknowledged.max(revision.0);
    }

    /// A watcher that had seen everything up to `position` was handed the events of a revision.
    pub fn watched(&mut self, who: &str, prefix: &[u8], position: u64, batch: &[Event]) -> u64 {
        self.counts.watched += batch.len() as u64;
        let Some(revision) = batch.first().map(|event| event.entry.mod_revision.0) else { return position };
        let next = self.matching(prefix, position).next();
        let wanted = next.map(|(at, events)| (at, events.into_iter().cloned().collect::<Vec<_>>()));
        match wanted {
            Some((at, events)) if at == revision && events == batch => {}
            wanted => {
                let show = |events: &[Event]| {
                    events.iter().map(|e| format!("{:?} {:?}", e.kind, e.entry.key)).collect::<Vec<_>>()
                };
                let detail = format!(
                    "{who} at {position} was handed {revision} {:?}, not {:?}",
                    show(batch),
                    wanted.map(|(at, events)| (at, show(&events)))
                );
                self.broken("watch", detail);
            }
        }
        revision
    }

    /// A watcher was told that it has seen everything up to `upto`.
    pub fn progressed(&mut self, who: &str, prefix: &[u8], position: u64, upto: u64) {
        let missed = self.matching(prefix, position).next().map(|(at, _)| at).filter(|at| *at <= upto);
        if let Some(missed) = missed {
            self.broken("watch", format!("{who} at {position} was told of progress to {upto} and never saw {missed}"));
        }
    }

    fn matching<'a>(&'a self, prefix: &'a [u8], after: u64) -> impl Iterator<Item = (u64, Vec<&'a Event>)> {
        self.events.range(after + 1..).filter_map(move |(at, events)| {
            let events: Vec<&Event> = events.iter().filter(|event| event.entry.key.starts_with(prefix)).collect();
            (!events.is_empty()).then_some((*at, events))
        })
    }

    /// A watcher is at work, or (`None`) starts over.
    pub fn watches(&mut self, who: &str, at: Option<(&'static str, u64)>) {
        match at {
            Some(at) => drop(self.watchers.insert(who.to_owned(), at)),
            None => drop(self.watchers.remove(who)),
        }
    }

    /// Nothing happens any more: whoever watches has to have seen everything.
    pub fn watchers_are_done(&mut self) {
        let behind = self.watchers.iter().find_map(|(who, (prefix, position))| {
            let (missed, _) = self.matching(prefix.as_bytes(), *position).next()?;
            Some(format!("{who} at {position} never saw {missed}"))
        });
        if let Some(behind) = behind {
            self.broken("watch", behind);
        }
    }
}
