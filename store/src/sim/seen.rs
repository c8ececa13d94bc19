//! What members tell about themselves, for whoever checks them. Nothing of it reaches the members.

use std::{fmt::Write as _, hash::Hasher};

use super::{
    rng::mix,
    world::{here, simulated, world},
};
use crate::types::{LogEntry, LogId, Payload, Vote};
use kontiki_state::{
    Event, Refusal, Revision, Term,
    command::{Action, Command, Outcome},
    state::State,
};

/// One thing that a member did.
#[derive(Clone, Debug)]
pub enum Seen {
    /// It made durable that `candidate` has its vote in `term`, or (`committed`) that it leads.
    Vote { member: u64, term: u64, candidate: u64, committed: bool },
    /// It put an entry into its log.
    Append { member: u64, index: u64, term: u64, digest: u64 },
    /// It dropped its log from an index on.
    Truncate { member: u64, from: u64 },
    /// It applied an entry.
    Applied(Applied),
    /// A snapshot took it to an index.
    Installed { member: u64, index: u64, revision: Revision, state: u64 },
    /// It started with this log on disk (index, term, digest), and this state.
    Recovered {
        member: u64,
        vote: Option<(u64, u64)>,
        log: Vec<(u64, u64, u64)>,
        index: u64,
        revision: Revision,
        state: u64,
    },
}

/// See [`Seen::Applied`].
#[derive(Clone, Debug)]
pub struct Applied {
    pub member: u64,
    pub index: u64,
    pub term: Term,
    /// Of the entry.
    pub digest: u64,
    /// The fence, if the entry was a transaction with one.
    pub fence: Option<Term>,
    /// Whether the entry was one that removes what has expired.
    pub expiry: bool,
    pub fenced: bool,
    /// The store's revision after it.
    pub revision: Revision,
    pub events: Vec<Event>,
    /// Of the whole state after it.
    pub state: u64,
}

/// Notes what `what` tells, in a simulation.
fn saw(what: impl FnOnce(u64) -> Seen) {
    if let (Some(here), Some(world)) = (here(), world()) {
        let seen = what(here.member);
        world.seen.borrow_mut().push(seen);
    }
}

pub(crate) fn applied(entry: LogId, command: &Command, state: &State, outcome: &Outcome, events: &[Event]) {
    saw(|member| {
        let action = Action::decode(command).ok();
        let mut all = Digest::default();
        all.write(&command.0);
        let seen = Applied {
            member,
            index: entry.index,
            term: Term(entry.leader_id.term),
            digest: all.finish(),
            fence: action.as_ref().and_then(|action| if let Action::Txn(txn) = action { txn.fence } else { None }),
            expiry: matches!(action, Some(Action::Expire { .. })),
            fenced: *outcome == Outcome::Refused(Refusal::Fenced),
            revision: state.revision,
            events: events.to_vec(),
            state: digest(state),
        };
        if let Some(world) = world() {
            world.note(seen.state ^ member);
        }
        Seen::Applied(seen)
    });
}

pub(crate) fn voted(vote: &Vote) {
    saw(|member| Seen::Vote {
        member,
        term: vote.leader_id.term,
        candidate: vote.leader_id.voted_for,
        committed: vote.committed,
    });
}

pub(crate) fn appended(entries: &[LogEntry]) {
    if !simulated() {
        return;
    }
    for entry in entries {
        let (index, term) = (entry.log_id.index, entry.log_id.leader_id.term);
        saw(|member| Seen::Append { member, index, term, digest: of_entry(entry) });
    }
}

pub(crate) fn truncated(from: u64) {
    saw(|member| Seen::Truncate { member, from });
}

pub(crate) fn installed(index: u64, state: &State) {
    saw(|member| Seen::Installed { member, index, revision: state.revision, state: digest(state) });
}

pub(crate) fn recovered(vote: Option<Vote>, log: &[LogEntry], index: u64, state: &State) {
    saw(|member| Seen::Recovered {
        member,
        vote: vote.map(|vote| (vote.leader_id.term, vote.leader_id.voted_for)),
        log: log.iter().map(|entry| (entry.log_id.index, entry.log_id.leader_id.term, of_entry(entry))).collect(),
        index,
        revision: state.revision,
        state: digest(state),
    });
}

/// A digest of an entry's payload.
fn of_entry(entry: &LogEntry) -> u64 {
    let mut all = Digest::default();
    match &entry.payload {
        Payload::Blank => {}
        Payload::Normal(command) => all.write(&command.0),
        Payload::Membership(membership) => drop(write!(all, "{membership:?}")),
    }
    all.finish()
}

/// Everything that two members have to agree on.
fn digest(state: &State) -> u64 {
    let mut all = Digest::default();
    // The same state may be that of several indexes: not all entries change it.
    let mut state = state.clone();
    state.enter(0);
    // Whatever is part of the state is part of its debug text.
    let _ = write!(all, "{state:?}");
    all.finish()
}

/// A digest that is the same everywhere.
#[derive(Default)]
struct Digest(u64);

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.0 = mix(self.0 ^ u64::from_le_bytes(word)).wrapping_add(part.len() as u64);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl std::fmt::Write for Digest {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.write(text.as_bytes());
        Ok(())
    }
}
