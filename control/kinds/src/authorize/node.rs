//! What a node may do: read what its own pods need, write its own objects and their status
//! (`plugin/pkg/auth/authorizer/node` of upstream). Whose objects it writes is judged by the admission step
//! `NodeRestriction`, which sees them.

use std::collections::BTreeSet;

use kontiki_machinery::access::{Attributes, Authorizer, Decision, Objects, User};
use kontiki_model::{GroupResource, k8s_openapi::api::core::v1::Pod, pod::References, resource::PODS};
use serde_json::Value;

use crate::rows::value::{at, list, text};

const CLAIMS: GroupResource<'static> = GroupResource { group: "", resource: "persistentvolumeclaims" };
const VOLUMES: GroupResource<'static> = GroupResource { group: "", resource: "persistentvolumes" };
const ATTACHMENTS: GroupResource<'static> = GroupResource { group: "storage.k8s.io", resource: "volumeattachments" };
const POD_CERTIFICATES: GroupResource<'static> =
    GroupResource { group: "certificates.k8s.io", resource: "podcertificaterequests" };
const SLICES: GroupResource<'static> = GroupResource { group: "resource.k8s.io", resource: "resourceslices" };

/// `(verbs, group, resource/subresource)` that every node has, whatever runs on it (`NodeRules` of upstream).
const EVERY: &[(&[&str], &str, &str)] = &[
    (&["create"], "authentication.k8s.io", "tokenreviews"),
    (&["create"], "authorization.k8s.io", "subjectaccessreviews"),
    (&["create"], "authorization.k8s.io", "localsubjectaccessreviews"),
    (&["get", "list", "watch"], "", "services"),
    (&["get"], "", "endpoints"),
    (&["create", "update", "patch"], "", "events"),
    (&["create", "update", "patch"], "events.k8s.io", "events"),
    (&["create", "get", "list", "watch"], "certificates.k8s.io", "certificatesigningrequests"),
    (&["get", "list", "watch"], "certificates.k8s.io", "clustertrustbundles"),
    (&["get", "list", "watch"], "storage.k8s.io", "csidrivers"),
    (&["get", "list", "watch"], "node.k8s.io", "runtimeclasses"),
];

/// Upstream's Node authorizer.
pub(super) struct Node;

impl Authorizer for Node {
    fn authorize(&self, user: &User, asked: &Attributes<'_>, objects: &dyn Objects) -> Decision {
        match node_name(user) {
            Some(node) if (Question { node, asked, objects }).judge().is_ok() => Decision::Allow,
            _ => Decision::NoOpinion,
        }
    }

    fn explain(&self, user: &User, asked: &Attributes<'_>, objects: &dyn Objects) -> String {
        node_name(user).and_then(|node| Question { node, asked, objects }.judge().err()).unwrap_or_default()
    }

    fn unlisted(&self, user: &User) -> Option<&'static str> {
        // What a node may do depends on its pods.
        node_name(user).map(|_| "node authorizer does not support user rule resolution")
    }
}

/// The node that `user` is, if it is one.
pub(crate) fn node_name(user: &User) -> Option<&str> {
    user.in_group("system:nodes").then(|| user.name.strip_prefix("system:node:")).flatten()
}

struct Question<'a> {
    node: &'a str,
    asked: &'a Attributes<'a>,
    objects: &'a dyn Objects,
}

/// Yes, or why not.
type Answer = Result<(), String>;

fn no(why: &str) -> Answer {
    Err(why.to_owned())
}

