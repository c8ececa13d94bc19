//! ResourceQuotas: nothing is made that would take more of a namespace than they leave.
//!
//! Invariants
//! - What an object counts for is added to `status.used` of its quotas in the transaction that writes the object, on
//!   condition that the quotas are as they were when it was judged: no race takes more than there is.
//! - Only more is charged here. What is given back is found by the controller, which counts anew.

use kontiki_machinery::admission::{Lookup, Operation, Request, Step};
use kontiki_model::quota::{self, CLAIMS, QUOTAS, SERVICES};
use kontiki_model::requests::{Amounts, amounts};
use kontiki_model::resource::PODS;
use serde_json::Value;

use crate::{
    Status,
    rows::value::{child, get, set, text},
};

pub(super) struct ResourceQuota;

impl Step for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn charges(&self) -> bool {
        true
    }

    fn validate(&self, request: &Request<'_>, object: &Value, cluster: &mut dyn Lookup) -> Result<(), Status> {
        let Some(namespace) = request.namespace.filter(|_| concerned(request)) else { return Ok(()) };
        let now = cluster.now();
        for mut quota in cluster.within(QUOTAS, namespace)? {
            let judged = charge(&mut quota, request, object, now).map_err(|why| request.forbid(object, why))?;
            if judged == Judged::Charged {
                let name = text(get(&quota, "metadata"), "name").to_owned();
                cluster.write_along(QUOTAS, Some(namespace), &name, &quota)?;
            }
        }
        Ok(())
    }
}

