//! Scales what HorizontalPodAutoscalers name.
//!
//! Scales are read through the API, and metrics from whoever serves them: this master itself, or a server behind an
//! APIService. Both are asked for in each turn, and nothing of that is a change: turns come when it is time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{CrossVersionObjectReference, HorizontalPodAutoscaler, MetricSpec};
use k8s_openapi::api::core::v1::Pod;
use kontiki_api::{Api, Client, Target as Address, User};
use kontiki_cache::{Informer, TypedChange};
use kontiki_model::selector::Selector;
use kontiki_model::{GroupResource, ObjectKey};
use kontiki_plan::autoscaling::{self, Facts, History, Inputs, Numbers, Scale, Target, View, question};
use kontiki_plan::key::NamespacedName;
use kontiki_plan::object::label;
use kontiki_plan::{Plan, Refusal, Verb};
use tokio::time::timeout;

use crate::controller::{Context, Controller, Inputs as Changes};

/// How long a scale and metrics may take, all together.
const PATIENCE: Duration = Duration::from_secs(20);
/// As upstream's controller is known to servers of metrics.
const USER: &str = "system:serviceaccount:kube-system:horizontal-pod-autoscaler";
const CUSTOM: &str = "/apis/custom.metrics.k8s.io";

pub(crate) struct Autoscalers {
    client: Client,
    autoscalers: Informer<HorizontalPodAutoscaler>,
    pods: Informer<Pod>,
    known: Mutex<HashMap<NamespacedName, Known>>,
}

/// What is known of an autoscaler besides what lies in caches.
#[derive(Default)]
struct Known {
    facts: Option<Facts>,
    history: History,
}

fn user() -> User {
    User::new(USER, &["system:masters", "system:authenticated"])
}

impl Autoscalers {
    fn known(&self) -> MutexGuard<'_, HashMap<NamespacedName, Known>> {
        // Nothing panics while it holds the lock, so a poisoned one is whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the status says is the controller's own doing.
    fn by_spec(&self, change: &TypedChange<HorizontalPodAutoscaler>) -> Option<NamespacedName> {
        let same = matches!((&change.old, &change.new), (Some(old), Some(new)) if old.spec == new.spec);
        (!same).then(|| NamespacedName::from(&change.key))
    }

    /// The resource of a kind.
    fn resource(&self, named: &CrossVersionObjectReference) -> Result<ObjectKey, String> {
        let version = named.api_version.as_deref().unwrap_or_default();
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let table = self.client.registry().table();
        let found =
            table.rows().iter().find(|row| row.group == group && row.kind == named.kind && row.measured.is_none());
        let unknown = || format!("no matches for kind \"{}\" in group \"{group}\"", named.kind);
        Ok(ObjectKey::new(found.ok_or_else(unknown)?.group_resource(), None, &named.name))
    }

    async fn facts(&self, key: &NamespacedName, autoscaler: &HorizontalPodAutoscaler) -> Facts {
        let target = self.target(&key.namespace, &autoscaler.spec.scale_target_ref).await;
        let metrics = match &target {
            Ok(target) => self.metrics(&key.namespace, autoscaler, &target.scale).await,
            Err(_) => Vec::new(),
        };
        Facts { target, metrics }
    }

    async fn target(&self, namespace: &str, named: &CrossVersionObjectReference) -> Result<Target, String> {
        let key = self.resource(named)?;
        let key = ObjectKey::new(key.group_resource(), Some(namespace), &key.name);
        let address = Address {
            resource: key.group_resource(),
            namespace: Some(namespace),
            name: &key.name,
            subresource: Some("scale"),
        };
        let scale = self.client.get(address).await.map_err(|status| status.message)?;
        Ok(Target { scale: Scale::read(&scale), key })
    }

    /// What the metrics of the spec are, in their order.
    async fn metrics(
        &self,
        namespace: &str,
        autoscaler: &HorizontalPodAutoscaler,
        scale: &Scale,
    ) -> Vec<Result<Numbers, String>> {
        let specs = autoscaler.spec.metrics.as_deref().unwrap_or_default();
        let asks_others = specs.iter().any(|spec| spec.pods.is_some() || spec.object.is_some());
        let custom = if asks_others { self.custom_version().await } else { None };
        let place = (namespace, scale.selector.as_str());
        join_all(specs.iter().map(|spec| self.metric(spec, place, custom))).await
    }

