//! Keeps container logs from filling the disk.
//!
//! Invariants
//! - A file is renamed, then the runtime is told to open a new one: no line is lost.
//!
//! Not here: which logs are rotated, and which files go (kontiki-agent-plan).

use std::path::{Path, PathBuf};

use k8s_cri::v1::{
    Container, ContainerFilter, ContainerState, ContainerStateValue, ListContainersRequest, ReopenContainerLogRequest,
};
use kontiki_agent_plan::log_rotation as plan;
use tokio_util::sync::CancellationToken;

use super::{cri::Cri, labels};
use crate::config::Config;

/// Watches the logs until `stop`.
pub(crate) async fn run(config: &Config, cri: &Cri, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(plan::PERIOD) => {}
            () = stop.cancelled() => return,
        }
        let logs = config.logs();
        let large = tokio::task::spawn_blocking(move || large_files(&logs)).await.unwrap_or_default();
        for log in large {
            if let Err(error) = rotate(cri, &log).await {
                tracing::warn!(path = %log.path.display(), error = format!("{error:#}"), "a log was not rotated");
            }
        }
    }
}

struct Log {
    path: PathBuf,
    uid: String,
    container: String,
    attempt: u32,
}

/// Current logs (`<namespace>_<pod>_<uid>/<container>/<attempt>.log`) beyond the limit.
fn large_files(logs: &Path) -> Vec<Log> {
    let list = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten().collect::<Vec<_>>();
    let mut out = Vec::new();
    for pod in list(logs) {
        let Some(uid) = pod.file_name().to_str().and_then(|n| n.rsplit('_').next()).map(str::to_owned) else {
            continue;
        };
        for container in list(&pod.path()) {
            for file in list(&container.path()) {
                let name = file.file_name().to_string_lossy().into_owned();
                let attempt = name.strip_suffix(".log").and_then(|n| n.parse().ok());
                let large = file.metadata().is_ok_and(|m| plan::is_due(m.len()));
                if let (Some(attempt), true) = (attempt, large) {
                    let container = container.file_name().to_string_lossy().into_owned();
                    out.push(Log { path: file.path(), uid: uid.clone(), container, attempt });
                }
            }
        }
    }
    out
}

async fn rotate(cri: &Cri, log: &Log) -> anyhow::Result<()> {
    let filter = ContainerFilter {
        state: Some(ContainerStateValue { state: ContainerState::ContainerRunning.into() }),
        label_selector: labels::selector(&log.uid, &log.container),
        ..ContainerFilter::default()
    };
    let running = cri.list_containers(ListContainersRequest { filter: Some(filter) }).await?.containers;
    let current = |c: &&Container| c.metadata.as_ref().is_some_and(|m| m.attempt == log.attempt);
    let Some(container) = running.iter().find(current) else { return Ok(()) }; // nobody writes to it
    let stamp = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
    let rotated = PathBuf::from(format!("{}.{stamp}", log.path.display()));
    tokio::fs::rename(&log.path, &rotated).await?;
    let request = ReopenContainerLogRequest { container_id: container.id.clone() };
    if let Err(error) = cri.reopen_container_log(request).await {
        // The runtime still writes to the old file: give it its name back.
        tokio::fs::rename(&rotated, &log.path).await?;
        return Err(error.into());
    }
    remove_oldest(&log.path).await
}

async fn remove_oldest(path: &Path) -> anyhow::Result<()> {
    let Some((dir, name)) = path.parent().zip(path.file_name().and_then(|n| n.to_str())) else { return Ok(()) };
    let mut files = Vec::new();
    let mut entries = tokio::fs::read_dir(dir).await?;
    while let Some(entry) = entries.next_entry().await? {
        files.extend(entry.file_name().into_string());
    }
    for file in plan::surplus(name, files) {
        tokio::fs::remove_file(dir.join(file)).await?;
    }
    Ok(())
}
