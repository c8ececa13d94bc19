//! Other people's client libraries.

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
};
use serde_json::json;

use super::Scratch;
use crate::{cluster::Cluster, wait};

pub async fn kube_creates_watches_patches_and_deletes(c: &Cluster) -> Result<()> {
    let s = Scratch::new(c, "story-kube").await?;
    let api: Api<ConfigMap> = Api::namespaced(c.client().await?, s.name);
    let version =
        api.list_metadata(&Default::default()).await?.metadata.resource_version.context("a list has a version")?;
    // Every namespace gets a ConfigMap of the cluster's own at some moment.
    let only = WatchParams::default().fields("metadata.name=one").timeout(240);
    let mut events = api.watch(&only, &version).await?.boxed();
    let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "one"}, "data": {"a": "1"}}))?;
    let made = api.create(&PostParams::default(), &map).await?;
    api.patch("one", &PatchParams::default(), &Patch::Merge(json!({"data": {"b": "2"}}))).await?;
    let mut stale = made.clone();
    stale.data.get_or_insert_default().insert("a".into(), "late".into());
    let Err(kube::Error::Api(conflict)) = api.replace("one", &PostParams::default(), &stale).await else {
        bail!("a stale write must be refused");
    };
    ensure!(conflict.code == 409 && conflict.reason == "Conflict", "{conflict:?}");
    api.delete("one", &DeleteParams::default()).await?;
    let mut seen = String::new();
    while seen.len() < 3 {
        let event = tokio::time::timeout(wait::PATIENCE, events.try_next()).await.context(seen.clone())??;
        seen.push(match event.context("the watch ended early")? {
            WatchEvent::Added(_) => 'A',
            WatchEvent::Modified(_) => 'M',
            WatchEvent::Deleted(_) => 'D',
            WatchEvent::Bookmark(_) => continue,
            WatchEvent::Error(error) => bail!("{error:?}"),
        });
    }
    ensure!(seen == "AMD", "events came as {seen}");
    s.done().await
}

const PYTHON: &str = r#"
import sys
from kubernetes import client, config, watch
config.load_kube_config(sys.argv[1])
core, ns = client.CoreV1Api(), "story-python"
start = core.list_namespaced_config_map(ns).metadata.resource_version
core.create_namespaced_config_map(ns, {"metadata": {"name": "one"}, "data": {"a": "1"}})
core.patch_namespaced_config_map("one", ns, {"data": {"b": "2"}})
assert core.read_namespaced_config_map("one", ns).data == {"a": "1", "b": "2"}
core.delete_namespaced_config_map("one", ns)
seen = [e["type"] for _, e in zip(range(3), watch.Watch().stream(
    core.list_namespaced_config_map, ns, field_selector="metadata.name=one", resource_version=start, timeout_seconds=120))]
assert seen == ["ADDED", "MODIFIED", "DELETED"], seen
apps = client.AppsV1Api()
apps.create_namespaced_deployment(ns, {"metadata": {"name": "d"}, "spec": {"replicas": 0,
    "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
    "spec": {"containers": [{"name": "c", "image": "localhost/none:1"}]}}}})
assert not apps.read_namespaced_deployment_scale("d", ns).spec.replicas  # a zero is left out, as upstream does
try:
    core.create_namespaced_config_map(ns, {"metadata": {"name": "Not_Valid"}})
    raise SystemExit("an invalid name was taken")
except client.ApiException as e:
    assert e.status == 422, e
print("story told")
"#;

pub async fn python_creates_watches_patches_and_deletes(c: &Cluster) -> Result<()> {
    let s = Scratch::new(c, "story-python").await?;
    let home = std::env::var("HOME").context("HOME is not set")?;
    let venv = format!("{home}/.cache/kontiki/venv");
    let python = format!("{venv}/bin/python");
    let setup = format!(
        "test -e {venv}/ready || (python3 -m venv {venv} && {venv}/bin/pip -q install kubernetes && touch {venv}/ready)"
    );
    wait::until("the Python client is installed", wait::PATIENCE, async || {
        let made = tokio::process::Command::new("sh").args(["-c", &setup]).output().await?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Ok(())
    })
    .await?;
    let told = tokio::process::Command::new(python).arg("-c").arg(PYTHON).arg(c.kubeconfig()).output().await?;
    ensure!(
        told.status.success() && told.stdout.starts_with(b"story told"),
        "{}{}",
        String::from_utf8_lossy(&told.stdout),
        String::from_utf8_lossy(&told.stderr)
    );
    s.done().await
}
