//! Which requests a webhook or a policy is asked about: rules, what is equivalent to what they name, selectors.
//!
//! Invariants
//! - Compiled once for each version of an object; matching allocates nothing where nothing is matched.
//! - Who says what webhooks and policies there are is judged by none of them, or nobody could put right what went wrong.

mod rules;

use std::sync::Arc;

use kontiki_machinery::{
    ResourceDef, Status, Table,
    admission::{Lookup, Operation, Request},
};
use kontiki_model::{resource::NAMESPACES, selector::Selector};
use serde_json::Value;

pub use rules::{About, Rule};

use crate::rows::{
    selector,
    value::{at, get, list, text},
};

/// The group whose objects are judged by nobody.
const REGISTRATION: &str = "admissionregistration.k8s.io";

/// Which requests are meant.
#[derive(Clone, Debug)]
pub struct Matching {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    /// Whether a request is meant that shows what a rule names in another form.
    equivalent: bool,
    namespaces: Option<Selector>,
    objects: Option<Selector>,
}

impl Matching {
    /// What a webhook, or the `matchConstraints` or `matchResources` of a policy, says, with its defaults; `rules` is the
    /// field of its rules. Without rules nothing is meant.
    #[must_use]
    pub fn of(owner: &Value, rules: &str) -> Self {
        let selected = |field: &str| {
            let labels = get(owner, field);
            // One that cannot be used was refused when it was written.
            if selector::is_empty(labels) { None } else { selector::parse(labels) }
        };
        Self {
            rules: list(owner, rules).iter().map(Rule::of).collect(),
            excluded: list(owner, "excludeResourceRules").iter().map(Rule::of).collect(),
            equivalent: text(owner, "matchPolicy") != "Exact",
            namespaces: selected("namespaceSelector"),
            objects: selected("objectSelector"),
        }
    }

    /// Whether it has no rules of its own.
    #[must_use]
    pub fn says_nothing(&self) -> bool {
        self.rules.is_empty()
    }

    /// As what the request is meant: by its own row, or by another that shows the same object. `None`: it is not.
    #[must_use]
    pub fn resource(&self, request: &Request<'_>, table: &Table) -> Option<Arc<ResourceDef>> {
        let about = About::of(request);
        if self.excluded.iter().any(|rule| self.meant(rule, &about, request.def, table).is_some()) {
            return None;
        }
        let exact = self.rules.iter().any(|rule| rule.names(&about, request.def));
        if exact {
            let own = table.find(&request.def.group, &request.def.version, &request.def.plural);
            return own.cloned();
        }
        self.rules.iter().find_map(|rule| self.meant(rule, &about, request.def, table))
    }

    fn meant(&self, rule: &Rule, about: &About<'_>, def: &ResourceDef, table: &Table) -> Option<Arc<ResourceDef>> {
        let views = table.views(def).iter();
        let mut known = views.filter(|view| self.equivalent || view.api_version() == def.api_version());
        known.find(|view| rule.names(about, view)).cloned()
    }

    /// Whether the selectors let the request pass.
    ///
    /// # Errors
    /// 404 if its namespace is not there, or it cannot be read.
    pub fn selects(&self, request: &Request<'_>, object: &Value, cluster: &dyn Lookup) -> Result<bool, Status> {
        Ok(self.selects_object(request, object) && self.selects_namespace(request, object, cluster)?)
    }

    /// Either of the objects may have the labels.
    fn selects_object(&self, request: &Request<'_>, object: &Value) -> bool {
        let Some(wanted) = &self.objects else { return true };
        let has = |object: &Value| {
            object["metadata"].is_object() && selector::matches(wanted, at(object, &["metadata", "labels"]))
        };
        has(object) || request.old.is_some_and(has)
    }

    fn selects_namespace(&self, request: &Request<'_>, object: &Value, cluster: &dyn Lookup) -> Result<bool, Status> {
        let Some(wanted) = &self.namespaces else { return Ok(true) };
        let own = request.def.group_resource() == NAMESPACES && request.sub.is_none();
        // What is written of a namespace counts, not what is there yet.
        if own && matches!(request.operation, Operation::Create | Operation::Update) {
            return Ok(selector::matches(wanted, at(object, &["metadata", "labels"])));
        }
        let Some(namespace) = namespace_of(request, object) else { return Ok(true) };
        let found = cluster.glance(NAMESPACES, None, namespace)?;
        let found = found.ok_or_else(|| Status::not_found(NAMESPACES, namespace))?;
        Ok(selector::matches(wanted, at(&found, &["metadata", "labels"])))
    }
}

/// Whether a request is about who judges requests.
#[must_use]
pub fn is_exempt(request: &Request<'_>) -> bool {
    request.def.group == REGISTRATION
}

/// The namespace of a request, as admission has it: that of a Namespace is the Namespace itself.
#[must_use]
pub fn namespace_of<'a>(request: &'a Request<'_>, object: &'a Value) -> Option<&'a str> {
    if request.def.group_resource() != NAMESPACES {
        return request.namespace;
    }
    Some(request.named(object)).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests;
