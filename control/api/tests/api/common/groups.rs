//! The least that valid objects of the groups beside the workloads say.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kontiki_kinds::ResourceDef;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

/// A request for a certificate, as PEM and as DER.
fn request() -> (String, Vec<u8>) {
    let key = KeyPair::generate().expect("key");
    let request = CertificateParams::default().serialize_request(&key).expect("a request");
    (request.pem().expect("PEM"), request.der().to_vec())
}

/// The name of the object: some kinds ask for a particular one.
pub fn name(def: &ResourceDef) -> &'static str {
    match def.plural.as_ref() {
        "apiservices" => "v1.walk.example.com",
        "customresourcedefinitions" => "walks.example.com",
        "ipaddresses" => "10.0.0.1",
        _ => "walk",
    }
}

/// Everything but the metadata.
pub fn least(def: &ResourceDef) -> Value {
    match def.group.as_ref() {
        "admissionregistration.k8s.io" => admission(def),
        "apiextensions.k8s.io" => {
            let schema = json!({"openAPIV3Schema": {"type": "object"}});
            json!({"spec": {
                "group": "example.com", "scope": "Cluster", "names": {"plural": "walks", "kind": "Walk"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}],
            }})
        }
        "apiregistration.k8s.io" => {
            json!({"spec": {"group": "walk.example.com", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1}})
        }
        "certificates.k8s.io" => certificate(def),
        "flowcontrol.apiserver.k8s.io" if def.plural == "flowschemas" => {
            json!({"spec": {"priorityLevelConfiguration": {"name": "x"}}})
        }
        "flowcontrol.apiserver.k8s.io" => {
            json!({"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}})
        }
        "resource.k8s.io" => device(def),
        "storagemigration.k8s.io" => json!({"spec": {"resource": {"group": "apps", "resource": "deployments"}}}),
        _ => json!({}),
    }
}

fn admission(def: &ResourceDef) -> Value {
    let rule = json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]});
    let matching = json!({"resourceRules": [rule]});
    match def.plural.as_ref() {
        "validatingadmissionpolicies" => {
            json!({"spec": {"matchConstraints": matching, "validations": [{"expression": "true"}]}})
        }
        "mutatingadmissionpolicies" => {
            let mutation = json!({"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{}]"}});
            json!({"spec": {"matchConstraints": matching, "reinvocationPolicy": "Never", "mutations": [mutation]}})
        }
        "validatingadmissionpolicybindings" => json!({"spec": {"policyName": "p", "validationActions": ["Deny"]}}),
        "mutatingadmissionpolicybindings" => json!({"spec": {"policyName": "p"}}),
        _ => json!({}),
    }
}

fn certificate(def: &ResourceDef) -> Value {
    let (pem, der) = request();
    match def.plural.as_ref() {
        "certificatesigningrequests" => {
            let request = STANDARD.encode(pem);
            json!({"spec": {"signerName": "example.com/s", "usages": ["client auth"], "request": request}})
        }
        "clustertrustbundles" => json!({"spec": {"trustBundle": super::Authority::new().pem()}}),
        _ => json!({"spec": {
            "signerName": "example.com/s", "podName": "p", "podUID": "u", "serviceAccountName": "s",
            "serviceAccountUID": "v", "nodeName": "n", "nodeUID": "w", "stubPKCS10Request": STANDARD.encode(der),
        }}),
    }
}

fn device(def: &ResourceDef) -> Value {
    match def.plural.as_ref() {
        "resourceslices" => {
            let pool = json!({"name": "p", "resourceSliceCount": 1, "generation": 1});
            json!({"spec": {"driver": "d.example.com", "pool": pool, "allNodes": true}})
        }
        "devicetaintrules" => json!({"spec": {"taint": {"key": "k", "effect": "NoSchedule"}}}),
        _ => json!({"spec": {}}),
    }
}
