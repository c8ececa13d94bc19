//! What a controller is to the shell: one row file that implements [`Controller`] over a pure plan.
//!
//! Invariants
//! - Nothing here decides: views are looked up, plans come from `kontiki-plan`.
//! - A view costs what the indexes give for its key, never all objects of a kind. What lies in no cache is asked for before
//!   ([`Controller::learn`]): a view waits for nothing.
//! - What a controller keeps between plans (its fields) it can lose: a new leader begins without it.

use std::fmt::Display;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;

use jiff::Timestamp;
use kontiki_api::Api;
use kontiki_api::leader::Settings;
use kontiki_cache::{Cached, Informer, Registration, TypedChange};
use kontiki_model::ObjectKey;
use kontiki_plan::{Plan, Refusal};

use crate::queue::Queue;

/// What a queue holds.
pub(crate) trait Key: Clone + Ord + Hash + Display + Send + Sync + 'static {}
impl<K: Clone + Ord + Hash + Display + Send + Sync + 'static> Key for K {}

/// What a view is made from besides the caches.
pub(crate) struct Context<'a, F> {
    /// The time of the plan.
    pub now: Timestamp,
    /// Settings of the cluster.
    pub settings: &'a Settings,
    /// What the last plan of the key left behind when it was refused.
    pub failure: Option<&'a F>,
}

/// See the module.
pub(crate) trait Controller: Send + Sync + Sized + 'static {
    /// For logs, metrics and events.
    const NAME: &'static str;
    /// Keys that may be in a turn at the same time.
    const WORKERS: usize;
    /// What one plan is about.
    type Key: Key;
    /// What a plan is made from.
    type View;
    /// What a refused action leaves for the next view of its key.
    type Failure: Clone + Send + Sync + 'static;

    /// Takes the caches that it works on, indexed. Every master does so at its start, so that they are warm.
    fn new(api: &Api) -> Self;

    /// Says which changes concern which keys.
    fn inputs(&self, inputs: &mut Inputs<Self>);

    /// Asks for what lies in no cache and the view of a key is made from, before each view. It has to end, whoever does
    /// not answer, and keeps what it heard itself. What it was told of is no reason for another turn: a plan says when to
    /// look again.
    fn learn(&self, _key: &Self::Key) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Builds the view of a key; `None` if there is nothing that a plan could be about.
    fn view(&self, key: &Self::Key, context: &Context<'_, Self::Failure>) -> Option<Self::View>;

    /// Decides.
    fn plan(view: &Self::View, now: Timestamp) -> Plan;

    /// What a refused action leaves behind. The key is tried again in any case, later each time.
    fn refused(_: &Refusal) -> Option<Self::Failure> {
        None
    }

    /// This process stood still: what was not seen in the meantime is nobody's fault.
    fn stood_still(&self) {}
}

/// The failure of controllers that need not remember any.
pub(crate) type NoFailure = std::convert::Infallible;

/// Leads changes to a controller's queue, until it is dropped.
pub(crate) struct Inputs<C: Controller> {
    controller: Arc<C>,
    queue: Arc<Queue<C::Key>>,
    registrations: Vec<Registration>,
}

impl<C: Controller> Inputs<C> {
    pub fn new(controller: Arc<C>, queue: Arc<Queue<C::Key>>) -> Self {
        let mut inputs = Self { controller: controller.clone(), queue, registrations: Vec::new() };
        controller.inputs(&mut inputs);
        inputs
    }

    /// A change of a `K` concerns the keys that `keys` names. It runs where the caches are filled: it has to be quick.
    pub fn on<K, R>(&mut self, informer: &Informer<K>, keys: fn(&C, &TypedChange<K>) -> R)
    where
        K: Cached,
        R: IntoIterator<Item = C::Key> + 'static,
    {
        let (controller, queue) = (self.controller.clone(), self.queue.clone());
        let tell = move |change: &TypedChange<K>| keys(&controller, change).into_iter().for_each(|key| queue.add(key));
        self.registrations.push(informer.on_change(tell));
    }

    /// A change of a `K` concerns its own key.
    pub fn on_own<K: Cached>(&mut self, informer: &Informer<K>)
    where
        C::Key: for<'a> From<&'a ObjectKey>,
    {
        self.on(informer, |_, change| Some(C::Key::from(&change.key)));
    }
}