    async fn metric(
        &self,
        spec: &MetricSpec,
        place: (&str, &str),
        custom: Option<&'static str>,
    ) -> Result<Numbers, String> {
        let resource = |named: &CrossVersionObjectReference| {
            let key = self.resource(named).ok()?;
            let GroupResource { group, resource } = key.group_resource();
            Some(if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") })
        };
        let question = question(spec, place, resource, custom)?;
        let answer = self.client.read(&question.path).await.map_err(|status| status.message);
        question.read(spec, answer.as_ref().map_err(String::as_str))
    }

    /// The version in which custom metrics are served; `None`: nobody serves them.
    async fn custom_version(&self) -> Option<&'static str> {
        let group = self.client.read(CUSTOM).await.ok()?;
        let served = |version: &&str| {
            let mut versions = group["versions"].as_array().into_iter().flatten();
            versions.any(|known| known["version"] == *version)
        };
        ["v1beta2", "v1beta1"].into_iter().find(served)
    }

    /// Those of the namespace that a selector selects.
    fn selected(&self, namespace: &str, selector: &Selector) -> Vec<Arc<Pod>> {
        let mut pods = self.pods.by_namespace(namespace);
        pods.retain(|pod| selector.matches_with(|key| label(&pod.metadata, key)));
        pods
    }

    /// The autoscalers of a namespace whose targets select one of these pods.
    fn selecting(known: &HashMap<NamespacedName, Known>, namespace: &str, pods: &[Arc<Pod>]) -> Vec<NamespacedName> {
        let selects = |(name, known): (&NamespacedName, &Known)| {
            let target = known.facts.as_ref()?.target.as_ref().ok()?;
            let selector = Selector::parse(&target.scale.selector).ok().filter(|selector| !selector.is_empty())?;
            let selects = |pod: &Arc<Pod>| selector.matches_with(|key| label(&pod.metadata, key));
            pods.iter().any(selects).then(|| name.clone())
        };
        let mut names: Vec<NamespacedName> =
            known.iter().filter(|(name, _)| name.namespace == namespace).filter_map(selects).collect();
        names.sort();
        names
    }
}

impl Controller for Autoscalers {
    const NAME: &'static str = "horizontal-pod-autoscaler";
    const WORKERS: usize = 5;
    type Key = NamespacedName;
    type View = View;
    /// Why a target was not given its size.
    type Failure = String;

    fn new(api: &Api) -> Self {
        Self {
            client: api.client(user()),
            autoscalers: api.cache().get(),
            pods: api.cache().get(),
            known: Mutex::default(),
        }
    }

    fn inputs(&self, inputs: &mut Changes<Self>) {
        inputs.on(&self.autoscalers, Self::by_spec);
    }

    async fn learn(&self, key: &NamespacedName) {
        let Some(autoscaler) = self.autoscalers.get(Some(&key.namespace), &key.name) else { return };
        let asked = timeout(PATIENCE, self.facts(key, &autoscaler)).await;
        let late = |_| Facts { target: Err("nobody answered in time".to_owned()), metrics: Vec::new() };
        self.known().entry(key.clone()).or_default().facts = Some(asked.unwrap_or_else(late));
    }

    fn view(&self, key: &NamespacedName, context: &Context<'_, String>) -> Option<View> {
        let mut known = self.known();
        let Some(autoscaler) = self.autoscalers.get(Some(&key.namespace), &key.name) else {
            known.remove(key);
            return None;
        };
        let facts = known.get(key)?.facts.clone()?;
        let selector = facts.target.as_ref().ok().and_then(|target| Selector::parse(&target.scale.selector).ok());
        let selector = selector.filter(|selector| !selector.is_empty());
        let pods = selector.map(|selector| self.selected(&key.namespace, &selector)).unwrap_or_default();
        let rivals = Self::selecting(&known, &key.namespace, &pods);
        let refused = context.failure.map(String::as_str);
        let inputs = Inputs { autoscaler: &autoscaler, facts: &facts, pods: &pods, rivals: &rivals, refused };
        let own = known.get_mut(key)?;
        let decision = autoscaling::decide(&inputs, &own.history, context.now);
        let target = facts.target.ok();
        own.history.note(&decision, target.as_ref(), context.now);
        Some(View { autoscaler, target, decision })
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        autoscaling::plan(view, now)
    }

    fn refused(refusal: &Refusal) -> Option<String> {
        (refusal.verb == Verb::PatchStatus).then(|| refusal.message.clone())
    }
}
