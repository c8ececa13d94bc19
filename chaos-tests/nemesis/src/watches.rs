//! What every watcher must have been told, held against the [`Journal`].
//!
//! A watcher has one range of keys for its whole life and resumes after a lost stream at the revision
//! after the last one it got. Over all its streams together:
//! - revisions strictly increase, and the events of one revision come together, once;
//! - each revision that changed a key of the range is there, with all those changes and no others, with
//!   the right value, versions and lease, and the right state before where that was asked for;
//! - a promise of progress is made only when nothing up to it is outstanding;
//! - at the end, everything up to the revision named there was delivered.

use std::collections::BTreeMap;

use crate::{
    history::{Event, History, Rev, WatchStep, Watched},
    order::{Change, Journal, Row},
    verdict::Verdict,
};

struct Watcher<'a> {
    id: u32,
    from: &'a str,
    to: &'a str,
    /// All up to here was delivered.
    upto: Option<Rev>,
    done: bool,
    events: usize,
    /// Whether history may be missing, and so the state before a change.
    compacted: bool,
}

/// Judges every watcher.
#[must_use]
pub fn check(history: &History, journal: &Journal) -> Verdict {
    let mut verdict = Verdict::default();
    let mut watchers: BTreeMap<u32, Watcher> = BTreeMap::new();
    let mut streams = 0;
    for step in &history.watches {
        let watcher = watchers.entry(step.watcher).or_insert_with(|| Watcher::new(step));
        streams += usize::from(matches!(step.step, WatchStep::Open { .. }));
        watcher.step(step, journal, &mut verdict);
    }
    for watcher in watchers.values().filter(|watcher| !watcher.done) {
        verdict.undecided.push(format!("watcher {} has no end in this history", watcher.id));
    }
    verdict.saw("watchers", watchers.len());
    verdict.saw("watch streams", streams);
    verdict.saw("watch events", watchers.values().map(|watcher| watcher.events).sum());
    verdict
}

impl<'a> Watcher<'a> {
    fn new(step: &'a Watched) -> Self {
        Self { id: step.watcher, from: &step.from, to: &step.to, upto: None, done: false, events: 0, compacted: false }
    }

    fn step(&mut self, step: &Watched, journal: &Journal, verdict: &mut Verdict) {
        match &step.step {
            WatchStep::Open { start, .. } => {
                let upto = *self.upto.get_or_insert(start - 1);
                if *start > upto + 1 {
                    verdict.fail("broken-history", format!("watcher {} resumed at {start} after {upto}", self.id));
                }
            }
            WatchStep::Batch { header, events } => {
                for group in events.chunk_by(|a, b| a.revision == b.revision) {
                    self.group(group, journal, verdict);
                }
                let last = events.last().map_or(0, |event| event.revision);
                if last > *header {
                    let text = format!("watcher {}: revision {last} under a header of {header}", self.id);
                    verdict.fail("watch-header", text);
                }
            }
            WatchStep::Progress(revision) => {
                self.nothing_upto(*revision, "a progress promise", journal, verdict);
            }
            WatchStep::Compacted(revision) => {
                self.compacted = true;
                self.upto = Some(self.upto.unwrap_or(0).max(revision - 1));
            }
            WatchStep::Closed(_) => {}
            WatchStep::Done(revision) => {
                self.done = true;
                self.nothing_upto(*revision, "the end", journal, verdict);
            }
        }
    }

    fn group(&mut self, events: &[Event], journal: &Journal, verdict: &mut Verdict) {
        self.events += events.len();
        let revision = events[0].revision;
        let upto = self.upto.unwrap_or(revision - 1);
        if revision <= upto {
            let text = format!("watcher {}: revision {revision} after {upto}: {}", self.id, keys(events));
            verdict.fail("watch-order", text);
            return;
        }
        self.nothing_upto(revision - 1, &format!("revision {revision}"), journal, verdict);
        self.upto = Some(revision);
        let row = journal.between(revision - 1, revision).first();
        let want: Vec<&Change> = row.map_or_else(Vec::new, |row| self.mine(row).collect());
        let fits = |event: &Event| want.iter().any(|change| self.same(event, change));
        let odd = events.iter().find(|event| !fits(event));
        if odd.is_some() || want.len() != events.len() {
            let text = format!("watcher {}: revision {revision} was {want:?}, not {}", self.id, describe(odd, events));
            verdict.fail("watch-wrong-event", text);
        }
    }

    /// Nothing of this range may have happened up to here that was not delivered.
    fn nothing_upto(&mut self, revision: Rev, before: &str, journal: &Journal, verdict: &mut Verdict) {
        let upto = self.upto.unwrap_or(revision);
        for row in journal.between(upto, revision) {
            if let Some(change) = self.mine(row).next() {
                let text =
                    format!("watcher {}: {} at revision {} was missing at {before}", self.id, change.key, row.revision);
                verdict.fail("watch-gap", text);
            }
        }
        self.upto = Some(upto.max(revision));
    }

    fn mine<'j>(&self, row: &'j Row) -> impl Iterator<Item = &'j Change> {
        let (from, to) = (self.from.to_owned(), self.to.to_owned());
        row.changes.iter().filter(move |change| change.key >= from && (to.is_empty() || change.key < to))
    }

    fn same(&self, event: &Event, change: &Change) -> bool {
        let before = || change.before.as_ref().map(|item| (item.value.clone(), item.modified));
        let unknown = self.compacted && event.before == Some(None);
        let before = event.before.as_ref().is_none_or(|seen| unknown || *seen == before());
        event.key == change.key && event.item == change.after && before
    }
}

fn keys(events: &[Event]) -> String {
    events.iter().map(|event| event.key.as_str()).collect::<Vec<_>>().join(", ")
}

fn describe(odd: Option<&Event>, events: &[Event]) -> String {
    odd.map_or_else(|| format!("only {}", keys(events)), |event| format!("{event:?}"))
}
