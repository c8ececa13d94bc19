//! Authorization, closed by default: administrators may do everything, everybody else discovery, questions about
//! themselves, and what one of the chain of authorizers allows.

use std::time::Instant;

use kontiki_machinery::access::{Attributes, Decision, Member, Objects};
use kontiki_machinery::resource::{Creation, Review};
use kontiki_machinery::{GroupResource, ResourceDef};
use kontiki_model::{ObjectKey, key};
use kontiki_store::Snapshot;
use serde_json::Value;

use crate::auth::identity::{ANONYMOUS, AUTHENTICATED, MASTERS};
use crate::deadline::within;
use crate::{Api, Status, User};

/// Paths that anybody may read.
const OPEN_PATHS: &[&str] = &["/livez", "/readyz", "/healthz", "/version"];
/// Paths that any authenticated user may read.
const DISCOVERY_PATHS: &[&str] = &["/api", "/apis", "/openapi"];

impl Api {
    /// Whether `user` may do this, as far as can be found out before `deadline`.
    ///
    /// # Errors
    /// 504: an authorizer did not answer in time.
    pub(crate) async fn allowed(&self, user: &User, asked: &Attributes<'_>, deadline: Instant) -> Result<bool, Status> {
        if user.in_group(MASTERS) || self.open_to_all(user, asked) {
            return Ok(true);
        }
        let mut seen = None;
        for member in &self.inner.config.authorizers {
            let decision = match member {
                Member::Pure(authorizer) => {
                    let seen = seen.get_or_insert_with(|| Seen(self.store().snapshot()));
                    authorizer.authorize(user, asked, seen)
                }
                Member::Async(authorizer) => {
                    seen = None; // the others look at what is so after the wait
                    within(deadline, authorizer.authorize(user, asked)).await?
                }
            };
            match decision {
                Decision::Allow => return Ok(true),
                Decision::Deny => return Ok(false),
                Decision::NoOpinion => {}
            }
        }
        Ok(false)
    }

    fn open_to_all(&self, user: &User, asked: &Attributes<'_>) -> bool {
        if asked.resource.is_empty() {
            return open_path(user, asked);
        }
        let resource = GroupResource { group: asked.group, resource: asked.resource };
        user.in_group(AUTHENTICATED)
            && asked.verb == "create"
            && self.registry().table().find_resource(resource).is_some_and(|def| is_about_oneself(def))
    }

    /// 401 or 403 unless `user` may do this.
    pub(crate) async fn authorize(&self, user: &User, asked: &Attributes<'_>, deadline: Instant) -> Result<(), Status> {
        if self.allowed(user, asked, deadline).await? {
            return Ok(());
        }
        if user.name == ANONYMOUS { Err(Status::unauthorized()) } else { Err(forbidden(user, asked)) }
    }
}

/// Whether a kind is a question about oneself, which any authenticated user may ask.
pub(crate) fn is_about_oneself(def: &ResourceDef) -> bool {
    matches!(def.creation, Creation::Review(Review::SelfSubject | Review::SelfAccess | Review::SelfRules))
}

fn open_path(user: &User, asked: &Attributes<'_>) -> bool {
    let below = |roots: &[&str]| roots.iter().any(|root| is_below(asked.path, root));
    asked.verb == "get" && (below(OPEN_PATHS) || (user.in_group(AUTHENTICATED) && below(DISCOVERY_PATHS)))
}

/// A snapshot, for authorizers.
struct Seen(Snapshot);

impl Objects for Seen {
    fn get(&self, resource: GroupResource<'_>, namespace: Option<&str>, name: &str) -> Option<Value> {
        let entry = self.0.get(&ObjectKey::new(resource, namespace, name).encode())?;
        serde_json::from_slice(&entry.value).ok()
    }

    fn list<'a>(&'a self, resource: GroupResource<'_>, namespace: &str) -> Box<dyn Iterator<Item = Value> + 'a> {
        let prefix = key::prefix(resource, Some(namespace));
        Box::new(self.0.range(prefix.as_bytes()).filter_map(|entry| serde_json::from_slice(&entry.value).ok()))
    }
}

fn is_below(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Paths that any authenticated user may read, as a list of rules has them.
pub(crate) fn common_paths() -> Vec<String> {
    OPEN_PATHS.iter().chain(DISCOVERY_PATHS).flat_map(|p| [(*p).to_owned(), format!("{p}/*")]).collect()
}

fn forbidden(user: &User, asked: &Attributes<'_>) -> Status {
    let (name, verb) = (&user.name, asked.verb);
    if asked.resource.is_empty() {
        let none = GroupResource { group: "", resource: "" };
        return Status::forbidden(none, "", format!("User \"{name}\" cannot {verb} path \"{}\"", asked.path));
    }
    let resource = match asked.subresource {
        "" => asked.resource.to_owned(),
        sub => format!("{}/{sub}", asked.resource),
    };
    let place = match asked.namespace {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace \"{namespace}\""),
    };
    let message =
        format!("User \"{name}\" cannot {verb} resource \"{resource}\" in API group \"{}\" {place}", asked.group);
    Status::forbidden(GroupResource { group: asked.group, resource: asked.resource }, asked.name, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::identity::anonymous;

    #[test]
    fn doors_are_closed_unless_listed() {
        let account = User::new("system:serviceaccount:a:b", &[AUTHENTICATED]);
        let path = |path: &'static str| Attributes { verb: "get", path, ..Attributes::default() };
        for (user, asked, expect) in [
            (&anonymous(), path("/livez"), true),
            (&anonymous(), path("/livez/ping"), true),
            (&anonymous(), path("/livezz"), false),
            (&anonymous(), path("/api"), false),
            (&anonymous(), path("/metrics"), false),
            (&account, path("/apis/apps/v1"), true),
            (&account, path("/metrics"), false),
        ] {
            assert_eq!(open_path(user, &asked), expect, "{} {asked:?}", user.name);
        }
    }
}
