//! The shell round the pure state: openraft's `RaftStateMachine`.
//!
//! Invariants
//! - Entries are applied in memory, published, answered, and then left for the writer, which takes them
//!   along with the next entries of the log; rows and the applied index are one write. After a crash
//!   the log tells again what was not written.
//! - A snapshot can be taken at any time: it is the rows as of the applied index.

use std::{io, sync::Arc};

use futures::{Stream, StreamExt};
use openraft::{
    OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
};
use tokio::sync::mpsc;

use crate::{
    disk::{
        db::{Db, Family},
        dump::dump,
        history::{decode, invalid, scan, scan_leases, state_record},
        install::{SnapshotData, install},
        writer::{Job, Rows, WriteQueue},
    },
    raft::{
        local::{Local, Samples},
        witness,
    },
    rt,
    serve::view::{News, View},
    types::{LogId, Payload, RaftSnapshot, SnapshotMeta, StoredMembership, TypeConfig, entry_id, of_entry_id},
};
use kontiki_state::{
    Batch, Level, Revision, Snapshot, Term,
    codec::Malformed,
    command::{Action, Command, Outcome},
    planted::{self, Bug},
    rows::{MEMBERSHIP_KEY, StateRecord, decode_lease, event_rows, lease_span, row_key},
    state::State,
};

/// Entries applied between two publications. Large enough to share the costs, small enough that
/// the first of them need not wait long for its answer.
const CHUNK: usize = 256;

/// The state machine of one member.
pub struct Machine {
    applied: Option<LogId>,
    membership: StoredMembership,
    epoch: u32,
    /// Whether a snapshot was built or installed: openraft asks for the current one only then.
    has_snapshot: bool,
    view: Arc<View>,
    db: Arc<Db>,
    queue: WriteQueue,
    local: Arc<Local>,
}

/// What the database says the state machine was.
pub(crate) struct Loaded {
    state: State,
    record: StateRecord,
    membership: StoredMembership,
}

impl Loaded {
    /// Reads all rows.
    pub fn read(db: &Db) -> io::Result<Self> {
        db.with(|families| {
            let get = |key| families.get(Family::Rows, key);
            let record = state_record(&families)?;
            let membership = match get(MEMBERSHIP_KEY)? {
                Some(json) => serde_json::from_slice(&json)?,
                None => StoredMembership::default(),
            };
            let mut state = State::empty(record.revision, record.compacted, record.applied.map_or(0, |id| id.index));
            state.restore_level(record.level);
            scan_leases(&families, record.epoch, |key, value| {
                state.restore_lease(decode_lease(key, value).map_err(invalid)?);
                Ok(())
            })?;
            scan(&families, record.epoch, Revision(0), record.revision, |key, value| {
                let row = decode(key, value)?;
                state.restore(row.kind, row.entry);
                Ok(true)
            })?;
            // What an interrupted snapshot installation left behind.
            let mut batch = families.batch();
            batch.delete_range(
                Family::Rows,
                row_key(record.epoch + 1, Revision(0), b""),
                row_key(record.epoch + 2, Revision(0), b""),
            );
            let (from, to) = lease_span(record.epoch + 1);
            batch.delete_range(Family::Rows, from, to);
            families.write(batch, false)?;
            if record.sum.is_some_and(|sum| sum != state.sum()) {
                return Err(invalid(Malformed("its rows are not those that were written")));
            }
            Ok(Self { state, record, membership })
        })
    }

    pub fn revision(&self) -> Revision {
        self.record.revision
    }

    pub fn level(&self) -> Level {
        self.record.level
    }

    /// The index of the last entry in it, and what it amounts to.
    pub fn state(&self) -> (u64, &State) {
        (self.record.applied.map_or(0, |id| id.index), &self.state)
    }
}

impl Machine {
    pub(crate) fn new(
        loaded: Loaded,
        db: Arc<Db>,
        queue: WriteQueue,
        local: Arc<Local>,
    ) -> (Self, Arc<View>, mpsc::Receiver<News>) {
        let Loaded { state, record, membership } = loaded;
        let (view, news) = View::new(state, record.epoch, Arc::clone(&db), queue.clone());
        let view = Arc::new(view);
        let machine = Self {
            applied: record.applied.map(of_entry_id),
            membership,
            epoch: record.epoch,
            has_snapshot: false,
            view: Arc::clone(&view),
            db,
            queue,
            local,
        };
        (machine, view, news)
    }

