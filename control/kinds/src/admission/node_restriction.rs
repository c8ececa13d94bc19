//! A node writes only what is its own: its Node and Lease, the status of its pods, tokens of accounts that they run as
//! (`plugin/pkg/admission/noderestriction` of upstream).

use std::collections::BTreeSet;

use kontiki_machinery::admission::{Guard, Lookup, Operation, Request, Step};
use kontiki_model::{
    GroupResource,
    k8s_openapi::api::core::v1::Pod,
    pod::References,
    resource::{NODES, PODS},
};
use serde_json::Value;

use crate::{
    Status,
    authorize::node::node_name,
    field_error::quote,
    rows::value::{at, has, list, on, some, text, text_entries, unset},
};

const CLAIMS: GroupResource<'static> = GroupResource { group: "", resource: "persistentvolumeclaims" };
const ACCOUNTS: GroupResource<'static> = GroupResource { group: "", resource: "serviceaccounts" };
const POD_CERTIFICATES: GroupResource<'static> =
    GroupResource { group: "certificates.k8s.io", resource: "podcertificaterequests" };
const LEASES: GroupResource<'static> = GroupResource { group: "coordination.k8s.io", resource: "leases" };
const CSI_NODES: GroupResource<'static> = GroupResource { group: "storage.k8s.io", resource: "csinodes" };
const SLICES: GroupResource<'static> = GroupResource { group: "resource.k8s.io", resource: "resourceslices" };

const MIRROR: &str = "kubernetes.io/config.mirror";
/// Labels of Kubernetes' own that a node gives itself (`k8s.io/kubelet/pkg/apis`).
const OWN_LABELS: [&str; 13] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "node.kubernetes.io/windows-build",
    "node.kubernetes.io/exclude-from-external-load-balancers",
];
const OWN_SPACES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
const RESTRICTED_SPACE: &str = "node-restriction.kubernetes.io";

pub(super) struct NodeRestriction;

impl Step for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation != Operation::Connect
    }

    fn admit(&self, request: &Request<'_>, object: &mut Value, cluster: &mut dyn Lookup) -> Result<(), Status> {
        if !request.user.in_group("system:nodes") {
            return Ok(());
        }
        let of = request.old.unwrap_or(object).clone();
        let refuse = |why: String| request.forbid(&of, why);
        let Some(node) = node_name(request.user).filter(|node| !node.is_empty()) else {
            return Err(refuse(format!("could not determine node from user {}", quote(&request.user.name))));
        };
        let asked = Asked { node, request, object };
        match (request.def.group_resource(), request.sub) {
            (PODS, None) => asked.pod(cluster)?.map_err(refuse),
            (PODS, Some("status")) => asked.pod_status().map_err(refuse),
            (PODS, Some("eviction")) => asked.eviction(cluster)?.map_err(refuse),
            (PODS, Some(other)) => Err(refuse(format!(
                "unexpected pod subresource {}, only 'status' and 'eviction' are allowed",
                quote(other)
            ))),
            (NODES, _) => asked.node().map_err(refuse),
            (CLAIMS, Some("status")) => asked.claim_status().map_err(refuse),
            (CLAIMS, _) => Err(refuse("may only update PVC status".to_owned())),
            (ACCOUNTS, Some("token")) => asked.token(cluster)?.map_err(refuse),
            (POD_CERTIFICATES, None) => asked.certificate(cluster)?.map_err(refuse),
            (POD_CERTIFICATES, Some(sub)) => Err(refuse(format!("unexpected subresource {sub}"))),
            (LEASES, _) => asked.lease().map_err(refuse),
            (CSI_NODES, _) => asked.named("CSINode").map_err(refuse),
            (SLICES, _) => asked.slice().map_err(refuse),
            _ => Ok(()),
        }
    }
}

/// What a node wants to do.
struct Asked<'a> {
    node: &'a str,
    request: &'a Request<'a>,
    object: &'a Value,
}

/// Fine, or why not.
type Answer = Result<(), String>;

