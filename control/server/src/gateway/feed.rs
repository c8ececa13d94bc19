//! What one agent has been told and what it is to be told next.
//!
//! Invariants
//! - An agent is told of an object only while it is its business, and told that it is gone as soon as
//!   it no longer is.
//! - What a pod needs is told before the pod.
//! - The interest in Secrets and the like is widened before they are read, so that a change between
//!   the two is not missed.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use kontiki_model::Revision;
use kontiki_proto::node::Object;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    cache::PodEntry,
    needs::{Item, Kind},
};

/// What changed and may concern one node, until its feed looks at it. Bounded by the number of
/// objects: an object is in it once.
#[derive(Default)]
pub struct Inbox {
    state: Mutex<InboxState>,
    changed: Notify,
}

#[derive(Default)]
struct InboxState {
    dirty: BTreeSet<Item>,
    interest: BTreeSet<Item>,
}

impl Inbox {
    /// Something happened to `item`.
    pub fn push(&self, item: &Item) {
        let mut state = self.state.lock();
        if item.kind == Kind::Pod || item.kind.is_public() || item.is_in(&state.interest) {
            state.dirty.insert(item.clone());
            drop(state);
            self.changed.notify_one();
        }
    }

    fn set_interest(&self, interest: BTreeSet<Item>) {
        self.state.lock().interest = interest;
    }

    /// What changed since the last call; waits until there is something. Cancel-safe.
    pub async fn next(&self) -> BTreeSet<Item> {
        loop {
            let changed = self.changed.notified();
            let dirty = std::mem::take(&mut self.state.lock().dirty);
            if !dirty.is_empty() {
                return dirty;
            }
            changed.await;
        }
    }
}

/// Where a feed reads.
pub trait Source {
    /// A pod.
    fn pod(&self, item: &Item) -> Option<Arc<PodEntry>>;
    /// What nodes have to know because of an Ingress, if it is served.
    fn ingress(&self, item: &Item) -> Option<BTreeSet<Item>>;
    /// The objects of a kind.
    fn all(&self, kind: Kind) -> Vec<Item>;
    /// What `node` gets of an object.
    fn text(&self, item: &Item, node: &str) -> Option<Text>;
}

/// What tells one text of an object from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// The whole object, at a revision.
    Revision(Revision),
    /// A part of it, by a hash.
    Content(u64),
}

/// What an agent gets of an object.
#[derive(Clone, Debug)]
pub struct Text {
    /// Equal for equal texts.
    pub version: Version,
    /// The object, or the part of it.
    pub json: Arc<str>,
}

/// One agent's feed.
pub struct Feed {
    node: String,
    serves_ingresses: bool,
    inbox: Arc<Inbox>,
    /// The node's pods, and the Ingresses that it serves, each with what it needs.
    needy: HashMap<Item, BTreeSet<Item>>,
    needs: BTreeSet<Item>,
    told: HashMap<Item, Version>,
}

impl Feed {
    /// A feed that has told nothing yet.
    #[must_use]
    pub fn new(node: &str, serves_ingresses: bool, inbox: Arc<Inbox>) -> Self {
        let (node, needs) = (node.to_owned(), BTreeSet::new());
        Self { node, serves_ingresses, inbox, needy: HashMap::new(), needs, told: HashMap::new() }
    }

    /// What an object makes the node's business; `None` if it is none itself.
    fn needs_of(&self, source: &impl Source, item: &Item) -> Option<BTreeSet<Item>> {
        match item.kind {
            Kind::Pod => {
                let mine = source.pod(item).filter(|pod| pod.node.as_deref() == Some(&self.node));
                mine.map(|pod| pod.needs.clone())
            }
            Kind::Ingress if self.serves_ingresses => source.ingress(item),
            _ => None,
        }
    }

    /// What the agent is to be told after `dirty` may have changed.
    pub fn turn(&mut self, source: &impl Source, mut dirty: BTreeSet<Item>) -> Vec<Object> {
        let mut moved = false;
        for item in dirty.iter().filter(|item| matches!(item.kind, Kind::Pod | Kind::Ingress)) {
            let before = match self.needs_of(source, item) {
                Some(needs) => self.needy.insert(item.clone(), needs),
                None => self.needy.remove(item),
            };
            moved |= before.as_ref() != self.needy.get(item);
        }
        if moved {
            let needs: BTreeSet<Item> = self.needy.values().flatten().cloned().collect();
            self.inbox.set_interest(needs.clone());
            for changed in needs.symmetric_difference(&self.needs) {
                if changed.is_one() {
                    dirty.insert(changed.clone());
                } else {
                    dirty.extend(source.all(changed.kind));
                }
            }
            self.needs = needs;
        }
        dirty.into_iter().filter_map(|item| self.tell(source, item)).collect()
    }

