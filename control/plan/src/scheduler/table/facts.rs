//! What a Node object says, as the table keeps it.

use k8s_openapi::api::core::v1::{Node, Taint};
use kontiki_model::Quantity;

use super::words::{Word, Words};
use crate::scheduler::resources::Resources;

/// A taint, with the word for how it is named in messages.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeTaint {
    /// The taint, without its time.
    pub taint: Taint,
    /// `{key: value}`.
    pub shown: Word,
}

/// Amounts of named resources, by name.
pub type Scalars = Vec<(Word, i64)>;

/// See the module. The default is what is known of a node that is not there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct NodeFacts {
    pub labels: Vec<(Word, Word)>,
    pub taints: Vec<NodeTaint>,
    pub unschedulable: bool,
    pub max_pods: usize,
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    pub scalars: Scalars,
    pub images: Vec<(Word, i64)>,
}

impl NodeFacts {
    pub fn read(node: &Node, words: &mut Words) -> Self {
        let (spec, status) = (node.spec.as_ref(), node.status.as_ref());
        let mut labels: Vec<(Word, Word)> =
            node.metadata.labels.iter().flatten().map(|(k, v)| (words.hold(k), words.hold(v))).collect();
        labels.sort_unstable();
        let taints = spec.and_then(|spec| spec.taints.as_ref()).into_iter().flatten().map(|taint| {
            let shown = format!("{{{}: {}}}", taint.key, taint.value.as_deref().unwrap_or_default());
            NodeTaint { taint: Taint { time_added: None, ..taint.clone() }, shown: words.hold(&shown) }
        });
        let taints = taints.collect();
        // A node that says nothing of what it has left for pods has all it has.
        let amounts = status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
        let pods = amounts.and_then(|amounts| amounts.get("pods")?.0.parse::<Quantity>().ok());
        let allocatable = Resources::read(amounts);
        Self {
            labels,
            taints,
            unschedulable: spec.and_then(|spec| spec.unschedulable) == Some(true),
            max_pods: pods.map_or(0, |pods| usize::try_from(pods.units()).unwrap_or(0)),
            milli_cpu: allocatable.milli_cpu,
            memory: allocatable.memory,
            ephemeral_storage: allocatable.ephemeral_storage,
            scalars: scalars(&allocatable, words),
            images: images(node, words),
        }
    }

    pub fn release(self, words: &mut Words) {
        let labels = self.labels.into_iter().flat_map(|(key, value)| [key, value]);
        let sized = self.scalars.into_iter().chain(self.images).map(|(word, _)| word);
        for word in labels.chain(self.taints.into_iter().map(|taint| taint.shown)).chain(sized) {
            words.release(word);
        }
    }
}

fn scalars(amounts: &Resources, words: &mut Words) -> Scalars {
    let mut scalars: Scalars = amounts.scalar.iter().map(|(name, amount)| (words.hold(name), *amount)).collect();
    scalars.sort_unstable();
    scalars
}

/// Sizes by name; of a name that is said twice, the last.
fn images(node: &Node, words: &mut Words) -> Vec<(Word, i64)> {
    let mut sizes = std::collections::BTreeMap::new();
    for image in node.status.iter().flat_map(|status| status.images.iter().flatten()) {
        sizes.extend(image.names.iter().flatten().map(|name| (name.as_str(), image.size_bytes.unwrap_or(0))));
    }
    let mut images: Vec<(Word, i64)> = sizes.into_iter().map(|(name, size)| (words.hold(name), size)).collect();
    images.sort_unstable();
    images
}
