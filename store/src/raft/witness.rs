//! What a member tells whoever checks it, in a simulation. Nothing of it comes back to the member.

use std::borrow::Cow;

use crate::{
    types::{LogEntry, LogId, Payload, Vote},
    world::{Applied, Logged, Saw, saw},
};
use kontiki_state::{
    Event, Term,
    command::{Command, Outcome},
    state::State,
};

pub(crate) fn voted(vote: &Vote) {
    let (term, candidate) = who(vote);
    saw(|| Saw::Vote { term, candidate, committed: vote.committed });
}

pub(crate) fn appended(entries: &[LogEntry]) {
    entries.iter().for_each(|entry| saw(|| Saw::Append(logged(entry))));
}

pub(crate) fn truncated(from: u64) {
    saw(|| Saw::Truncate { from });
}

pub(crate) fn applied(entry: LogId, command: &Command, state: &State, outcome: &Outcome, events: &[Event]) {
    let (index, term) = (entry.index, Term(entry.leader_id.term));
    saw(|| Saw::Applied(Applied { index, term, command, state, outcome, events }));
}

pub(crate) fn installed(index: u64, state: &State) {
    saw(|| Saw::Installed { index, state });
}

pub(crate) fn recovered(vote: Option<Vote>, log: &[LogEntry], index: u64, state: &State) {
    let vote = vote.as_ref().map(who);
    saw(|| Saw::Recovered { vote, log: log.iter().map(logged).collect(), index, state });
}

fn who(vote: &Vote) -> (u64, u64) {
    (vote.leader_id.term, vote.leader_id.voted_for)
}

fn logged(entry: &LogEntry) -> Logged<'_> {
    let content = match &entry.payload {
        Payload::Blank => Cow::default(),
        Payload::Normal(command) => Cow::from(&command.0[..]),
        Payload::Membership(membership) => Cow::from(format!("{membership:?}").into_bytes()),
    };
    Logged { index: entry.log_id.index, term: entry.log_id.leader_id.term, content }
}
