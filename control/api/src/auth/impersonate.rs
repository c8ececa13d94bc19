//! Requests under another's name: `Impersonate-*` headers.
//!
//! Each part of whom the asker wants to be is a permission of its own. Constrained impersonation (KEP-5284) is tried
//! first: `impersonate-on:<mode>:<verb>` on what is asked for, then `impersonate:<mode>` on each part. Then the old way:
//! `impersonate` on each part. If nothing helps, the first refusal is the answer.

use std::collections::BTreeMap;
use std::time::Instant;

use http::HeaderMap;
use kontiki_machinery::access::Attributes;
use kontiki_machinery::meta;
use kontiki_model::resource::{NODES, SERVICE_ACCOUNTS};
use percent_encoding::percent_decode_str;

use crate::auth::access::forbidden;
use crate::auth::identity::{
    ANONYMOUS, AUTHENTICATED, MASTERS, NODE_GROUP, NODE_USER, UNAUTHENTICATED, account_groups, service_account,
};
use crate::{Api, Status, User};

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";
/// What a token of a pod says about its node.
const OWN_NODE: &str = "authentication.kubernetes.io/node-name";
/// From so many parts on, the permission for all of them at once is looked for first.
const MANY: usize = 4;

/// Ways to be somebody else, by what is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    UserInfo,
    Legacy,
}

const MODES: [Mode; 5] =
    [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::ServiceAccount, Mode::UserInfo, Mode::Legacy];

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::AssociatedNode => "associated-node",
            Self::ArbitraryNode => "arbitrary-node",
            Self::ServiceAccount => SERVICE_ACCOUNTS.resource.trim_end_matches('s'),
            Self::UserInfo => "user-info",
            Self::Legacy => "",
        }
    }

    /// The verb on the parts.
    fn verb(self) -> String {
        if self == Self::Legacy { "impersonate".to_owned() } else { format!("impersonate:{}", self.name()) }
    }

    /// The group of users and groups.
    fn group(self) -> &'static str {
        if self == Self::Legacy { "" } else { AUTHENTICATION }
    }

    /// Whether it is a way for `asker` to be `wanted`.
    fn applies(self, asker: &User, wanted: &User) -> bool {
        let only_name = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let (node, account) = (node_name(&wanted.name), service_account(&wanted.name));
        match self {
            Self::AssociatedNode => {
                let own = asker.extra.get(OWN_NODE).map(Vec::as_slice);
                only_name
                    && service_account(&asker.name).is_some()
                    && node.is_some_and(|node| matches!(own, Some([own]) if own == node))
            }
            Self::ArbitraryNode => only_name && node.is_some(),
            Self::ServiceAccount => only_name && account.is_some(),
            Self::UserInfo => node.is_none() && account.is_none(),
            Self::Legacy => true,
        }
    }
}

fn node_name(user: &str) -> Option<&str> {
    user.strip_prefix(NODE_USER).filter(|name| meta::name_is_dns_subdomain(name, false).is_empty())
}

/// Whom the headers of a request name, as they say it; `None`: nobody.
///
/// # Errors
/// 400: something of a user without a name.
pub(crate) fn wanted(headers: &HeaderMap) -> Result<Option<User>, Status> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let values = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
    };
    let mut extra = BTreeMap::<String, Vec<String>>::new();
    for name in headers.keys() {
        if let Some(key) = name.as_str().strip_prefix(EXTRA) {
            let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
            extra.entry(key).or_default().extend(values(name.as_str()));
        }
    }
    let user = User { name: text(USER), uid: text(UID), groups: values(GROUP), extra };
    if !user.name.is_empty() {
        return Ok(Some(user));
    }
    if user == User::default() {
        return Ok(None);
    }
    Err(Status::bad_request(format!("requested {} without impersonating a user name", shown(&user))))
}

/// A user as Go prints its type.
fn shown(user: &User) -> String {
    let list = |list: &[String]| match list {
        [] => "[]string(nil)".to_owned(),
        list => format!("[]string{{{}}}", list.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(", ")),
    };
    let extra: Vec<String> = user.extra.iter().map(|(key, values)| format!("{key:?}:{}", list(values))).collect();
    let extra = match &extra[..] {
        [] => "map[string][]string(nil)".to_owned(),
        extra => format!("map[string][]string{{{}}}", extra.join(", ")),
    };
    let (name, uid, groups) = (&user.name, &user.uid, list(&user.groups));
    format!("&user.DefaultInfo{{Name:{name:?}, UID:{uid:?}, Groups:{groups}, Extra:{extra}}}")
}

/// One part of a user that somebody wants to be.
struct Part {
    group: &'static str,
    resource: &'static str,
    subresource: String,
    namespace: String,
    name: String,
}

