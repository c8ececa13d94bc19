//! What servers tell each other about themselves through the store: where each serves what.
//!
//! Invariants
//! - Only a server itself writes its record; the leader removes the records of servers that are no
//!   longer members.

use std::time::Duration;

use kontiki_model::Revision;
use kontiki_store::{Compare, Op, Snapshot, Store, Txn, WriteError};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::debug;

const PREFIX: &str = "/kontiki/servers/";
const NEXT_ID: &str = "/kontiki/next-member-id";
const RETRY: Duration = Duration::from_millis(500);

/// One server's addresses, each `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub name: String,
    /// Its member id.
    pub id: u64,
    /// Kubernetes API.
    pub api: String,
    /// Node sessions.
    pub node: String,
    /// Version of the program.
    pub version: String,
}

/// All records, by name.
#[must_use]
pub fn list(snapshot: &Snapshot) -> Vec<Record> {
    snapshot.range(PREFIX.as_bytes()).filter_map(|entry| serde_json::from_slice(&entry.value).ok()).collect()
}

/// One server's record.
#[must_use]
pub fn get(snapshot: &Snapshot, name: &str) -> Option<Record> {
    serde_json::from_slice(&snapshot.get(key(name).as_bytes())?.value).ok()
}

/// The node-session addresses of all servers.
#[must_use]
pub fn session_addresses(snapshot: &Snapshot) -> Vec<String> {
    list(snapshot).into_iter().map(|record| record.node).collect()
}

/// The deletion of a record.
#[must_use]
pub fn removal(name: &str) -> Op {
    Op::delete(key(name))
}

fn key(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// Writes this server's record, trying until it stands or `stop`.
pub async fn publish(store: &Store, record: &Record, stop: &CancellationToken) {
    let value = serde_json::to_vec(record).expect("a record is plain data");
    while get(&store.snapshot(), &record.name).as_ref() != Some(record) {
        match store.txn(Txn::write(vec![Op::put(key(&record.name), value.clone())])).await {
            Ok(_) => return,
            Err(error) => debug!(%error, "this server's addresses are not published yet"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// Takes the next unused member id; ids are never given twice.
///
/// # Errors
/// The store could not be written, or others took ids faster all the time.
pub async fn take_member_id(store: &Store) -> Result<u64, WriteError> {
    for _ in 0..16 {
        let snapshot = store.snapshot();
        let entry = snapshot.get(NEXT_ID.as_bytes());
        let stored = entry.as_ref().and_then(|e| std::str::from_utf8(&e.value).ok()?.parse().ok());
        let members = store.status().borrow().members.iter().map(|m| m.id).max().unwrap_or(1);
        let id = stored.unwrap_or(2).max(members + 1);
        let unchanged = Compare::unchanged(NEXT_ID, entry.map_or(Revision(0), |e| e.mod_revision));
        let result = store.txn(Txn::guarded(vec![unchanged], vec![Op::put(NEXT_ID, (id + 1).to_string())])).await?;
        if result.succeeded {
            return Ok(id);
        }
        // This member is behind whoever took the id: catch up before trying again.
        store.barrier().await.map_err(|_| WriteError::NoLeader)?;
    }
    Err(WriteError::NoLeader)
}