    fn tell(&mut self, source: &impl Source, item: Item) -> Option<Object> {
        let concerned = match item.kind {
            Kind::Pod | Kind::Ingress => self.needy.contains_key(&item),
            kind if kind.is_public() => true,
            _ => item.is_in(&self.needs),
        };
        let json = match source.text(&item, &self.node).filter(|_| concerned) {
            Some(text) if self.told.get(&item) == Some(&text.version) => return None,
            Some(text) => {
                self.told.insert(item.clone(), text.version);
                text.json.to_string()
            }
            None => {
                self.told.remove(&item)?;
                String::new()
            }
        };
        Some(Object { resource: item.kind.resource().to_owned(), namespace: item.namespace, name: item.name, json })
    }
}

#[cfg(test)]
mod tests {
    use kontiki_cache::Cached as _;
    use kontiki_model::{GroupResource, ObjectKey};
    use kontiki_store::Entry;
    use serde_json::json;

    use super::*;

    /// `pod@node:secret`, `Ssecret`; the revision is the position of the change.
    #[derive(Default)]
    struct FakeSource {
        pods: HashMap<Item, Arc<PodEntry>>,
        ingresses: HashMap<Item, BTreeSet<Item>>,
        texts: HashMap<Item, Text>,
        revision: u64,
    }

    impl Source for FakeSource {
        fn pod(&self, item: &Item) -> Option<Arc<PodEntry>> {
            self.pods.get(item).cloned()
        }
        fn ingress(&self, item: &Item) -> Option<BTreeSet<Item>> {
            self.ingresses.get(item).cloned()
        }
        fn all(&self, kind: Kind) -> Vec<Item> {
            self.texts.keys().filter(|item| item.kind == kind).cloned().collect()
        }
        fn text(&self, item: &Item, _: &str) -> Option<Text> {
            self.texts.get(item).cloned()
        }
    }

    impl FakeSource {
        fn bind(&mut self, name: &str, node: &str, secret: &str) -> Item {
            let spec = json!({"nodeName": node, "containers": [], "imagePullSecrets": [{"name": secret}]});
            self.put_pod(name, &spec)
        }

        fn bind_with(&mut self, name: &str, node: &str, volumes: &serde_json::Value) -> Item {
            self.put_pod(name, &json!({"nodeName": node, "containers": [], "volumes": volumes}))
        }

