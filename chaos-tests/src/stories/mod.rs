//! What a person or a client does with a cluster, and what happens when parts of it die.

mod api;
mod backup;
mod balancer;
mod canary;
mod clients;
mod faults;
mod figures;
mod images;
mod ingress;
mod kubectl;
mod leader;
mod past;
mod pods;
mod quiet;
mod quota;
mod verbs;

use anyhow::{Context, Result, anyhow};
use futures::future::BoxFuture;
use kontiki_etcd_tests::select::select;

use crate::{cluster::Cluster, wait};

/// One story: a name that reads as a sentence, and the telling.
pub struct Story {
    /// What holds if it passes.
    pub name: &'static str,
    /// Runs it; an error says what did not hold.
    pub tell: fn(&Cluster) -> BoxFuture<'_, Result<()>>,
    /// Only when asked for by name: a long soak.
    pub soak: bool,
}

/// The stories that the command line asks for; without words all but the long ones.
///
/// # Errors
/// A word is in no story's name.
pub fn wanted(words: &[String]) -> Result<Vec<&'static Story>> {
    let mut found = select(ALL, |story| story.name, words)?;
    found.retain(|story| !(words.is_empty() && story.soak));
    Ok(found)
}

macro_rules! stories {
    ($($module:ident :: $name:ident),* ; on request: $($slow:ident :: $slow_name:ident),*) => {
        &[
            $(Story { name: stringify!($name), tell: |cluster| Box::pin($module::$name(cluster)), soak: false },)*
            $(Story { name: stringify!($slow_name), tell: |cluster| Box::pin($slow::$slow_name(cluster)), soak: true },)*
        ]
    };
}

/// In the order of telling.
pub static ALL: &[Story] = stories![
    kubectl::a_first_look_shows_a_healthy_cluster,
    kubectl::objects_are_written_read_and_explained,
    kubectl::a_deployment_is_rolled_out_and_back,
    kubectl::a_node_is_drained_and_comes_back,
    kubectl::a_person_can_ask_what_they_may_do,
    verbs::every_verb_of_kubectl_ends_as_expected,
    verbs::proxies_and_forwarded_ports_carry_requests,
    pods::logs_exec_and_attach_reach_the_container,
    pods::a_failing_probe_keeps_traffic_away,
    pods::init_containers_run_in_order_and_a_crash_is_restarted,
    pods::configuration_reaches_the_container_and_follows_changes,
    pods::a_secret_reaches_only_the_node_that_needs_it,
    pods::services_answer_from_pods_and_hosts,
    pods::owners_take_their_dependents_along,
    ingress::an_ingress_is_served_by_every_node,
    past::a_mistake_is_found_and_undone,
    quiet::odd_objects_leave_the_cluster_at_rest,
    images::images_come_from_a_registry_behind_a_mirror,
    clients::kube_creates_watches_patches_and_deletes,
    clients::python_creates_watches_patches_and_deletes,
    api::bad_input_gets_a_clear_status,
    api::random_requests_never_break_the_server,
    api::answers_equal_those_of_a_real_api_server,
    faults::a_second_start_leaves_everything_alone,
    faults::wrong_starts_are_refused_with_one_line,
    faults::an_agent_restart_leaves_pods_alone,
    faults::a_cut_off_node_loses_its_pods_and_gives_them_up_on_return,
    faults::a_killed_frozen_or_cut_off_leader_loses_the_address,
    canary::a_canary_ends_or_goes_back_though_its_leader_dies,
    canary::blue_and_green_change_places_though_the_leader_dies,
    balancer::a_load_balancers_address_moves_when_its_node_is_lost,
    faults::without_quorum_reads_and_pods_go_on,
    backup::a_snapshot_becomes_a_new_cluster,
    backup::one_server_of_three_goes_on_alone,
    quota::a_quota_holds_through_all_masters_and_a_leaders_death,
    leader::a_persons_kubectl_outlives_the_leader,
    leader::twenty_leader_kills_lose_nothing;
    on request: figures::figures_of_an_idle_cluster_and_of_pod_starts
];

