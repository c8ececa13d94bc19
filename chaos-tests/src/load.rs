//! A steady stream of writes, and the record of what was acknowledged.
//!
//! Each writer creates ConfigMaps one after another through one address and notes when each was
//! acknowledged. An error leaves the outcome unknown; the name is not tried again.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};
use tokio::task::JoinSet;

/// Pause after a failed write, so that a dead master is not hammered.
const BACKOFF: Duration = Duration::from_millis(20);

/// One acknowledged write.
#[derive(Clone, Debug)]
pub struct Ack {
    /// Which writer, i.e. through which address.
    pub writer: usize,
    /// The ConfigMap's name.
    pub name: String,
    /// When the answer came.
    pub at: Instant,
}

/// Running writers.
pub struct Load {
    namespace: String,
    acks: Arc<Mutex<Vec<Ack>>>,
    stop: Arc<AtomicBool>,
    writers: JoinSet<()>,
}

impl Load {
    /// Starts one writer per client.
    #[must_use]
    pub fn start(namespace: &str, clients: Vec<Client>) -> Self {
        let acks = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        for (writer, client) in clients.into_iter().enumerate() {
            let api: Api<ConfigMap> = Api::namespaced(client, namespace);
            writers.spawn(write(writer, api, acks.clone(), stop.clone()));
        }
        Self { namespace: namespace.to_owned(), acks, stop, writers }
    }

    /// The first acknowledgement after `since` that `wanted` accepts.
    #[must_use]
    pub fn first_after(&self, since: Instant, wanted: impl Fn(&Ack) -> bool) -> Option<Instant> {
        let acks = self.acks.lock().expect("no writer panics with the lock held");
        acks.iter().filter(|ack| ack.at > since && wanted(ack)).map(|ack| ack.at).min()
    }

    /// Stops the writers and returns every acknowledged name.
    pub async fn stop(mut self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        while self.writers.join_next().await.is_some() {}
        self.acks.lock().expect("no writer panics with the lock held").iter().map(|ack| ack.name.clone()).collect()
    }

    /// The namespace written to.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }
}

async fn write(writer: usize, api: Api<ConfigMap>, acks: Arc<Mutex<Vec<Ack>>>, stop: Arc<AtomicBool>) {
    for sequence in 0u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("w{writer}-{sequence:07}");
        let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
        let map = ConfigMap { metadata, ..ConfigMap::default() };
        match api.create(&PostParams::default(), &map).await {
            Ok(_) => {
                let ack = Ack { writer, name, at: Instant::now() };
                acks.lock().expect("no writer panics with the lock held").push(ack);
            }
            Err(_) => tokio::time::sleep(BACKOFF).await,
        }
    }
}

/// The names of `acknowledged` that the store no longer has.
///
/// # Errors
/// The list could not be read.
pub async fn lost(client: Client, namespace: &str, acknowledged: &BTreeSet<String>) -> Result<Vec<String>> {
    let api: Api<ConfigMap> = Api::namespaced(client, namespace);
    let mut present = BTreeSet::new();
    let mut page = ListParams::default().limit(1000);
    loop {
        let list = api.list_metadata(&page).await?;
        present.extend(list.items.into_iter().filter_map(|item| item.metadata.name));
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => break,
        }
    }
    Ok(acknowledged.difference(&present).cloned().collect())
}

/// The value below which `percent` of the sorted samples lie.
#[must_use]
pub fn percentile(samples: &[Duration], percent: usize) -> Duration {
    let mut sorted = samples.to_vec();
    sorted.sort();
    let last = sorted.len().saturating_sub(1);
    sorted.get((sorted.len() * percent / 100).min(last)).copied().unwrap_or_default()
}