        fn put_pod(&mut self, name: &str, spec: &serde_json::Value) -> Item {
            self.revision += 1;
            let item = Item::new(Kind::Pod, "ns", name);
            let object = json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec});
            let key = ObjectKey::new(GroupResource { group: "", resource: "pods" }, Some("ns"), name);
            let revision = Revision(self.revision);
            let entry = Entry {
                key: key.encode(),
                value: object.to_string().into(),
                create_revision: revision,
                mod_revision: revision,
                version: 1,
                expires: None,
                lease: 0,
            };
            self.pods.insert(item.clone(), Arc::new(PodEntry::read(&key, &entry).expect("a pod")));
            self.texts.insert(item.clone(), text(Version::Revision(revision)));
            item
        }

        fn put_secret(&mut self, name: &str) -> Item {
            self.revision += 1;
            let item = Item::new(Kind::Secret, "ns", name);
            self.texts.insert(item.clone(), text(Version::Revision(Revision(self.revision))));
            item
        }

        fn remove(&mut self, item: &Item) -> Item {
            self.pods.remove(item);
            self.texts.remove(item);
            item.clone()
        }
    }

    fn text(version: Version) -> Text {
        Text { version, json: "{}".into() }
    }

    fn show(objects: &[Object]) -> String {
        let one = |o: &Object| format!("{}{}/{}", if o.json.is_empty() { "-" } else { "+" }, o.resource, o.name);
        objects.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_secret_comes_before_the_pod_that_names_it_and_goes_with_the_last() {
        let mut world = FakeSource::default();
        let inbox = Arc::new(Inbox::default());
        let mut feed = Feed::new("a1", false, inbox.clone());
        let mut turn = |world: &FakeSource, item: Item| show(&feed.turn(world, BTreeSet::from([item])));

        let secret = world.put_secret("s");
        assert_eq!(turn(&world, secret.clone()), "", "nobody here names it");
        inbox.push(&secret);
        assert!(inbox.state.lock().dirty.is_empty(), "and its changes are not even looked at");
        let other = world.bind("other", "a2", "s");
        assert_eq!(turn(&world, other), "", "bound elsewhere");
        let one = world.bind("one", "a1", "s");
        assert_eq!(turn(&world, one.clone()), "+secrets/s +pods/one");
        assert_eq!(turn(&world, one.clone()), "", "nothing changed");
        let two = world.bind("two", "a1", "s");
        assert_eq!(turn(&world, two.clone()), "+pods/two");
        let secret = world.put_secret("s");
        inbox.push(&secret);
        assert_eq!(inbox.state.lock().dirty.len(), 1, "its changes matter now");
        assert_eq!(turn(&world, secret), "+secrets/s");
        let one = world.remove(&one);
        assert_eq!(turn(&world, one), "-pods/one");
        let two = world.remove(&two);
        assert_eq!(turn(&world, two), "-secrets/s -pods/two");
    }

    #[test]
    fn all_of_a_kind_are_told_while_a_pod_chooses_among_them() {
        let mut world = FakeSource::default();
        let inbox = Arc::new(Inbox::default());
        let mut feed = Feed::new("a1", false, inbox.clone());
        let mut turn = |world: &FakeSource, item: Item| show(&feed.turn(world, BTreeSet::from([item])));
        let bundle = |name: &str| Item::new(Kind::ClusterTrustBundle, "", name);
        for name in ["b1", "b2"] {
            world.texts.insert(bundle(name), text(Version::Content(1)));
        }
        let of = |source: serde_json::Value| json!([{"name": "v", "projected": {"sources": [{"clusterTrustBundle": source}]}}]);
        let one = world.bind_with("one", "a1", &of(json!({"name": "b2", "path": "p"})));
        assert_eq!(turn(&world, one), "+clustertrustbundles/b2 +pods/one", "the one that it names");
        let two = world.bind_with("two", "a1", &of(json!({"signerName": "s", "path": "p"})));
        assert_eq!(turn(&world, two.clone()), "+clustertrustbundles/b1 +pods/two", "and all the others");
        world.texts.insert(bundle("b3"), text(Version::Content(1)));
        inbox.push(&bundle("b3"));
        assert_eq!(inbox.state.lock().dirty.len(), 1, "a new one matters");
        assert_eq!(turn(&world, bundle("b3")), "+clustertrustbundles/b3");
        let two = world.remove(&two);
        assert_eq!(turn(&world, two), "-clustertrustbundles/b1 -clustertrustbundles/b3 -pods/two");
    }

    #[test]
    fn a_certificate_comes_before_its_ingress_and_only_to_nodes_that_serve() {
        let mut world = FakeSource::default();
        let (inbox, idle) = (Arc::new(Inbox::default()), Arc::new(Inbox::default()));
        let mut serving = Feed::new("a1", true, inbox.clone());
        let mut other = Feed::new("a2", false, idle.clone());
        let certificate = Item::new(Kind::Certificate, "ns", "c");
        let ingress = Item::new(Kind::Ingress, "ns", "i");
        let put = |world: &mut FakeSource, item: &Item, content| {
            world.texts.insert(item.clone(), text(Version::Content(content)));
        };
        put(&mut world, &certificate, 1);
        put(&mut world, &ingress, 1);
        let secret = world.put_secret("c");
        world.ingresses.insert(ingress.clone(), BTreeSet::from([certificate.clone()]));
        let one = |item: &Item| BTreeSet::from([item.clone()]);
        assert_eq!(show(&serving.turn(&world, one(&certificate))), "", "nobody names it yet");
        assert_eq!(show(&serving.turn(&world, one(&ingress))), "+certificates/c +ingresses/i");
        assert_eq!(show(&other.turn(&world, one(&ingress))), "");
        put(&mut world, &certificate, 2);
        for (inbox, expect) in [(&inbox, 1), (&idle, 0)] {
            inbox.push(&certificate);
            inbox.push(&secret);
            assert_eq!(
                inbox.state.lock().dirty.len(),
                expect,
                "its changes matter where it is served; the Secret's do not"
            );
        }
        assert_eq!(show(&serving.turn(&world, one(&certificate))), "+certificates/c", "renewed");
        assert_eq!(show(&serving.turn(&world, one(&secret))), "", "the Secret itself is a pod's business");
        world.ingresses.remove(&ingress);
        assert_eq!(show(&serving.turn(&world, one(&ingress))), "-certificates/c -ingresses/i", "another class, say");
    }

    #[test]
    fn what_changes_nothing_for_agents_is_not_told() {
        let (mut world, slice) = (FakeSource::default(), Item::new(Kind::EndpointSlice, "ns", "web"));
        let mut feed = Feed::new("a1", false, Arc::new(Inbox::default()));
        for (content, expect) in [(1, "+endpointslices/web"), (1, ""), (2, "+endpointslices/web")] {
            world.texts.insert(slice.clone(), text(Version::Content(content)));
            assert_eq!(show(&feed.turn(&world, BTreeSet::from([slice.clone()]))), expect, "{content}");
        }
    }
}