impl Question<'_> {
    fn judge(&self) -> Answer {
        match (self.asked.group, self.asked.resource) {
            ("", "secrets" | "configmaps") => self.read_named(),
            ("", "persistentvolumeclaims") if self.asked.subresource == "status" => self.status_of_claim(),
            ("", "persistentvolumeclaims" | "persistentvolumes")
            | ("resource.k8s.io", "resourceclaims")
            | ("storage.k8s.io", "volumeattachments") => self.get(),
            ("", "serviceaccounts") if self.asked.subresource == "token" || self.asked.verb != "get" => self.token(),
            ("", "serviceaccounts") => self.get(),
            ("coordination.k8s.io", "leases") => self.lease(),
            ("storage.k8s.io", "csinodes") => self.csi_node(),
            ("resource.k8s.io", "resourceslices") => self.slice(),
            ("certificates.k8s.io", "podcertificaterequests") => self.pod_certificate(),
            ("", "nodes") => self.own(),
            ("", "pods") => self.pod(),
            _ => self.every(),
        }
    }

    fn every(&self) -> Answer {
        let asked = self.asked;
        let allows = |(verbs, group, resource): &(&[&str], &str, &str)| {
            verbs.contains(&asked.verb) && *group == asked.group && *resource == asked.resource
        };
        if asked.subresource.is_empty() && EVERY.iter().any(allows) { Ok(()) } else { no("") }
    }

    fn read_named(&self) -> Answer {
        if !self.asked.reads() {
            return no("can only read resources of this type");
        }
        if !self.asked.subresource.is_empty() {
            return no("cannot read subresource");
        }
        if self.asked.namespace.is_empty() {
            return no("can only read namespaced object of this type");
        }
        self.related()
    }

    fn get(&self) -> Answer {
        if self.asked.verb != "get" {
            return no("can only get individual resources of this type");
        }
        if !self.asked.subresource.is_empty() {
            return no("cannot get subresource");
        }
        self.related()
    }

    fn status_of_claim(&self) -> Answer {
        match self.asked.verb {
            "update" | "patch" => self.related(),
            _ => no("can only get/update/patch this type"),
        }
    }

    fn token(&self) -> Answer {
        if self.asked.verb != "create" || self.asked.name.is_empty() {
            return no("can only create tokens for individual service accounts");
        }
        if self.asked.subresource != "token" {
            return no("can only create token subresource of serviceaccount");
        }
        self.related()
    }

    fn lease(&self) -> Answer {
        match self.asked.verb {
            "get" | "create" | "update" | "patch" | "delete" => {}
            _ => return no("can only get, create, update, patch, or delete a node lease"),
        }
        if self.asked.namespace != "kube-node-lease" {
            return no("can only access leases in the \"kube-node-lease\" system namespace");
        }
        if self.asked.verb != "create" && self.asked.name != self.node {
            return no("can only access node lease with the same name as the requesting node");
        }
        Ok(())
    }

    fn csi_node(&self) -> Answer {
        match self.asked.verb {
            "get" | "create" | "update" | "patch" | "delete" => {}
            _ => return no("can only get, create, update, patch, or delete a CSINode"),
        }
        if !self.asked.subresource.is_empty() {
            return no("cannot authorize CSINode subresources");
        }
        if self.asked.verb != "create" && self.asked.name != self.node {
            return no("can only access CSINode with the same name as the requesting node");
        }
        Ok(())
    }

    fn slice(&self) -> Answer {
        if !self.asked.subresource.is_empty() {
            return no("cannot authorize ResourceSlice subresources");
        }
        match self.asked.verb {
            "create" => Ok(()),
            "get" | "update" | "patch" | "delete" => self.related(),
            "watch" | "list" | "deletecollection" if self.asked.field("spec.nodeName") == Some(self.node) => Ok(()),
            "watch" | "list" | "deletecollection" => {
                no("can only list/watch/deletecollection resourceslices with nodeName field selector")
            }
            _ => no(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
            ),
        }
    }

    fn pod_certificate(&self) -> Answer {
        if !self.asked.subresource.is_empty() {
            return no("nodes may not access the status subresource of PodCertificateRequests");
        }
        match self.asked.verb {
            "create" => Ok(()),
            "get" => self.related(),
            "list" | "watch" if self.asked.field("spec.nodeName") == Some(self.node) => Ok(()),
            "list" | "watch" => no("can only list/watch podcertificaterequests with nodeName field selector"),
            verb => Err(format!("nodes may not {verb} podcertificaterequests")),
        }
    }

    fn own(&self) -> Answer {
        let (node, name) = (self.node, self.asked.name);
        match (self.asked.subresource, self.asked.verb) {
            ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
            ("", "get" | "list" | "watch") if name == node => Ok(()),
            ("", "get" | "list" | "watch") if name.is_empty() => {
                Err(format!("node '{node}' cannot read all nodes, only its own Node object"))
            }
            ("", "get" | "list" | "watch") => {
                Err(format!("node '{node}' cannot read '{name}', only its own Node object"))
            }
            _ => no(""),
        }
    }

    fn pod(&self) -> Answer {
        match (self.asked.subresource, self.asked.verb) {
            ("", "get") => self.related(),
            ("", "list" | "watch") if self.asked.field("spec.nodeName") == Some(self.node) => Ok(()),
            ("", "list" | "watch") if !self.asked.name.is_empty() => self.related(),
            ("", "list" | "watch") => no("can only list/watch pods with spec.nodeName field selector"),
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            _ => no(""),
        }
    }

    /// Whether the object has to do with this node.
    fn related(&self) -> Answer {
        if self.asked.name.is_empty() {
            return no("No Object name found");
        }
        let asked = self.asked;
        let related = match asked.resource {
            "pods" => self.is_ours(self.objects.get(PODS, Some(asked.namespace), asked.name)),
            "volumeattachments" => self.is_ours(self.objects.get(ATTACHMENTS, None, asked.name)),
            "resourceslices" => self.is_ours(self.objects.get(SLICES, None, asked.name)),
            "podcertificaterequests" => {
                self.is_ours(self.objects.get(POD_CERTIFICATES, Some(asked.namespace), asked.name))
            }
            "persistentvolumes" => self.mounts_volume(asked.name),
            "persistentvolumeclaims" => self.pods(asked.namespace).any(|pod| claims(&pod).contains(asked.name)),
            "resourceclaims" => self.pods(asked.namespace).any(|pod| resource_claims(&pod).contains(asked.name)),
            "serviceaccounts" => {
                self.pods(asked.namespace).any(|pod| text(at(&pod, &["spec"]), "serviceAccountName") == asked.name)
            }
            _ => self.pods(asked.namespace).any(|pod| self.names(&pod)),
        };
        if related {
            return Ok(());
        }
        Err(format!("no relationship found between node '{}' and this object", self.node))
    }

    fn is_ours(&self, object: Option<Value>) -> bool {
        object.is_some_and(|object| text(at(&object, &["spec"]), "nodeName") == self.node)
    }

    /// The node's pods in a namespace.
    fn pods(&self, namespace: &str) -> impl Iterator<Item = Value> {
        self.objects.list(PODS, namespace).filter(|pod| text(at(pod, &["spec"]), "nodeName") == self.node)
    }

    /// Whether one of the node's pods mounts the claim that a volume is bound to.
    fn mounts_volume(&self, name: &str) -> bool {
        let Some(volume) = self.objects.get(VOLUMES, None, name) else { return false };
        let claim = at(&volume, &["spec", "claimRef"]);
        let (namespace, name) = (text(claim, "namespace"), text(claim, "name"));
        !namespace.is_empty() && self.pods(namespace).any(|pod| claims(&pod).contains(name))
    }

    /// Whether a pod needs the Secret or ConfigMap that is asked for.
    fn names(&self, pod: &Value) -> bool {
        let name = self.asked.name;
        // One that cannot be read as a pod runs nowhere.
        let Ok(typed) = serde_json::from_value::<Pod>(pod.clone()) else { return false };
        let named = References::of(&typed);
        if self.asked.resource == "configmaps" {
            return named.config_maps.contains(name);
        }
        named.secrets.contains(name) || claims(pod).iter().any(|claim| self.volume_needs(claim, name))
    }

    /// Whether the volume behind a claim of this namespace is mounted with the Secret.
    fn volume_needs(&self, claim: &str, secret: &str) -> bool {
        let namespace = self.asked.namespace;
        let Some(claim) = self.objects.get(CLAIMS, Some(namespace), claim) else { return false };
        let volume = self.objects.get(VOLUMES, None, text(at(&claim, &["spec"]), "volumeName"));
        volume.is_some_and(|volume| refers(at(&volume, &["spec"]), namespace, secret))
    }
}

