//! Who wants to know when a container or sandbox changes in the runtime.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tokio::sync::Notify;

/// The workers by the ids of their pods' containers and sandboxes.
#[derive(Default)]
pub struct Watchers {
    by_id: Mutex<BTreeMap<String, Arc<Notify>>>,
}

impl Watchers {
    /// Wakes `worker` when the runtime reports on `id`.
    pub(crate) fn watch(&self, id: &str, worker: &Arc<Notify>) {
        self.by_id.lock().expect("no holder panics").insert(id.to_owned(), worker.clone());
    }

    /// Forgets everything that wakes `worker`.
    pub(crate) fn forget(&self, worker: &Arc<Notify>) {
        self.by_id.lock().expect("no holder panics").retain(|_, known| !Arc::ptr_eq(known, worker));
    }

    /// The runtime reported on `id`.
    pub(crate) fn wake(&self, id: &str) {
        let known = self.by_id.lock().expect("no holder panics").get(id).cloned();
        if let Some(worker) = known {
            worker.notify_one();
        }
    }

    /// Reports may have been lost: everyone looks again.
    pub(crate) fn wake_all(&self) {
        for worker in self.by_id.lock().expect("no holder panics").values() {
            worker.notify_one();
        }
    }
}
