//! Figures of a whole cluster, for `docs/performance.md`; `make bench` asks for them by name.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use futures::TryStreamExt;
use hyper_util::rt::TokioIo;
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ImageSpec, LinuxPodSandboxConfig, PodSandboxConfig,
    PodSandboxMetadata, RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest, StopPodSandboxRequest,
    runtime_service_client::RuntimeServiceClient,
};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, PostParams, WatchEvent, WatchParams},
};
use serde_json::json;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use super::{IMAGE, Scratch};
use crate::{cluster::Cluster, load::percentile, wait};

const ROUNDS: usize = 20;

pub async fn figures_of_an_idle_cluster_and_of_pod_starts(c: &Cluster) -> Result<()> {
    for (role, name) in [("servers", "s1"), ("servers", "s2"), ("servers", "s3"), ("agents", "a1"), ("agents", "a2")] {
        let pid = c.pid(role, name)?;
        println!(
            "      {name}: {:.1} MB resident, {:.1} MB of it its own",
            resident(pid.as_raw(), "Rss:")?,
            own(pid.as_raw())?
        );
    }
    let s = Scratch::new(c, "figures").await?;
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    let api: Api<Pod> = Api::namespaced(c.client().await?, s.name);
    let mut cri = connect(&c.socket("a1")).await?;
    // Interleaved, so that a noisy minute hurts both alike.
    for round in 0..ROUNDS {
        ours.push(create_to_running(&api, round).await?);
        raw.push(raw_start(&mut cri, round).await?);
    }
    let (p50, raw50) = (percentile(&ours, 50), percentile(&raw, 50));
    println!(
        "      create to Running: p50 {:.0} ms, p90 {:.0} ms; raw CRI p50 {:.0} ms; ratio {:.2}",
        p50.as_secs_f64() * 1e3,
        percentile(&ours, 90).as_secs_f64() * 1e3,
        raw50.as_secs_f64() * 1e3,
        p50.as_secs_f64() / raw50.as_secs_f64()
    );
    s.done().await
}

/// Megabytes of one line of `smaps_rollup`.
fn resident(pid: i32, line: &str) -> Result<f64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kilobytes = rollup.lines().find_map(|l| l.strip_prefix(line)?.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kilobytes.with_context(|| format!("no {line} in smaps_rollup"))? / 1000.0)
}

fn own(pid: i32) -> Result<f64> {
    Ok(resident(pid, "Private_Clean:")? + resident(pid, "Private_Dirty:")?)
}

async fn create_to_running(api: &Api<Pod>, round: usize) -> Result<Duration> {
    let name = format!("one-{round}");
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"nodeName": "a1", "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
                 "containers": [{"name": "main", "image": IMAGE, "command": ["/bin/busybox", "sleep", "3600"]}]}
    }))?;
    let started = Instant::now();
    let made = api.create(&PostParams::default(), &pod).await?;
    let version = made.metadata.resource_version.unwrap_or_default();
    let watch = WatchParams::default().fields(&format!("metadata.name={name}")).timeout(30);
    let mut events = Box::pin(api.watch(&watch, &version).await?);
    while let Some(event) = events.try_next().await? {
        let WatchEvent::Modified(pod) = event else { continue };
        if pod.status.and_then(|status| status.phase).as_deref() == Some("Running") {
            let took = started.elapsed();
            api.delete(&name, &DeleteParams::default()).await?;
            wait::until("the pod is gone", wait::PATIENCE, async || match api.get_opt(&name).await? {
                None => Ok(()),
                Some(pod) => Err(anyhow!("{:?}", pod.status)),
            })
            .await?;
            return Ok(took);
        }
    }
    Err(anyhow!("{name} did not run within 30 s"))
}

async fn connect(socket: &std::path::Path) -> Result<RuntimeServiceClient<Channel>> {
    ensure!(socket.exists(), "{} is missing", socket.display());
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://containerd").connect_with_connector(connector).await?;
    Ok(RuntimeServiceClient::new(channel))
}

/// Sandbox, container and start, nothing else: the floor under any kubelet.
async fn raw_start(cri: &mut RuntimeServiceClient<Channel>, round: usize) -> Result<Duration> {
    let metadata = PodSandboxMetadata {
        name: format!("raw-{round}"),
        uid: format!("raw-{round}"),
        namespace: "raw".into(),
        attempt: 0,
    };
    let config = PodSandboxConfig {
        metadata: Some(metadata),
        log_directory: "/tmp".into(),
        linux: Some(LinuxPodSandboxConfig::default()),
        ..PodSandboxConfig::default()
    };
    let container = ContainerConfig {
        metadata: Some(ContainerMetadata { name: "main".into(), attempt: 0 }),
        image: Some(ImageSpec { image: IMAGE.into(), ..ImageSpec::default() }),
        command: ["/bin/busybox", "sleep", "3600"].map(String::from).into(),
        ..ContainerConfig::default()
    };
    let started = Instant::now();
    let run = RunPodSandboxRequest { config: Some(config.clone()), ..RunPodSandboxRequest::default() };
    let pod_sandbox_id = cri.run_pod_sandbox(run).await?.into_inner().pod_sandbox_id;
    let create = CreateContainerRequest {
        pod_sandbox_id: pod_sandbox_id.clone(),
        config: Some(container),
        sandbox_config: Some(config),
    };
    let container_id = cri.create_container(create).await?.into_inner().container_id;
    cri.start_container(StartContainerRequest { container_id }).await?;
    let took = started.elapsed();
    cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() }).await?;
    cri.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id }).await?;
    Ok(took)
}
