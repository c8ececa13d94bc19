//! Kinds whose objects are not stored but measured: each is made when it is asked for, of what a node says about an object
//! that is stored.
//!
//! Not here: how nodes are asked, and how often.

use std::{collections::BTreeMap, time::Duration};

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

/// How objects of a measured kind are made.
pub trait Measured: Send + Sync {
    /// The resource whose objects they are about, each about one: it has its name and namespace, and is selected by its
    /// labels.
    fn about(&self) -> GroupResource<'static>;

    /// The node to ask about `subject`; `None`: there is nothing to ask.
    fn node<'a>(&self, subject: &'a Value) -> Option<&'a str>;

    /// The object about `subject`, of what its node says; `None` if that is nothing. `now`: RFC 3339 in whole seconds.
    fn object(&self, subject: &Value, said: &Measurement, now: &str) -> Option<Value>;
}
