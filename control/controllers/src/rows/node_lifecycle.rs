//! Tells of nodes that are silent.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kontiki_api::Api;
use kontiki_cache::{Informer, TypedChange};
use kontiki_plan::Plan;
use kontiki_plan::key::Name;
use kontiki_plan::nodes::liveness::{Liveness, NAMESPACE};
use kontiki_plan::nodes::node_lifecycle::{self, ReadyNodes, View};
use kontiki_plan::object::name;

use crate::controller::{Context, Controller, Inputs, NoFailure};
use crate::index::PodsByNode;

pub(crate) struct NodeLifecycle {
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    pods: PodsByNode,
    observed: Mutex<Observed>,
}

/// What this process has seen itself.
#[derive(Default)]
struct Observed {
    liveness: Liveness,
    ready: ReadyNodes,
}

impl NodeLifecycle {
    fn lock(&self) -> MutexGuard<'_, Observed> {
        // Nothing panics while it holds the lock, so a poisoned one is whole.
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn by_lease(&self, change: &TypedChange<Lease>) -> Option<Name> {
        let lease = change.new.as_ref().filter(|_| change.key.namespace.as_deref() == Some(NAMESPACE))?;
        self.lock().liveness.heard(&Name::from(&change.key), lease, Instant::now());
        // Silence is asked about when its grace is over; a sign of life changes nothing before.
        None
    }

    fn by_node(&self, change: &TypedChange<Node>) -> Vec<Name> {
        let key = Name::from(&change.key);
        let mut observed = self.lock();
        // Read under the lock: of two changes that come in together the later one is not overwritten.
        let node = self.nodes.get(None, key.as_str());
        if node.is_none() {
            observed.liveness.forget(&key);
        }
        if observed.ready.see(&key, node.as_deref()) {
            return self.nodes.list().iter().map(|node| name(&node.metadata).into()).chain([key]).collect();
        }
        vec![key]
    }

    fn by_pod(&self, change: &TypedChange<Pod>) -> Option<Name> {
        node_lifecycle::by_pod(change.new.as_deref()?, |node| self.nodes.get(None, node))
    }
}

impl Controller for NodeLifecycle {
    const NAME: &'static str = "node-lifecycle";
    const WORKERS: usize = 8;
    type Key = Name;
    type View = View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        let (nodes, leases) = (api.cache().get(), api.cache().get());
        Self { nodes, leases, pods: PodsByNode::new(api), observed: Mutex::default() }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on(&self.leases, Self::by_lease);
        inputs.on(&self.nodes, Self::by_node);
        inputs.on(&self.pods.0, Self::by_pod);
    }

    fn view(&self, key: &Name, context: &Context<'_, NoFailure>) -> Option<View> {
        let node = self.nodes.get(None, key.as_str())?;
        let mut observed = self.lock();
        Some(View {
            node,
            silent: observed.liveness.silent(key, Instant::now()),
            grace: context.settings.node_grace,
            pods: self.pods.on(key.as_str()),
            any_ready: observed.ready.any(),
        })
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        node_lifecycle::plan(view, now)
    }

    fn stood_still(&self) {
        self.lock().liveness.restart(Instant::now());
    }
}
