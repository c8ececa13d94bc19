//! Bindings by subject, and the rules of roles by name.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use kontiki_machinery::access::{Rule, User};
use serde_json::Value;

use crate::field_error::quote;
use crate::rows::value::{get, list, text};

/// A binding, as far as it matters for who may do what.
pub(super) struct Binding {
    /// Empty beyond namespaces.
    namespace: String,
    name: String,
    /// Kind and name of its role.
    role: (String, String),
    subjects: Vec<Subject>,
}

#[derive(PartialEq, Eq)]
struct Subject {
    kind: Kind,
    /// What a user must be called, or what group they must be in.
    matches: String,
    /// As messages show it.
    shown: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    User,
    Group,
}

impl Subject {
    /// `None`: it is nobody.
    fn of(subject: &Value, place: &str) -> Option<Self> {
        let (kind, name) = (text(subject, "kind"), text(subject, "name"));
        let shown = |name: &str| format!("{kind} {}", quote(name));
        match kind {
            "User" => Some(Self { kind: Kind::User, matches: name.to_owned(), shown: shown(name) }),
            "Group" => Some(Self { kind: Kind::Group, matches: name.to_owned(), shown: shown(name) }),
            "ServiceAccount" => {
                let own = text(subject, "namespace");
                let namespace = if own.is_empty() { place } else { own };
                let matches = format!("system:serviceaccount:{namespace}:{name}");
                let shown = shown(&format!("{name}/{namespace}"));
                (!namespace.is_empty()).then_some(Self { kind: Kind::User, matches, shown })
            }
            _ => None,
        }
    }

    fn is(&self, user: &User) -> bool {
        match self.kind {
            Kind::User => self.matches == user.name,
            Kind::Group => user.in_group(&self.matches),
        }
    }
}

impl Binding {
    fn of(namespace: &str, name: &str, object: &Value) -> Self {
        let role = get(object, "roleRef");
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            role: (text(role, "kind").to_owned(), text(role, "name").to_owned()),
            subjects: list(object, "subjects").iter().filter_map(|one| Subject::of(one, namespace)).collect(),
        }
    }

    /// Where its role lies: empty beyond namespaces.
    fn role_namespace(&self) -> &str {
        if self.role.0 == "Role" { &self.namespace } else { "" }
    }

    /// How it lets `user` do something.
    pub fn describe(&self, user: &User) -> String {
        let (kind, name) = match &self.namespace[..] {
            "" => ("ClusterRoleBinding", self.name.clone()),
            namespace => ("RoleBinding", format!("{}/{namespace}", self.name)),
        };
        let subject = self.subjects.iter().find(|subject| subject.is(user)).map_or("", |subject| &subject.shown);
        format!("{kind} {} of {} {} to {subject}", quote(&name), self.role.0, quote(&self.role.1))
    }

    /// What is wrong with it if its role is missing.
    pub fn role_not_found(&self) -> String {
        let kind = self.role.0.to_lowercase();
        format!("{kind}.{} {} not found", crate::rows::rbac::GROUP, quote(&self.role.1))
    }
}

/// The bindings of one place (a namespace, or the cluster), by whom they bind, each list by name.
#[derive(Default)]
struct Place {
    users: HashMap<String, Vec<Arc<Binding>>>,
    groups: HashMap<String, Vec<Arc<Binding>>>,
    all: BTreeMap<String, Arc<Binding>>,
}

impl Place {
    fn by(&mut self, kind: Kind) -> &mut HashMap<String, Vec<Arc<Binding>>> {
        match kind {
            Kind::User => &mut self.users,
            Kind::Group => &mut self.groups,
        }
    }

    fn put(&mut self, name: &str, binding: Option<Binding>) {
        if let Some(old) = self.all.remove(name) {
            for subject in &old.subjects {
                let map = self.by(subject.kind);
                let Some(list) = map.get_mut(&subject.matches) else { continue };
                list.retain(|known| known.name != name);
                if list.is_empty() {
                    map.remove(&subject.matches);
                }
            }
        }
        let Some(binding) = binding.map(Arc::new) else { return };
        for subject in &binding.subjects {
            let list = self.by(subject.kind).entry(subject.matches.clone()).or_default();
            if let Err(at) = list.binary_search_by(|known| known.name.as_str().cmp(name)) {
                list.insert(at, Arc::clone(&binding));
            }
        }
        self.all.insert(name.to_owned(), binding);
    }

    fn of<'a>(&'a self, user: &'a User) -> impl Iterator<Item = &'a Arc<Binding>> {
        let groups = user.groups.iter().filter_map(|group| self.groups.get(group)).flatten();
        self.users.get(&user.name).into_iter().flatten().chain(groups)
    }
}

/// What a binding of somebody gives them.
pub(super) enum Granted<'a> {
    Rules(&'a Binding, &'a [Rule]),
    /// Its role is not there.
    Missing(&'a Binding),
}

/// See the module.
#[derive(Default)]
pub(super) struct Index {
    /// By namespace (empty: the cluster's) and name.
    roles: HashMap<String, HashMap<String, Vec<Rule>>>,
    cluster: Place,
    namespaces: HashMap<String, Place>,
}

impl Index {
    pub fn put_role(&mut self, namespace: &str, name: &str, object: Option<&Value>) {
        let roles = self.roles.entry(namespace.to_owned()).or_default();
        match object {
            Some(role) => drop(roles.insert(name.to_owned(), Rule::list(role))),
            None => drop(roles.remove(name)),
        }
        if roles.is_empty() {
            self.roles.remove(namespace);
        }
    }

    pub fn put_binding(&mut self, namespace: &str, name: &str, object: Option<&Value>) {
        let binding = object.map(|object| Binding::of(namespace, name, object));
        if namespace.is_empty() {
            return self.cluster.put(name, binding);
        }
        let place = self.namespaces.entry(namespace.to_owned()).or_default();
        place.put(name, binding);
        if place.all.is_empty() {
            self.namespaces.remove(namespace);
        }
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        let cluster = self.cluster.users.is_empty() && self.cluster.groups.is_empty() && self.cluster.all.is_empty();
        self.roles.is_empty() && self.namespaces.is_empty() && cluster
    }

    /// What each binding gives to `user` in a namespace; empty: outside of namespaces.
    pub fn granted<'a>(&'a self, user: &'a User, namespace: &str) -> impl Iterator<Item = Granted<'a>> {
        let local = self.namespaces.get(namespace).into_iter().flat_map(|place| place.of(user));
        self.cluster.of(user).chain(local).map(|binding| {
            let roles = self.roles.get(binding.role_namespace());
            match roles.and_then(|roles| roles.get(&binding.role.1)) {
                Some(rules) => Granted::Rules(binding, rules),
                None => Granted::Missing(binding),
            }
        })
    }
}
