//! Who asks for what, and the chain of those who may allow it.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use jiff::Timestamp;
use kontiki_model::ObjectKey;
pub use kontiki_model::Rule;
use kontiki_model::selector::Requirement;
use serde_json::Value;

use crate::{GroupResource, admission::Waiting};

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User name.
    pub name: String,
    /// Unique id, where the authenticator knows one.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Whatever else the authenticator found.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user of `groups`, without id and extras.
    #[must_use]
    pub fn new(name: &str, groups: &[&str]) -> Self {
        Self { name: name.to_owned(), groups: groups.iter().map(|g| (*g).to_owned()).collect(), ..Self::default() }
    }

    /// Whether the user is a member of `group`.
    #[must_use]
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Attributes<'a> {
    /// A verb of a resource, or the method of a path in small letters.
    pub verb: &'a str,
    /// Empty for a path outside the resources.
    pub resource: &'a str,
    /// API group.
    pub group: &'a str,
    /// Version of the group, where one is known.
    pub version: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// Empty across namespaces and for what has none.
    pub namespace: &'a str,
    /// Empty for a collection.
    pub name: &'a str,
    /// The path, where it is no resource.
    pub path: &'a str,
    /// Fields that a selector narrows a collection to, with their values.
    pub fields: &'a [(&'a str, &'a str)],
    /// What a selector demands of the labels.
    pub labels: &'a [Requirement],
}

impl Attributes<'_> {
    /// Whether nothing is changed.
    #[must_use]
    pub fn reads(&self) -> bool {
        matches!(self.verb, "get" | "list" | "watch")
    }

    /// The value that a selector demands of the field at `path`.
    #[must_use]
    pub fn field(&self, path: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| *known == path).map(|(_, value)| *value)
    }
}

/// A question about a resource that is asked later than it is put together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// The verb.
    pub verb: String,
    /// API group.
    pub group: String,
    /// Plural name of the resource, which need not exist (`signers`).
    pub resource: String,
    /// Empty for the object itself.
    pub subresource: String,
    /// Empty across namespaces and for what has none.
    pub namespace: String,
    /// Empty for a collection.
    pub name: String,
}

impl Question {
    /// What authorizers are asked.
    #[must_use]
    pub fn attributes(&self) -> Attributes<'_> {
        Attributes {
            verb: &self.verb,
            resource: &self.resource,
            group: &self.group,
            subresource: &self.subresource,
            namespace: &self.namespace,
            name: &self.name,
            ..Attributes::default()
        }
    }
}

/// Objects as of one state, for those who judge by them.
pub trait Objects {
    /// One object.
    fn get(&self, resource: GroupResource<'_>, namespace: Option<&str>, name: &str) -> Option<Value>;

    /// All objects of a namespace.
    fn list<'a>(&'a self, resource: GroupResource<'_>, namespace: &str) -> Box<dyn Iterator<Item = Value> + 'a>;
}

/// What an authorizer says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Go on.
    Allow,
    /// Stop.
    Deny,
    /// Ask the next one; after the last one it is a no.
    NoOpinion,
}

/// One that needs nothing but the question and the cluster's state.
pub trait Authorizer: Send + Sync {
    /// Judges a request.
    fn authorize(&self, user: &User, asked: &Attributes<'_>, objects: &dyn Objects) -> Decision;

    /// Why it decides so, for people; empty if there is nothing to say.
    fn explain(&self, _user: &User, _asked: &Attributes<'_>, _objects: &dyn Objects) -> String {
        String::new()
    }

    /// The rules by which it allows something in a namespace; empty: outside of namespaces.
    fn rules(&self, _user: &User, _namespace: &str) -> Vec<Rule> {
        Vec::new()
    }

    /// The resources whose objects it keeps in a form of its own, to judge by them. Whoever runs it tells it of each
    /// that is there, then of each change ([`Self::changed`]), in order.
    fn follows(&self) -> &'static [GroupResource<'static>] {
        &[]
    }

    /// An object is so now, as it is stored; `None`: it is gone.
    fn changed(&self, _key: &ObjectKey, _object: Option<&[u8]>) {}

    /// Why what a user may do cannot be listed; `None` if it can.
    fn unlisted(&self, _user: &User) -> Option<&'static str> {
        None
    }
}

/// When something is asked, and how long an answer is waited for.
#[derive(Clone, Copy, Debug)]
pub struct When {
    /// The time.
    pub now: Timestamp,
    /// When whoever asks stops waiting.
    pub deadline: Instant,
}

/// What one that waits says, and why; the reason may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// What.
    pub decision: Decision,
    /// Why, for people.
    pub reason: String,
}

impl From<Decision> for Said {
    fn from(decision: Decision) -> Self {
        Self { decision, reason: String::new() }
    }
}

/// One that waits for somebody else, e.g. over the network. Who asks stops waiting when the request's time is over; it
/// may be dropped at any `await`.
pub trait AsyncAuthorizer: Send + Sync {
    /// Judges a request.
    fn authorize<'a>(&'a self, user: &'a User, asked: &'a Attributes<'a>, when: When) -> Waiting<'a, Said>;

    /// Why what a user may do cannot be listed; `None` if it can.
    fn unlisted(&self, _user: &User) -> Option<&'static str> {
        None
    }
}

/// One of the chain of authorizers.
#[derive(Clone)]
pub enum Member {
    /// Decides at once.
    Pure(Arc<dyn Authorizer>),
    /// Waits.
    Async(Arc<dyn AsyncAuthorizer>),
}

impl Member {
    /// Why what `user` may do cannot be listed; `None` if it can.
    #[must_use]
    pub fn unlisted(&self, user: &User) -> Option<&'static str> {
        match self {
            Self::Pure(authorizer) => authorizer.unlisted(user),
            Self::Async(authorizer) => authorizer.unlisted(user),
        }
    }

    /// The rules by which `user` may do something in a namespace, as far as they can be listed.
    #[must_use]
    pub fn rules(&self, user: &User, namespace: &str) -> Vec<Rule> {
        match self {
            Self::Pure(authorizer) => authorizer.rules(user, namespace),
            Self::Async(_) => Vec::new(),
        }
    }
}
