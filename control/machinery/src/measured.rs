//! Kinds whose objects are not stored but measured: each is made when it is asked for, of what a node says about an object
//! that is stored, or of how the server fares that is asked.
//!
//! Not here: how nodes are asked, and how often; how a server finds out how it fares.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use kontiki_model::GroupResource;
use serde_json::Value;

/// CPU and memory that something uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    /// When it was measured.
    pub at: Timestamp,
    /// For how long CPU was measured, up to then.
    pub window: Duration,
    /// CPU in billionths of a core, on average of that time.
    pub cpu: u64,
    /// Memory in bytes that cannot be taken back, by kubelet's rule: without inactive pages of files.
    pub memory: u64,
}

/// What a node says of itself and of what runs there.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Measurement {
    /// Of all of it.
    pub whole: Option<Usage>,
    /// Of the containers of each object that runs there, with their names, by the object's uid.
    pub containers: BTreeMap<String, Vec<(String, Usage)>>,
}

/// Where the objects of a measured kind come from.
#[derive(Clone)]
pub enum Origin {
    /// Nodes.
    Nodes(Arc<dyn Measured>),
    /// The server that is asked: all its objects, in order, none of them in a namespace.
    Server(fn(&Health) -> Vec<Value>),
}

/// What a server knows of the parts that a cluster cannot be without, and for each what is wrong with it, if anything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Health {
    /// Whether it can read what was acknowledged by anybody.
    pub store: Result<(), String>,
    /// Whether it knows who leads and so does the work of controllers and the scheduler.
    pub leader: Result<(), String>,
}

/// How objects of a kind are made of what nodes say.
pub trait Measured: Send + Sync {
    /// The resource whose objects they are about, each about one: it has its name and namespace, and is selected by its
    /// labels.
    fn about(&self) -> GroupResource<'static>;

    /// The node to ask about `subject`; `None`: there is nothing to ask.
    fn node<'a>(&self, subject: &'a Value) -> Option<&'a str>;

    /// The object about `subject`, of what its node says; `None` if that is nothing. `now`: RFC 3339 in whole seconds.
    fn object(&self, subject: &Value, said: &Measurement, now: &str) -> Option<Value>;
}