impl Asked<'_> {
    fn operation(&self) -> Operation {
        self.request.operation
    }

    /// The object before, or the new one.
    fn subject(&self) -> &Value {
        self.request.old.unwrap_or(self.object)
    }

    fn name(&self) -> &str {
        text(at(self.subject(), &["metadata"]), "name")
    }

    fn pod(&self, cluster: &mut dyn Lookup) -> Result<Answer, Status> {
        let node = quote(self.node);
        Ok(match self.operation() {
            Operation::Create => return self.new_pod(cluster),
            Operation::Delete if self.is_ours(self.subject()) => Ok(()),
            Operation::Delete => Err(format!("node {node} can only delete pods with spec.nodeName set to itself")),
            Operation::Update | Operation::Connect => {
                Err(format!("unexpected operation \"UPDATE\", node {node} can only create and delete mirror pods"))
            }
        })
    }

    /// A node evicts its own pods.
    fn eviction(&self, cluster: &mut dyn Lookup) -> Result<Answer, Status> {
        let Request { namespace, name, .. } = *self.request;
        let name = if name.is_empty() { self.name() } else { name };
        let pod = cluster.object(PODS, namespace, name, Guard::Present)?;
        let pod = pod.ok_or_else(|| Status::not_found(PODS, name))?;
        Ok(if self.is_ours(&pod) {
            Ok(())
        } else {
            Err(format!("node {} can only evict pods with spec.nodeName set to itself", quote(self.node)))
        })
    }

    fn is_ours(&self, pod: &Value) -> bool {
        text(at(pod, &["spec"]), "nodeName") == self.node
    }

    fn new_pod(&self, cluster: &mut dyn Lookup) -> Result<Answer, Status> {
        let (node, pod) = (quote(self.node), self.object);
        if text_entries(at(pod, &["metadata"]), "annotations").all(|(key, _)| key != MIRROR) {
            let mirror = quote(MIRROR);
            return Ok(Err(format!("pod does not have {mirror} annotation, node {node} can only create mirror pods")));
        }
        if !self.is_ours(pod) {
            return Ok(Err(format!("node {node} can only create pods with spec.nodeName set to itself")));
        }
        if let Err(why) = self.owner(cluster)? {
            return Ok(Err(why));
        }
        let refers = self
            .references()
            .map_or(Ok(()), |what| Err(format!("node {node} can not create pods that reference {what}")));
        Ok(refers)
    }

    /// A mirror pod belongs to its node, and to nobody else.
    fn owner(&self, cluster: &mut dyn Lookup) -> Result<Answer, Status> {
        let node = quote(self.node);
        let itself = format!("node {node} can only create pods with an owner reference set to itself");
        let owner = match list(at(self.object, &["metadata"]), "ownerReferences") {
            [owner] => owner,
            [] => return Ok(Err(itself)),
            _ => {
                return Ok(Err(format!(
                    "node {node} can only create pods with a single owner reference set to itself"
                )));
            }
        };
        let named = [("apiVersion", "v1"), ("kind", "Node"), ("name", self.node)];
        if named.iter().any(|(field, wanted)| text(owner, field) != *wanted) {
            return Ok(Err(itself));
        }
        if !on(owner, "controller") {
            return Ok(Err(format!(
                "node {node} can only create pods with a controller owner reference set to itself"
            )));
        }
        if on(owner, "blockOwnerDeletion") {
            return Ok(Err(format!("node {node} must not set blockOwnerDeletion on an owner reference")));
        }
        let found = cluster.object(NODES, None, self.node, Guard::Present)?;
        let found = found.ok_or_else(|| Status::not_found(NODES, self.node))?;
        let (uid, wanted) = (text(at(&found, &["metadata"]), "uid"), text(owner, "uid"));
        let mismatch = format!("node {} UID mismatch: expected {wanted} got {uid}", self.node);
        Ok(if uid == wanted { Ok(()) } else { Err(mismatch) })
    }

    /// What of the cluster's objects a new pod names, beside its node.
    fn references(&self) -> Option<&'static str> {
        let spec = at(self.object, &["spec"]);
        if !text(spec, "serviceAccountName").is_empty() {
            return Some("a service account");
        }
        let typed: Pod = serde_json::from_value(self.object.clone()).ok()?;
        let named = References::of(&typed);
        let volumes = list(spec, "volumes");
        let bundle = |volume: &Value| {
            list(at(volume, &["projected"]), "sources").iter().any(|source| has(source, "clusterTrustBundle"))
        };
        let claim = |volume: &Value| has(volume, "persistentVolumeClaim");
        let named = [
            (!named.secrets.is_empty(), "secrets"),
            (!named.config_maps.is_empty(), "configmaps"),
            (volumes.iter().any(bundle), "clustertrustbundles"),
            (volumes.iter().any(claim), "persistentvolumeclaims"),
        ];
        named.into_iter().find_map(|(named, what)| named.then_some(what))
    }

    fn pod_status(&self) -> Answer {
        let (node, Some(old)) = (quote(self.node), self.request.old) else {
            return Err("unexpected operation \"CREATE\"".to_owned());
        };
        if !self.is_ours(old) {
            return Err(format!("node {node} can only update pod status for pods with spec.nodeName set to itself"));
        }
        let labels = |pod| text_entries(at(pod, &["metadata"]), "labels").collect::<BTreeSet<_>>();
        if labels(old) != labels(self.object) {
            return Err(format!("node {node} cannot update labels through pod status"));
        }
        let claims = |pod| list(at(pod, &["status"]), "resourceClaimStatuses").to_vec();
        if claims(old) != claims(self.object) {
            return Err(format!("node {node} cannot update resource claim statues"));
        }
        Ok(())
    }

    fn node(&self) -> Answer {
        let (node, name) = (quote(self.node), self.name());
        if name != self.node {
            return Err(format!("node {node} is not allowed to modify node {}", quote(name)));
        }
        let source = |object| at(object, &["spec", "configSource"]).clone();
        match (self.operation(), self.request.old) {
            (Operation::Create, _) => {
                if !source(self.object).is_null() {
                    return Err(format!("node {node} is not allowed to create pods with a non-nil configSource"));
                }
                let labels = forbidden_labels(self.object, &Value::Null);
                let why = format!("node {node} is not allowed to set the following labels: {labels}");
                if labels.is_empty() { Ok(()) } else { Err(why) }
            }
            (Operation::Update, Some(old)) => {
                let new = source(self.object);
                if !new.is_null() && new != source(old) {
                    return Err(format!(
                        "node {node} is not allowed to update configSource to a new non-nil configSource"
                    ));
                }
                let taints = |object| list(at(object, &["spec"]), "taints").to_vec();
                if taints(old) != taints(self.object) {
                    return Err(format!("node {node} is not allowed to modify taints"));
                }
                let labels = forbidden_labels(self.object, old);
                let why = format!("is not allowed to modify labels: {labels}");
                if labels.is_empty() { Ok(()) } else { Err(why) }
            }
            _ => Ok(()),
        }
    }

    fn claim_status(&self) -> Answer {
        let rest = |claim: &Value| {
            let mut claim = claim.clone();
            if let Some(meta) = claim.get_mut("metadata") {
                ["resourceVersion", "managedFields"].iter().for_each(|field| unset(meta, field));
            }
            if let Some(status) = claim.get_mut("status") {
                let own = ["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"];
                own.iter().for_each(|field| unset(status, field));
            }
            claim
        };
        if self.request.old.is_some_and(|old| rest(old) == rest(self.object)) {
            return Ok(());
        }
        let node = quote(self.node);
        Err(format!("node {node} is not allowed to update fields other than status.capacity and status.conditions"))
    }

    fn token(&self, cluster: &mut dyn Lookup) -> Result<Answer, Status> {
        let reference = at(self.object, &["spec", "boundObjectRef"]);
        let (name, uid) = (text(reference, "name"), text(reference, "uid"));
        if text(reference, "apiVersion") != "v1" || text(reference, "kind") != "Pod" || name.is_empty() {
            return Ok(Err("node requested token not bound to a pod".to_owned()));
        }
        if uid.is_empty() {
            return Ok(Err("node requested token with a pod binding without a uid".to_owned()));
        }
        let pod = cluster.object(PODS, self.request.namespace, name, Guard::Present)?;
        let pod = pod.ok_or_else(|| Status::not_found(PODS, name))?;
        if text(at(&pod, &["metadata"]), "uid") != uid {
            return Ok(Err(format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
                 been deleted and then recreated"
            )));
        }
        let ours = self.is_ours(&pod);
        let why = "node requested token bound to a pod scheduled on a different node";
        Ok(if ours { Ok(()) } else { Err(why.to_owned()) })
    }

    /// A node asks for certificates of its own pods only, and of signers that they name. What a lagging node may have
    /// wrong is an error that passes.
    fn certificate(&self, cluster: &mut dyn Lookup) -> Result<Answer, Status> {
        if self.operation() != Operation::Create {
            return Ok(Err(format!("unexpected operation {}", self.operation().word())));
        }
        let (spec, namespace) = (at(self.object, &["spec"]), self.request.namespace.unwrap_or_default());
        let name = |field: &str| text(spec, field);
        if name("nodeName") != self.node {
            let (named, node) = (quote(name("nodeName")), quote(self.node));
            return Ok(Err(format!(
                "PodCertificateRequest.Spec.NodeName={named}, which is not the requesting node {node}"
            )));
        }
        let pod = format!("PodCertificateRequest for pod {}", quote(&format!("{namespace}/{}", name("podName"))));
        let node = named(cluster, NODES, None, ("node", self.node))?;
        same(uid(&node), name("nodeUID"), |has, asked| {
            format!("{pod} names node UID {asked}, inconsistent with the running node ({has})")
        })?;
        let running = named(cluster, PODS, Some(namespace), ("pod", name("podName")))?;
        same(uid(&running), name("podUID"), |has, asked| {
            format!("{pod} contains pod UID ({asked}) which differs from running pod {has}")
        })?;
        if let Err(why) = self.may_certify(&running, &pod) {
            return Ok(Err(why));
        }
        let account = named(cluster, ACCOUNTS, Some(namespace), ("service account", name("serviceAccountName")))?;
        same(uid(&account), name("serviceAccountUID"), |has, asked| {
            format!("{pod} names service account UID {asked}, which differs from the running service account ({has})")
        })?;
        Ok(Ok(()))
    }

    /// Whether a running pod is one that the request may be for.
    fn may_certify(&self, running: &Value, request: &str) -> Answer {
        let (spec, namespace) = (at(self.object, &["spec"]), self.request.namespace.unwrap_or_default());
        let pod = quote(&format!("{namespace}/{}", text(spec, "podName")));
        if !self.is_ours(running) {
            let node = quote(self.node);
            return Err(format!("pod {pod} is not running on node {node} named in the PodCertificateRequest"));
        }
        if text_entries(at(running, &["metadata"]), "annotations").any(|(key, _)| key == MIRROR) {
            return Err(format!("pod {pod} is a mirror pod"));
        }
        let (asked, has) = (text(spec, "serviceAccountName"), text(at(running, &["spec"]), "serviceAccountName"));
        if asked != has {
            let (asked, has) = (quote(asked), quote(has));
            return Err(format!(
                "{request} contains serviceAccountName ({asked}) that differs from running pod ({has})"
            ));
        }
        let signer = text(spec, "signerName");
        let sources = list(at(running, &["spec"]), "volumes")
            .iter()
            .flat_map(|volume| list(at(volume, &["projected"]), "sources"));
        if { sources }.any(|source| text(at(source, &["podCertificate"]), "signerName") == signer) {
            return Ok(());
        }
        let signer = quote(signer);
        Err(format!("pod {pod} does not mount a podCertificate projected volume for signer {signer}"))
    }

    fn lease(&self) -> Answer {
        if self.request.namespace != Some("kube-node-lease") {
            return Err("can only access leases in the \"kube-node-lease\" system namespace".to_owned());
        }
        self.named("node lease")
    }

    fn named(&self, what: &str) -> Answer {
        if self.name() == self.node {
            return Ok(());
        }
        Err(format!("can only access {what} with the same name as the requesting node"))
    }

    fn slice(&self) -> Answer {
        let ours = some(at(self.subject(), &["spec"]), "nodeName").is_some_and(|name| name == self.node);
        if ours {
            Ok(())
        } else {
            Err("can only create ResourceSlice with the same NodeName as the requesting node".into())
        }
    }
}

