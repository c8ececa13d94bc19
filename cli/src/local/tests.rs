//! The parts of `up` and `down` that need no server, for real: a namespace, a containerd, a pod.

use std::{fs, path::Path, process::Command, time::Duration};

use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ImageSpec, LinuxPodSandboxConfig, PodSandboxConfig,
    PodSandboxMetadata, RunPodSandboxRequest, StartContainerRequest,
};
use nix::sys::signal::{Signal, kill};

use super::{containerd, down, network, plan::Saved, sweep};

fn saved(name: &str, subnet: &str, dir: &Path) -> Saved {
    let base = Saved::nameless(Some(name), dir.to_owned()).unwrap();
    Saved { subnet: subnet.parse().unwrap(), agents: 1, ..base }
}

/// Runs a pod and returns the directory of its control group.
async fn pod(saved: &Saved) -> String {
    let agent = &saved.agents()[0];
    fs::write(
        agent.cni_dir().join("10-test.conflist"),
        r#"{"cniVersion": "0.4.0", "name": "test", "plugins": [{"type": "bridge", "bridge": "cni0",
            "ipam": {"type": "host-local", "dataDir": "DIR", "ranges": [[{"subnet": "10.244.9.0/24"}]]}}]}"#
            .replace("DIR", &agent.dir.join("ipam").display().to_string()),
    )
    .unwrap();
    let uid = format!("{}-{}", saved.name, std::process::id());
    let cgroup = format!("/kubepods/burstable/pod{uid}");
    let sandbox = PodSandboxConfig {
        metadata: Some(PodSandboxMetadata { name: "p".into(), uid, namespace: "default".into(), attempt: 0 }),
        hostname: "p".into(),
        linux: Some(LinuxPodSandboxConfig { cgroup_parent: cgroup.clone(), ..Default::default() }),
        ..Default::default()
    };
    let mut client = containerd::connect(agent).await.unwrap();
    let request = RunPodSandboxRequest { config: Some(sandbox.clone()), ..Default::default() };
    // containerd reads a new CNI configuration when it is told of it by the kernel.
    let id = super::progress::wait("the sandbox", Duration::from_secs(20), async || {
        Ok(match client.run_pod_sandbox(request.clone()).await {
            Ok(answer) => super::progress::Seen::Yes(answer.into_inner().pod_sandbox_id),
            Err(error) => super::progress::Seen::NotYet(error.to_string()),
        })
    })
    .await
    .unwrap();
    let container = ContainerConfig {
        metadata: Some(ContainerMetadata { name: "c".into(), attempt: 0 }),
        image: Some(ImageSpec { image: containerd::DEMO.into(), ..Default::default() }),
        ..Default::default()
    };
    let request = CreateContainerRequest { pod_sandbox_id: id, config: Some(container), sandbox_config: Some(sandbox) };
    let container_id = client.create_container(request).await.unwrap().into_inner().container_id;
    client.start_container(StartContainerRequest { container_id }).await.unwrap();
    cgroup
}

fn left(saved: &Saved, cgroup: &str) -> Vec<String> {
    let mut left: Vec<String> = network::mounts()
        .into_iter()
        .filter(|mount| Path::new(mount).starts_with(saved.run()) || Path::new(mount).starts_with(&saved.dir))
        .collect();
    left.extend(network::spaces_of(saved).iter().map(|path| path.display().to_string()));
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path().join(&cgroup[1..]));
    left.extend(hierarchies.filter(|path| path.exists()).map(|path| path.display().to_string()));
    left.extend([saved.run()].iter().filter(|path| path.exists()).map(|path| path.display().to_string()));
    let links = Command::new("ip").args(["-br", "link"]).output().unwrap().stdout;
    let links = String::from_utf8_lossy(&links).into_owned();
    left.extend(links.lines().filter(|line| line.starts_with(&saved.name)).map(str::to_owned));
    let run = saved.run().display().to_string();
    let processes = super::process::pids().into_iter().filter_map(super::process::arguments);
    left.extend(processes.map(|args| args.join(" ")).filter(|line| line.contains(&run)));
    left
}

/// Brings a pod up, does what `disturb` says, takes everything down and looks what is left.
fn story(name: &str, subnet: &str, disturb: impl FnOnce(&Saved)) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root to make network namespaces");
        return;
    }
    super::preflight::programs().unwrap();
    let dir = std::env::temp_dir().join(format!("kontiki-{name}-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let saved = saved(name, subnet, &dir);
    saved.save().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        network::ensure(&saved).await.unwrap();
        network::ensure(&saved).await.expect("again changes nothing");
        let agent = &saved.agents()[0];
        network::share(&agent.data()).unwrap();
        containerd::ensure(agent).await.unwrap();
        containerd::import_images(agent).unwrap();
        let cgroup = pod(&saved).await;
        assert!(left(&saved, &cgroup).len() > 5, "the pod is there");
        disturb(&saved);
        let agents = sweep::agents(&saved);
        let outside = sweep::outside(&agents);
        down::stop_all(&saved, &agents).await.unwrap();
        down::clean(&saved, &agents, outside).await.unwrap();
        assert_eq!(left(&saved, &cgroup), Vec::<String>::new());
    });
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn down_leaves_nothing() {
    story("ktdown", "10.216.1.0/24", |_| {});
}

#[test]
fn down_in_another_directory_spares_the_cluster() {
    story("ktelse", "10.216.4.0/24", |saved| {
        let named = |dir| Saved::nameless(Some(&saved.name), dir).unwrap();
        let refused = down::elsewhere(named(saved.dir.join("other"))).expect_err("it lives elsewhere").to_string();
        assert!(refused.ends_with(&format!("kontiki down --dir {}", saved.dir.display())), "{refused}");
        assert!(down::elsewhere(named(saved.dir.clone())).is_ok(), "its own directory, even without its record");
    });
}

#[test]
fn down_after_a_crash_leaves_nothing() {
    story("ktcrash", "10.216.2.0/24", |saved| {
        let containerd = containerd::daemon(&saved.agents()[0]).pid().expect("it runs");
        kill(containerd, Signal::SIGKILL).unwrap();
    });
}

#[test]
fn down_finds_a_cluster_whose_records_are_gone() {
    story("ktlost", "10.216.3.0/24", |saved| {
        fs::remove_file(saved.dir.join("cluster.yaml")).unwrap();
        fs::remove_file(saved.run().join("cluster.yaml")).unwrap();
        fs::remove_file(containerd::daemon(&saved.agents()[0]).pid_file).unwrap();
    });
}