/// A namespace for one story, deleted by [`Scratch::done`].
struct Scratch<'a> {
    cluster: &'a Cluster,
    name: &'static str,
}

impl<'a> Scratch<'a> {
    async fn new(cluster: &'a Cluster, name: &'static str) -> Result<Self> {
        cluster.kubectl(&format!("create namespace {name}")).await?;
        Ok(Self { cluster, name })
    }

    /// kubectl in this namespace, which must succeed.
    async fn kubectl(&self, args: &str) -> Result<String> {
        self.cluster.kubectl(&format!("-n {} {args}", self.name)).await
    }

    /// kubectl with arguments that hold blanks.
    async fn kubectl_args(&self, args: &[&str]) -> Result<String> {
        let mut all = vec!["-n", self.name];
        all.extend(args);
        let ended = self.cluster.try_kubectl(&all, None).await?;
        anyhow::ensure!(ended.ok, "kubectl {args:?}: {}{}", ended.out, ended.err);
        Ok(ended.out)
    }

    async fn apply(&self, manifest: &str) -> Result<String> {
        self.cluster.kubectl_in(&format!("-n {} apply -f -", self.name), Some(manifest)).await
    }

    /// A Deployment whose pods do nothing and stop at once; waits until it is rolled out.
    async fn sleepers(&self, name: &str, replicas: u32) -> Result<()> {
        self.apply(&format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  replicas: {replicas}\n  \
             selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    \
             spec:\n      terminationGracePeriodSeconds: 1\n      containers:\n      - name: demo\n        \
             image: {IMAGE}\n        command: [/bin/busybox, sleep, '3600']\n"
        ))
        .await?;
        self.kubectl(&format!("rollout status deployment/{name} --timeout=180s")).await.map(drop)
    }

    /// Removes the namespace and waits until everything in it is gone.
    async fn done(self) -> Result<()> {
        let args = format!("delete namespace {} --timeout=180s", self.name);
        self.cluster.kubectl(&args).await.map(drop).context("cleaning up")
    }
}

/// Waits until what `say` returns holds `part`, and returns it.
async fn shows<F>(what: &str, part: &str, mut say: impl FnMut() -> F) -> Result<String>
where
    F: Future<Output = Result<String>>,
{
    wait::until(what, wait::PATIENCE, || {
        let said = say();
        async move {
            let said = said.await?;
            has(&said, part)?;
            anyhow::Ok(said)
        }
    })
    .await
}

/// Waits until pods may be placed on a node again: taints go a moment after what they are for.
async fn untainted(c: &Cluster, node: &str) -> Result<()> {
    let path = format!("get node {node} -o jsonpath={{.spec.taints}}");
    wait::until(&format!("no taint on {node}"), wait::PATIENCE, async || {
        let taints = c.kubectl(&path).await?;
        if taints.is_empty() { Ok(()) } else { Err(anyhow!(taints)) }
    })
    .await
}

/// The servers or agents whose kernel has an address. They are asked one after the other, the first of several once more:
/// the address may have gone from there to the next meanwhile.
async fn holders<'a>(c: &Cluster, processes: &[&'a str], address: &str) -> Result<Vec<&'a str>> {
    let held = format!(" {address}/");
    let mut found = Vec::new();
    for process in processes {
        if c.inside(process, ADDRESSES).await?.contains(&held) {
            found.push(*process);
        }
    }
    if found.len() > 1 && !c.inside(found[0], ADDRESSES).await?.contains(&held) {
        found.remove(0);
    }
    Ok(found)
}

const ADDRESSES: &[&str] = &["ip", "-o", "-4", "address"];

/// Fails unless `text` holds `part`.
fn has(text: &str, part: &str) -> Result<()> {
    anyhow::ensure!(text.contains(part), "no {part:?} in:\n{text}");
    Ok(())
}

/// The image that `kontiki up` builds and loads on every node: busybox under `/bin/busybox`.
const IMAGE: &str = "localhost/kontiki/demo:1";
