//! CertificateSigningRequests for the signers that the cluster has itself: which are approved without asking a person,
//! which are signed, and when they go.

pub mod approve;
pub mod clean;
pub mod clean_pods;
pub mod sign;

use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition as Condition};

/// Clients of the API.
const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Nodes as clients of the API.
const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// What nodes serve.
const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";
/// Whatever was asked of an earlier API.
const LEGACY: &str = "kubernetes.io/legacy-unknown";

const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";

/// What a request (RFC 2986) asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The subject's common name.
    pub common_name: String,
    /// The subject's organizations.
    pub organizations: Vec<String>,
    /// How many alternative names are DNS names.
    pub dns: usize,
    /// E-mail addresses.
    pub emails: usize,
    /// IP addresses.
    pub ips: usize,
    /// URIs.
    pub uris: usize,
}

fn conditions(csr: &CertificateSigningRequest) -> &[Condition] {
    csr.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

fn condition<'a>(csr: &'a CertificateSigningRequest, kind: &str) -> Option<&'a Condition> {
    conditions(csr).iter().find(|condition| condition.type_ == kind)
}

fn issued(csr: &CertificateSigningRequest) -> bool {
    csr.status.as_ref().and_then(|status| status.certificate.as_ref()).is_some_and(|bytes| !bytes.0.is_empty())
}

fn usages(csr: &CertificateSigningRequest) -> Vec<String> {
    csr.spec.usages.clone().unwrap_or_default()
}

/// Conditions with one more, as a patch of the status.
fn with(csr: &CertificateSigningRequest, kind: &str, reason: &str, message: &str) -> serde_json::Value {
    let mut all = conditions(csr).to_vec();
    all.push(Condition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        ..Condition::default()
    });
    serde_json::json!({"status": {"conditions": all}})
}

/// Whether the usages are some words and no others; key encipherment, which only RSA needs, may be missing.
fn are(usages: &[String], wanted: &str) -> bool {
    let has = |word: &str| usages.iter().any(|usage| usage == word);
    has("digital signature")
        && has(wanted)
        && usages.iter().all(|usage| ["digital signature", "key encipherment", wanted].contains(&usage.as_str()))
}

/// Why a request is none of a node's as a client of the API.
fn node_client_problem(asked: &Asked, usages: &[String]) -> Option<&'static str> {
    Some(match asked {
        _ if asked.organizations != [NODES] => "subject organization is not system:nodes",
        Asked { dns: 1.., .. } => "DNS subjectAltNames are not allowed",
        Asked { emails: 1.., .. } => "Email subjectAltNames are not allowed",
        Asked { ips: 1.., .. } => "IP subjectAltNames are not allowed",
        Asked { uris: 1.., .. } => "URI subjectAltNames are not allowed",
        _ if !asked.common_name.starts_with(NODE_PREFIX) => "subject common name does not begin with system:node:",
        _ if !are(usages, "client auth") => "usages did not match [client auth digital signature key encipherment]",
        _ => return None,
    })
}

#[cfg(test)]
pub(crate) mod samples {
    use k8s_openapi::ByteString;
    use k8s_openapi::api::certificates::v1::{CertificateSigningRequestSpec, CertificateSigningRequestStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;
    use crate::object::time;
    use crate::testing::{NOW, meta};

    pub fn node(name: &str) -> Asked {
        let (common_name, organizations) = (format!("{NODE_PREFIX}{name}"), vec![NODES.to_owned()]);
        Asked { common_name, organizations, ..Asked::default() }
    }

    /// A request of `system:node:n`. `state`: words out of `Approved`, `Denied`, `Failed`, `issued`.
    pub fn csr(signer: &str, usages: &[&str], state: &str) -> CertificateSigningRequest {
        let condition = |kind: &str| Condition {
            type_: kind.to_owned(),
            status: "True".to_owned(),
            last_update_time: Some(time(NOW)),
            ..Condition::default()
        };
        let kinds = state.split_whitespace().filter(|word| *word != "issued");
        let certificate = state.contains("issued").then(|| ByteString(b"PEM".to_vec()));
        CertificateSigningRequest {
            metadata: ObjectMeta { namespace: None, creation_timestamp: Some(time(NOW)), ..meta("c") },
            spec: CertificateSigningRequestSpec {
                signer_name: signer.to_owned(),
                usages: Some(usages.iter().map(|usage| (*usage).to_owned()).collect()),
                username: Some("system:node:n".to_owned()),
                request: ByteString(b"REQUEST".to_vec()),
                ..CertificateSigningRequestSpec::default()
            },
            status: Some(CertificateSigningRequestStatus {
                conditions: Some(kinds.map(condition).collect()).filter(|all: &Vec<_>| !all.is_empty()),
                certificate,
            }),
        }
    }

    #[test]
    fn a_node_asks_for_itself_as_a_client() {
        let words = |text: &str| text.split(", ").map(str::to_owned).collect::<Vec<_>>();
        let other = |change: fn(&mut Asked)| {
            let mut asked = node("n");
            change(&mut asked);
            asked
        };
        for (asked, usages, expect) in [
            (node("n"), "digital signature, client auth", None),
            (node("n"), "digital signature, client auth, key encipherment", None),
            (node("n"), "digital signature, client auth, server auth", Some("usages did not match")),
            (node("n"), "client auth", Some("usages did not match")),
            (other(|asked| asked.organizations.push("a".into())), "client auth", Some("organization")),
            (other(|asked| asked.dns = 1), "client auth", Some("DNS")),
            (other(|asked| asked.common_name = "n".into()), "client auth", Some("common name")),
        ] {
            let found = node_client_problem(&asked, &words(usages));
            assert_eq!(found.is_some(), expect.is_some(), "{asked:?} {usages}");
            assert!(found.unwrap_or_default().contains(expect.unwrap_or_default()), "{found:?}");
        }
    }
}
