//! How many events a cluster takes (upstream's `EventRateLimit`, `eventratelimit.admission.k8s.io/v1alpha1`).
//!
//! The one step with a memory: a bucket of tokens for each key of each limit, those that were used least lately forgotten.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use kontiki_machinery::admission::{Lookup, Request, Step};
use kontiki_model::resource::EVENTS;
use serde_json::Value;

use crate::{
    GroupResource, Status,
    rows::value::{get, text},
};

/// Events of the newer group.
const NEWER: GroupResource<'static> = GroupResource { group: "events.k8s.io", resource: "events" };
/// Keys of a limit that says no number itself.
const CACHE_SIZE: usize = 4096;

/// What a limit counts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// All events.
    Server,
    /// Those of a namespace.
    Namespace,
    /// Those of a user.
    User,
    /// Those of one reporter about one object.
    SourceAndObject,
}

impl Per {
    fn name(self) -> &'static str {
        match self {
            Self::Server => "Server",
            Self::Namespace => "Namespace",
            Self::User => "User",
            Self::SourceAndObject => "SourceAndObject",
        }
    }

    fn key(self, request: &Request<'_>, event: &Value) -> String {
        match self {
            Self::Server => String::new(),
            Self::Namespace => request.namespace.unwrap_or_default().to_owned(),
            Self::User => request.user.name.clone(),
            Self::SourceAndObject => {
                let (source, object) = (get(event, "source"), get(event, "involvedObject"));
                let source = ["component", "host"].map(|field| text(source, field));
                let object = ["kind", "namespace", "name", "uid", "apiVersion"].map(|field| text(object, field));
                [&source[..], &object[..]].concat().concat()
            }
        }
    }
}

/// One limit.
#[derive(Clone, Debug)]
pub struct Limit {
    /// What is counted together.
    pub per: Per,
    /// Events a second.
    pub qps: u32,
    /// Events at once.
    pub burst: u32,
    /// Keys that are remembered; 0: upstream's 4096.
    pub cache_size: usize,
}

/// A token is worth one event; `filled` is the time as of which `tokens` are there, in seconds since 1970; `used` says
/// how many uses of any bucket there were before its last.
struct Bucket {
    tokens: f64,
    filled: f64,
    used: u64,
}

#[derive(Default)]
struct Buckets {
    by_key: HashMap<String, Bucket>,
    uses: u64,
}

struct Enforcer {
    limit: Limit,
    buckets: Mutex<Buckets>,
}

impl Enforcer {
    /// Whether one more is taken now.
    fn take(&self, key: &str, now: Timestamp) -> bool {
        // Nothing panics while it holds the lock, so a poisoned one is whole.
        let mut guard = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let Buckets { by_key: buckets, uses } = &mut *guard;
        *uses += 1;
        let now = now.as_duration().as_secs_f64();
        let size = if self.limit.cache_size == 0 { CACHE_SIZE } else { self.limit.cache_size };
        if !buckets.contains_key(key) && buckets.len() >= size {
            let oldest = buckets.iter().min_by_key(|(_, bucket)| bucket.used).map(|(key, _)| key.clone());
            oldest.map(|key| buckets.remove(&key));
        }
        let (qps, burst) = (f64::from(self.limit.qps), f64::from(self.limit.burst));
        let bucket = buckets.entry(key.to_owned()).or_insert(Bucket { tokens: burst, filled: now, used: 0 });
        bucket.used = *uses;
        bucket.tokens = (bucket.tokens + (now - bucket.filled).max(0.0) * qps).min(burst);
        bucket.filled = bucket.filled.max(now);
        let enough = bucket.tokens >= 1.0;
        if enough {
            bucket.tokens -= 1.0;
        }
        enough
    }
}

/// See the module.
pub struct EventRateLimit(Vec<Enforcer>);

impl EventRateLimit {
    /// Holds events to `limits`.
    #[must_use]
    pub fn new(limits: &[Limit]) -> Self {
        let enforcer = |limit: &Limit| Enforcer { limit: limit.clone(), buckets: Mutex::default() };
        Self(limits.iter().map(enforcer).collect())
    }
}

impl Step for EventRateLimit {
    fn name(&self) -> &'static str {
        "EventRateLimit"
    }

    fn validate(&self, request: &Request<'_>, event: &Value, cluster: &mut dyn Lookup) -> Result<(), Status> {
        if !(request.is(EVENTS) || request.is(NEWER)) || request.dry_run {
            return Ok(());
        }
        let now = cluster.now();
        let mut reached = Vec::new();
        // Each limit counts each event, whatever the others say.
        for enforcer in &self.0 {
            let key = enforcer.limit.per.key(request, event);
            if !enforcer.take(&key, now) {
                reached.push(format!("limit reached on type {} for key {key}", enforcer.limit.per.name()));
            }
        }
        if reached.is_empty() { Ok(()) } else { Err(Status::too_many_requests(reached.join("\n"), 1)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_fills_with_time_and_old_keys_are_forgotten() {
        let limit = Limit { per: Per::Namespace, qps: 2, burst: 3, cache_size: 2 };
        let EventRateLimit(enforcers) = EventRateLimit::new(&[limit]);
        let at = |millis: i64| Timestamp::from_millisecond(millis).expect("a time");
        for (key, millis, expect) in [
            ("a", 0, true),
            ("a", 0, true),
            ("a", 0, true),
            ("a", 0, false),
            ("a", 499, false),
            ("a", 500, true),
            ("a", 500, false),
            ("b", 500, true),
            ("c", 501, true),
            ("a", 501, true),
        ] {
            assert_eq!(enforcers[0].take(key, at(millis)), expect, "{key} at {millis}");
        }
    }
}
