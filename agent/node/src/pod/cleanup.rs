//! What goes at the end of a pod: mounts and cgroup, then files and logs.

use std::io;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kontiki_agent_plan::observed::Volumes;

use super::worker::{Worker, soon};
use crate::{host::cgroups, runtime::log_files, volumes::pod_volumes};

impl Worker {
    /// Takes down volumes and cgroup. An error says when to try again.
    pub(super) async fn tear_down(&mut self) -> Result<(), Timestamp> {
        self.jobs.abort_all();
        while self.jobs.join_next().await.is_some() {}
        self.remount.ended();
        let (dir, uid) = (self.node.config.pod_dir(&self.uid), self.uid.clone());
        let work = tokio::task::spawn_blocking(move || {
            pod_volumes::tear_down(&dir)?;
            cgroups::remove(&uid)
        });
        match work.await.map_err(io::Error::other).flatten() {
            Ok(()) => {
                self.memory.volumes = Volumes::TornDown;
                Ok(())
            }
            Err(error) => {
                tracing::warn!(uid = %self.uid, %error, "a pod's volumes or cgroup cannot be removed yet");
                Err(soon())
            }
        }
    }

    /// The last step: files and logs go, and the masters are told. `false`: try again.
    pub(super) async fn remove_files(&mut self, pod: &Pod) -> bool {
        let dir = self.node.config.pod_dir(&self.uid);
        let logs = log_files::dir(&self.node.config, pod);
        let work = tokio::task::spawn_blocking(move || {
            pod_volumes::remove_pod_dir(&dir)?;
            match std::fs::remove_dir_all(logs) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        });
        if let Err(error) = work.await.map_err(io::Error::other).flatten() {
            tracing::warn!(uid = %self.uid, %error, "a pod's files cannot be removed yet");
            return false;
        }
        if self.desired.borrow().present {
            let (namespace, name) = (pod.metadata.namespace.as_deref(), pod.metadata.name.as_deref());
            self.node.outbox.pod_gone(namespace.unwrap_or_default(), name.unwrap_or_default(), &self.uid);
        }
        true
    }
}
