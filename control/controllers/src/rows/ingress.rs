//! Keeps what Ingresses say of themselves equal to who serves them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Secret};
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kontiki_api::Api;
use kontiki_cache::{Informer, TypedChange};
use kontiki_model::ingress::{class, is_served, secrets};
use kontiki_plan::Plan;
use kontiki_plan::key::NamespacedName;
use kontiki_plan::network::ingress::{self, Told};

use crate::controller::{Context, Controller, Inputs, NoFailure};

/// Ingresses by their class.
const BY_CLASS: &str = "class";
/// Ingresses by the Secrets that they take certificates from.
const BY_SECRET: &str = "secret";

fn secret_of(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

fn keys(ingresses: &[Arc<Ingress>]) -> Vec<NamespacedName> {
    ingresses.iter().map(|ingress| NamespacedName::of(&ingress.metadata)).collect()
}

pub(crate) struct Ingresses {
    ingresses: Informer<Ingress>,
    classes: Informer<IngressClass>,
    nodes: Informer<Node>,
    secrets: Informer<Secret>,
    told: Mutex<Told>,
}

impl Ingresses {
    fn lock(&self) -> MutexGuard<'_, Told> {
        // Nothing panics while it holds the lock, so a poisoned one is whole.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_ours(&self, ingress: &Ingress) -> bool {
        class(ingress).and_then(|class| self.classes.get(None, class)).is_some_and(|class| is_served(&class))
    }

    fn by_ingress(&self, change: &TypedChange<Ingress>) -> Option<NamespacedName> {
        // What its status says is what was written here, or is put right.
        change.both().any(|ingress| class(ingress).is_some()).then(|| NamespacedName::from(&change.key))
    }

    fn by_class(&self, change: &TypedChange<IngressClass>) -> Vec<NamespacedName> {
        if !change.both().any(|class| is_served(class)) {
            return Vec::new();
        }
        keys(&self.ingresses.by_index(BY_CLASS, &change.key.name))
    }

    /// All that are served, if the node's share in their status is another.
    fn by_node(&self, change: &TypedChange<Node>) -> Vec<NamespacedName> {
        let addresses = |node: &Option<Arc<Node>>| node.as_deref().map(ingress::addresses).unwrap_or_default();
        if addresses(&change.old) == addresses(&change.new) {
            return Vec::new();
        }
        let classes = self.classes.list().into_iter().filter(|class| is_served(class));
        let names = classes.filter_map(|class| class.metadata.name.clone());
        names.flat_map(|name| keys(&self.ingresses.by_index(BY_CLASS, &name))).collect()
    }

    fn by_secret(&self, change: &TypedChange<Secret>) -> Vec<NamespacedName> {
        let kind = |secret: &Option<Arc<Secret>>| secret.as_deref().map(|secret| secret.type_.clone());
        if kind(&change.old) == kind(&change.new) {
            return Vec::new();
        }
        let namespace = change.key.namespace.as_deref().unwrap_or_default();
        keys(&self.ingresses.by_index(BY_SECRET, &secret_of(namespace, &change.key.name)))
    }

    fn secret(&self, namespace: &str, name: &str) -> ingress::Secret {
        match self.secrets.get(Some(namespace), name) {
            Some(secret) => ingress::Secret::OfType(secret.type_.clone().unwrap_or_default()),
            None => ingress::Secret::Missing,
        }
    }
}

impl Controller for Ingresses {
    const NAME: &'static str = "ingress";
    const WORKERS: usize = 4;
    type Key = NamespacedName;
    type View = ingress::View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        let cache = api.cache();
        let ingresses: Informer<Ingress> = cache.get();
        ingresses.add_index(BY_CLASS, |ingress: &Ingress| class(ingress).map(str::to_owned).into_iter().collect());
        ingresses.add_index(BY_SECRET, |ingress: &Ingress| {
            let namespace = ingress.metadata.namespace.as_deref().unwrap_or_default();
            secrets(ingress).into_iter().map(|name| secret_of(namespace, name)).collect()
        });
        let told = Mutex::default();
        Self { ingresses, classes: cache.get(), nodes: cache.get(), secrets: cache.get(), told }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on(&self.ingresses, Self::by_ingress);
        inputs.on(&self.classes, Self::by_class);
        inputs.on(&self.nodes, Self::by_node);
        inputs.on(&self.secrets, Self::by_secret);
    }

    fn view(&self, key: &NamespacedName, context: &Context<'_, NoFailure>) -> Option<ingress::View> {
        let ingress = self.ingresses.get(Some(&key.namespace), &key.name);
        let Some(ingress) = ingress.filter(|ingress| context.settings.ingresses && self.is_ours(ingress)) else {
            self.lock().forget(key);
            return None;
        };
        let complaints = ingress::complaints(&ingress, |name| self.secret(&key.namespace, name));
        let news = self.lock().keep(key, complaints);
        Some(ingress::View { ingress, addresses: ingress::serving(&self.nodes.list()), news })
    }

    fn plan(view: &ingress::View, _: Timestamp) -> Plan {
        ingress::plan(view)
    }
}
