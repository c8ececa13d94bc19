//! What clients asked, when, and what they were told: the only thing the checkers judge.
//!
//! - Every question is one transaction ([`Ask`]): a put is a transaction of one step without guards.
//! - Times are nanoseconds of one monotonic clock, taken before sending and after the answer.
//! - An outcome is never guessed. [`Outcome::Unknown`] may have taken effect, may do so later, or
//!   never; only what the store refused before it could act on it is [`Outcome::Failed`].
//! - Every value is written at most once in a run, so a value names the write it came from.
//!
//! A history is a file of JSON lines: a failing run can be looked at and checked again.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write},
    path::Path,
    time::Instant,
};

use anyhow::{Context, Result};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Nanoseconds since the run began.
pub type Nanos = u64;
/// A revision of the store.
pub type Rev = i64;

/// What an operation is counted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// A blind put of one key.
    Put,
    /// A linearizable read of one key.
    Get,
    /// A delete of one key.
    Delete,
    /// A put of one key under a guard.
    Cas,
    /// Several keys, usually under guards.
    Txn,
    /// A linearizable read of several keys.
    Range,
    /// A serializable read: any state of the past will do.
    Stale,
    /// A put that ties a key to a lease.
    LeasePut,
}

/// What must be true of a key for the `then` branch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    pub key: String,
    /// The key's last change as the client knew it; 0 for a missing key.
    pub revision: Rev,
    /// The value of that change; `None` for a missing key.
    pub value: Option<String>,
    /// Whether the store is asked to compare the value instead of the revision.
    pub by_value: bool,
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Step {
    Put {
        key: String,
        value: String,
        lease: i64,
    },
    Delete {
        key: String,
    },
    Get {
        key: String,
    },
    /// All keys from `from` up to and without `to`.
    Range {
        from: String,
        to: String,
    },
}

/// A question to the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    pub kind: Kind,
    pub guards: Vec<Guard>,
    pub then: Vec<Step>,
    pub otherwise: Vec<Step>,
    pub serializable: bool,
}

impl Ask {
    /// A question without guards.
    #[must_use]
    pub fn plain(kind: Kind, then: Vec<Step>) -> Self {
        Self { kind, guards: Vec::new(), then, otherwise: Vec::new(), serializable: kind == Kind::Stale }
    }

    /// The branch that was, or would be, taken.
    #[must_use]
    pub fn branch(&self, succeeded: bool) -> &[Step] {
        if succeeded { &self.then } else { &self.otherwise }
    }

    /// Whether any branch writes.
    #[must_use]
    pub fn may_write(&self) -> bool {
        let writes = |step: &Step| matches!(step, Step::Put { .. } | Step::Delete { .. });
        self.then.iter().chain(&self.otherwise).any(writes)
    }
}

/// A key as the store showed it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    pub key: String,
    pub value: String,
    pub created: Rev,
    pub modified: Rev,
    pub version: i64,
    pub lease: i64,
}

/// The answer to one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Part {
    Put,
    Deleted(i64),
    Items(Vec<Item>),
}

/// An answer of the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub succeeded: bool,
    /// The header's revision: that of the write, or of the state that was read.
    pub revision: Rev,
    pub parts: Vec<Part>,
}

/// What became of a question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    Ok(Answer),
    /// It had no effect and never will.
    Failed(String),
    /// It may take effect at any later time, or never.
    Unknown(String),
}

/// A question, its times and its outcome.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Op {
    pub process: u32,
    pub member: u32,
    pub start: Nanos,
    pub end: Nanos,
    pub ask: Ask,
    pub outcome: Outcome,
}

impl Op {
    /// The answer, if there was one.
    #[must_use]
    pub fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Ok(answer) => Some(answer),
            _ => None,
        }
    }

    /// Whether nobody knows what became of it.
    #[must_use]
    pub fn unknown(&self) -> bool {
        matches!(self.outcome, Outcome::Unknown(_))
    }

    /// The revision this operation made, if the store said so.
    #[must_use]
    pub fn wrote(&self) -> Option<Rev> {
        let answer = self.answer()?;
        let wrote = |part: &Part| matches!(part, Part::Put | Part::Deleted(1..));
        answer.parts.iter().any(wrote).then_some(answer.revision)
    }
}

/// What was asked about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaseAsk {
    Grant,
    KeepAlive,
    Revoke,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum LeaseOutcome {
    /// The time to live the store granted (0 on a keep-alive: it knows no such lease), and its revision.
    Ok {
        ttl: i64,
        revision: Rev,
    },
    Failed(String),
    Unknown(String),
}

/// A question about a lease.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeaseOp {
    pub process: u32,
    pub lease: i64,
    /// Seconds asked for.
    pub ttl: i64,
    pub start: Nanos,
    pub end: Nanos,
    pub ask: LeaseAsk,
    pub outcome: LeaseOutcome,
}

