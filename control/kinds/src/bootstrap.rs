//! Objects that every cluster begins with, as data for whoever makes them: how requests are told apart and served
//! (`flowcontrol.apiserver.k8s.io`), and who serves the built-in groups (`apiregistration.k8s.io`).
//!
//! Invariant: each passes its row's validation as it is.

use kontiki_machinery::Table;
use kontiki_model::{edition, ingress};
use serde_json::{Value, json};

use crate::rows::{flowcontrol, service};

/// One object.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    /// API group.
    pub group: &'static str,
    /// Plural name.
    pub plural: &'static str,
    /// The object, which is in no namespace.
    pub object: Value,
}

const FLOW: &str = "flowcontrol.apiserver.k8s.io";
const NETWORKING: &str = "networking.k8s.io";
const AGGREGATOR: &str = "apiregistration.k8s.io";
const AUTOMANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// The objects for the groups that `table` has. Levels come before the schemas that name them.
#[must_use]
pub fn objects(table: &Table) -> Vec<Given> {
    let mut all = Vec::new();
    for (plural, kind) in [("prioritylevelconfigurations", "PriorityLevelConfiguration"), ("flowschemas", "FlowSchema")]
    {
        all.extend(flowcontrol::bootstrap(plural).map(|(name, spec)| {
            let annotations = json!({flowcontrol::AUTO_UPDATE: "true"});
            let metadata = json!({"name": name, "annotations": annotations});
            let version = format!("{FLOW}/v1");
            let object = json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec});
            Given { group: FLOW, plural, object }
        }));
    }
    for (group, versions) in table.groups() {
        let served = |version: &&str| PRIORITIES.iter().find(|(known, of, ..)| (*known, *of) == (group, *version));
        all.extend(versions.iter().filter_map(served).map(|row| api_service(*row)));
    }
    all
}

/// The range that a cluster's Services begin with.
#[must_use]
pub fn service_cidr(range: &str) -> Given {
    let metadata = json!({"name": service::DEFAULT_CIDR});
    let version = format!("{NETWORKING}/v1");
    let object =
        json!({"apiVersion": version, "kind": "ServiceCIDR", "metadata": metadata, "spec": {"cidrs": [range]}});
    Given { group: NETWORKING, plural: "servicecidrs", object }
}

/// The class of Ingresses that nodes serve. Not the default: that is for administrators to say.
#[must_use]
pub fn ingress_class() -> Given {
    let object = json!({
        "apiVersion": format!("{NETWORKING}/v1"), "kind": "IngressClass",
        "metadata": {"name": ingress::CLASS}, "spec": {"controller": ingress::CONTROLLER},
    });
    Given { group: NETWORKING, plural: "ingressclasses", object }
}

/// The edition of the definition of AddressPools: one more for each change of it.
const POOLS: u32 = 1;