fn uid(object: &Value) -> &str {
    text(at(object, &["metadata"]), "uid")
}

/// An object that a PodCertificateRequest names, `what` it is and its name.
fn named(
    cluster: &mut dyn Lookup,
    resource: GroupResource<'_>,
    namespace: Option<&str>,
    (what, name): (&str, &str),
) -> Result<Value, Status> {
    let found = cluster.object(resource, namespace, name, Guard::Present)?;
    found.ok_or_else(|| {
        let shown = quote(&namespace.map_or(name.to_owned(), |namespace| format!("{namespace}/{name}")));
        let why = Status::not_found(resource, name).message;
        Status::internal(format!("while retrieving {what} {shown} named in the PodCertificateRequest: {why}"))
    })
}

fn same(has: &str, asked: &str, why: impl FnOnce(&str, &str) -> String) -> Result<(), Status> {
    if has == asked { Ok(()) } else { Err(Status::internal(why(&quote(has), &quote(asked)))) }
}

/// The labels that a node changes and may not, for people.
fn forbidden_labels(new: &Value, old: &Value) -> String {
    let labels = |object| text_entries(at(object, &["metadata"]), "labels").collect::<BTreeSet<_>>();
    let (new, old) = (labels(new), labels(old));
    let changed: BTreeSet<&str> = new.symmetric_difference(&old).map(|(key, _)| *key).collect();
    changed.into_iter().filter(|key| is_forbidden(key)).collect::<Vec<_>>().join(", ")
}

