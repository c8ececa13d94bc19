//! The same random operations on two stores, whose answers must be the same.
//!
//! Invariants
//! - Everything follows from the seed and the first store's answers: a seed replays.
//! - What etcd itself does not define is left out or brought into one form ([`Answer::normalized`]): who
//!   answered, the terms, the remaining seconds of a lease within one, the order of a lease's keys.
//! - What reaches a watch is compared once both stores have said all they know ([`Harness::settle`]),
//!   and before anything that would race with it (a cancel, a compaction).
//! - What one etcd answers otherwise than the others has a row in [`quirks`].

mod answer;
mod generate;
mod quirks;
mod target;
mod watches;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    time::Duration,
};

use anyhow::Result;
use kontiki_proto::etcd as pb;

pub use answer::Answer;
pub use generate::Generator;
pub use quirks::{Quirk, Quirks};
pub use target::{Target, streamed};
pub use watches::Item;

use crate::{
    group::{Group, Kind},
    wait::until,
};

/// How long the second store may take to say what the first has said to a watch.
const SETTLED: Duration = Duration::from_secs(5);
/// Operations shown before the one that differs.
const SHOWN: usize = 8;

/// One operation as it is sent to both.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    Put(pb::PutRequest),
    Range(pb::RangeRequest),
    RangeStream(pb::RangeRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    Grant(pb::LeaseGrantRequest),
    /// Granted and revoked at once: the shortest lease would expire at some time of its own.
    ShortLease(pb::LeaseGrantRequest),
    Revoke(i64),
    TimeToLive(pb::LeaseTimeToLiveRequest),
    KeepAlive(i64),
    Leases,
    Watch(pb::WatchCreateRequest),
    CancelWatch(i64),
    /// With `answered` the answer is waited for; else it may come or not, and is compared when all is said.
    Progress {
        answered: bool,
    },
    /// Everything the watches were told so far.
    Settle,
}

impl Op {
    fn name(&self) -> &'static str {
        match self {
            Self::Put(_) => "put",
            Self::Range(_) => "range",
            Self::RangeStream(_) => "range stream",
            Self::Delete(_) => "delete",
            Self::Txn(_) => "txn",
            Self::Compact(_) => "compact",
            Self::Grant(_) => "grant",
            Self::ShortLease(_) => "short lease",
            Self::Revoke(_) => "revoke",
            Self::TimeToLive(_) => "time to live",
            Self::KeepAlive(_) => "keep alive",
            Self::Leases => "leases",
            Self::Watch(_) => "watch",
            Self::CancelWatch(_) => "cancel watch",
            Self::Progress { answered: true } => "progress",
            Self::Progress { answered: false } => "progress of the future",
            Self::Settle => "settle",
        }
    }

    /// Operations whose answer depends on how far the watches have come.
    fn needs_quiet_watches(&self) -> bool {
        matches!(self, Self::Compact(_) | Self::CancelWatch(_) | Self::Progress { .. })
    }
}

/// What a run did: how often each operation and each error came.
#[derive(Debug, Default)]
pub struct Report {
    pub counts: BTreeMap<String, usize>,
}

impl Report {
    fn count(&mut self, op: &Op, answer: &Answer) {
        *self.counts.entry(op.name().to_owned()).or_default() += 1;
        if let Answer::Failed { message, .. } = answer {
            *self.counts.entry(format!("! {message}")).or_default() += 1;
        }
    }

    pub fn merge(&mut self, other: Self) {
        for (name, count) in other.counts {
            *self.counts.entry(name).or_default() += count;
        }
    }

    /// Whether an error of this text was seen.
    pub fn failed_with(&self, message: &str) -> bool {
        self.counts.contains_key(&format!("! {message}"))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts.iter().try_for_each(|(name, count)| writeln!(f, "{count:7} {name}"))
    }
}

/// The first answer that is not the same.
#[derive(Debug)]
pub struct Difference {
    pub seed: u64,
    pub index: usize,
    pub op: Op,
    /// The store's name and its answer, twice.
    pub answers: [(String, String); 2],
    pub before: Vec<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "SEED={} operation {} differs\n  {:?}", self.seed, self.index, self.op)?;
        for (name, answer) in &self.answers {
            writeln!(f, "{name:>8}: {answer}")?;
        }
        writeln!(f, "the operations before:")?;
        self.before.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

impl std::error::Error for Difference {}

/// Two stores and the operations that go to both.
pub struct Harness {
    seed: u64,
    index: usize,
    generator: Generator,
    quirks: Quirks,
    left: Target,
    right: Target,
    before: VecDeque<String>,
    report: Report,
    /// Prints every operation and its answer: what led to a difference may lie far back.
    trace: bool,
}

