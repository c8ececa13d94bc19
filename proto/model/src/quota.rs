//! What objects count for in a ResourceQuota, and which of them a quota is about: the evaluators of upstream's
//! `pkg/quota/v1/evaluator/core`, over objects in their JSON form.
//!
//! Invariants
//! - Admission charges by [`usage`] and the controller counts by [`usage`]: the two agree, so a counted status rests.

use std::collections::BTreeSet;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::amount::Amount;
use crate::requests::{self, Amounts};
use crate::resource::{GroupResource, PODS};

/// Services, which count by their type.
pub const SERVICES: GroupResource<'static> = GroupResource { group: "", resource: "services" };
/// Claims, which count by their storage and its class.
pub const CLAIMS: GroupResource<'static> = GroupResource { group: "", resource: "persistentvolumeclaims" };
/// Quotas themselves.
pub const QUOTAS: GroupResource<'static> = GroupResource { group: "", resource: "resourcequotas" };

/// Kinds that count by their plain name as well as by `count/…`.
const BY_NAME: [&str; 4] = ["configmaps", "resourcequotas", "replicationcontrollers", "secrets"];
/// Kinds that no quota is about.
const IGNORED: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];
/// Resources of which each container has to say something where a quota counts them.
const REQUIRED: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
/// Resources of pods that have names of their own for requests and limits.
const SPLIT: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
const BY_CLASS: &str = ".storageclass.storage.k8s.io/";

/// Whether quotas leave a kind alone.
#[must_use]
pub fn ignores(resource: GroupResource<'_>) -> bool {
    IGNORED.contains(&(resource.group, resource.resource))
}

/// The name under which objects of a kind are counted, e.g. `count/jobs.batch`.
#[must_use]
pub fn count_name(resource: GroupResource<'_>) -> String {
    format!("count/{resource}")
}

/// The kind that `count/…` is about: its plural and group.
#[must_use]
pub fn counted(name: &str) -> Option<GroupResource<'_>> {
    let kind = name.strip_prefix("count/")?;
    let (resource, group) = kind.split_once('.').unwrap_or((kind, ""));
    Some(GroupResource { group, resource })
}

/// Whether objects of a kind may count for the resource `name` of a quota.
#[must_use]
pub fn counts(resource: GroupResource<'_>, name: &str) -> bool {
    if counted(name) == Some(resource) {
        return true;
    }
    match resource {
        PODS => name == "pods" || of_pods(name),
        SERVICES => ["services", "services.nodeports", "services.loadbalancers"].contains(&name),
        CLAIMS => {
            let own = |name: &str| ["persistentvolumeclaims", "requests.storage"].contains(&name);
            own(name) || name.split_once(BY_CLASS).is_some_and(|(_, name)| own(name))
        }
        GroupResource { group: "", resource } => BY_NAME.contains(&resource) && name == resource,
        _ => false,
    }
}

fn of_pods(name: &str) -> bool {
    let plain = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
    let extended = || name.starts_with("requests.") && name.contains('/') && !name.contains("kubernetes.io/");
    SPLIT.contains(&plain) || name.trim_start_matches("requests.").starts_with("hugepages-") || extended()
}

/// What one object counts for, by the names of a quota's resources.
#[must_use]
pub fn usage(resource: GroupResource<'_>, object: &Value, now: Timestamp) -> Amounts {
    let mut usage = Amounts::from([(count_name(resource), Amount::count(1))]);
    match resource {
        PODS if alive(object, now) => usage.extend(of_pod(object)),
        SERVICES => usage.extend(of_service(&object["spec"])),
        CLAIMS => usage.extend(of_claim(object)),
        GroupResource { group: "", resource } if BY_NAME.contains(&resource) => {
            usage.insert(resource.to_owned(), Amount::count(1));
        }
        _ => {}
    }
    usage
}

/// Until when a pod on its way out counts for what it asks for; `None` if it stays, or is at its end already.
#[must_use]
pub fn counts_until(pod: &Value) -> Option<Timestamp> {
    let at: Timestamp = pod["metadata"]["deletionTimestamp"].as_str()?.parse().ok()?;
    let grace = pod["metadata"]["deletionGracePeriodSeconds"].as_i64()?;
    at.checked_add(SignedDuration::from_secs(grace)).ok()
}

fn alive(pod: &Value, now: Timestamp) -> bool {
    let ended = ["Failed", "Succeeded"].iter().any(|phase| pod["status"]["phase"] == *phase);
    !ended && counts_until(pod).is_none_or(|until| now <= until)
}

