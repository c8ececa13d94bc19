//! What is ciphertext in the store: which kinds, under which keys, and that all of it comes under the newest.
//!
//! Invariants
//! - A server that lacks a key of the cluster does not start: it would show ciphertext, or write what others cannot read.
//! - Only the leader brings values under a newer key, fenced by its term. When none is left nothing is written.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use kontiki_cache::{Backend, Vault};
use kontiki_model::GroupResource;
use kontiki_store::{Store, Term, WatchItem};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::pki::ENCRYPTION_KEY;

/// Where data keys lie: a new one means work.
const DATA_KEYS: &str = "/kontiki/data-keys/";
/// How long until what was written meanwhile under an older key is looked for, and a failure is tried again.
const LOOK: Duration = Duration::from_secs(30);
/// Kinds of the core group that may be sealed. Others are read where nothing is opened: by the members themselves, and
/// by compares of whole values.
const CORE: [&str; 2] = ["secrets", "configmaps"];

/// What is sealed in the store, and with which keys. All servers of a cluster have to say the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Encryption {
    /// File of the master keys, one a line, 32 bytes in base64: the first wraps, all unwrap. Unless set,
    /// `pki/encryption.key` in the data directory, which a new cluster makes and hands to servers that join; where there
    /// is none, nothing is sealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Kinds, as `resource` or `resource.group`.
    pub resources: Vec<String>,
}

impl Default for Encryption {
    fn default() -> Self {
        Self { key_file: None, resources: vec!["secrets".to_owned()] }
    }
}

/// `widgets.example.com` and the like.
fn kind(text: &str) -> GroupResource<'_> {
    let (resource, group) = text.split_once('.').unwrap_or((text, ""));
    GroupResource { group, resource }
}

impl Encryption {
    /// Whether all of it can be meant.
    ///
    /// # Errors
    /// The first kind that cannot be sealed.
    pub fn check(&self) -> Result<(), String> {
        let fits = |text: &&String| {
            let GroupResource { group, resource } = kind(text);
            // Groups of Kubernetes itself have no dot, or end so.
            let custom = group.contains('.') && !group.ends_with(".k8s.io");
            if group.is_empty() { CORE.contains(&resource) } else { custom && !resource.is_empty() }
        };
        match self.resources.iter().find(|text| !fits(text)) {
            Some(text) => Err(format!(
                "encryption.resources: {text} cannot be sealed, only {} and custom kinds can",
                CORE.join(", ")
            )),
            None => Ok(()),
        }
    }

    /// The store as the API is to see it.
    ///
    /// # Errors
    /// The key file cannot be used, or the cluster has keys that it lacks.
    pub fn backend(&self, store: &Store, pki: &Path) -> anyhow::Result<Backend> {
        let (path, needed) = match &self.key_file {
            Some(path) => (path.clone(), true),
            None => (pki.join(ENCRYPTION_KEY), false),
        };
        let shown = || format!("encryption.key_file: {}", path.display());
        let backend = match fs::read_to_string(&path) {
            Ok(text) => {
                let kinds: Vec<_> = self.resources.iter().map(|text| kind(text)).collect();
                Backend::sealed(store.clone(), Arc::new(Vault::new(&text, &kinds).with_context(shown)?))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && !needed => Backend::from(store.clone()),
            Err(error) => return Err(error).with_context(shown),
        };
        if let Err(why) = backend.check() {
            bail!("{}: {why}", shown());
        }
        Ok(backend)
    }
}

/// Brings everything under the newest key whenever this member leads, until `stop`.
pub async fn keep(backend: Backend, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        // Never ends; each write is whole.
        () = whenever_leading(&backend) => {}
    }
}

async fn whenever_leading(backend: &Backend) {
    let mut status = backend.status();
    loop {
        // An error means that the store has stopped.
        let Ok(term) = status.wait_for(|status| status.is_leader).await.map(|status| status.term) else { return };
        let lost = async {
            let mut status = backend.status();
            let _ = status.wait_for(|status| !status.is_leader || status.term != term).await;
        };
        tokio::select! {
            () = lost => {}
            // What it writes is fenced by the term.
            () = lead(backend, term) => {}
        }
    }
}

async fn lead(backend: &Backend, term: Term) {
    loop {
        turn(backend, term).await;
        // Another member may have written under an older key after that.
        tokio::time::sleep(LOOK).await;
        turn(backend, term).await;
        newer_key(backend).await;
    }
}

/// Until nothing is left.
async fn turn(backend: &Backend, term: Term) {
    let mut all = 0;
    loop {
        match backend.reseal(term).await {
            Ok(0) => break,
            Ok(some) => all += some,
            Err(error) => {
                warn!(%error, "some values are not under the newest key yet");
                tokio::time::sleep(LOOK).await;
            }
        }
    }
    if all > 0 {
        info!(values = all, "sealed under the newest key");
    }
}

/// Waits for a new data key.
async fn newer_key(backend: &Backend) {
    // Of the store below: these records are no objects.
    let store: &Store = backend;
    loop {
        let Ok(mut watch) = store.watch(Bytes::from_static(DATA_KEYS.as_bytes()), None) else {
            tokio::time::sleep(LOOK).await;
            continue;
        };
        while let Some(item) = watch.next().await {
            match item {
                WatchItem::Events(_) => return,
                WatchItem::Progress(_) => {}
                WatchItem::Lagged => return,
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kinds_that_nobody_reads_past_the_api_are_sealed() {
        for (resource, expect) in [
            ("secrets", true),
            ("configmaps", true),
            ("widgets.example.com", true),
            ("nodes", false),
            ("resourcequotas", false),
            ("leases.coordination.k8s.io", false),
            ("deployments.apps", false),
            ("", false),
        ] {
            let encryption = Encryption { resources: vec![resource.to_owned()], ..Encryption::default() };
            assert_eq!(encryption.check().is_ok(), expect, "{resource}");
        }
        assert_eq!(Encryption::default().check(), Ok(()));
    }
}
