//! Evicts pods from nodes whose taints they do not tolerate.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kontiki_api::Api;
use kontiki_cache::{Informer, TypedChange};
use kontiki_plan::Plan;
use kontiki_plan::key::Name;
use kontiki_plan::nodes::taint_eviction::{self, TaintTimes, View};

use crate::controller::{Context, Controller, Inputs, NoFailure};
use crate::index::PodsByNode;

pub(crate) struct TaintEviction {
    nodes: Informer<Node>,
    pods: PodsByNode,
    times: Mutex<TaintTimes>,
}

impl TaintEviction {
    fn by_node(&self, change: &TypedChange<Node>) -> Option<Name> {
        change.both().any(|node| taint_eviction::evicts(node)).then(|| Name::from(&change.key))
    }

    fn by_pod(&self, change: &TypedChange<Pod>) -> Option<Name> {
        taint_eviction::by_pod(change.new.as_deref(), |node| self.node(node))
    }

    fn node(&self, name: &str) -> Option<Arc<Node>> {
        self.nodes.get(None, name)
    }
}

impl Controller for TaintEviction {
    const NAME: &'static str = "taint-eviction";
    const WORKERS: usize = 8;
    type Key = Name;
    type View = View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        Self { nodes: api.cache().get(), pods: PodsByNode::new(api), times: Mutex::default() }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on(&self.nodes, Self::by_node);
        inputs.on(&self.pods.0, Self::by_pod);
    }

    fn view(&self, key: &Name, context: &Context<'_, NoFailure>) -> Option<View> {
        // Nothing panics while it holds the lock, so a poisoned one is whole.
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let taints = times.see(key, self.node(key.as_str()).as_deref(), context.now);
        Some(View { taints, pods: self.pods.on(key.as_str()) })
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        taint_eviction::plan(view, now)
    }
}