/// Whether this can take more of a namespace.
fn concerned(request: &Request<'_>) -> bool {
    let resource = request.def.group_resource();
    match (request.operation, request.sub) {
        _ if quota::ignores(resource) => false,
        (Operation::Create, None) => true,
        (Operation::Update, Some("resize")) => resource == PODS,
        (Operation::Update, Some("status")) => resource == CLAIMS,
        (Operation::Update, None) => [SERVICES, CLAIMS].contains(&resource),
        _ => false,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Judged {
    /// The quota is not about it, or it takes no more than it did.
    Unconcerned,
    /// It takes more, and there is enough.
    Charged,
}

/// Adds what `object` takes to a quota's `status.used`.
///
/// # Errors
/// Upstream's sentence about why there is not enough.
fn charge(quota: &mut Value, request: &Request<'_>, object: &Value, now: jiff::Timestamp) -> Result<Judged, String> {
    let resource = request.def.group_resource();
    let (hard, used) = (amounts(&quota["status"]["hard"]), amounts(&quota["status"]["used"]));
    let counted: Vec<String> = hard.keys().filter(|name| quota::counts(resource, name)).cloned().collect();
    if counted.is_empty() || !quota::in_scope(quota, resource, object) {
        return Ok(Judged::Unconcerned);
    }
    let name = text(get(quota, "metadata"), "name").to_owned();
    if let Some(unsaid) = quota::unsaid(object, &counted).filter(|_| resource == PODS) {
        return Err(format!("failed quota: {name}: {unsaid}"));
    }
    if counted.iter().any(|resource| !used.contains_key(resource)) {
        return Err(format!("status unknown for quota: {name}, resources: {}", counted.join(",")));
    }
    let more = wanted(quota, request, object, now)?;
    let more: Amounts = more.into_iter().filter(|(name, _)| hard.contains_key(name)).collect();
    if more.is_empty() {
        return Ok(Judged::Unconcerned);
    }
    let new: Amounts = more.iter().map(|(name, more)| (name.clone(), used[name].plus(*more))).collect();
    let over: Vec<&String> = new.iter().filter(|(name, new)| **new > hard[*name]).map(|(name, _)| name).collect();
    // What a claim was given is given already: its status only tells.
    if !over.is_empty() && request.sub != Some("status") {
        let only = |all: &Amounts| quota::show(&over.iter().map(|name| ((*name).clone(), all[*name])).collect());
        let (more, used, hard) = (only(&more), only(&used), only(&hard));
        return Err(format!("exceeded quota: {name}, requested: {more}, used: {used}, limited: {hard}"));
    }
    let counted = child(child(quota, "status"), "used");
    new.iter().for_each(|(name, amount)| set(counted, name, amount.to_string()));
    Ok(Judged::Charged)
}

/// What is taken beyond what was taken before; nothing of what is as it was.
fn wanted(quota: &Value, request: &Request<'_>, object: &Value, now: jiff::Timestamp) -> Result<Amounts, String> {
    let resource = request.def.group_resource();
    let mut more = quota::usage(resource, object, now);
    let negative: Vec<&str> =
        more.iter().filter(|(_, amount)| amount.negative()).map(|(name, _)| name.as_str()).collect();
    if !negative.is_empty() {
        return Err(format!("quota usage is negative for resource(s): {}", negative.join(",")));
    }
    // One that was not of the quota's scope before is new to it.
    if let Some(old) = request.old.filter(|old| quota::in_scope(quota, resource, old)) {
        for (name, before) in quota::usage(resource, old, now) {
            more.entry(name).and_modify(|amount| *amount = amount.minus_to_zero(before));
        }
    }
    more.retain(|_, amount| !amount.is_zero());
    Ok(more)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kontiki_machinery::access::User;
    use serde_json::json;

    use super::*;
    use crate::ResourceDef;

    fn def(plural: &str) -> Arc<ResourceDef> {
        let addresses = "10.96.0.0/16".parse().expect("a range");
        let services = crate::rows::service::Ranges { addresses, node_ports: 30000..=32767 };
        let table = crate::registry(&crate::Settings { services }).table();
        Arc::clone(table.find("", "v1", plural).expect("a row"))
    }

    fn pod(cpu: &str) -> Value {
        json!({"spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    fn service(kind: &str) -> Value {
        json!({"spec": {"type": kind, "ports": [{"port": 80}]}})
    }

    #[test]
    fn more_is_taken_only_while_there_is_enough() {
        let new = |hard: Value, used: Value| json!({"metadata": {"name": "q"}, "status": {"hard": hard, "used": used}});
        let cluster_ip = service("ClusterIP");
        for (what, quota, plural, old, object, expect) in [
            (
                "enough",
                new(json!({"pods": "2"}), json!({"pods": "1"})),
                "pods",
                None,
                pod("1"),
                Ok(json!({"pods": "2"})),
            ),
            (
                "others' resources",
                new(json!({"secrets": "0"}), json!({"secrets": "0"})),
                "pods",
                None,
                pod("1"),
                Ok(json!({"secrets": "0"})),
            ),
            (
                "not counted yet",
                new(json!({"pods": "2"}), json!({})),
                "pods",
                None,
                pod("1"),
                Err("status unknown for quota: q, resources: pods"),
            ),
            (
                "not enough",
                new(json!({"pods": "2", "requests.cpu": "1"}), json!({"pods": "1", "requests.cpu": "500m"})),
                "pods",
                None,
                pod("1"),
                Err("exceeded quota: q, requested: requests.cpu=1, used: requests.cpu=500m, limited: requests.cpu=1"),
            ),
            (
                "unsaid",
                new(json!({"limits.cpu": "2"}), json!({"limits.cpu": "0"})),
                "pods",
                None,
                pod("1"),
                Err("failed quota: q: must specify limits.cpu for: a"),
            ),
            (
                "negative",
                new(json!({"cpu": "2"}), json!({"cpu": "0"})),
                "pods",
                None,
                pod("-1"),
                Err("quota usage is negative for resource(s): cpu,requests.cpu"),
            ),
            (
                "a change",
                new(json!({"services.nodeports": "1"}), json!({"services.nodeports": "0"})),
                "services",
                Some(&cluster_ip),
                service("NodePort"),
                Ok(json!({"services.nodeports": "1"})),
            ),
            (
                "no change, over the limit as it is",
                new(json!({"services": "1"}), json!({"services": "2"})),
                "services",
                Some(&cluster_ip),
                service("ClusterIP"),
                Ok(json!({"services": "2"})),
            ),
        ] {
            let mut quota = quota;
            let def = def(plural);
            let operation = if old.is_some() { Operation::Update } else { Operation::Create };
            let user = User::default();
            let request = Request {
                operation,
                user: &user,
                def: &def,
                sub: None,
                namespace: Some("a"),
                name: "",
                old,
                dry_run: false,
            };
            let judged = charge(&mut quota, &request, &object, jiff::Timestamp::UNIX_EPOCH);
            match expect {
                Ok(used) => {
                    assert!(judged.is_ok(), "{what}: {judged:?}");
                    assert_eq!(quota["status"]["used"], used, "{what}");
                }
                Err(why) => assert_eq!(judged, Err(why.to_owned()), "{what}"),
            }
        }
    }
}
