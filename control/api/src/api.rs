//! The shared state of the API, and its front door.

use std::io;
use std::sync::Arc;

use kontiki_cache::Cache;
use kontiki_machinery::Registry;
use kontiki_store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::tokens::{KeyError, Keys};
use crate::metrics::Metrics;
use crate::verbs::list::Pages;
use crate::{Client, Config, User};

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

    /// Serves HTTPS until `stop`, then ends watches, lets requests finish and returns. `tls`
    /// should offer `h2` and `http/1.1`, and ask for client certificates of the cluster's CA
    /// without requiring one.
    ///
    /// # Errors
    /// The listener's address cannot be read.
    pub async fn serve(
        &self,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        stop: CancellationToken,
    ) -> io::Result<()> {
        crate::server::serve(self, listener, tls, stop).await
    }

    /// Answers one HTTP request as [`serve`](Self::serve) would, for a user whose certificate (if
    /// any) has been checked already.
    pub async fn answer(
        &self,
        user: Option<User>,
        request: http::Request<axum::body::Body>,
    ) -> http::Response<axum::body::Body> {
        let local = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 6443));
        let peer = crate::server::Peer { local, user: user.map(Arc::new) };
        crate::http::handle(self, &peer, request).await
    }

    /// A client that skips HTTP and nothing else.
    #[must_use]
    pub fn client(&self, user: User) -> Client {
        Client::new(self.clone(), user)
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
}
