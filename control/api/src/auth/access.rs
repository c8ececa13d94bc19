//! Authorization, closed by default: administrators may do everything, everybody else what one of the chain of authorizers
//! allows.

use std::time::Instant;

use kontiki_cache::Snapshot;
use kontiki_machinery::GroupResource;
use kontiki_machinery::access::{Attributes, Decision, Member, Said, When};

use crate::auth::identity::MASTERS;
use crate::deadline::within;
use crate::objects::Seen;
use crate::{Api, Status, User};

/// What came of asking the authorizers.
#[derive(Default)]
pub(crate) struct Judged {
    pub allowed: bool,
    /// What those said who had to be waited for, by their place in the chain.
    heard: Vec<(usize, Said)>,
}

impl Judged {
    fn to(allowed: bool) -> Self {
        Self { allowed, heard: Vec::new() }
    }
}

impl Api {
    /// Whether `user` may do this, as far as can be found out before `deadline`.
    ///
    /// # Errors
    /// 504: an authorizer did not answer in time.
    pub(crate) async fn allowed(&self, user: &User, asked: &Attributes<'_>, deadline: Instant) -> Result<bool, Status> {
        Ok(self.judge(user, asked, deadline).await?.allowed)
    }

    /// As [`Api::allowed`], with what was heard of others.
    ///
    /// # Errors
    /// 504: an authorizer did not answer in time.
    pub(crate) async fn judge(&self, user: &User, asked: &Attributes<'_>, deadline: Instant) -> Result<Judged, Status> {
        if user.in_group(MASTERS) {
            return Ok(Judged::to(true));
        }
        let judged = self.ask(user, asked, deadline).await?;
        // What was granted a moment ago may not have reached those who follow the objects: a no is said on what is so.
        let newest = self.backend().snapshot().revision();
        let denied = judged.heard.iter().any(|(_, said)| said.decision == Decision::Deny);
        if judged.allowed || denied || self.inner.following.is_empty() || self.cache().revision() >= newest {
            return Ok(judged);
        }
        within(deadline, Box::pin(self.cache().wait_for(newest))).await?;
        self.ask(user, asked, deadline).await
    }

    async fn ask(&self, user: &User, asked: &Attributes<'_>, deadline: Instant) -> Result<Judged, Status> {
        let (mut seen, mut judged) = (None, Judged::default());
        for (place, member) in self.authorizers().iter().enumerate() {
            let decision = match member {
                Member::Pure(authorizer) => {
                    let seen = seen.get_or_insert_with(|| Seen(self.backend().snapshot()));
                    authorizer.authorize(user, asked, seen)
                }
                Member::Async(authorizer) => {
                    seen = None; // the others look at what is so after the wait
                    let when = When { now: self.now(), deadline };
                    let said = within(deadline, authorizer.authorize(user, asked, when)).await?;
                    let decision = said.decision;
                    judged.heard.push((place, said));
                    decision
                }
            };
            match decision {
                Decision::Allow => return Ok(Judged { allowed: true, ..judged }),
                Decision::Deny => return Ok(judged),
                Decision::NoOpinion => {}
            }
        }
        Ok(judged)
    }

    /// Whether those authorizers allow this who need not wait, on one state.
    pub(crate) fn allowed_at_once(&self, user: &User, asked: &Attributes<'_>, state: &Snapshot) -> bool {
        let seen = Seen(state.clone());
        let members = self.authorizers();
        let mut pure = members.iter().filter_map(|member| match member {
            Member::Pure(authorizer) => Some(authorizer.authorize(user, asked, &seen)),
            Member::Async(_) => None,
        });
        user.in_group(MASTERS) || pure.find(|said| *said != Decision::NoOpinion) == Some(Decision::Allow)
    }

    /// Why `user` may do this, or may not, for people; empty if there is nothing to say.
    pub(crate) fn explain(&self, user: &User, asked: &Attributes<'_>, judged: &Judged) -> String {
        if user.in_group(MASTERS) {
            return String::new();
        }
        let seen = Seen(self.backend().snapshot());
        let mut reasons = Vec::new();
        for (place, member) in self.authorizers().iter().enumerate() {
            let said = match member {
                Member::Pure(authorizer) => Said {
                    decision: authorizer.authorize(user, asked, &seen),
                    reason: authorizer.explain(user, asked, &seen),
                },
                Member::Async(_) => match judged.heard.iter().find(|(heard, _)| *heard == place) {
                    Some((_, said)) => said.clone(),
                    None => continue,
                },
            };
            if said.decision != Decision::NoOpinion {
                return said.reason;
            }
            reasons.extend(Some(said.reason).filter(|reason| !reason.is_empty()));
        }
        reasons.join("\n")
    }

    /// 403 unless `user` may do this.
    pub(crate) async fn authorize(&self, user: &User, asked: &Attributes<'_>, deadline: Instant) -> Result<(), Status> {
        let judged = self.judge(user, asked, deadline).await?;
        if judged.allowed {
            return Ok(());
        }
        Err(forbidden(user, asked, &self.explain(user, asked, &judged)))
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