/// The claims that a pod mounts.
fn claims(pod: &Value) -> BTreeSet<String> {
    let own = text(at(pod, &["metadata"]), "name");
    let claim = |volume: &Value| match text(at(volume, &["persistentVolumeClaim"]), "claimName") {
        "" => volume.get("ephemeral").map(|_| format!("{own}-{}", text(volume, "name"))),
        name => Some(name.to_owned()),
    };
    list(at(pod, &["spec"]), "volumes").iter().filter_map(claim).collect()
}

/// The resource claims of a pod, its own and those made for it.
fn resource_claims(pod: &Value) -> BTreeSet<String> {
    let of = |list: &[Value]| -> BTreeSet<String> {
        list.iter().map(|claim| text(claim, "resourceClaimName").to_owned()).filter(|name| !name.is_empty()).collect()
    };
    let (spec, status) = (at(pod, &["spec"]), at(pod, &["status"]));
    &of(list(spec, "resourceClaims")) | &of(list(status, "resourceClaimStatuses"))
}

/// Whether a volume's source refers to a Secret of a namespace, by whatever field.
fn refers(source: &Value, namespace: &str, secret: &str) -> bool {
    let Some(fields) = source.as_object() else { return false };
    fields.iter().any(|(key, value)| {
        let place = || ["namespace", "secretNamespace"].map(|field| text(value, field)).concat();
        let named = key.to_lowercase().ends_with("secretref") && text(value, "name") == secret;
        let by_name = text(value, "secretName") == secret;
        ((named || by_name) && ["", namespace].contains(&place().as_str())) || refers(value, namespace, secret)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    struct Fake(BTreeMap<String, Value>);

    impl Objects for Fake {
        fn get(&self, resource: GroupResource<'_>, namespace: Option<&str>, name: &str) -> Option<Value> {
            self.0.get(&format!("{}/{}/{name}", resource.resource, namespace.unwrap_or_default())).cloned()
        }

        fn list<'a>(&'a self, resource: GroupResource<'_>, namespace: &str) -> Box<dyn Iterator<Item = Value> + 'a> {
            let prefix = format!("{}/{namespace}/", resource.resource);
            Box::new(self.0.iter().filter(move |(key, _)| key.starts_with(&prefix)).map(|(_, value)| value.clone()))
        }
    }

    fn world() -> Fake {
        let pod = |node: &str, name: &str, volumes: Value| {
            json!({"metadata": {"name": name, "namespace": "a"},
                   "spec": {"nodeName": node, "serviceAccountName": name, "containers": [], "volumes": volumes,
                            "resourceClaims": [{"name": "r", "resourceClaimName": format!("rc-{name}")}]}})
        };
        let volumes = json!([{"name": "s", "secret": {"secretName": "mine"}}, {"name": "e", "ephemeral": {}},
                             {"name": "c", "persistentVolumeClaim": {"claimName": "claim"}}]);
        let volume = json!({"spec": {"claimRef": {"namespace": "a", "name": "claim"},
                                     "csi": {"nodePublishSecretRef": {"namespace": "a", "name": "deep"}}}});
        let objects = [
            ("pods/a/p", pod("n", "p", volumes)),
            ("pods/a/q", pod("m", "q", json!([{"name": "s", "secret": {"secretName": "theirs"}}]))),
            ("persistentvolumeclaims/a/claim", json!({"spec": {"volumeName": "v"}})),
            ("persistentvolumes//v", volume),
            ("persistentvolumes//w", json!({"spec": {}})),
            ("podcertificaterequests/a/ours", json!({"spec": {"nodeName": "n"}})),
            ("podcertificaterequests/a/theirs", json!({"spec": {"nodeName": "m"}})),
            ("volumeattachments//x", json!({"spec": {"nodeName": "n"}})),
            ("volumeattachments//y", json!({"spec": {"nodeName": "m"}})),
        ];
        Fake(objects.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    #[test]
    fn a_node_may_what_its_pods_need() {
        let (objects, user) = (world(), User::new("system:node:n", &["system:nodes"]));
        // `verb group resource[/sub] name namespace field`, `-` is nothing.
        for (text, expect) in [
            ("get - secrets mine a", ""),
            ("list - secrets mine a", ""),
            ("get - secrets deep a", ""),
            ("get - secrets theirs a", "no relationship found between node 'n' and this object"),
            ("list - secrets - a", "No Object name found"),
            ("list - secrets", "can only read namespaced object of this type"),
            ("update - secrets mine a", "can only read resources of this type"),
            ("get - persistentvolumeclaims claim a", ""),
            ("get - persistentvolumeclaims p-e a", ""),
            ("get - persistentvolumeclaims other a", "no relationship found between node 'n' and this object"),
            ("patch - persistentvolumeclaims/status claim a", ""),
            ("get - persistentvolumes v", ""),
            ("get - persistentvolumes w", "no relationship found between node 'n' and this object"),
            ("list - persistentvolumes", "can only get individual resources of this type"),
            ("get storage.k8s.io volumeattachments x", ""),
            ("get storage.k8s.io volumeattachments y", "no relationship found between node 'n' and this object"),
            ("get resource.k8s.io resourceclaims rc-p a", ""),
            ("get resource.k8s.io resourceclaims rc-q a", "no relationship found between node 'n' and this object"),
            ("create - serviceaccounts/token p a", ""),
            ("create - serviceaccounts/token q a", "no relationship found between node 'n' and this object"),
            ("create - serviceaccounts p a", "can only create token subresource of serviceaccount"),
            ("get - serviceaccounts p a", ""),
            ("get - pods p a", ""),
            ("get - pods q a", "no relationship found between node 'n' and this object"),
            ("list - pods - - spec.nodeName=n", ""),
            ("list - pods - - spec.nodeName=m", "can only list/watch pods with spec.nodeName field selector"),
            ("create - pods/eviction q a", ""),
            ("get - nodes n", ""),
            ("get - nodes m", "node 'n' cannot read 'm', only its own Node object"),
            ("list - nodes", "node 'n' cannot read all nodes, only its own Node object"),
            ("create coordination.k8s.io leases - kube-node-lease", ""),
            ("get coordination.k8s.io leases n kube-node-lease", ""),
            (
                "get coordination.k8s.io leases m kube-node-lease",
                "can only access node lease with the same name as the requesting node",
            ),
            (
                "get coordination.k8s.io leases n a",
                "can only access leases in the \"kube-node-lease\" system namespace",
            ),
            ("update storage.k8s.io csinodes m", "can only access CSINode with the same name as the requesting node"),
            ("watch resource.k8s.io resourceslices - - spec.nodeName=n", ""),
            ("list certificates.k8s.io clustertrustbundles", ""),
            ("create certificates.k8s.io podcertificaterequests - a", ""),
            ("watch certificates.k8s.io podcertificaterequests - - spec.nodeName=n", ""),
            ("get certificates.k8s.io podcertificaterequests ours a", ""),
            (
                "get certificates.k8s.io podcertificaterequests theirs a",
                "no relationship found between node 'n' and this object",
            ),
            (
                "list certificates.k8s.io podcertificaterequests - a",
                "can only list/watch podcertificaterequests with nodeName field selector",
            ),
            (
                "update certificates.k8s.io podcertificaterequests/status ours a",
                "nodes may not access the status subresource of PodCertificateRequests",
            ),
            ("delete certificates.k8s.io podcertificaterequests ours a", "nodes may not delete podcertificaterequests"),
            ("watch - services", ""),
        ] {
            let words: Vec<&str> = text.split_whitespace().collect();
            let word = |at: usize| {
                words.get(at).map_or("", |word| word.strip_prefix("-").filter(|rest| rest.is_empty()).unwrap_or(word))
            };
            let (resource, subresource) = word(2).split_once('/').unwrap_or((word(2), ""));
            let fields: Vec<(&str, &str)> = words.get(5).and_then(|field| field.split_once('=')).into_iter().collect();
            let (verb, group, name, namespace) = (word(0), word(1), word(3), words.get(4).copied().unwrap_or_default());
            let namespace = if namespace == "-" { "" } else { namespace };
            let asked = Attributes {
                verb,
                group,
                resource,
                subresource,
                name,
                namespace,
                fields: &fields,
                ..Attributes::default()
            };
            let allowed = Node.authorize(&user, &asked, &objects) == Decision::Allow;
            assert_eq!(
                (allowed, Node.explain(&user, &asked, &objects).as_str()),
                (expect.is_empty(), expect),
                "{text}"
            );
        }
        let asked = Attributes { verb: "delete", resource: "services", ..Attributes::default() };
        assert_eq!(Node.authorize(&user, &asked, &objects), Decision::NoOpinion);
        let asked = Attributes { verb: "watch", resource: "services", ..Attributes::default() };
        assert_eq!(Node.authorize(&User::new("ann", &[]), &asked, &objects), Decision::NoOpinion);
    }
}
