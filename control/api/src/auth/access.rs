//! Authorization, closed by default: administrators may do everything, a node what its own pods
//! need ([`crate::auth::node`]), everybody else discovery and questions about themselves.

use kontiki_model::GroupResource;

use crate::auth::identity::{ANONYMOUS, AUTHENTICATED, MASTERS};
use crate::auth::node;
use crate::{Api, Status, User};

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes<'a> {
    pub verb: &'a str,
    /// Empty for a path outside the resources.
    pub resource: &'a str,
    pub group: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub path: &'a str,
    /// The node that a field selector narrows a list of pods to.
    pub node: Option<&'a str>,
}

/// Paths that anybody may read.
const OPEN_PATHS: &[&str] = &["/livez", "/readyz", "/healthz", "/version"];
/// Paths that any authenticated user may read.
const DISCOVERY_PATHS: &[&str] = &["/api", "/apis", "/openapi"];
/// What any authenticated user may create.
const SELF_REVIEWS: &[(&str, &str)] = &[
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authentication.k8s.io", "selfsubjectreviews"),
];

impl Api {
    /// Whether `user` may do this.
    pub(crate) fn allowed(&self, user: &User, asked: &Attributes<'_>) -> bool {
        user.in_group(MASTERS) || open_to_all(user, asked) || node::allowed(&self.store().snapshot(), user, asked)
    }

    /// 401 or 403 unless `user` may do this.
    pub(crate) fn authorize(&self, user: &User, asked: &Attributes<'_>) -> Result<(), Status> {
        if self.allowed(user, asked) {
            return Ok(());
        }
        if user.name == ANONYMOUS { Err(Status::unauthorized()) } else { Err(forbidden(user, asked)) }
    }
}

fn open_to_all(user: &User, asked: &Attributes<'_>) -> bool {
    let authenticated = user.in_group(AUTHENTICATED);
    if asked.resource.is_empty() {
        let reads = asked.verb == "get";
        let below = |roots: &[&str]| roots.iter().any(|root| is_below(asked.path, root));
        return reads && (below(OPEN_PATHS) || (authenticated && below(DISCOVERY_PATHS)));
    }
    authenticated && asked.verb == "create" && SELF_REVIEWS.contains(&(asked.group, asked.resource))
}

fn is_below(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What any authenticated user may do, as SelfSubjectRulesReview lists it.
pub(crate) fn common_rules() -> (Vec<(&'static str, &'static str)>, Vec<String>) {
    let paths = OPEN_PATHS.iter().chain(DISCOVERY_PATHS).flat_map(|p| [(*p).to_owned(), format!("{p}/*")]);
    (SELF_REVIEWS.to_vec(), paths.collect())
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

    #[test]
    fn doors_are_closed_unless_listed() {
        let account = User::new("system:serviceaccount:a:b", &[AUTHENTICATED]);
        let path = |path: &'static str| Attributes { verb: "get", path, ..Attributes::default() };
        let create = |group: &'static str, resource: &'static str| Attributes {
            verb: "create",
            group,
            resource,
            ..Attributes::default()
        };
        for (user, asked, expect) in [
            (&User::anonymous(), path("/livez"), true),
            (&User::anonymous(), path("/livez/ping"), true),
            (&User::anonymous(), path("/livezz"), false),
            (&User::anonymous(), path("/api"), false),
            (&User::anonymous(), path("/metrics"), false),
            (&account, path("/apis/apps/v1"), true),
            (&account, path("/metrics"), false),
            (&account, create("authorization.k8s.io", "selfsubjectaccessreviews"), true),
            (&account, create("authorization.k8s.io", "subjectaccessreviews"), false),
            (&account, create("", "pods"), false),
        ] {
            assert_eq!(open_to_all(user, &asked), expect, "{} {asked:?}", user.name);
        }
    }
}
