//! Removes pods that no agent will remove.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kontiki_api::Api;
use kontiki_cache::{Informer, TypedChange};
use kontiki_plan::Plan;
use kontiki_plan::clock::FirstSeen;
use kontiki_plan::key::Name;
use kontiki_plan::nodes::podgc::{self, Key, View};
use kontiki_plan::pod;

use crate::controller::{Context, Controller, Inputs, NoFailure};
use crate::index::PodsByNode;

pub(crate) struct PodGarbageCollector {
    nodes: Informer<Node>,
    pods: PodsByNode,
    /// Nodes that pods name and that are not there.
    absent: Mutex<FirstSeen<Name>>,
}

impl PodGarbageCollector {
    fn by_node(&self, change: &TypedChange<Node>) -> Option<Key> {
        Some(Key::Node(Name::from(&change.key)))
    }

    fn by_pod(&self, change: &TypedChange<Pod>) -> Option<Key> {
        podgc::by_pod(change.new.as_deref(), |node| self.node(node))
    }

    fn node(&self, name: &str) -> Option<Arc<Node>> {
        self.nodes.get(None, name)
    }
}

impl Controller for PodGarbageCollector {
    const NAME: &'static str = "pod-garbage-collector";
    const WORKERS: usize = 4;
    type Key = Key;
    type View = View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        Self { nodes: api.cache().get(), pods: PodsByNode::new(api), absent: Mutex::default() }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on(&self.nodes, Self::by_node);
        inputs.on(&self.pods.0, Self::by_pod);
    }

    fn view(&self, key: &Key, context: &Context<'_, NoFailure>) -> Option<View> {
        match key {
            Key::Unbound(key) => {
                let pod = self.pods.0.get(Some(&key.namespace), &key.name).filter(|pod| pod::node(pod).is_none())?;
                Some(View { node: None, absent_since: None, pods: vec![pod] })
            }
            Key::Node(name) => {
                let (node, pods) = (self.node(name.as_str()), self.pods.on(name.as_str()));
                // Nothing panics while it holds the lock, so a poisoned one is whole.
                let mut absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
                let absent_since = podgc::absent_since(&mut absent, name, node.as_deref(), &pods, context.now);
                Some(View { node, absent_since, pods })
            }
        }
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        podgc::plan(view, now)
    }
}
