//! Going on from one member after a majority was lost for good. Nothing runs on its directory meanwhile.
//!
//! Invariants
//! - Everything in its log stays, whether the old group is known to have decided it or not: what was
//!   acknowledged and reached this member is there.
//! - One durable write makes it the only voter, in a term above all that its generation had. Before that
//!   write it is cut off from the old members already, never after (see `generation`).

use std::{fs, io, path::Path};

use openraft::entry::RaftEntry as _;
use serde::Deserialize;

use crate::{
    disk::{
        db::{Db, Families, Family},
        entry::{decode_entry, entry_value, log_key},
        failure::open_error,
        history::{invalid, state_record},
        writer::{PURGED_KEY, VOTE_KEY},
    },
    raft::generation,
    rescue::restore::{RescueError, alone, offline, write},
    types::{
        LogEntry, LogId, Membership, Node, Payload, ReadRaft as _, StoredMembership, Vote, WriteRaft as _, log_id,
        of_entry_id,
    },
};
use kontiki_state::{
    codec::{Reader, Writer},
    rows::{MEMBERSHIP_KEY, StateRecord},
};

/// The part of `identity.json` that opening a directory again needs.
#[derive(Deserialize)]
struct Owner {
    cluster: String,
    member: u64,
    name: String,
}

/// What a member has left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SurvivorState {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: u64,
    /// Its peer address.
    pub address: String,
    /// The other members, as it last knew the group: name and peer address.
    pub others: Vec<(String, String)>,
    /// The revision that it has applied, at least.
    pub revision: u64,
    /// The last entry that it has applied, at least.
    pub applied: u64,
    /// The last entry in its log.
    pub last: u64,
    /// Its term.
    pub term: u64,
}

/// A stopped member, held so that nobody starts it.
pub struct Survivor {
    db: Db,
    state: SurvivorState,
    node: Node,
    applied: Option<LogId>,
    /// The end of the log; what is applied may be beyond it.
    logged: Option<LogId>,
}

impl Survivor {
    /// Opens the directory of a member that does not run.
    ///
    /// # Errors
    /// It does, or the directory is not one of a member that belongs to a group.
    pub fn open(dir: &Path) -> Result<Self, RescueError> {
        let bad = |reason: String| RescueError::Dir { dir: dir.display().to_string(), reason };
        let bytes = fs::read(dir.join("identity.json")).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => bad("it is not the data of a member: there is no identity.json".to_owned()),
            _ => bad(error.to_string()),
        })?;
        let owner: Owner = serde_json::from_slice(&bytes).map_err(|error| bad(format!("identity.json: {error}")))?;
        let db = Db::open(&offline(dir, owner.member, &owner.name), &owner.cluster)?;
        let found = db.with(|families| Found::read(&families)).map_err(|error| open_error(dir, &error))?;
        let Some(node) = found.membership.get_node(&owner.member).cloned() else {
            return Err(bad(format!("{} never was a member of a group", owner.name)));
        };
        let others = found.membership.nodes().filter(|(id, _)| **id != owner.member);
        let applied = found.record.applied.map(of_entry_id);
        let last = found.logged.max(applied);
        let state = SurvivorState {
            name: owner.name,
            id: owner.member,
            address: node.address.clone(),
            others: others.map(|(_, node)| (node.name.clone(), node.address.clone())).collect(),
            revision: found.record.revision.0,
            applied: found.record.applied.map_or(0, |id| id.index),
            last: last.map_or(0, |id| id.index),
            term: found.vote.map_or(0, |vote| vote.leader_id.term).max(last.map_or(0, |id| id.leader_id.term)),
        };
        Ok(Self { db, state, node, applied, logged: found.logged })
    }

    /// What it has left.
    #[must_use]
    pub fn state(&self) -> &SurvivorState {
        &self.state
    }

    /// Makes it the only member of a group that goes on from here, as etcd's `--force-new-cluster` does. Doing it again is
    /// safe.
    ///
    /// # Errors
    /// The disk refused.
    pub fn force_new_cluster(self) -> Result<(), RescueError> {
        let failed =
            |error: io::Error| RescueError::Dir { dir: self.db.dir().display().to_string(), reason: error.to_string() };
        let generation = generation::after(self.state.term);
        generation::write(self.db.dir(), generation).map_err(failed)?;
        self.rewrite(generation::first_term(generation)).map_err(failed)
    }

    fn rewrite(&self, term: u64) -> io::Result<()> {
        let node = Node { promote: false, ..self.node.clone() };
        let payload = Payload::Membership(alone(self.state.id, node)?);
        let entry = LogEntry::new(log_id(term, self.state.last + 1), payload);
        let (mut vote, mut purged) = (Writer::default(), Writer::default());
        vote.vote(&Vote::new_committed(term, self.state.id));
        purged.log_id(self.applied.as_ref());
        let (vote, purged) = (vote.finish(), purged.finish());
        // A snapshot that was installed just before the end: what is left of the log does not reach it.
        let behind = self.applied > self.logged;
        write(&self.db, |batch| {
            if behind {
                batch.delete_range(Family::Log, log_key(0), log_key(u64::MAX));
                batch.put(Family::Meta, PURGED_KEY, &purged);
            }
            batch.put(Family::Log, log_key(entry.log_id.index), entry_value(&entry));
            batch.put(Family::Meta, VOTE_KEY, &vote);
        })
    }
}

impl Drop for Survivor {
    fn drop(&mut self) {
        self.db.close();
    }
}

/// What the database says.
struct Found {
    record: StateRecord,
    vote: Option<Vote>,
    logged: Option<LogId>,
    /// The latest that it has heard of.
    membership: Membership,
}

impl Found {
    fn read(db: &Families<'_>) -> io::Result<Self> {
        let record = state_record(db)?;
        let stored: StoredMembership = match db.get(Family::Rows, MEMBERSHIP_KEY)? {
            Some(json) => serde_json::from_slice(&json)?,
            None => StoredMembership::default(),
        };
        let meta = |key| Ok::<_, io::Error>(db.get(Family::Meta, key)?.map(|bytes| Reader::new(bytes.into())));
        let vote = meta(VOTE_KEY)?.map(|mut input| input.vote()).transpose().map_err(invalid)?;
        let purged = meta(PURGED_KEY)?.map(|mut input| input.log_id()).transpose().map_err(invalid)?.flatten();
        let (mut logged, mut membership) = (purged, stored.membership().clone());
        for row in db.scan(Family::Log, &log_key(0))? {
            let (key, value) = row?;
            let index = u64::from_be_bytes(key[..].try_into().map_err(io::Error::other)?);
            let entry = decode_entry(index, value.into_vec().into()).map_err(invalid)?;
            if logged.is_some_and(|before| index != before.index + 1) {
                return Err(io::Error::other(format!("the log lacks what is before entry {index}")));
            }
            logged = Some(entry.log_id);
            if let Payload::Membership(changed) = entry.payload {
                membership = changed;
            }
        }
        Ok(Self { record, vote, logged, membership })
    }
}
