//! What members tell about themselves, for whoever checks them. Nothing of it reaches the members.

use std::{fmt::Write as _, hash::Hasher, sync::Arc};

use kontiki_state::{
    Event, Refusal, Revision, Term,
    command::{Action, Outcome},
    state::State,
};
use kontiki_store::simulation::{self, Logged, Saw};
use parking_lot::Mutex;

use super::rng::mix;

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

impl Seen {
    /// What a member did, as the checkers need it.
    pub fn of(member: u64, saw: Saw<'_>) -> Self {
        match saw {
            Saw::Vote { term, candidate, committed } => Self::Vote { member, term, candidate, committed },
            Saw::Append(entry) => {
                let (index, term, digest) = of_entry(&entry);
                Self::Append { member, index, term, digest }
            }
            Saw::Truncate { from } => Self::Truncate { member, from },
            Saw::Applied(applied) => Self::Applied(Applied::of(member, &applied)),
            Saw::Installed { index, state } => {
                Self::Installed { member, index, revision: state.revision, state: of_state(state) }
            }
            Saw::Recovered { vote, log, index, state } => Self::Recovered {
                member,
                vote,
                log: log.iter().map(of_entry).collect(),
                index,
                revision: state.revision,
                state: of_state(state),
            },
        }
    }
}

impl Applied {
    fn of(member: u64, applied: &simulation::Applied<'_>) -> Self {
        let action = Action::decode(applied.command).ok();
        Self {
            member,
            index: applied.index,
            term: applied.term,
            digest: of_bytes(&applied.command.0),
            fence: action.as_ref().and_then(|action| if let Action::Txn(txn) = action { txn.fence } else { None }),
            expiry: matches!(action, Some(Action::Expire { .. })),
            fenced: *applied.outcome == Outcome::Refused(Refusal::Fenced),
            revision: applied.state.revision,
            events: applied.events.to_vec(),
            state: of_state(applied.state),
        }
    }
}

/// What members did, until somebody takes it; clones are the same.
#[derive(Clone, Default)]
pub struct Record(Arc<Mutex<Vec<Seen>>>);

impl Record {
    pub fn push(&self, seen: Seen) {
        self.0.lock().push(seen);
    }

    /// What they did since the last call.
    #[must_use]
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.0.lock())
    }
}

/// Index, term and digest.
fn of_entry(entry: &Logged<'_>) -> (u64, u64, u64) {
    (entry.index, entry.term, of_bytes(&entry.content))
}

fn of_bytes(bytes: &[u8]) -> u64 {
    let mut all = Digest::default();
    all.write(bytes);
    all.finish()
}

/// Everything that two members have to agree on.
fn of_state(state: &State) -> u64 {
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
