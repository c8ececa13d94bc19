//! The store as everything above it sees it: values of sealed kinds are ciphertext below (see `vault`), and as they were
//! written above. Nobody above knows which kinds those are.
//!
//! Invariants
//! - What a [`Backend`] hands out is open, what it hands down is sealed: snapshots, events, answers of transactions and the
//!   past alike. A value that cannot be opened is handed out as it is; [`unreadable`](crate::unreadable) tells it from an
//!   object.
//! - Without a vault, and for kinds that are not sealed, nothing is copied and no await added.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kontiki_model::{Revision, Term};
use kontiki_store::{
    Batch, Compare, Entry, Event, HistoryError, Op, Put, PutLease, Response, ResponseKind, Store, Target, Told, Txn,
    TxnResult, WatchItem, When, WriteError,
};
use tracing::error;

use crate::vault::{DATA_KEYS, DataKey, Vault, VaultError, data_key, number_of, sealed_under};

/// How often a data key is looked for and made until that is given up: others may make one at the same moment.
const ATTEMPTS: usize = 8;
/// Values that one turn of [`Backend::reseal`] brings under the newest key.
const TURN: usize = 64;

/// Whether it was said already that a value cannot be opened.
static SAID: AtomicBool = AtomicBool::new(false);

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Backend {
    store: Store,
    vault: Option<Arc<Vault>>,
}

impl From<Store> for Backend {
    fn from(store: Store) -> Self {
        Self { store, vault: None }
    }
}

/// What has no values: status, barriers, revisions.
impl Deref for Backend {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

/// The state of a moment.
#[derive(Clone, Default)]
pub struct Snapshot {
    state: kontiki_store::Snapshot,
    vault: Option<Arc<Vault>>,
}

/// A subscription to changes.
pub struct Watch {
    watch: kontiki_store::Watch,
    backend: Backend,
}

/// An entry with its value open. `state` has the data keys.
fn opened(vault: &Vault, state: &kontiki_store::Snapshot, entry: Arc<Entry>) -> Arc<Entry> {
    let Some(number) = sealed_under(&entry.value) else { return entry };
    let value = find(vault, state, number).and_then(|under| {
        let value = vault.open(&under, &entry.key, &entry.value);
        value.ok_or_else(|| "it is not what was sealed".to_owned())
    });
    match value {
        Ok(value) => Arc::new(Entry { value, ..Entry::clone(&entry) }),
        Err(why) => {
            // Once: what cannot be opened is met again and again.
            if !SAID.swap(true, Ordering::Relaxed) {
                error!(key = %String::from_utf8_lossy(&entry.key), why, "a sealed value cannot be opened");
            }
            entry
        }
    }
}

fn find(vault: &Vault, state: &kontiki_store::Snapshot, number: u32) -> Result<DataKey, String> {
    if let Some(known) = vault.known(number) {
        return Ok(known);
    }
    let record = state.get(data_key(number).as_bytes()).ok_or_else(|| format!("there is no data key {number}"))?;
    vault.unwrap(number, &record.value).map_err(|error| error.to_string())
}

impl Snapshot {
    fn open(&self, entry: Arc<Entry>) -> Arc<Entry> {
        match &self.vault {
            Some(vault) => opened(vault, &self.state, entry),
            None => entry,
        }
    }

    /// Its revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.state.revision()
    }

    /// The entry of a key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Arc<Entry>> {
        self.state.get(key).map(|entry| self.open(entry))
    }

    /// The entries whose keys begin with `prefix`, in order.
    pub fn range<'a>(&'a self, prefix: &[u8]) -> impl Iterator<Item = Arc<Entry>> + use<'a> {
        self.state.range(prefix).map(|entry| self.open(entry))
    }

    /// Those of them after a key.
    pub fn range_from<'a>(&'a self, prefix: &[u8], after: &[u8]) -> impl Iterator<Item = Arc<Entry>> + use<'a> {
        self.state.range_from(prefix, after).map(|entry| self.open(entry))
    }

    /// How many keys begin with `prefix`.
    #[must_use]
    pub fn count(&self, prefix: &[u8]) -> usize {
        self.state.count(prefix)
    }
}

impl Watch {
    /// As the store's.
    pub async fn next(&mut self) -> Option<WatchItem> {
        Some(match self.watch.next().await? {
            WatchItem::Events(batch) => WatchItem::Events(self.backend.open_batch(batch)),
            other => other,
        })
    }

    /// As the store's.
    pub fn set_progress_interval(&mut self, interval: Duration) {
        self.watch.set_progress_interval(interval);
    }
}

impl Backend {
    /// A store in which the kinds of `vault` are sealed.
    #[must_use]
    pub fn sealed(store: Store, vault: Arc<Vault>) -> Self {
        Self { store, vault: Some(vault) }
    }

