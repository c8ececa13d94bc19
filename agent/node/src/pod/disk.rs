//! What the pod takes of the disk, measured now and then, and its end if that is too much.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::Pod;
use kontiki_agent_plan::{
    disk::{self, DiskUse},
    observed::EndedByNode,
    rules,
    step::Ending,
};

use super::worker::{Report, Worker, spec};
use crate::{
    node::Node,
    runtime::{
        labels::{CONTAINER_NAME, POD_UID},
        log_files,
    },
    session::recorder::EventType,
    volumes::pod_volumes,
};

/// A pod that is evicted for its own use of the disk gets no longer to end.
const GRACE: SignedDuration = SignedDuration::from_secs(1);

impl Worker {
    /// When the disk is measured next; `None`: nothing limits the pod, or it is ending anyway.
    pub(super) fn disk_due(&self) -> Option<std::time::Duration> {
        let limited = self.api_pod().spec.as_ref().is_some_and(disk::limited);
        (limited && self.ending.is_none() && !self.measuring).then_some(self.measured + disk::PERIOD)
    }

    /// Measures the disk, if it is time.
    pub(super) fn measure_disk(&mut self) {
        if self.disk_due().is_none_or(|due| self.clock() < due) {
            return;
        }
        self.measuring = true;
        let (node, pod, uid) = (self.node.clone(), self.api_pod(), self.uid.clone());
        self.jobs.spawn(async move { Report::DiskUse(measure(&node, pod, uid).await) });
    }

    pub(super) fn disk_measured(&mut self, used: &DiskUse) {
        self.measuring = false;
        self.measured = self.clock();
        let pod = self.api_pod();
        let Some(message) = disk::excess(spec(&pod), used).filter(|_| self.ending.is_none()) else { return };
        self.pod_event(&pod, EventType::Warning, EndedByNode::EVICTED, &message);
        self.memory.ended_by_node = Some(EndedByNode { reason: EndedByNode::EVICTED, message });
        self.ending = Some(Ending { deadline: Timestamp::now() + GRACE, remove: false });
        self.pull_jobs.values().for_each(tokio::task::AbortHandle::abort);
    }
}

async fn measure(node: &Node, pod: Arc<Pod>, uid: String) -> DiskUse {
    let layers = layers(node, &uid).await;
    let (pod_dir, logs) = (node.config.pod_dir(&uid), log_files::dir(&node.config, &pod));
    let work = move || {
        let mut used = DiskUse::default();
        let spec = spec(&pod);
        for (name, _) in disk::volumes(spec) {
            used.volumes.insert(name.to_owned(), size(&pod_volumes::empty_dir(&pod_dir, name)));
        }
        for container in rules::containers(spec) {
            let layer = layers.get(&container.name).copied().unwrap_or(0);
            used.containers.insert(container.name.clone(), layer + size(&logs.join(&container.name)));
        }
        used
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_default()
}

/// Bytes of the containers' writable layers; none that the runtime does not tell.
async fn layers(node: &Node, uid: &str) -> BTreeMap<String, u64> {
    let filter = cri::ContainerStatsFilter {
        label_selector: [(POD_UID.to_owned(), uid.to_owned())].into(),
        ..cri::ContainerStatsFilter::default()
    };
    let answer = node.cri.list_container_stats(cri::ListContainerStatsRequest { filter: Some(filter) }).await;
    let stats = answer.map(|answer| answer.stats).unwrap_or_default();
    let one = |stats: cri::ContainerStats| {
        let name = stats.attributes?.labels.get(CONTAINER_NAME)?.clone();
        Some((name, stats.writable_layer?.used_bytes?.value))
    };
    stats.into_iter().filter_map(one).collect()
}

/// Bytes on the disk of all that is below `dir`, on its own file system. What goes away meanwhile does not count.
fn size(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(top) = std::fs::symlink_metadata(dir) else { return 0 };
    let (mut total, mut left): (u64, Vec<PathBuf>) = (0, vec![dir.to_owned()]);
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.dev() != top.dev() {
                continue;
            }
            total += meta.blocks() * 512;
            if meta.is_dir() {
                left.push(entry.path());
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_below_a_directory_counts() {
        let dir = std::env::temp_dir().join(format!("kontiki-size-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("a/b")).expect("makes");
        std::fs::write(dir.join("a/b/c"), vec![1; 100_000]).expect("writes");
        std::os::unix::fs::symlink("/", dir.join("root")).expect("links");
        let got = size(&dir);
        assert!((100_000..1_000_000).contains(&got), "{got}");
        assert_eq!(size(&dir.join("none")), 0);
        std::fs::remove_dir_all(dir).expect("removes");
    }
}