fn of_pod(pod: &Value) -> Amounts {
    let mut usage = of_needs(&requests::of_pod(pod, "requests"), &requests::of_pod(pod, "limits"));
    usage.insert("pods".to_owned(), Amount::count(1));
    usage
}

fn of_needs(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut usage = Amounts::new();
    for (name, amount) in requests {
        let split = SPLIT.contains(&name.as_str());
        if split || name.starts_with("hugepages-") {
            usage.insert(name.clone(), *amount);
        }
        if split || name.starts_with("hugepages-") || (name.contains('/') && !name.contains("kubernetes.io/")) {
            usage.insert(format!("requests.{name}"), *amount);
        }
    }
    let limited = limits.iter().filter(|(name, _)| SPLIT.contains(&name.as_str()));
    usage.extend(limited.map(|(name, amount)| (format!("limits.{name}"), *amount)));
    usage
}

fn of_service(spec: &Value) -> Amounts {
    let ports = spec["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let given = || ports.iter().filter(|port| port["nodePort"].as_i64().is_some_and(|number| number != 0)).count();
    let (node_ports, balancers) = match spec["type"].as_str() {
        Some("NodePort") => (ports.len(), 0),
        // Without allocation only those count that were asked for by number.
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => (given(), 1),
        Some("LoadBalancer") => (ports.len(), 1),
        _ => (0, 0),
    };
    let count = |count: usize| Amount::count(i64::try_from(count).unwrap_or(i64::MAX));
    let counts = [("services", 1), ("services.nodeports", node_ports), ("services.loadbalancers", balancers)];
    counts.into_iter().map(|(name, number)| (name.to_owned(), count(number))).collect()
}

fn of_claim(claim: &Value) -> Amounts {
    let mut usage = Amounts::from([("persistentvolumeclaims".to_owned(), Amount::count(1))]);
    let asked = Amount::of(&claim["spec"]["resources"]["requests"]["storage"]).map(Amount::round_up);
    let given = Amount::of(&claim["status"]["allocatedResources"]["storage"]).map(Amount::round_up);
    if let Some(asked) = asked {
        usage.insert("requests.storage".to_owned(), given.map_or(asked, |given| asked.or_more(given)));
    }
    let class = storage_class(claim);
    if !class.is_empty() {
        let by_class = usage.iter().map(|(name, amount)| (format!("{class}{BY_CLASS}{name}"), *amount));
        usage.extend(by_class.collect::<Vec<_>>());
    }
    usage
}

fn storage_class(claim: &Value) -> &str {
    let annotation = claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].as_str();
    annotation.or_else(|| claim["spec"]["storageClassName"].as_str()).unwrap_or_default()
}

/// Whether an object is of all the scopes of a quota.
#[must_use]
pub fn in_scope(quota: &Value, resource: GroupResource<'_>, object: &Value) -> bool {
    let spec = &quota["spec"];
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let plain = list(&spec["scopes"]).into_iter().all(|scope| {
        let scope = scope.as_str().unwrap_or_default().to_owned();
        matches(&scope, "Exists", &[], resource, object)
    });
    let terms = list(&spec["scopeSelector"]["matchExpressions"]);
    plain
        && terms.iter().all(|term| {
            let values = list(&term["values"]);
            let text = |field: &str| term[field].as_str().unwrap_or_default();
            matches(text("scopeName"), text("operator"), &values, resource, object)
        })
}

fn matches(scope: &str, operator: &str, values: &[Value], resource: GroupResource<'_>, object: &Value) -> bool {
    let spec = &object["spec"];
    match (resource, scope) {
        (PODS, "Terminating") => ends_by_itself(spec),
        (PODS, "NotTerminating") => !ends_by_itself(spec),
        (PODS, "BestEffort") => qos_class(spec) == "BestEffort",
        (PODS, "NotBestEffort") => qos_class(spec) != "BestEffort",
        (PODS, "PriorityClass") => of_values(operator, values, spec["priorityClassName"].as_str()),
        (PODS, "CrossNamespacePodAffinity") => reaches_out(&spec["affinity"]),
        (CLAIMS, "VolumeAttributesClass") => {
            let status = &object["status"];
            let classes = [
                &spec["volumeAttributesClassName"],
                &status["currentVolumeAttributesClassName"],
                &status["modifyVolumeStatus"]["targetVolumeAttributesClassName"],
            ];
            let named: BTreeSet<&str> =
                classes.into_iter().filter_map(Value::as_str).filter(|name| !name.is_empty()).collect();
            match named.is_empty() {
                true => of_values(operator, values, None),
                false => named.into_iter().any(|name| of_values(operator, values, Some(name))),
            }
        }
        _ => false,
    }
}