    fn record(&self) -> StateRecord {
        let record = |state: &Snapshot| StateRecord {
            epoch: self.epoch,
            revision: state.revision,
            compacted: state.compacted,
            applied: self.applied.as_ref().map(entry_id),
            level: state.level,
            sum: (state.level >= Level::DIGESTS).then(|| state.sum()),
        };
        self.view.look(record)
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() }
    }

    /// The state as of now, ready to be streamed.
    pub(crate) async fn take_snapshot(&self) -> io::Result<RaftSnapshot<SnapshotData>> {
        // The rows that are still on their way to the disk belong to it.
        if !planted::is(Bug::SnapshotBeforeRows) {
            self.queue.run(|done| Job::Barrier { done }).await?;
        }
        let snapshot = dump(Arc::clone(&self.db), self.record()).await?;
        Ok(RaftSnapshot { meta: self.meta(), snapshot })
    }

    /// Applies a run of entries as one publication and one write.
    #[tracing::instrument(name = "apply", level = "debug", skip_all, fields(entries = chunk.len()))]
    async fn apply_chunk(&mut self, chunk: Vec<EntryResponder<TypeConfig>>) -> io::Result<()> {
        let mut rows = Rows {
            rows: Vec::with_capacity(chunk.len()),
            leases: Vec::new(),
            record: self.record(),
            second: rt::unix_seconds(),
            membership: None,
        };
        let mut batches: Vec<Batch> = Vec::with_capacity(chunk.len());
        let mut answers = Vec::with_capacity(chunk.len());
        let view = Arc::clone(&self.view);
        {
            let mut state = view.change();
            for (entry, responder) in chunk {
                self.applied = Some(entry.log_id);
                let index = entry.log_id.index;
                state.enter(index);
                let mut outcome = Outcome::Done { revision: state.revision };
                match entry.payload {
                    Payload::Blank => {}
                    Payload::Normal(command) => {
                        outcome = self.command(&mut state, entry.log_id, &command, &mut rows, &mut batches)?;
                    }
                    Payload::Membership(membership) => {
                        self.membership = StoredMembership::new(Some(entry.log_id), membership);
                        rows.membership = Some(serde_json::to_vec(&self.membership)?);
                    }
                }
                answers.extend(responder.map(|responder| (responder, outcome)));
                if Samples::wants(index) {
                    self.local.samples.note(index, state.digest());
                }
            }
            self.local.samples.note(state.applied, state.digest());
        }
        rows.record = self.record();
        if rows.record.level != self.local.level() {
            self.enter_level(rows.record.level).await?;
        }
        if !rows.leases.is_empty() {
            self.local.leases.changed(&rows.leases);
        }
        for (responder, outcome) in answers {
            responder.send(outcome);
        }
        self.view.publish(batches).await;
        if planted::is(Bug::TornApply) {
            let record = Rows { rows: Vec::new(), leases: Vec::new(), membership: None, ..rows };
            self.queue.send(Job::Apply(vec![record])).await?;
            rt::sleep(std::time::Duration::from_millis(2)).await;
        }
        self.queue.apply(rows).await
    }

    /// From here on data is written as of a level. What lies in the directory later, no program may open that does not
    /// know it.
    async fn enter_level(&self, level: Level) -> io::Result<()> {
        let db = Arc::clone(&self.db);
        rt::blocking(move || db.raise_format(level)).await??;
        self.local.set_level(level);
        Ok(())
    }

    /// Applies a command.
    ///
    /// # Errors
    /// If it is of a later program: to go on without it would be another state than the others'.
    fn command(
        &self,
        state: &mut State,
        id: LogId,
        command: &Command,
        rows: &mut Rows,
        batches: &mut Vec<Batch>,
    ) -> io::Result<Outcome> {
        let action = Action::decode(command).map_err(|error| self.stop_at(id, &error.to_string()))?;
        if let Action::RaiseLevel { to, .. } = action
            && to > Level::NEWEST
        {
            return Err(self.stop_at(id, &format!("it raises the feature level to {to}")));
        }
        let action = match action {
            Action::Expire { limit, .. } if planted::is(Bug::ApplyReadsClock) => {
                Action::Expire { deadline: rt::unix_seconds(), limit }
            }
            action => action,
        };
        let applied = state.apply(&action, Term(id.leader_id.term));
        witness::applied(id, command, state, &applied.outcome, &applied.events);
        rows.leases.extend(applied.leases);
        if !applied.events.is_empty() {
            rows.rows.extend(event_rows(self.epoch, &applied.events));
            batches.push(applied.events.into());
        }
        Ok(applied.outcome)
    }

    /// Why nothing is applied from an entry on.
    fn stop_at(&self, id: LogId, what: &str) -> io::Error {
        let newest = Level::NEWEST;
        let reason = format!(
            "log entry {} needs a later program ({what}); this one knows feature levels up to {newest}: start this \
             member with the program that the others run, its data is whole",
            id.index
        );
        self.local.halt(reason.clone());
        io::Error::other(reason)
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut chunk = Vec::new();
        while let Some(entry) = entries.next().await {
            chunk.push(entry?);
            if chunk.len() >= CHUNK {
                self.apply_chunk(std::mem::take(&mut chunk)).await?;
            }
        }
        if chunk.is_empty() { Ok(()) } else { self.apply_chunk(chunk).await }
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.has_snapshot = true;
        Builder(Some(self.take_snapshot().await))
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> Result<(), io::Error> {
        self.queue.run(|done| Job::Barrier { done }).await?;
        let (db, writer) = (Arc::clone(&self.db), Arc::clone(self.queue.writer()));
        let membership = serde_json::to_vec(&meta.last_membership)?;
        let record = StateRecord { applied: meta.last_log_id.as_ref().map(entry_id), ..self.record() };
        let installed = rt::blocking(move || install(&db, &writer, snapshot, record, &membership));
        let (state, record) = installed.await??;
        self.epoch = record.epoch;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.has_snapshot = true;
        witness::installed(self.applied.map_or(0, |id| id.index), &state);
        self.queue.writer().set_persisted(state.revision);
        tracing::info!(revision = state.revision.0, keys = state.len(), "installed a snapshot");
        if state.level != self.local.level() {
            self.enter_level(state.level).await?;
        }
        self.view.replace(state, self.epoch).await;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<RaftSnapshot<SnapshotData>>, io::Error> {
        if !self.has_snapshot {
            return Ok(None);
        }
        self.take_snapshot().await.map(Some)
    }
}

/// A snapshot that has been taken already: taking one is cheap.
pub struct Builder(Option<io::Result<RaftSnapshot<SnapshotData>>>);

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<RaftSnapshot<SnapshotData>, io::Error> {
        self.0.take().unwrap_or_else(|| Err(io::Error::other("a builder builds once")))
    }
}
