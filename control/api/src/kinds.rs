//! Kinds that come while a server runs: the registry follows the objects that define them.
//!
//! Invariants
//! - Whatever defines a kind is known to the registry's source when the cache shows it; the rows follow at once, made by a
//!   task of their own, many changes as one.
//! - A path that names nothing is looked at again when all that was acknowledged is in the rows (`Api::catch_up`): who
//!   reads that a kind is established, on whichever master, is served it by all.

use std::sync::Arc;

use kontiki_cache::{Cache, Registration};
use kontiki_machinery::Registry;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Tells the registry's source of what it follows, and makes rows of that until `stop`. Must be called within a tokio
/// runtime.
pub(crate) fn follow(cache: &Cache, registry: &Registry, stop: &CancellationToken) -> Option<Registration> {
    let source = Arc::clone(registry.source()?);
    let (changed, stop) = (Arc::new(Notify::new()), stop.clone());
    tokio::spawn(settle(registry.clone(), Arc::clone(&changed), stop));
    let told = Arc::clone(&source);
    Some(cache.on_stored(source.follows(), move |key, stored| {
        told.changed(key, stored.cloned());
        changed.notify_one();
    }))
}

async fn settle(registry: Registry, changed: Arc<Notify>, stop: CancellationToken) {
    loop {
        // Both arms are cancel-safe: a permit that is not taken stays.
        tokio::select! {
            () = stop.cancelled() => return,
            () = changed.notified() => {}
        }
        let registry = registry.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || registry.settle()).await {
            tracing::error!(%error, "rows could not be made of what defines kinds; this is a bug");
        }
    }
}