    /// Whether there are data keys that nobody here can unwrap.
    ///
    /// # Errors
    /// The first that cannot be unwrapped, and why.
    pub fn check(&self) -> Result<(), String> {
        let state = self.store.snapshot();
        for entry in state.range(DATA_KEYS.as_bytes()) {
            let Some(vault) = &self.vault else {
                return Err("kinds are sealed in this cluster, and there is no key file".to_owned());
            };
            if let Some(number) = number_of(&entry.key) {
                vault.unwrap(number, &entry.value).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    /// What this member shows now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { state: self.store.snapshot(), vault: self.vault.clone() }
    }

    /// As the store's.
    ///
    /// # Errors
    /// As the store's.
    pub fn watch(&self, prefix: Bytes, after: Option<Revision>) -> Result<Watch, HistoryError> {
        Ok(Watch { watch: self.store.watch(prefix, after)?, backend: self.clone() })
    }

    /// As the store's.
    ///
    /// # Errors
    /// As the store's.
    pub async fn range_at(&self, prefix: &[u8], revision: Revision) -> Result<Vec<Arc<Entry>>, HistoryError> {
        let mut entries = self.store.range_at(prefix, revision).await?;
        if let Some(vault) = &self.vault {
            let state = self.store.snapshot();
            entries.iter_mut().for_each(|entry| *entry = opened(vault, &state, Arc::clone(entry)));
        }
        Ok(entries)
    }

    /// As the store's.
    ///
    /// # Errors
    /// As the store's.
    pub async fn tell(&self, key: Bytes, upto: When, limit: usize, bytes: usize) -> Result<Told, HistoryError> {
        let mut told = self.store.tell(key, upto, limit, bytes).await?;
        if let Some(vault) = &self.vault {
            let state = self.store.snapshot();
            for entry in told.changes.iter_mut().filter_map(|change| change.entry.as_mut()) {
                *entry = opened(vault, &state, Arc::clone(entry));
            }
        }
        Ok(told)
    }

    /// As the store's.
    ///
    /// # Errors
    /// As the store's.
    pub async fn txn(&self, mut txn: Txn) -> Result<TxnResult, WriteError> {
        let Some(vault) = &self.vault else { return self.store.txn(txn).await };
        if txn.success.iter().chain(&txn.failure).any(|op| touches(vault, op)) {
            let under = self.newest(vault).await?;
            for op in txn.success.iter_mut().chain(&mut txn.failure) {
                seal(vault, &under, op)?;
            }
        }
        txn.compares.iter_mut().for_each(|compare| self.seal_compare(vault, compare));
        let mut result = self.store.txn(txn).await?;
        if result.responses.iter().any(has_sealed) {
            let state = self.store.snapshot();
            result.responses.iter_mut().for_each(|response| open_response(vault, &state, response));
        }
        Ok(result)
    }

    /// A value is compared as it is stored, if that is the one meant. Otherwise the compare fails, as it should.
    fn seal_compare(&self, vault: &Vault, compare: &mut Compare) {
        let key = compare.range.start.clone();
        let Target::Value(value) = &mut compare.target else { return };
        if !vault.covers(&key) {
            return;
        }
        let state = self.store.snapshot();
        let stored = state.get(&key);
        if let Some(stored) = stored.filter(|stored| opened(vault, &state, Arc::clone(stored)).value == *value) {
            *value = stored.value.clone();
        }
    }

    fn open_batch(&self, batch: Batch) -> Batch {
        let Some(vault) = &self.vault else { return batch };
        let is_sealed = |entry: &Arc<Entry>| sealed_under(&entry.value).is_some();
        if !batch.iter().any(|event| is_sealed(&event.entry) || event.prev.as_ref().is_some_and(is_sealed)) {
            return batch;
        }
        let state = self.store.snapshot();
        let open = |entry: &Arc<Entry>| opened(vault, &state, Arc::clone(entry));
        let event =
            |event: &Event| Event { kind: event.kind, entry: open(&event.entry), prev: event.prev.as_ref().map(open) };
        batch.iter().map(event).collect()
    }

    /// The newest data key; the first one is made when it is needed.
    async fn newest(&self, vault: &Vault) -> Result<DataKey, WriteError> {
        for _ in 0..ATTEMPTS {
            let newest = self.store.snapshot().range(DATA_KEYS.as_bytes()).last();
            if let Some((entry, number)) = newest.and_then(|entry| number_of(&entry.key).map(|number| (entry, number)))
            {
                return vault.unwrap(number, &entry.value).map_err(|error| unusable(&error));
            }
            // This member may be behind.
            self.store.barrier().await.map_err(|_| WriteError::NoLeader)?;
            if self.store.snapshot().range(DATA_KEYS.as_bytes()).next().is_none() {
                self.make(vault, 1).await?;
                self.store.barrier().await.map_err(|_| WriteError::NoLeader)?;
            }
        }
        Err(WriteError::NoLeader)
    }

    async fn make(&self, vault: &Vault, number: u32) -> Result<bool, WriteError> {
        let (key, record) = (data_key(number), vault.make_data_key(number).map_err(|error| unusable(&error))?);
        let txn = Txn::guarded(vec![Compare::absent(key.clone())], vec![Op::put(key, record)]);
        Ok(self.store.txn(txn).await?.succeeded)
    }

    /// Makes a new data key, which seals from now on, and tells its number. `None`: nothing is sealed here.
    ///
    /// # Errors
    /// The store could not be written.
    pub async fn rotate(&self) -> Result<Option<u32>, WriteError> {
        let Some(vault) = &self.vault else { return Ok(None) };
        for _ in 0..ATTEMPTS {
            self.store.barrier().await.map_err(|_| WriteError::NoLeader)?;
            let newest = self.store.snapshot().range(DATA_KEYS.as_bytes()).last();
            let number = newest.and_then(|entry| number_of(&entry.key)).unwrap_or(0) + 1;
            if self.make(vault, number).await? {
                return Ok(Some(number));
            }
        }
        Err(WriteError::NoLeader)
    }

    /// Brings some values that are not sealed, or are so under an older key, under the newest one: in writes of the leader
    /// of `term`, each on condition that its object did not change. Tells how many it found: none is left after none.
    ///
    /// # Errors
    /// The store could not be written.
    pub async fn reseal(&self, term: Term) -> Result<usize, WriteError> {
        let Some(vault) = &self.vault else { return Ok(0) };
        let state = self.store.snapshot();
        if !vault.kinds().iter().any(|kind| state.range(kind.as_bytes()).next().is_some()) {
            return Ok(0);
        }
        let under = self.newest(vault).await?;
        let values = vault.kinds().iter().flat_map(|kind| state.range(kind.as_bytes()));
        let older = values.filter(|entry| sealed_under(&entry.value) != Some(under.number));
        let older = older.map(|entry| (opened(vault, &state, Arc::clone(&entry)), entry));
        // What cannot be opened stays as it is, for whoever can.
        let older: Vec<_> = older.filter(|(open, _)| sealed_under(&open.value).is_none()).take(TURN).collect();
        for (open, entry) in &older {
            let value = vault.seal(&under, &entry.key, &open.value).map_err(|error| unusable(&error))?;
            let (key, expires) = (entry.key.clone(), entry.expires);
            let put =
                Op::Put(Put { key: key.clone(), value: Some(value), expires, lease: PutLease::Keep, prev: false });
            let txn = Txn::guarded(vec![Compare::unchanged(key, entry.mod_revision)], vec![put]);
            self.store.txn(txn.fenced(Some(term))).await?;
        }
        Ok(older.len())
    }

    /// How many values lie there in which form: by the number of their data key, 0 for those that are not sealed.
    #[must_use]
    pub fn forms(&self) -> HashMap<u32, usize> {
        let (state, mut forms) = (self.store.snapshot(), HashMap::new());
        let kinds = self.vault.as_ref().map(|vault| vault.kinds()).unwrap_or_default();
        for entry in kinds.iter().flat_map(|kind| state.range(kind.as_bytes())) {
            *forms.entry(sealed_under(&entry.value).unwrap_or(0)).or_default() += 1;
        }
        forms
    }
}

/// Nothing is written, and trying again will not help; whoever looks into the log finds out.
fn unusable(why: &VaultError) -> WriteError {
    error!(error = %why, "a value cannot be sealed, so it is not written");
    WriteError::NoLeader
}

fn touches(vault: &Vault, op: &Op) -> bool {
    match op {
        Op::Put(put) => put.value.is_some() && vault.covers(&put.key),
        Op::Txn(inner) => inner.success.iter().chain(&inner.failure).any(|op| touches(vault, op)),
        Op::Delete { .. } | Op::Range(_) => false,
    }
}

fn seal(vault: &Vault, under: &DataKey, op: &mut Op) -> Result<(), WriteError> {
    match op {
        Op::Put(Put { key, value: Some(value), .. }) if vault.covers(key) => {
            *value = vault.seal(under, key, value).map_err(|error| unusable(&error))?;
        }
        Op::Txn(inner) => {
            for op in inner.success.iter_mut().chain(&mut inner.failure) {
                seal(vault, under, op)?;
            }
        }
        Op::Put(_) | Op::Delete { .. } | Op::Range(_) => {}
    }
    Ok(())
}

fn entries_of(response: &mut Response) -> Vec<&mut Arc<Entry>> {
    match &mut response.kind {
        ResponseKind::Put(entry) => entry.iter_mut().collect(),
        ResponseKind::Delete(_, entries) => entries.iter_mut().collect(),
        ResponseKind::Range(found) => found.entries.iter_mut().collect(),
        ResponseKind::Txn(inner) => inner.responses.iter_mut().flat_map(entries_of).collect(),
        ResponseKind::Past(_) => Vec::new(),
    }
}

fn has_sealed(response: &Response) -> bool {
    let sealed = |entry: &Arc<Entry>| sealed_under(&entry.value).is_some();
    match &response.kind {
        ResponseKind::Put(entry) => entry.as_ref().is_some_and(sealed),
        ResponseKind::Delete(_, entries) => entries.iter().any(sealed),
        ResponseKind::Range(found) => found.entries.iter().any(sealed),
        ResponseKind::Txn(inner) => inner.responses.iter().any(has_sealed),
        ResponseKind::Past(_) => false,
    }
}

fn open_response(vault: &Vault, state: &kontiki_store::Snapshot, response: &mut Response) {
    for entry in entries_of(response) {
        *entry = opened(vault, state, Arc::clone(entry));
    }
}