/// A change as a watcher saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub key: String,
    /// `None`: the key was deleted.
    pub item: Option<Item>,
    pub revision: Rev,
    /// The key before, if it was asked for: value and revision, or `None` where the store showed none.
    pub before: Option<Option<(String, Rev)>>,
}

/// A step in the life of a watcher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum WatchStep {
    /// A stream begins to deliver from revision `start`.
    Open { start: Rev, member: u32 },
    /// One answer.
    Batch { header: Rev, events: Vec<Event> },
    /// The store promised that all up to here was delivered.
    Progress(Rev),
    /// The start was compacted away up to this revision.
    Compacted(Rev),
    /// The stream ended.
    Closed(String),
    /// The run ended; the watcher had been told to go on until this revision.
    Done(Rev),
}

/// A watcher's step. `from`..`to` is its range, for ever.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Watched {
    pub watcher: u32,
    pub from: String,
    pub to: String,
    pub at: Nanos,
    pub step: WatchStep,
}

/// A fault: from its start until the group acknowledged writes again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    pub name: String,
    pub detail: String,
    pub start: Nanos,
    pub healed: Nanos,
    pub recovered: Option<Nanos>,
    /// The longest time without an acknowledged write.
    pub gap: Nanos,
}

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Line {
    Op(Op),
    Lease(LeaseOp),
    Watch(Watched),
    Fault(Mark),
}

/// A whole run.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub ops: Vec<Op>,
    pub leases: Vec<LeaseOp>,
    pub watches: Vec<Watched>,
    pub faults: Vec<Mark>,
}

impl History {
    /// Adds one line.
    pub fn push(&mut self, line: Line) {
        match line {
            Line::Op(op) => self.ops.push(op),
            Line::Lease(op) => self.leases.push(op),
            Line::Watch(step) => self.watches.push(step),
            Line::Fault(mark) => self.faults.push(mark),
        }
    }

    /// Reads a file of lines.
    ///
    /// # Errors
    /// It cannot be read, or a line is none of ours.
    pub fn load(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let mut history = Self::default();
        for (number, line) in BufReader::new(file).lines().enumerate() {
            let line = line?;
            let parsed = serde_json::from_str(&line).with_context(|| format!("line {} of the history", number + 1))?;
            history.push(parsed);
        }
        Ok(history)
    }
}

/// How long nobody's write was acknowledged, and who acknowledged how many.
#[derive(Default)]
struct Acknowledged {
    last: Nanos,
    longest: Nanos,
    by_member: BTreeMap<u32, u64>,
}

/// Writes the history of a run that is going on.
pub struct Recorder {
    begun: Instant,
    file: Mutex<BufWriter<File>>,
    acknowledged: Mutex<Acknowledged>,
}

impl Recorder {
    /// Begins a history in a new file.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self { begun: Instant::now(), file: Mutex::new(BufWriter::new(file)), acknowledged: Mutex::default() })
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Nanos {
        u64::try_from(self.begun.elapsed().as_nanos()).expect("a run lasts less than 584 years")
    }

    /// Appends a line.
    ///
    /// # Panics
    /// The file cannot be written: without it the run proves nothing.
    pub fn line(&self, line: &Line) {
        if let Line::Op(op) = line
            && op.wrote().is_some()
        {
            let mut writes = self.acknowledged.lock();
            writes.longest = writes.longest.max(op.end.saturating_sub(writes.last));
            writes.last = writes.last.max(op.end);
            *writes.by_member.entry(op.member).or_default() += 1;
        }
        let mut text = serde_json::to_vec(line).expect("a line is plain data");
        text.push(b'\n');
        self.file.lock().write_all(&text).expect("the history can be written");
    }

    /// Begins to measure the longest time without an acknowledged write.
    pub fn watch_gap(&self) {
        self.acknowledged.lock().longest = 0;
    }

    /// The longest time without an acknowledged write since [`Self::watch_gap`], the running one included.
    #[must_use]
    pub fn gap(&self) -> Nanos {
        let writes = self.acknowledged.lock();
        writes.longest.max(self.now().saturating_sub(writes.last))
    }

    /// When a write was last acknowledged.
    #[must_use]
    pub fn last_write(&self) -> Nanos {
        self.acknowledged.lock().last
    }

    /// How many writes a member has acknowledged so far.
    #[must_use]
    pub fn acknowledged_by(&self, slot: usize) -> u64 {
        let member = u32::try_from(slot).unwrap_or(u32::MAX);
        self.acknowledged.lock().by_member.get(&member).copied().unwrap_or_default()
    }

    /// Puts everything on the disk.
    ///
    /// # Errors
    /// The disk is full.
    pub fn flush(&self) -> Result<()> {
        self.file.lock().flush().context("writing the history")
    }
}