fn is_forbidden(label: &str) -> bool {
    let (space, _) = label.split_once('/').unwrap_or_default();
    let within = |known: &str| space == known || space.strip_suffix(known).is_some_and(|rest| rest.ends_with('.'));
    let own = OWN_LABELS.contains(&label) || OWN_SPACES.into_iter().any(within);
    within(RESTRICTED_SPACE) || ((within("kubernetes.io") || within("k8s.io")) && !own)
}

#[cfg(test)]
mod tests {
    use kontiki_machinery::access::User;
    use serde_json::json;

    use super::*;
    use crate::rows;

    struct Fake;

    impl Lookup for Fake {
        fn object(
            &mut self,
            resource: GroupResource<'_>,
            _: Option<&str>,
            name: &str,
            _: Guard,
        ) -> Result<Option<Value>, Status> {
            Ok(match (resource.resource, name) {
                ("nodes", "n") => Some(json!({"metadata": {"uid": "u"}})),
                ("serviceaccounts", "s") => Some(json!({"metadata": {"uid": "u"}})),
                ("pods", "certified") => {
                    Some(json!({"metadata": {"uid": "u"}, "spec": {"nodeName": "n", "serviceAccountName": "s",
                    "volumes": [{"name": "v", "projected": {"sources": [{"podCertificate": {"signerName": "e.com/s"}}]}}]}}))
                }
                ("pods", "ours") => Some(json!({"metadata": {"uid": "u"}, "spec": {"nodeName": "n"}})),
                ("pods", "theirs") => Some(json!({"metadata": {"uid": "u"}, "spec": {"nodeName": "m"}})),
                _ => None,
            })
        }

