//! Authorization, closed by default: administrators may do everything, everybody else what one of the chain of authorizers
//! allows.

use std::time::Instant;

use kontiki_cache::Snapshot;
use kontiki_machinery::GroupResource;
use kontiki_machinery::access::{Attributes, Decision, Member};

use crate::auth::identity::MASTERS;
use crate::deadline::within;
use crate::objects::Seen;
use crate::{Api, Status, User};

impl Api {
    /// Whether `user` may do this, as far as can be found out before `deadline`.
    ///
    /// # Errors
    /// 504: an authorizer did not answer in time.
    pub(crate) async fn allowed(&self, user: &User, asked: &Attributes<'_>, deadline: Instant) -> Result<bool, Status> {
        if user.in_group(MASTERS) || self.ask(user, asked, deadline).await? {
            return Ok(true);
        }
        // What was granted a moment ago may not have reached those who follow the objects: a no is said on what is so.
        let newest = self.backend().snapshot().revision();
        if self.inner.following.is_empty() || self.cache().revision() >= newest {
            return Ok(false);
        }
        within(deadline, Box::pin(self.cache().wait_for(newest))).await?;
        self.ask(user, asked, deadline).await
    }

    async fn ask(&self, user: &User, asked: &Attributes<'_>, deadline: Instant) -> Result<bool, Status> {
        let mut seen = None;
        for member in &self.inner.config.authorizers {
            let decision = match member {
                Member::Pure(authorizer) => {
                    let seen = seen.get_or_insert_with(|| Seen(self.backend().snapshot()));
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

    /// Whether those authorizers allow this who need not wait, on one state.
    pub(crate) fn allowed_at_once(&self, user: &User, asked: &Attributes<'_>, state: &Snapshot) -> bool {
        let seen = Seen(state.clone());
        let mut pure = self.inner.config.authorizers.iter().filter_map(|member| match member {
            Member::Pure(authorizer) => Some(authorizer.authorize(user, asked, &seen)),
            Member::Async(_) => None,
        });
        user.in_group(MASTERS) || pure.find(|said| *said != Decision::NoOpinion) == Some(Decision::Allow)
    }

    /// Why `user` may do this, or may not, for people; empty if there is nothing to say.
    pub(crate) fn explain(&self, user: &User, asked: &Attributes<'_>) -> String {
        if user.in_group(MASTERS) {
            return String::new();
        }
        let seen = Seen(self.backend().snapshot());
        let mut reasons = Vec::new();
        for member in &self.inner.config.authorizers {
            let Member::Pure(authorizer) = member else { continue };
            let said = authorizer.explain(user, asked, &seen);
            if authorizer.authorize(user, asked, &seen) != Decision::NoOpinion {
                return said;
            }
            reasons.extend(Some(said).filter(|said| !said.is_empty()));
        }
        reasons.join("\n")
    }

    /// 403 unless `user` may do this.
    pub(crate) async fn authorize(&self, user: &User, asked: &Attributes<'_>, deadline: Instant) -> Result<(), Status> {
        if self.allowed(user, asked, deadline).await? {
            return Ok(());
        }
        Err(forbidden(user, asked, &self.explain(user, asked)))
    }
}

/// 403 in upstream's words.
pub(crate) fn forbidden(user: &User, asked: &Attributes<'_>, reason: &str) -> Status {
    let (name, verb) = (&user.name, asked.verb);
    let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    if asked.resource.is_empty() {
        let none = GroupResource { group: "", resource: "" };
        return Status::forbidden(none, "", format!("User \"{name}\" cannot {verb} path \"{}\"{because}", asked.path));
    }
    let resource = match asked.subresource {
        "" => asked.resource.to_owned(),
        sub => format!("{}/{sub}", asked.resource),
    };
    let place = match asked.namespace {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace \"{namespace}\""),
    };
    let message = format!(
        "User \"{name}\" cannot {verb} resource \"{resource}\" in API group \"{}\" {place}{because}",
        asked.group
    );
    Status::forbidden(GroupResource { group: asked.group, resource: asked.resource }, asked.name, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_who_may_not_do_what_where() {
        let user = User::new("ann", &[]);
        let base = Attributes { verb: "get", resource: "pods", ..Attributes::default() };
        for (asked, reason, expect) in [
            (
                base.clone(),
                "",
                "pods is forbidden: User \"ann\" cannot get resource \"pods\" in API group \"\" at the cluster scope",
            ),
            (
                Attributes { namespace: "a", name: "p", subresource: "log", ..base.clone() },
                "RBAC: x",
                "pods \"p\" is forbidden: User \"ann\" cannot get resource \"pods/log\" in API group \"\" in the \
                 namespace \"a\": RBAC: x",
            ),
            (
                Attributes { resource: "", path: "/metrics", ..base },
                "",
                "forbidden: User \"ann\" cannot get path \"/metrics\"",
            ),
        ] {
            assert_eq!(forbidden(&user, &asked, reason).message, expect);
        }
    }
}