impl Part {
    fn new(group: &'static str, resource: &'static str, name: &str) -> Self {
        Self { group, resource, subresource: String::new(), namespace: String::new(), name: name.to_owned() }
    }

    fn attributes<'a>(&'a self, verb: &'a str) -> Attributes<'a> {
        Attributes {
            verb,
            group: self.group,
            resource: self.resource,
            subresource: &self.subresource,
            namespace: &self.namespace,
            name: &self.name,
            ..Attributes::default()
        }
    }
}

/// Who is asked for permission, for whom.
struct Check<'a> {
    api: &'a Api,
    asker: &'a User,
    wanted: &'a User,
    deadline: Instant,
}

impl Api {
    /// Who acts if `asker` wants to act as `wanted` for what is `asked`.
    ///
    /// # Errors
    /// 403: the asker may not. 504: an authorizer did not answer in time.
    pub(crate) async fn impersonate(
        &self,
        asker: &User,
        wanted: &User,
        asked: &Attributes<'_>,
        deadline: Instant,
    ) -> Result<User, Status> {
        let check = Check { api: self, asker, wanted, deadline };
        let mut first = None;
        for mode in MODES.into_iter().filter(|mode| mode.applies(asker, wanted)) {
            match check.mode(mode, asked).await {
                Ok(()) => return Ok(impersonated(mode, wanted)),
                Err(status) if status.code == 403 => drop(first.get_or_insert(status)),
                Err(status) => return Err(status),
            }
        }
        Err(first.unwrap_or_else(|| Status::internal("all impersonation modes failed")))
    }
}

impl Check<'_> {
    async fn mode(&self, mode: Mode, asked: &Attributes<'_>) -> Result<(), Status> {
        if mode != Mode::Legacy {
            let verb = format!("impersonate-on:{}:{}", mode.name(), asked.verb);
            self.may(&Attributes { verb: &verb, ..asked.clone() }).await?;
        }
        let verb = mode.verb();
        self.may(&self.user_part(mode).attributes(&verb)).await?;
        if !self.wanted.uid.is_empty() {
            self.may(&Part::new(AUTHENTICATION, "uids", &self.wanted.uid).attributes(&verb)).await?;
        }
        self.groups(mode, &verb).await?;
        self.extra(mode, &verb).await
    }

    async fn may(&self, asked: &Attributes<'_>) -> Result<(), Status> {
        self.api.authorize(self.asker, asked, self.deadline).await
    }

    fn user_part(&self, mode: Mode) -> Part {
        let name = &self.wanted.name;
        if let Some((namespace, account)) = service_account(name) {
            let part = Part::new(mode.group(), SERVICE_ACCOUNTS.resource, account);
            return Part { namespace: namespace.to_owned(), ..part };
        }
        match node_name(name).filter(|_| mode != Mode::Legacy) {
            // One permission for whatever node the asker is on.
            Some(_) if mode == Mode::AssociatedNode => Part::new(mode.group(), NODES.resource, "*"),
            Some(node) => Part::new(mode.group(), NODES.resource, node),
            None => Part::new(mode.group(), "users", name),
        }
    }

    async fn groups(&self, mode: Mode, verb: &str) -> Result<(), Status> {
        let groups = &self.wanted.groups;
        let part = |name: &str| Part::new(mode.group(), "groups", name);
        if mode != Mode::Legacy {
            let refuse = |name: &str, why: &str| Err(forbidden(self.asker, &part(name).attributes(verb), why));
            if groups.iter().any(String::is_empty) {
                return refuse("", "impersonating the empty string group is not allowed");
            }
            if self.wanted.in_group(MASTERS) {
                return refuse(MASTERS, "impersonating the system:masters group is not allowed");
            }
            if groups.len() >= MANY && self.may(&part("*").attributes(verb)).await.is_ok() {
                return Ok(());
            }
        }
        for group in groups {
            self.may(&part(group).attributes(verb)).await?;
        }
        Ok(())
    }

    async fn extra(&self, mode: Mode, verb: &str) -> Result<(), Status> {
        let extra = &self.wanted.extra;
        let part = |key: &str, value: &str| {
            let part = Part::new(AUTHENTICATION, "userextras", value);
            Part { subresource: key.to_owned(), ..part }
        };
        if mode != Mode::Legacy && !extra.is_empty() {
            if let Some(why) = unfit_extra(extra) {
                return Err(forbidden(self.asker, &part("", "").attributes(verb), &why));
            }
            let many = extra.len() >= MANY || extra.values().map(Vec::len).sum::<usize>() >= MANY;
            if many && self.may(&part("*", "*").attributes(verb)).await.is_ok() {
                return Ok(());
            }
        }
        for (key, values) in extra {
            for value in values {
                self.may(&part(key, value).attributes(verb)).await?;
            }
        }
        Ok(())
    }
}

