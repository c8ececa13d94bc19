//! Role-based access control: who is bound to which roles, found by the subject that asks.
//!
//! Invariants
//! - The index says what the bindings and roles that it was told of say, whatever the order in which they came.
//! - A question costs as much as the asker has bindings, however many there are.
//!
//! Not here: who reads the objects from the store (the API follows them), and the roles that every cluster has
//! (`kontiki-plan`).

mod index;

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use kontiki_machinery::access::{Attributes, Authorizer, Decision, Objects, Rule, User};
use kontiki_model::{GroupResource, ObjectKey};

use self::index::{Granted, Index};
use super::rules::allows;
use crate::rows::rbac::GROUP;

const fn resource(resource: &'static str) -> GroupResource<'static> {
    GroupResource { group: GROUP, resource }
}

/// Roles and bindings of namespaces, and those beyond them.
const FOLLOWED: [GroupResource<'static>; 4] =
    [resource("roles"), resource("clusterroles"), resource("rolebindings"), resource("clusterrolebindings")];

/// See the module.
#[derive(Default)]
pub struct Rbac(RwLock<Index>);

impl Rbac {
    fn index(&self) -> RwLockReadGuard<'_, Index> {
        // A change is made whole or not at all as far as readers care: each map is right for itself.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Authorizer for Rbac {
    fn authorize(&self, user: &User, asked: &Attributes<'_>, _: &dyn Objects) -> Decision {
        let index = self.index();
        let found = index.granted(user, asked.namespace).any(|granted| match granted {
            Granted::Rules(_, rules) => rules.iter().any(|rule| allows(rule, asked)),
            Granted::Missing(_) => false,
        });
        if found { Decision::Allow } else { Decision::NoOpinion }
    }

    fn explain(&self, user: &User, asked: &Attributes<'_>, _: &dyn Objects) -> String {
        let index = self.index();
        let mut missing = Vec::new();
        for granted in index.granted(user, asked.namespace) {
            match granted {
                Granted::Rules(binding, rules) if rules.iter().any(|rule| allows(rule, asked)) => {
                    return format!("RBAC: allowed by {}", binding.describe(user));
                }
                Granted::Rules(..) => {}
                Granted::Missing(binding) => missing.push(binding.role_not_found()),
            }
        }
        missing.dedup();
        match &missing[..] {
            [] => String::new(),
            [one] => format!("RBAC: {one}"),
            several => format!("RBAC: [{}]", several.join(", ")),
        }
    }

    fn rules(&self, user: &User, namespace: &str) -> Vec<Rule> {
        let index = self.index();
        let rules = index.granted(user, namespace).filter_map(|granted| match granted {
            Granted::Rules(_, rules) => Some(rules.to_vec()),
            Granted::Missing(_) => None,
        });
        rules.flatten().collect()
    }

    fn follows(&self) -> &'static [GroupResource<'static>] {
        &FOLLOWED
    }

    fn changed(&self, key: &ObjectKey, object: Option<&[u8]>) {
        // What cannot be read grants nothing.
        let object = object.and_then(|bytes| serde_json::from_slice(bytes).ok());
        let namespace = key.namespace.as_deref().unwrap_or_default();
        let mut index = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if key.resource.ends_with("bindings") {
            index.put_binding(namespace, &key.name, object.as_ref());
        } else {
            index.put_role(namespace, &key.name, object.as_ref());
        }
    }
}

#[cfg(test)]
mod tests;
