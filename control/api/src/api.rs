//! The shared state of the API: what every part of it reads and writes the cluster through. Its front doors are
//! [`crate::server`] and [`crate::client`].

use std::sync::Arc;

use jiff::Timestamp;
use kontiki_cache::Cache;
use kontiki_machinery::Registry;
use kontiki_model::metrics::{Kind, single};
use kontiki_store::{Snapshot, Store};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::keys::{KeyError, Keys};
use crate::clock::Entropy;
use crate::metrics::{Metrics, Source};
use crate::pages::Pages;
use crate::state::read_error;
use crate::{Config, Status};

/// The API of one master. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub store: Store,
    pub config: Config,
    pub keys: Keys,
    pub cache: Cache,
    pub pages: Pages,
    pub metrics: Metrics,
    /// Connections and tunnels.
    pub tasks: TaskTracker,
    /// Ends watches and connections.
    pub stop: CancellationToken,
}

impl Api {
    /// An API over `store`.
    ///
    /// # Errors
    /// The ServiceAccount key is not one.
    pub fn new(store: Store, config: Config) -> Result<Self, KeyError> {
        let keys = Keys::from_pem(&config.service_account_key_pem)?;
        Ok(Self {
            inner: Arc::new(Inner {
                cache: Cache::new(store.clone()),
                store,
                config,
                keys,
                pages: Pages::default(),
                metrics: Metrics::default(),
                tasks: TaskTracker::new(),
                stop: CancellationToken::new(),
            }),
        })
    }

    /// The objects of the store, shared by everything on this master.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.inner.cache
    }

    /// The kinds that are served.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.inner.config.registry
    }

    /// The store below.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// A snapshot that holds everything acknowledged before this call.
    pub(crate) async fn fresh(&self) -> Result<Snapshot, Status> {
        self.store().barrier().await.map_err(read_error)?;
        Ok(self.store().snapshot())
    }

    /// The time.
    pub(crate) fn now(&self) -> Timestamp {
        self.inner.config.clock.now()
    }

    /// Where chance comes from.
    pub(crate) fn entropy(&self) -> &dyn Entropy {
        &*self.inner.config.entropy
    }

    /// Adds `source` to what `/metrics` shows, in place of an earlier one of this name.
    pub fn add_metrics(&self, name: &'static str, source: Source) {
        self.inner.metrics.add(name, source);
    }

    /// What `/metrics` shows.
    pub(crate) fn metrics_text(&self) -> String {
        let mut out = String::with_capacity(8 << 10);
        self.inner.metrics.write(&mut out);
        self.inner.config.writes.write(&mut out);
        let status = self.store().status().borrow().clone();
        let snapshot = self.store().snapshot();
        let (level, newest) = self.store().feature_level();
        let gauges = [
            ("kontiki_store_revision", "Revision of the local state.", snapshot.revision().0),
            ("kontiki_store_compacted_revision", "Oldest revision that can be read.", self.store().compacted().0),
            ("kontiki_store_feature_level", "Feature level of the group.", u64::from(level)),
            ("kontiki_store_feature_level_max", "Newest feature level that this member admits.", u64::from(newest)),
            ("kontiki_raft_term", "Current term.", status.term.0),
            ("kontiki_raft_is_leader", "Whether this member leads.", u64::from(status.is_leader)),
            ("kontiki_raft_applied_index", "Last applied log entry.", status.applied),
            ("kontiki_raft_last_log_index", "Last log entry.", status.last_log),
            ("kontiki_raft_members", "Members of the group.", status.members.len() as u64),
        ];
        for (name, help, value) in gauges {
            single(&mut out, name, Kind::Gauge, help, value);
        }
        self.inner.metrics.write_sources(&mut out);
        out
    }
}
