//! A pod as the checks look at it, and how they put what they find into upstream's words.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::rows::value::{at, get, list, text};

/// A pod, or a template of one.
#[derive(Clone, Copy)]
pub(super) struct Pod<'a> {
    pub meta: &'a Value,
    pub spec: &'a Value,
    /// The minor version of the policy.
    pub minor: u32,
}

/// Why a pod is not of a level: a reason, and the rest in brackets.
pub(super) struct Finding {
    pub reason: String,
    pub detail: String,
}

/// A check, with the first minor version that has it.
pub(super) type Check = (u32, fn(Pod<'_>) -> Option<Finding>);

/// A finding.
#[allow(clippy::unnecessary_wraps, reason = "checks end with it")]
pub(super) fn found(reason: impl Into<String>, detail: impl Into<String>) -> Option<Finding> {
    Some(Finding { reason: reason.into(), detail: detail.into() })
}

impl<'a> Pod<'a> {
    /// All containers: init containers, regular ones, ephemeral ones.
    pub fn containers(self) -> impl Iterator<Item = &'a Value> {
        let lists = ["initContainers", "containers", "ephemeralContainers"].into_iter();
        lists.flat_map(move |field| list(self.spec, field))
    }

    /// Names of the containers for which `bad` holds.
    pub fn bad(self, bad: impl Fn(&'a Value) -> bool) -> Vec<&'a str> {
        self.containers().filter(|container| bad(container)).map(|container| text(container, "name")).collect()
    }

    /// The security contexts that exist: the pod's own first.
    pub fn own(self) -> &'a Value {
        get(self.spec, "securityContext")
    }

    /// Who sets what `bad` holds for: `pod and containers "a", "b"`; none if nobody does.
    pub fn setters(self, bad: impl Fn(&'a Value) -> bool) -> Option<String> {
        let mut setters = Vec::new();
        if bad(self.own()) {
            setters.push("pod".to_owned());
        }
        let containers = self.bad(|container| bad(context(container)));
        if !containers.is_empty() {
            setters.push(containers_named(&containers));
        }
        (!setters.is_empty()).then(|| setters.join(" and "))
    }

    /// All values that `of` finds in the pod's and the containers' security contexts.
    pub fn values(self, of: impl Fn(&'a Value) -> Option<&'a str>) -> BTreeSet<&'a str> {
        let contexts = std::iter::once(self.own()).chain(self.containers().map(context));
        contexts.filter_map(of).collect()
    }

    /// Whether rules for Linux mean nothing to it.
    pub fn is_windows(self) -> bool {
        self.minor >= 25 && at(self.spec, &["os", "name"]) == "windows"
    }

    /// Whether its root is nobody on the node.
    pub fn has_own_users(self) -> bool {
        get(self.spec, "hostUsers") == false
    }
}

/// A container's security context.
pub(super) fn context(container: &Value) -> &Value {
    get(container, "securityContext")
}

/// `one` or `many`.
pub(super) fn plural<'w>(one: &'w str, many: &'w str, count: usize) -> &'w str {
    if count == 1 { one } else { many }
}

/// `container "a"`, `containers "a", "b"`.
pub(super) fn containers_named(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

/// `"a", "b"`.
pub(super) fn quoted<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    names.into_iter().map(|name| format!("\"{}\"", name.as_ref())).collect::<Vec<_>>().join(", ")
}
