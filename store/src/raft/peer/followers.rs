//! When the other members were last known to follow this one, for reads that ask nobody.
//!
//! A follower that takes an append grants no vote for one lease. So if a majority took appends that
//! were sent after a moment, nobody else has led before the end of the lease that began then (Raft
//! thesis, 6.4.1).
//!
//! openraft keeps such times as well, but takes an answer for one to every append sent so far that
//! ends at the same entry. One that only tells a commit ends where the append before it did, whose
//! answer may have waited: a leader that was frozen for seconds read the first follower's answer,
//! told the second one of the commit, read its old answer, and believed to lead still.
//!
//! A voter that is alone in its set of voters keeps no such promise in openraft: it elects itself as soon as it
//! learns that it is alone. A leader that has left such a voter behind, removing itself from a group of two, finds out
//! with every read whether it still leads.
//!
//! Invariants
//! - A time is noted only of an append that is known to have arrived: one with entries that the
//!   follower has since said to have, or the only one on its way.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use openraft::raft::{StreamAppendError, StreamAppendResult};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::wire::Append;
use crate::{
    rt::{self, Instant},
    types::{LogId, TypeConfig},
};

/// What is known of all members in one term.
#[derive(Default)]
pub(crate) struct Followers {
    heard: watch::Sender<Heard>,
}

#[derive(Default)]
struct Heard {
    term: u64,
    sent: BTreeMap<u64, Instant>,
}

impl Heard {
    fn note(&mut self, term: u64, member: u64, sent: Instant) -> bool {
        if term < self.term {
            return false;
        }
        if term > self.term {
            *self = Self { term, sent: BTreeMap::new() };
        }
        let last = self.sent.entry(member).or_insert(sent);
        *last = sent.max(*last);
        true
    }

    /// Whether a majority of each of `configs` took an append sent after `moment`.
    fn since(&self, term: u64, leader: u64, configs: &[BTreeSet<u64>], moment: Instant) -> bool {
        let took = |member: &u64| self.term == term && self.sent.get(member).is_some_and(|sent| *sent > moment);
        let majority = |config: &BTreeSet<u64>| {
            config.iter().filter(|member| **member == leader || took(member)).count() > config.len() / 2
        };
        self.term <= term && configs.iter().all(majority)
    }
}

impl Followers {
    /// Waits until it is certain that no other member led in a later term than `term` when `moment`
    /// came; false if that does not turn out within a lease.
    pub async fn confirm(
        &self,
        term: u64,
        leader: u64,
        configs: &[BTreeSet<u64>],
        moment: Instant,
        lease: Duration,
    ) -> bool {
        let begin = if keep_leases(leader, configs) { moment - lease } else { moment };
        let mut heard = self.heard.subscribe();
        let confirmed = heard.wait_for(|heard| heard.since(term, leader, configs, begin));
        rt::timeout(lease, confirmed).await.is_ok_and(|seen| seen.is_ok())
    }
}

/// Whether followers that vote in `configs` grant no vote while their promise to `leader` holds.
fn keep_leases(leader: u64, configs: &[BTreeSet<u64>]) -> bool {
    configs.iter().all(|config| config.len() > 1 || config.contains(&leader))
}

/// What one stream of appends to one member has sent and is not known to have arrived.
pub(crate) struct OnItsWay {
    member: u64,
    /// One at a time: each answer is for the last append.
    sequential: bool,
    sent: Mutex<VecDeque<(u64, Option<LogId>, Instant)>>,
}

impl OnItsWay {
    pub fn new(member: u64, sequential: bool) -> Self {
        Self { member, sequential, sent: Mutex::default() }
    }

    /// Before an append is sent.
    pub fn sends(&self, append: &Append) {
        let last = append.entries.last().map(|entry| entry.log_id);
        if self.sequential || last.is_some() {
            self.sent.lock().push_back((append.vote.leader_id.term, last, Instant::now()));
        }
    }

    /// When an answer came.
    pub fn answered(&self, answer: &StreamAppendResult<TypeConfig>, followers: &Followers) {
        let mut sent = self.sent.lock();
        let mut arrived = None;
        match answer {
            Ok(_) | Err(StreamAppendError::Conflict(_)) if self.sequential => {
                arrived = sent.pop_back();
                sent.clear();
            }
            Ok(matched) => {
                while sent.front().is_some_and(|(_, last, _)| last <= matched) {
                    arrived = sent.pop_front();
                }
            }
            Err(_) => {}
        }
        if let Some((term, _, at)) = arrived {
            followers.heard.send_if_modified(|heard| heard.note(term, self.member, at));
        }
    }
}

#[cfg(test)]
mod tests {
    use openraft::entry::RaftEntry as _;

    use super::*;
    use crate::types::{LogEntry, Payload, Vote, log_id};

    const LEASE: Duration = Duration::from_millis(50);

    fn append(entry: Option<u64>) -> Append {
        let entries = entry.map(|index| LogEntry::new(log_id(2, index), Payload::Blank));
        Append {
            vote: Vote::new_committed(2, 1),
            prev_log_id: None,
            entries: entries.into_iter().collect(),
            leader_commit: None,
        }
    }