fn of_values(operator: &str, values: &[Value], own: Option<&str>) -> bool {
    let own = own.filter(|name| !name.is_empty());
    let among = || own.is_some_and(|own| values.iter().any(|value| value == own));
    match operator {
        "Exists" => own.is_some(),
        "DoesNotExist" => own.is_none(),
        "In" => among(),
        "NotIn" => !among(),
        _ => false,
    }
}

fn ends_by_itself(spec: &Value) -> bool {
    spec["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0)
}

fn reaches_out(affinity: &Value) -> bool {
    let reaches = |term: &Value| {
        let named = term["namespaces"].as_array().is_some_and(|names| !names.is_empty());
        named || term["namespaceSelector"].is_object()
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let list = |field: &str| affinity[kind][field].as_array().cloned().unwrap_or_default();
        let preferred = list("preferredDuringSchedulingIgnoredDuringExecution");
        list("requiredDuringSchedulingIgnoredDuringExecution").iter().any(reaches)
            || preferred.iter().any(|term| reaches(&term["podAffinityTerm"]))
    })
}

/// The class of a pod with this spec: `Guaranteed` if every container has equal requests and limits for CPU and memory,
/// `BestEffort` if none asks for any, else `Burstable`.
#[must_use]
pub fn qos_class(spec: &Value) -> &'static str {
    let list = |field: &str| spec[field].as_array().map_or(&[][..], Vec::as_slice);
    let holders: Vec<&Value> = if spec["resources"].is_object() {
        vec![spec]
    } else {
        list("containers").iter().chain(list("initContainers")).collect()
    };
    let counts = |(name, value): (&String, &Value)| {
        (name == "cpu" || name == "memory") && Amount::of(value).is_some_and(|amount| amount > Amount::ZERO)
    };
    let (mut asked, mut guaranteed) = (false, true);
    for holder in holders {
        let needs = &holder["resources"];
        asked |= ["requests", "limits"].iter().any(|kind| needs[kind].as_object().into_iter().flatten().any(counts));
        guaranteed &= ["cpu", "memory"].iter().all(|name| {
            let of = |kind: &str| Amount::of(&needs[kind][name]).filter(|amount| !amount.is_zero());
            of("limits").is_some() && (of("requests").is_none() || of("requests") == of("limits"))
        });
    }
    match (asked, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// What the containers of a pod leave unsaid though a quota of the resources `names` wants it said: upstream's
/// sentence, e.g. `must specify limits.cpu for: a,b; memory for: a`.
#[must_use]
pub fn unsaid(pod: &Value, names: &[String]) -> Option<String> {
    let spec = &pod["spec"];
    let whole =
        of_needs(&requests::amounts(&spec["resources"]["requests"]), &requests::amounts(&spec["resources"]["limits"]));
    let required = names.iter().filter(|name| REQUIRED.contains(&name.as_str()) && !whole.contains_key(*name));
    let lists = ["containers", "initContainers"].into_iter();
    let containers: Vec<&Value> = lists.flat_map(|field| spec[field].as_array().into_iter().flatten()).collect();
    let mut missing: Vec<String> = Vec::new();
    for name in required.collect::<BTreeSet<_>>() {
        let silent = |container: &&&Value| {
            let needs = &container["resources"];
            let needs = of_needs(&requests::amounts(&needs["requests"]), &requests::amounts(&needs["limits"]));
            !needs.contains_key(name)
        };
        let silent = containers.iter().filter(silent).filter_map(|container| container["name"].as_str());
        let silent: BTreeSet<&str> = silent.collect();
        if !silent.is_empty() {
            missing.push(format!("{name} for: {}", silent.into_iter().collect::<Vec<_>>().join(",")));
        }
    }
    (!missing.is_empty()).then(|| format!("must specify {}", missing.join("; ")))
}

/// `cpu=1,pods=2`, as upstream shows amounts.
#[must_use]
pub fn show(amounts: &Amounts) -> String {
    amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SETS: GroupResource<'static> = GroupResource { group: "apps", resource: "replicasets" };
    const SECRETS: GroupResource<'static> = crate::resource::SECRETS;

    #[test]
    fn objects_count_by_their_kind() {
        let needs = json!({"requests": {"cpu": "1", "a.b/gpu": "2"}, "limits": {"memory": "1Gi"}});
        let pod =
            |status: Value| json!({"spec": {"containers": [{"name": "a", "resources": needs}]}, "status": status});
        let service =
            |kind: &str| json!({"spec": {"type": kind, "ports": [{"port": 1}, {"port": 2, "nodePort": 30000}]}});
        let mut quiet = service("LoadBalancer");
        quiet["spec"]["allocateLoadBalancerNodePorts"] = false.into();
        let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1500m"}}}});
        let going = json!({"metadata": {"deletionTimestamp": "1970-01-01T00:00:00Z", "deletionGracePeriodSeconds": 9},
            "spec": {"containers": []}});
        for (resource, object, expect) in [
            (SETS, json!({}), "count/replicasets.apps=1"),
            (SECRETS, json!({}), "count/secrets=1,secrets=1"),
            (PODS, pod(json!({})), "count/pods=1,cpu=1,limits.memory=1Gi,pods=1,requests.a.b/gpu=2,requests.cpu=1"),
            (PODS, pod(json!({"phase": "Failed"})), "count/pods=1"),
            (PODS, going.clone(), "count/pods=1"),
            (
                SERVICES,
                service("ClusterIP"),
                "count/services=1,services=1,services.loadbalancers=0,services.nodeports=0",
            ),
            (
                SERVICES,
                service("NodePort"),
                "count/services=1,services=1,services.loadbalancers=0,services.nodeports=2",
            ),
            (SERVICES, quiet, "count/services=1,services=1,services.loadbalancers=1,services.nodeports=1"),
            (
                CLAIMS,
                claim,
                "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/requests.storage=2,persistentvolumeclaims=1,requests.storage=2",
            ),
        ] {
            let now = Timestamp::from_second(10).expect("a time");
            let usage = usage(resource, &object, now);
            assert_eq!(show(&usage), expect, "{object}");
            assert!(usage.keys().all(|name| counts(resource, name)), "{object}");
        }
        let early = usage(PODS, &going, Timestamp::from_second(9).expect("a time"));
        assert_eq!(show(&early), "count/pods=1,pods=1", "it counts while it ends");
    }

    #[test]
    fn a_quota_is_about_what_its_scopes_say() {
        let with = |scope: &str, operator: &str, values: &[&str]| json!({"spec": {"scopeSelector": {"matchExpressions": [{"scopeName": scope, "operator": operator, "values": values}]}}});
        let plain = |scope: &str| json!({"spec": {"scopes": [scope]}});
        let pod = json!({"spec": {"priorityClassName": "high", "containers": [{"resources": {"requests": {"cpu": "1"}}}],
            "affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"podAffinityTerm": {"namespaceSelector": {}}}]}}}});
        for (quota, expect) in [
            (json!({}), true),
            (plain("BestEffort"), false),
            (plain("NotBestEffort"), true),
            (plain("Terminating"), false),
            (plain("NotTerminating"), true),
            (plain("PriorityClass"), true),
            (plain("CrossNamespacePodAffinity"), true),
            (plain("VolumeAttributesClass"), false),
            (with("PriorityClass", "In", &["high"]), true),
            (with("PriorityClass", "NotIn", &["high"]), false),
            (with("PriorityClass", "DoesNotExist", &[]), false),
        ] {
            assert_eq!(in_scope(&quota, PODS, &pod), expect, "{quota}");
        }
        assert!(!in_scope(&plain("NotTerminating"), SECRETS, &json!({})), "only pods have it");
        let claim =
            json!({"spec": {"volumeAttributesClassName": "a"}, "status": {"currentVolumeAttributesClassName": "b"}});
        for (operator, values, expect) in [("In", vec!["b"], true), ("In", vec!["c"], false), ("Exists", vec![], true)]
        {
            assert_eq!(in_scope(&with("VolumeAttributesClass", operator, &values), CLAIMS, &claim), expect);
        }
    }

    #[test]
    fn containers_must_say_what_is_counted() {
        let pod =
            json!({"spec": {"containers": [{"name": "b"}, {"name": "a", "resources": {"requests": {"cpu": "1"}}}]}});
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(unsaid(&pod, &names(&["pods", "ephemeral-storage"])), None);
        assert_eq!(
            unsaid(&pod, &names(&["requests.cpu", "limits.cpu"])).as_deref(),
            Some("must specify limits.cpu for: a,b; requests.cpu for: b")
        );
    }
}