        fn objects(&self, _: GroupResource<'_>) -> Result<Vec<Value>, Status> {
            Ok(Vec::new())
        }

        fn random(&mut self) -> u64 {
            0
        }

        fn now(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }
    }

    fn judge(plural: &str, sub: Option<&str>, operation: Operation, old: Option<&Value>, new: Value) -> String {
        let addresses = "10.96.0.0/16".parse().expect("a range");
        let rows = rows::all(rows::service::Ranges { addresses, node_ports: 30000..=32767 });
        let def = rows.iter().find(|def| def.plural == plural).expect("a row");
        let user = User::new("system:node:n", &["system:nodes"]);
        let namespace = Some(if plural == "leases" { "kube-node-lease" } else { "a" }).filter(|_| def.namespaced());
        let request = Request { operation, user: &user, def, sub, namespace, name: "", old, dry_run: false };
        let mut new = new;
        match NodeRestriction.admit(&request, &mut new, &mut Fake) {
            Ok(()) => String::new(),
            Err(status) => {
                status.message.split_once(" is forbidden: ").map_or(status.message.clone(), |(_, why)| why.to_owned())
            }
        }
    }

    #[test]
    fn a_node_writes_its_own_things() {
        use Operation::{Create, Delete, Update};
        let pod = |node: &str, label: &str| json!({"metadata": {"name": "p", "labels": {"l": label}}, "spec": {"nodeName": node}});
        let node = |name: &str, label: &str, taint: &str| json!({"metadata": {"name": name, "labels": {label: "x"}}, "spec": {"taints": [{"key": taint}]}});
        let lease = |name: &str| json!({"metadata": {"name": name}});
        let token = |name: &str, uid: &str| json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}}});
        for (plural, sub, operation, old, new, expect) in [
            ("pods", Some("status"), Update, Some(pod("n", "a")), pod("n", "a"), ""),
            (
                "pods",
                Some("status"),
                Update,
                Some(pod("n", "a")),
                pod("n", "b"),
                "node \"n\" cannot update labels through pod status",
            ),
            (
                "pods",
                Some("status"),
                Update,
                Some(pod("m", "a")),
                pod("m", "a"),
                "node \"n\" can only update pod status for pods with spec.nodeName set to itself",
            ),
            ("pods", Some("eviction"), Create, None, lease("ours"), ""),
            (
                "pods",
                Some("eviction"),
                Create,
                None,
                lease("theirs"),
                "node \"n\" can only evict pods with spec.nodeName set to itself",
            ),
            ("pods", Some("eviction"), Create, None, lease("gone"), "pods \"gone\" not found"),
            ("pods", None, Delete, Some(pod("n", "a")), Value::Null, ""),
            (
                "pods",
                None,
                Delete,
                Some(pod("m", "a")),
                Value::Null,
                "node \"n\" can only delete pods with spec.nodeName set to itself",
            ),
            (
                "pods",
                None,
                Update,
                Some(pod("n", "a")),
                pod("n", "a"),
                "unexpected operation \"UPDATE\", node \"n\" can only create and delete mirror pods",
            ),
            (
                "pods",
                None,
                Create,
                None,
                pod("n", "a"),
                "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"n\" can only create mirror pods",
            ),
            ("nodes", None, Create, None, node("n", "kubernetes.io/hostname", "t"), ""),
            ("nodes", None, Create, None, node("m", "a", "t"), "node \"n\" is not allowed to modify node \"m\""),
            (
                "nodes",
                None,
                Create,
                None,
                node("n", "kubernetes.io/x", "t"),
                "node \"n\" is not allowed to set the following labels: kubernetes.io/x",
            ),
            (
                "nodes",
                None,
                Create,
                None,
                node("n", "a.node-restriction.kubernetes.io/x", "t"),
                "node \"n\" is not allowed to set the following labels: a.node-restriction.kubernetes.io/x",
            ),
            ("nodes", None, Update, Some(node("n", "a", "t")), node("n", "b", "t"), ""),
            (
                "nodes",
                None,
                Update,
                Some(node("n", "a", "t")),
                node("n", "a", "s"),
                "node \"n\" is not allowed to modify taints",
            ),
            (
                "nodes",
                None,
                Update,
                Some(node("n", "a", "t")),
                node("n", "x.k8s.io/b", "t"),
                "is not allowed to modify labels: x.k8s.io/b",
            ),
            ("leases", None, Create, None, lease("n"), ""),
            (
                "leases",
                None,
                Update,
                Some(lease("m")),
                lease("m"),
                "can only access node lease with the same name as the requesting node",
            ),
            ("serviceaccounts", Some("token"), Create, None, token("ours", "u"), ""),
            (
                "serviceaccounts",
                Some("token"),
                Create,
                None,
                token("ours", ""),
                "node requested token with a pod binding without a uid",
            ),
            (
                "serviceaccounts",
                Some("token"),
                Create,
                None,
                token("theirs", "u"),
                "node requested token bound to a pod scheduled on a different node",
            ),
            ("serviceaccounts", Some("token"), Create, None, json!({}), "node requested token not bound to a pod"),
            ("configmaps", None, Create, None, json!({}), ""),
        ] {
            let said = judge(plural, sub, operation, old.as_ref(), new.clone());
            assert_eq!(said, expect, "{plural} {operation:?} {new}");
        }
    }

    #[test]
    fn a_node_asks_for_certificates_of_its_pods() {
        let asked = json!({"nodeName": "n", "nodeUID": "u", "podName": "certified", "podUID": "u",
            "serviceAccountName": "s", "serviceAccountUID": "u", "signerName": "e.com/s"});
        let pod = "PodCertificateRequest for pod \"a/certified\"";
        for (field, value, expect) in [
            ("signerName", "e.com/s", String::new()),
            (
                "nodeName",
                "m",
                "PodCertificateRequest.Spec.NodeName=\"m\", which is not the requesting node \"n\"".to_owned(),
            ),
            ("nodeUID", "v", format!("{pod} names node UID \"v\", inconsistent with the running node (\"u\")")),
            ("podUID", "v", format!("{pod} contains pod UID (\"v\") which differs from running pod \"u\"")),
            (
                "podName",
                "theirs",
                "pod \"a/theirs\" is not running on node \"n\" named in the PodCertificateRequest".to_owned(),
            ),
            (
                "podName",
                "none",
                "while retrieving pod \"a/none\" named in the PodCertificateRequest: pods \"none\" not found"
                    .to_owned(),
            ),
            (
                "serviceAccountName",
                "t",
                format!("{pod} contains serviceAccountName (\"t\") that differs from running pod (\"s\")"),
            ),
            (
                "serviceAccountUID",
                "v",
                format!(
                    "{pod} names service account UID \"v\", which differs from the running service account (\"u\")"
                ),
            ),
            (
                "signerName",
                "e.com/t",
                "pod \"a/certified\" does not mount a podCertificate projected volume for signer \"e.com/t\""
                    .to_owned(),
            ),
        ] {
            let mut spec = asked.clone();
            spec[field] = value.into();
            let said = judge("podcertificaterequests", None, Operation::Create, None, json!({"spec": spec}));
            assert!(said.ends_with(&expect) && said.is_empty() == expect.is_empty(), "{field}={value}: {said}");
        }
        let said = judge("podcertificaterequests", None, Operation::Update, Some(&json!({})), json!({}));
        assert_eq!(said, "unexpected operation UPDATE");
    }

    #[test]
    fn a_mirror_pod_belongs_to_its_node_and_names_nothing() {
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u", "controller": true});
        let pod = |owner: Value, more: Value| {
            let mut spec = json!({"nodeName": "n", "containers": []});
            more.as_object().expect("fields").iter().for_each(|(key, value)| spec[key] = value.clone());
            json!({"metadata": {"name": "p", "annotations": {MIRROR: "x"}, "ownerReferences": [owner]}, "spec": spec})
        };
        let with = |field: &str, value: Value| {
            let mut owner = owner.clone();
            owner[field] = value;
            owner
        };
        for (pod, expect) in [
            (pod(owner.clone(), json!({})), ""),
            (
                pod(with("name", "m".into()), json!({})),
                "node \"n\" can only create pods with an owner reference set to itself",
            ),
            (pod(with("uid", "v".into()), json!({})), "node n UID mismatch: expected v got u"),
            (
                pod(with("controller", false.into()), json!({})),
                "node \"n\" can only create pods with a controller owner reference set to itself",
            ),
            (
                pod(with("blockOwnerDeletion", true.into()), json!({})),
                "node \"n\" must not set blockOwnerDeletion on an owner reference",
            ),
            (
                pod(owner.clone(), json!({"serviceAccountName": "s"})),
                "node \"n\" can not create pods that reference a service account",
            ),
            (
                pod(owner.clone(), json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]})),
                "node \"n\" can not create pods that reference secrets",
            ),
        ] {
            assert_eq!(judge("pods", None, Operation::Create, None, pod.clone()), expect, "{pod}");
        }
    }
}
