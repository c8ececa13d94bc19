//! The pod's volumes, put in place and brought up to date beside the loop.

use jiff::Timestamp;
use kontiki_agent_plan::observed::Volumes;

use super::worker::{Report, Worker};
use crate::{
    session::recorder::EventType,
    volumes::pod_volumes::{self, MountFailure},
};

impl Worker {
    /// Begins to put the volumes in place.
    pub(super) fn mount_volumes(&mut self) {
        self.memory.volumes = Volumes::Preparing;
        let (node, credentials, pod, ips) =
            (self.node.clone(), self.credentials.clone(), self.api_pod(), self.pod_ips());
        self.jobs.spawn(async move { Report::Mounted(pod_volumes::set_up(&node, &pod, &ips, &credentials).await) });
    }

    pub(super) fn mounted(&mut self, result: Result<(), MountFailure>) {
        let Err(failure) = result else {
            self.memory.mounted();
            self.remount.mounted(self.clock());
            return;
        };
        self.memory.mount_failed(Timestamp::now());
        let message = format!("MountVolume.SetUp failed for volume \"{}\" : {}", failure.volume, failure.message);
        self.pod_event(&self.api_pod(), EventType::Warning, "FailedMount", &message);
    }

    /// Brings generated files up to date when it is time.
    pub(super) fn remount_volumes(&mut self) {
        let now = self.clock();
        if self.remount.begin(&self.memory.volumes, self.ending.is_some(), now) {
            let (node, credentials, pod, ips) =
                (self.node.clone(), self.credentials.clone(), self.api_pod(), self.pod_ips());
            self.jobs
                .spawn(async move { Report::Remounted(pod_volumes::refresh(&node, &pod, &ips, &credentials).await) });
        }
    }

    pub(super) fn remounted(&mut self, result: Result<(), MountFailure>) {
        self.remount.ended();
        if let Err(MountFailure { volume, message }) = result {
            tracing::warn!(uid = %self.uid, %volume, reason = %message, "a volume was not updated");
        }
    }
}
