//! What lies in no cache: the scale of the target, and what the metrics are.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use kontiki_model::ObjectKey;
use serde_json::Value;

/// What was found out for one autoscaler, at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// What it scales, or why that is not known.
    pub target: Result<Target, String>,
    /// What the metrics of its spec are, in their order, or why that is not known. Empty: nobody asked.
    pub metrics: Vec<Result<Numbers, String>>,
}

/// What an autoscaler scales.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The object.
    pub key: ObjectKey,
    /// Its scale.
    pub scale: Scale,
}

/// A Scale.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scale {
    /// Uid of the object.
    pub uid: String,
    /// Version of the object.
    pub version: String,
    /// How many pods are wished for.
    pub wanted: i32,
    /// How many there are.
    pub present: i32,
    /// Selects them, as a query has it.
    pub selector: String,
}

impl Scale {
    /// Reads a Scale of `autoscaling/v1`.
    #[must_use]
    pub fn read(scale: &Value) -> Self {
        let text = |path: &str| scale.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let count = |path: &str| scale.pointer(path).and_then(Value::as_i64).unwrap_or_default();
        let count = |path: &str| i32::try_from(count(path)).unwrap_or_default();
        Self {
            uid: text("/metadata/uid"),
            version: text("/metadata/resourceVersion"),
            wanted: count("/spec/replicas"),
            present: count("/status/replicas"),
            selector: text("/status/selector"),
        }
    }
}

/// What a metric is, in thousandths of its unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// Of each pod that has it.
    Pods(Samples),
    /// Of one object.
    Object(i64),
    /// Of several things outside of the cluster.
    External(Vec<i64>),
}

/// By name of the pod.
pub type Samples = BTreeMap<String, Sample>;

/// A number that was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// In thousandths of its unit.
    pub value: i64,
    /// When.
    pub at: Timestamp,
    /// Of how long a time, up to then.
    pub window: Duration,
}
