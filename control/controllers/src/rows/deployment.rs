//! Rolls Deployments out.
//!
//! What a metric says of a rollout is asked for before a view, through the proxy of a Service, and as the ServiceAccount of
//! the pods: who may write a Deployment may run pods as that anyway, so the question tells them nothing new.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kontiki_api::{Api, User};
use kontiki_cache::TypedChange;
use kontiki_plan::Plan;
use kontiki_plan::key::NamespacedName;
use kontiki_plan::object::uid;
use kontiki_plan::workloads::deployment::{self, Question, Sample, View};
use tokio::time::timeout;

use crate::controller::{Context, Controller, Inputs, NoFailure};
use crate::index::{Managed, Namespaces, Selectors};

/// How long a metric may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer about a metric.
const ANSWER: usize = 1 << 20;

pub(crate) struct DeploymentController {
    api: Api,
    deployments: Selectors<Deployment>,
    sets: Managed<ReplicaSet>,
    pods: Managed<Pod>,
    namespaces: Namespaces,
    /// What was heard last of the metric of a rollout.
    heard: Mutex<HashMap<NamespacedName, Sample>>,
}

impl DeploymentController {
    fn by_set(&self, change: &TypedChange<ReplicaSet>) -> Vec<NamespacedName> {
        let selecting = |set: &ReplicaSet| self.deployments.candidates(&set.metadata);
        deployment::by_set(change.old.as_deref(), change.new.as_deref(), selecting)
    }

    fn by_pod(&self, change: &TypedChange<Pod>) -> Option<NamespacedName> {
        let set = |key: &NamespacedName| self.sets.all.get(Some(&key.namespace), &key.name);
        deployment::by_pod(change.old.as_deref(), change.new.as_deref(), set, |key| self.get(key))
    }

    fn get(&self, key: &NamespacedName) -> Option<Arc<Deployment>> {
        self.deployments.all.get(Some(&key.namespace), &key.name)
    }

    fn heard(&self) -> MutexGuard<'_, HashMap<NamespacedName, Sample>> {
        // Nothing panics while it holds the lock, so a poisoned one is whole.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to ask of a rollout now.
    fn question(&self, key: &NamespacedName) -> Option<Question> {
        let deployment = self.get(key).filter(|deployment| deployment::is_measured(deployment))?;
        let sets = self.sets.of(uid(&deployment.metadata));
        let known = self.heard().get(key).cloned();
        deployment::question(&deployment, &sets, known.as_ref(), Timestamp::now())
    }

    async fn ask(&self, namespace: &str, question: Question) -> Sample {
        let name = format!("system:serviceaccount:{namespace}:{}", question.account);
        let group = format!("system:serviceaccounts:{namespace}");
        let user = User::new(&name, &["system:serviceaccounts", &group, "system:authenticated"]);
        let client = self.api.client(user);
        let answer = timeout(PATIENCE, client.read_at_most(&question.path, ANSWER)).await;
        let late = format!("there was no answer within {} s", PATIENCE.as_secs());
        let answer = answer.map_or(Err(late), |answer| answer.map_err(|status| status.message));
        question.sample(answer.as_ref().map_err(String::as_str), Timestamp::now())
    }
}

impl Controller for DeploymentController {
    const NAME: &'static str = "deployment";
    const WORKERS: usize = 8;
    type Key = NamespacedName;
    type View = View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        Self {
            api: api.clone(),
            heard: Mutex::default(),
            deployments: Selectors::new(api),
            sets: Managed::new(api),
            pods: Managed::new(api),
            namespaces: Namespaces::new(api),
        }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on_own(&self.deployments.all);
        inputs.on(&self.sets.all, Self::by_set);
        inputs.on(&self.pods.all, Self::by_pod);
    }

    async fn learn(&self, key: &NamespacedName) {
        if let Some(question) = self.question(key) {
            let sample = self.ask(&key.namespace, question).await;
            self.heard().insert(key.clone(), sample);
        }
    }

    fn view(&self, key: &NamespacedName, _: &Context<'_, NoFailure>) -> Option<View> {
        let deployment = self.get(key);
        let measured = deployment.as_ref().is_some_and(|deployment| deployment::is_measured(deployment));
        let sample = if measured { self.heard().get(key).cloned() } else { self.heard().remove(key).and(None) };
        let deployment = deployment?;
        let mut sets = self.sets.of(uid(&deployment.metadata));
        let pods = if deployment::recreates(&deployment) {
            sets.iter().flat_map(|set| self.pods.of(uid(&set.metadata))).collect()
        } else {
            Vec::new()
        };
        sets.extend(self.sets.unmanaged(&key.namespace));
        let namesake = self.sets.all.get(Some(&key.namespace), &deployment::set_name(&deployment));
        let namespace_terminating = self.namespaces.terminating(&key.namespace);
        Some(View { deployment, sets, namesake, pods, namespace_terminating, sample })
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        deployment::plan(view, now)
    }
}