    fn answer(index: u64) -> StreamAppendResult<TypeConfig> {
        Ok(Some(log_id(2, index)))
    }

    #[tokio::test]
    async fn an_answer_that_waited_is_not_one_to_the_commit_sent_since() {
        let followers = Followers::default();
        let stream = OnItsWay::new(3, false);
        let three = [BTreeSet::from([1, 2, 3])];
        let confirmed = async |moment| followers.confirm(2, 1, &three, moment, LEASE).await;

        let before = Instant::now();
        stream.sends(&append(Some(7)));
        std::thread::sleep(LEASE); // frozen, while the answer waits
        let thawed = Instant::now();
        stream.sends(&append(None));
        stream.answered(&answer(7), &followers);
        assert!(!confirmed(thawed).await, "the answer is from before");
        assert!(confirmed(before).await, "which it proves");

        stream.sends(&append(Some(8)));
        stream.answered(&answer(7), &followers);
        assert!(!confirmed(thawed).await, "an answer told again");
        stream.answered(&answer(8), &followers);
        assert!(confirmed(thawed).await, "an answer from after");
    }

    #[test]
    fn a_majority_of_each_set_of_voters_in_the_same_term_is_needed() {
        let now = Instant::now();
        let (before, after) = (now - LEASE, now + LEASE);
        let set = |members: &[u64]| members.iter().copied().collect::<BTreeSet<u64>>();
        let three = || vec![set(&[1, 2, 3])];
        for (name, heard, term, configs, expect) in [
            ("nobody", vec![], 2, three(), false),
            ("alone", vec![], 2, vec![set(&[1])], true),
            ("one of two others", vec![(2, 3, after)], 2, three(), true),
            ("too long ago", vec![(2, 3, before)], 2, three(), false),
            ("two of four others", vec![(2, 3, after), (2, 4, after)], 2, vec![set(&[1, 2, 3, 4, 5])], true),
            ("one of four others", vec![(2, 3, after)], 2, vec![set(&[1, 2, 3, 4, 5])], false),
            ("one who does not vote", vec![(2, 9, after)], 2, three(), false),
            ("not of both sets", vec![(2, 3, after)], 2, vec![set(&[1, 2, 3]), set(&[1, 4, 5])], false),
            ("of both sets", vec![(2, 3, after), (2, 4, after)], 2, vec![set(&[1, 2, 3]), set(&[1, 4, 5])], true),
            ("a leader that does not vote", vec![(2, 3, after)], 2, vec![set(&[2, 3, 4])], false),
            ("in an earlier term", vec![(1, 3, after)], 2, three(), false),
            ("in a later term", vec![(3, 3, after)], 2, three(), false),
            ("an old answer after a new term", vec![(2, 3, after), (1, 2, after)], 2, three(), true),
        ] {
            let mut all = Heard::default();
            for (term, member, sent) in heard {
                all.note(term, member, sent);
            }
            assert_eq!(all.since(term, 1, &configs, now), expect, "{name}");
        }
    }

    #[tokio::test]
    async fn a_voter_left_alone_is_asked_at_every_read() {
        let alone = || vec![BTreeSet::from([2])];
        let leaving = || vec![BTreeSet::from([1, 2]), BTreeSet::from([2])];
        for (name, configs, keeps) in [
            ("two", vec![BTreeSet::from([1, 2])], true),
            ("the leader alone", vec![BTreeSet::from([1])], true),
            ("the leader is leaving one", leaving(), false),
            ("the leader has left one", alone(), false),
            ("the leader has left two", vec![BTreeSet::from([2, 3])], true),
        ] {
            assert_eq!(keep_leases(1, &configs), keeps, "{name}");
        }
        let followers = Followers::default();
        let confirmed = async |configs: Vec<_>, moment| followers.confirm(2, 1, &configs, moment, LEASE).await;
        let stream = OnItsWay::new(2, true);
        stream.sends(&append(None));
        stream.answered(&answer(7), &followers);
        let asked = Instant::now();
        assert!(!confirmed(alone(), asked).await && !confirmed(leaving(), asked).await, "it may lead already");
        stream.sends(&append(None));
        stream.answered(&answer(7), &followers);
        assert!(confirmed(alone(), asked).await && confirmed(leaving(), asked).await, "it followed when asked");
    }

    #[tokio::test]
    async fn a_heartbeat_counts_when_it_is_answered() {
        let followers = Followers::default();
        let stream = OnItsWay::new(2, true);
        let three = [BTreeSet::from([1, 2, 3])];
        let asked = Instant::now();
        stream.sends(&append(None));
        assert!(!followers.confirm(2, 1, &three, asked + LEASE * 2, LEASE).await);
        stream.answered(&Err(StreamAppendError::Conflict(log_id(2, 9))), &followers);
        assert!(followers.confirm(2, 1, &three, asked, LEASE).await);
    }
}
