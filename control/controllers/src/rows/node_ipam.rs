//! Gives every node its part of the pod network.

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kontiki_api::Api;
use kontiki_api::leader::Settings;
use kontiki_cache::{Informer, TypedChange};
use kontiki_plan::Plan;
use kontiki_plan::key::Name;
use kontiki_plan::nodes::node_ipam::{self, Ranges, View};
use kontiki_plan::object::name;

use crate::controller::{Context, Controller, Inputs, NoFailure};

pub(crate) struct NodeIpam {
    nodes: Informer<Node>,
    /// Who has which; from the first view on, which is the first that knows the network.
    ranges: Mutex<Option<Ranges>>,
}

impl NodeIpam {
    fn lock(&self) -> MutexGuard<'_, Option<Ranges>> {
        // Nothing panics while it holds the lock, so a poisoned one is whole.
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn by_node(&self, change: &TypedChange<Node>) -> Vec<Name> {
        let key = Name::from(&change.key);
        let mut ranges = self.lock();
        // Read under the lock: of two changes that come in together the later one is not overwritten.
        let node = self.nodes.get(None, key.as_str());
        let waited = ranges.as_mut().and_then(|ranges| ranges.see(&key, node.as_deref()));
        let needs = node.is_some_and(|node| node_ipam::needs_range(&node));
        waited.into_iter().chain(needs.then_some(key)).collect()
    }

    fn seen(&self, settings: &Settings) -> Ranges {
        let mut ranges = Ranges::new(settings.pod_cidr, settings.node_cidr_bits);
        for node in self.nodes.list() {
            ranges.see(&name(&node.metadata).into(), Some(&node));
        }
        ranges
    }
}

impl Controller for NodeIpam {
    const NAME: &'static str = "node-ipam";
    const WORKERS: usize = 1;
    type Key = Name;
    type View = View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        Self { nodes: api.cache().get(), ranges: Mutex::default() }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on(&self.nodes, Self::by_node);
    }

    fn view(&self, key: &Name, context: &Context<'_, NoFailure>) -> Option<View> {
        let mut ranges = self.lock();
        let node = self.nodes.get(None, key.as_str())?;
        let ranges = ranges.get_or_insert_with(|| self.seen(context.settings));
        let offer = node_ipam::needs_range(&node).then(|| ranges.offer(key)).flatten();
        Some(View { node, offer })
    }

    fn plan(view: &View, _: Timestamp) -> Plan {
        node_ipam::plan(view)
    }
}