impl Harness {
    pub fn new(seed: u64, left: Target, right: Target) -> Self {
        let (before, report) = (VecDeque::new(), Report::default());
        let trace = std::env::var_os("TRACE").is_some();
        let quirks = Quirks::of(&[left.kind, right.kind]);
        let generator = Generator::new(seed, quirks.clone());
        Self { seed, index: 0, generator, quirks, left, right, before, report, trace }
    }

    /// Sends `count` operations.
    ///
    /// # Errors
    /// A [`Difference`], or a store that cannot be reached.
    pub async fn run(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            let mut op = self.generator.next();
            if op.needs_quiet_watches() {
                self.settle().await?;
            }
            if let Op::Progress { answered } = &mut op {
                // Settling has made a revision.
                *answered = !self.generator.waits_for_the_future();
            }
            self.step(op).await?;
        }
        self.settle().await
    }

    pub fn into_report(self) -> Report {
        self.report
    }

    async fn step(&mut self, op: Op) -> Result<()> {
        self.index += 1;
        if op == Op::Settle {
            return self.settle().await;
        }
        let (left, right) = tokio::join!(self.left.apply(&op), self.right.apply(&op));
        let (left, right) = (self.comparable(&op, left?), self.comparable(&op, right?));
        self.report.count(&op, &left);
        if !self.alike(&op, &left, &right) {
            return Err(self.difference(op, left.to_string(), right.to_string()).into());
        }
        self.generator.learn(&op, &left);
        if self.before.len() == SHOWN {
            self.before.pop_front();
        }
        let line = format!("{}: {op:?}\n       -> {left}", self.index);
        if self.trace {
            println!("{line}");
        }
        self.before.push_back(line);
        Ok(())
    }

    fn alike(&self, op: &Op, left: &Answer, right: &Answer) -> bool {
        let several = matches!(op, Op::Put(_) | Op::Txn(_)) && self.quirks.has(Quirk::OrdersRefusals);
        left.same(right) || (several && left.refused_by_state() && right.refused_by_state())
    }

    fn comparable(&self, op: &Op, mut answer: Answer) -> Answer {
        if let (Op::Range(pb::RangeRequest { keys_only: true, .. }), Answer::Range(range)) = (op, &mut answer)
            && self.quirks.has(Quirk::KeysOnlyShowsLeases)
        {
            range.kvs.iter_mut().for_each(|kv| kv.lease = 0);
        }
        answer
    }

    /// Waits until both stores have told their watches all they know, and compares that.
    async fn settle(&mut self) -> Result<()> {
        let (left, right) = tokio::join!(self.left.canary(), self.right.canary());
        if left? != right? {
            let answers = (self.left.watched().to_string(), self.right.watched().to_string());
            return Err(self.difference(Op::Settle, answers.0, answers.1).into());
        }
        *self.report.counts.entry("settle".to_owned()).or_default() += 1;
        let (left, right) = (self.left.log(), self.right.log());
        let told = until("the same events", SETTLED, async || left.first_difference(&right).map_or(Ok(()), Err)).await;
        self.generator.revise(self.left.revision());
        match told {
            Ok(()) => {
                self.report.counts.entry("events".to_owned()).or_default();
                *self.report.counts.entry("events".to_owned()).or_default() = left.events();
                Ok(())
            }
            Err(_) => {
                let (a, b) = left.around_difference(&right);
                Err(self.difference(Op::Settle, a, b).into())
            }
        }
    }

    fn difference(&self, op: Op, left: String, right: String) -> Difference {
        let answers = [(self.left.name.to_owned(), left), (self.right.name.to_owned(), right)];
        Difference { seed: self.seed, index: self.index, op, answers, before: self.before.iter().cloned().collect() }
    }
}

/// Two groups of one, and `ops` operations on both.
///
/// # Errors
/// A [`Difference`], or a group that does not start.
pub async fn compare(seed: u64, ops: usize, left: Kind, right: Kind) -> Result<Report> {
    let (left, right) = tokio::try_join!(Group::of(left, 1), Group::of(right, 1))?;
    let (a, b) = (Target::of(&left).await?, Target::of(&right).await?);
    let mut harness = Harness::new(seed, a, b);
    match harness.run(ops).await {
        Ok(()) => Ok(harness.into_report()),
        Err(difference) if difference.is::<Difference>() => Err(difference),
        Err(error) => Err(error.context(format!("the logs' ends\n{}{}", left.tails(5), right.tails(5)))),
    }
}