/// The definition of AddressPools: the addresses that load balancers may have.
#[must_use]
pub fn address_pools() -> Given {
    let selector = |whom: &str| {
        json!({
            "type": "object", "x-kubernetes-map-type": "atomic",
            "description": format!("{whom} Every one if it is left away."),
            "properties": {
                "matchLabels": {"type": "object", "additionalProperties": {"type": "string"}},
                "matchExpressions": {"type": "array", "x-kubernetes-list-type": "atomic", "items": {
                    "type": "object", "required": ["key", "operator"],
                    "properties": {
                        "key": {"type": "string"},
                        "operator": {"type": "string", "enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
                        "values": {"type": "array", "x-kubernetes-list-type": "atomic", "items": {"type": "string"}},
                    },
                }},
            },
        })
    };
    let addresses = json!({
        "type": "array", "minItems": 1, "maxItems": 64, "x-kubernetes-list-type": "atomic",
        "description": "Ranges of addresses: 10.1.2.0/28, 10.1.2.40-10.1.2.50, or one address.",
        "items": {
            "type": "string", "maxLength": 90,
            "x-kubernetes-validations": [{"rule": ADDRESSES, "message": NO_ADDRESSES}],
        },
    });
    let spec = json!({
        "type": "object", "required": ["addresses"],
        "properties": {
            "addresses": addresses,
            "autoAssign": {
                "type": "boolean", "default": true,
                "description": "Whether Services get an address of this pool that do not ask for one of it.",
            },
            "serviceSelector": selector("The Services that may have an address of this pool."),
            "namespaceSelector": selector("The namespaces whose Services may have an address of this pool."),
        },
    });
    let schema = json!({
        "type": "object", "required": ["spec"], "properties": {"spec": spec},
        "description": "Addresses that Services of type LoadBalancer may have. A node of the cluster announces each of them.",
    });
    let column = |name: &str, kind: &str, path: &str| json!({"name": name, "type": kind, "jsonPath": path});
    let version = json!({
        "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
        "additionalPrinterColumns": [
            column("Addresses", "string", ".spec.addresses"),
            column("Auto Assign", "boolean", ".spec.autoAssign"),
            column("Age", "date", ".metadata.creationTimestamp"),
        ],
    });
    let names = json!({
        "plural": "addresspools", "singular": "addresspool", "kind": "AddressPool", "listKind": "AddressPoolList",
    });
    let object = json!({
        "apiVersion": format!("{EXTENSIONS}/v1"), "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("addresspools.{OWN}"), "annotations": {edition::ANNOTATION: POOLS.to_string()}},
        "spec": {"group": OWN, "scope": "Cluster", "names": names, "versions": [version]},
    });
    Given { group: EXTENSIONS, plural: "customresourcedefinitions", object }
}

const EXTENSIONS: &str = "apiextensions.k8s.io";
const OWN: &str = "kontiki.dev";
/// What is said of ranges is said by `kontiki_plan::network::pools`.
const ADDRESSES: &str = "isCIDR(self) || isIP(self) || (self.split('-').size() == 2 && self.split('-').all(end, isIP(end)) \
    && ip(self.split('-')[0]).family() == ip(self.split('-')[1]).family())";
const NO_ADDRESSES: &str = "must be a network (10.1.2.0/28), a range (10.1.2.40-10.1.2.50) or an address";

fn api_service((group, version, minimum, priority): Row) -> Given {
    let metadata = json!({"name": format!("{version}.{group}"), "labels": {AUTOMANAGED: "onstart"}});
    let mut spec = json!({"version": version, "groupPriorityMinimum": minimum, "versionPriority": priority});
    if !group.is_empty() {
        spec["group"] = group.into();
    }
    let version = format!("{AGGREGATOR}/v1");
    let object = json!({"apiVersion": version, "kind": "APIService", "metadata": metadata, "spec": spec});
    Given { group: AGGREGATOR, plural: "apiservices", object }
}

/// A group and version, `groupPriorityMinimum`, `versionPriority`.
type Row = (&'static str, &'static str, i64, i64);

/// As `pkg/controlplane/apiserver/aggregator.go` has them.
const PRIORITIES: &[Row] = &[
    ("", "v1", 18_000, 1),
    ("apps", "v1", 17_800, 15),
    ("events.k8s.io", "v1", 17_750, 15),
    ("authentication.k8s.io", "v1", 17_700, 15),
    ("authorization.k8s.io", "v1", 17_600, 15),
    ("autoscaling", "v1", 17_500, 15),
    ("autoscaling", "v2", 17_500, 30),
    ("batch", "v1", 17_400, 15),
    ("certificates.k8s.io", "v1", 17_300, 15),
    ("networking.k8s.io", "v1", 17_200, 15),
    ("policy", "v1", 17_100, 15),
    ("rbac.authorization.k8s.io", "v1", 17_000, 15),
    ("storage.k8s.io", "v1", 16_800, 15),
    ("apiextensions.k8s.io", "v1", 16_700, 15),
    ("admissionregistration.k8s.io", "v1", 16_700, 15),
    ("scheduling.k8s.io", "v1", 16_600, 15),
    ("coordination.k8s.io", "v1", 16_500, 15),
    ("node.k8s.io", "v1", 16_300, 15),
    ("resource.k8s.io", "v1", 16_200, 21),
    ("discovery.k8s.io", "v1", 16_200, 15),
    ("flowcontrol.apiserver.k8s.io", "v1", 16_100, 21),
    ("storagemigration.k8s.io", "v1", 15_800, 15),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use kontiki_machinery::validate_create;

    use super::*;
    use crate::{Settings, registry, rows::service::Ranges};

    /// Each leaf with where it is, so that the order of fields does not matter.
    fn leaves(value: &Value, at: &str, out: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                fields.iter().for_each(|(name, below)| leaves(below, &format!("{at}.{name}"), out))
            }
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(number, below)| leaves(below, &format!("{at}[{number}]"), out));
            }
            leaf => drop(out.insert(format!("{at} {leaf}"))),
        }
    }

    #[test]
    fn a_definition_that_changes_is_another_edition() {
        let mut all = BTreeSet::new();
        leaves(&address_pools().object["spec"], "", &mut all);
        let text = all.into_iter().collect::<Vec<_>>().join("\n");
        // FNV-1a, which is the same everywhere.
        let sum = text
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        assert_eq!(
            (POOLS, format!("{sum:x}").as_str()),
            (1, "c678aab0528c319b"),
            "a change needs another number, else clusters keep the old"
        );
    }

    #[test]
    fn what_every_cluster_has_is_valid() {
        let services = Ranges { addresses: "10.96.0.0/16".parse().expect("a range"), node_ports: 1..=2 };
        let table = registry(&Settings { services }).table();
        let mut objects = objects(&table);
        objects.push(service_cidr("10.96.0.0/16"));
        objects.push(address_pools());
        objects.push(ingress_class());
        let names: BTreeSet<String> =
            objects.iter().map(|given| format!("{}/{}", given.plural, given.object["metadata"]["name"])).collect();
        assert_eq!(names.len(), objects.len());
        assert!(names.contains("apiservices/\"v1.\"") && names.contains("flowschemas/\"exempt\""), "{names:?}");
        for given in objects {
            let def = table.find(given.group, "v1", given.plural).expect("a row");
            let mut object = given.object;
            def.schema.normalize(&mut object);
            def.strategy.default(&mut object);
            let before = object["spec"].clone();
            def.strategy.prepare_create(&mut object);
            assert_eq!(validate_create(def, &object), [], "{object}");
            assert_eq!(object["spec"], before);
        }
    }
}