/// Why nobody may take on these extras in a constrained way; `None`: they are fine.
fn unfit_extra(extra: &BTreeMap<String, Vec<String>>) -> Option<String> {
    extra.iter().find_map(|(key, values)| {
        let (host, path) = key.split_once('/').unwrap_or_default();
        if key.is_empty() {
            return Some("impersonating the empty string key in extra is not allowed".to_owned());
        }
        if path.is_empty() || !meta::dns1123_subdomain(host).is_empty() {
            let why = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            let field = format!("extra.key: Invalid value: {key:?}: {why}");
            return Some(format!("impersonating an invalid key in extra is not allowed: {field}"));
        }
        let empty = |value: &String| value.is_empty();
        values.iter().any(empty).then(|| "impersonating the empty string value in extra is not allowed".to_owned())
    })
}

/// The user that the asker has become, with the groups that go with the name.
fn impersonated(mode: Mode, wanted: &User) -> User {
    let mut user = wanted.clone();
    if user.groups.is_empty() {
        if let Some((namespace, _)) = service_account(&user.name) {
            user.groups = account_groups(namespace).into();
        } else if matches!(mode, Mode::AssociatedNode | Mode::ArbitraryNode) {
            user.groups = vec![NODE_GROUP.to_owned()];
        }
    }
    let own = if user.name == ANONYMOUS {
        UNAUTHENTICATED
    } else if user.in_group(UNAUTHENTICATED) {
        return user;
    } else {
        AUTHENTICATED
    };
    if !user.in_group(own) {
        user.groups.push(own.to_owned());
    }
    user
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(text: &str) -> HeaderMap {
        let mut out = HeaderMap::new();
        for (name, value) in text.split_whitespace().filter_map(|word| word.split_once('=')) {
            let name: http::HeaderName = format!("impersonate-{name}").parse().expect("a name");
            out.append(name, value.parse().expect("a value"));
        }
        out
    }

    #[test]
    fn somebody_else_has_the_groups_of_the_name() {
        for (text, expect) in [
            ("user=ann", "ann [system:authenticated] UserInfo Legacy"),
            ("user=ann group=g group=h", "ann [g h system:authenticated] UserInfo Legacy"),
            ("user=ann group=system:unauthenticated", "ann [system:unauthenticated] UserInfo Legacy"),
            ("user=system:anonymous", "system:anonymous [system:unauthenticated] UserInfo Legacy"),
            ("user=system:node:n", "system:node:n [system:nodes system:authenticated] ArbitraryNode Legacy"),
            ("user=system:node:n uid=7", "system:node:n [system:authenticated] Legacy"),
            (
                "user=system:serviceaccount:a:b",
                "system:serviceaccount:a:b [system:serviceaccounts system:serviceaccounts:a system:authenticated] \
                 ServiceAccount Legacy",
            ),
        ] {
            let wanted = wanted(&headers(text)).expect("a name").expect("somebody");
            let modes: Vec<Mode> =
                MODES.into_iter().filter(|mode| mode.applies(&User::new("x", &[]), &wanted)).collect();
            let user = impersonated(modes[0], &wanted);
            let modes: Vec<String> = modes.iter().map(|mode| format!("{mode:?}")).collect();
            assert_eq!(format!("{} [{}] {}", user.name, user.groups.join(" "), modes.join(" ")), expect, "{text}");
        }
    }

    #[test]
    fn a_part_without_a_name_is_nobody() {
        assert_eq!(wanted(&headers("")).expect("nothing wrong"), None);
        for (text, expect) in [
            ("group=g", "Groups:[]string{\"g\"}, Extra:map[string][]string(nil)}"),
            ("uid=u", "UID:\"u\", Groups:[]string(nil)"),
            ("extra-a%2fb=c", "Extra:map[string][]string{\"a/b\":[]string{\"c\"}}}"),
        ] {
            let status = wanted(&headers(text)).expect_err("no name");
            assert!(status.code == 400 && status.message.contains(expect), "{text}: {}", status.message);
        }
    }

    #[test]
    fn an_account_may_be_the_node_it_is_on() {
        let mut asker = User::new("system:serviceaccount:a:b", &[]);
        asker.extra.insert(OWN_NODE.into(), vec!["n".into()]);
        let wanted = |name: &str| User::new(name, &[]);
        assert!(Mode::AssociatedNode.applies(&asker, &wanted("system:node:n")));
        assert!(!Mode::AssociatedNode.applies(&asker, &wanted("system:node:m")));
        assert!(!Mode::AssociatedNode.applies(&wanted("ann"), &wanted("system:node:n")));
    }
}
