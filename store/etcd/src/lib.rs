//! etcd's v3 API over the store: the same requests, the same answers, the same errors.
//!
//! Invariants
//! - A request is checked here as etcd checks it, before anything is proposed; what depends on the
//!   state is decided by the state machine.
//! - Only holders of an admitted client certificate get past the handshake.
//! - What is not served (users, roles, the v2 API) answers Unimplemented.
//!
//! Not here: how keys are kept and agreed on (kontiki-store).

mod cluster;
mod convert;
mod error;
mod flags;
mod http;
mod kv;
mod lease;
mod maintenance;
mod range_stream;
mod rescue;
mod server;
mod standalone;
mod tls;
mod txn;
mod watch;

pub use flags::{Flags, run};
use kontiki_proto::etcd::ResponseHeader;
pub use kontiki_store::{BackupInfo, REVISION_BUMP, RescueError, Survivor, SurvivorState, backup_info};
use kontiki_store::{Revision, Status, Store};
pub use rescue::restore;
pub use server::{Admit, Listener};
pub use standalone::Options;
pub use tls::{TlsFiles, client_config};
use tokio::sync::watch as state;

/// The etcd version whose behaviour is served, as `/version` and Maintenance tell it.
pub const VERSION: &str = "3.7.3";
/// The version that all members of a cluster understand; etcd tells no patch of it.
pub(crate) const CLUSTER_VERSION: &str = "3.7.0";

/// What every service needs.
#[derive(Clone)]
pub(crate) struct Api {
    pub store: Store,
    status: state::Receiver<Status>,
}

impl Api {
    pub fn new(store: Store) -> Self {
        let status = store.status();
        Self { store, status }
    }

    /// The header of an answer at a revision.
    pub fn header(&self, revision: Revision) -> ResponseHeader {
        let (member_id, raft_term) = {
            let status = self.status.borrow();
            (status.id, status.term.0)
        };
        let revision = revision.0.cast_signed();
        ResponseHeader { cluster_id: self.store.cluster_id(), member_id, revision, raft_term }
    }

    /// The header of an answer as of now.
    pub fn header_now(&self) -> ResponseHeader {
        self.header(self.store.snapshot().revision())
    }

    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }
}
