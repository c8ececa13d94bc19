//! The shared state of the API: what every part of it reads and writes the cluster through. Its front doors are
//! [`crate::server`] and [`crate::client`].

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use kontiki_cache::{Backend, Cache, Registration, Snapshot};
use kontiki_machinery::Registry;
use kontiki_machinery::access::Member;
use kontiki_machinery::admission;
use kontiki_model::metrics::{Kind, single};
use kontiki_store::Store;
use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::Auditor;
use crate::auth::keys::{KeyError, Keys};
use crate::budget::Budget;
use crate::clock::Entropy;
use crate::fairness::Fairness;
use crate::kinds;
use crate::ledger::Ledger;
use crate::metrics::{Looks, Metrics, Source};
use crate::pages::Pages;
use crate::recent::Recent;
use crate::specs::Specs;
use crate::state::read_error;
use crate::usage::Answers;
use crate::{Aggregation, Config, Status};

/// The API of one master. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub store: Backend,
    pub config: Config,
    /// When this server began.
    pub started: Timestamp,
    pub keys: Keys,
    /// Who may allow what now.
    authorizers: RwLock<Arc<[Member]>>,
    pub cache: Cache,
    /// Tell authorizers, steps of admission and the registry of the objects that they follow.
    pub following: Vec<Registration>,
    pub pages: Pages,
    /// Objects that watches were told of in another version.
    pub recent: Recent,
    pub ledger: Ledger,
    pub fairness: Fairness,
    /// Of the memory for bodies.
    pub budget: Budget,
    pub metrics: Metrics,
    /// What the health paths have found.
    pub looks: Looks,
    /// Who records requests, if anybody does.
    pub audit: OnceLock<Auditor>,
    /// What servers behind say that they serve, by group and version.
    pub behind: Mutex<HashMap<(String, String), Arc<Value>>>,
    /// And what they say of it in OpenAPI.
    pub specs: Specs,
    /// What nodes said of what they use.
    pub usage: Answers,
    /// Connections and tunnels.
    pub tasks: TaskTracker,
    /// Ends watches and connections.
    pub stop: CancellationToken,
}

impl Api {
    /// An API over `store`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The ServiceAccount key is not one.
    pub fn new(store: impl Into<Backend>, config: Config) -> Result<Self, KeyError> {
        let store = store.into();
        let keys = Keys::from_pem(&config.service_account_key_pem)?;
        let cache = Cache::new(store.clone());
        let stop = CancellationToken::new();
        let mut following: Vec<_> = config.authorizers.iter().flat_map(|member| follow(&cache, member)).collect();
        following.extend(config.admission.iter().flat_map(|member| follow_for(&cache, member)));
        following.extend(config.aggregation.iter().flat_map(|groups| follow_servers(&cache, groups)));
        following.extend(kinds::follow(&cache, &config.registry, &stop));
        Ok(Self {
            inner: Arc::new(Inner {
                following,
                authorizers: RwLock::new(config.authorizers.clone().into()),
                cache,
                fairness: Fairness::new(config.limits),
                budget: Budget::new(config.limits.bytes_in_flight),
                store,
                started: config.clock.now(),
                config,
                keys,
                pages: Pages::default(),
                recent: Recent::default(),
                ledger: Ledger::default(),
                metrics: Metrics::default(),
                looks: Looks::default(),
                audit: OnceLock::new(),
                behind: Mutex::default(),
                specs: Specs::default(),
                usage: Answers::default(),
                tasks: TaskTracker::new(),
                stop,
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

    /// Who gets at the API when many want to.
    #[must_use]
    pub fn fairness(&self) -> &Fairness {
        &self.inner.fairness
    }

    /// Who may allow what, in the order in which they are asked.
    pub(crate) fn authorizers(&self) -> Arc<[Member]> {
        Arc::clone(&self.inner.authorizers.read())
    }

    /// From now on these are asked. Those of them that judge by objects must have been among the first
    /// ([`Config::authorizers`]): they are told of changes.
    pub fn replace_authorizers(&self, members: Vec<Member>) {
        *self.inner.authorizers.write() = members.into();
    }

    /// The store below, in which values of sealed kinds are ciphertext.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The store below, with the values of sealed kinds open.
    pub(crate) fn backend(&self) -> &Backend {
        &self.inner.store
    }

    /// A snapshot that holds everything acknowledged before this call.
    pub(crate) async fn fresh(&self) -> Result<Snapshot, Status> {
        self.store().barrier().await.map_err(read_error)?;
        Ok(self.backend().snapshot())
    }

    /// Waits until the rows are those of all that was acknowledged; whether that can be said.
    pub(crate) async fn catch_up(&self) -> bool {
        if self.registry().source().is_none() {
            return false;
        }
        let Ok(revision) = self.store().barrier().await else { return false };
        self.cache().wait_for(revision).await;
        let registry = self.registry().clone();
        tokio::task::spawn_blocking(move || registry.settle()).await.is_ok()
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
        self.inner.fairness.write_metrics(&mut out);
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
            ("kontiki_api_body_bytes_charged", "Memory charged for bodies.", self.inner.budget.charged() as u64),
        ];
        for (name, help, value) in gauges {
            single(&mut out, name, Kind::Gauge, help, value);
        }
        self.inner.metrics.write_sources(&mut out);
        out
    }
}

/// Tells an authorizer of what it follows.
fn follow(cache: &Cache, member: &Member) -> Vec<Registration> {
    let Member::Pure(authorizer) = member else { return Vec::new() };
    let follow = |resource| {
        let told = Arc::clone(authorizer);
        cache.on_stored(resource, move |key, stored| told.changed(key, stored.map(|stored| &stored[..])))
    };
    authorizer.follows().iter().copied().map(follow).collect()
}

/// Tells a member of admission of what it follows.
fn follow_for(cache: &Cache, member: &admission::Member) -> Vec<Registration> {
    let follow = |resource| {
        let told = member.clone();
        cache.on_stored(resource, move |key, stored| told.changed(key, stored.map(|stored| &stored[..])))
    };
    member.follows().iter().copied().map(follow).collect()
}

/// Tells who knows other servers of the objects that name these.
fn follow_servers(cache: &Cache, aggregation: &Aggregation) -> Vec<Registration> {
    let delegates = &aggregation.delegates;
    let follow = |resource| {
        let told = Arc::clone(delegates);
        cache.on_stored(resource, move |key, stored| told.changed(key, stored.map(|stored| &stored[..])))
    };
    delegates.follows().iter().copied().map(follow).collect()
}
