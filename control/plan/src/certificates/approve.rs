//! Nodes' own requests for client certificates are approved, if whoever asks may do that: for himself
//! (`certificatesigningrequests/selfnodeclient`) or for any node (`certificatesigningrequests/nodeclient`).

use std::collections::BTreeMap;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use serde_json::{Value, json};

use super::{Asked, NODE_CLIENT, condition, issued, node_client_problem, usages, with};
use crate::action::{Action, Condition, Patch, Plan, patch};

/// Decides about one request; `asked` is what its bytes say, if they can be read.
#[must_use]
pub fn plan(csr: &CertificateSigningRequest, asked: Option<&Asked>) -> Plan {
    if issued(csr) || ["Approved", "Denied"].iter().any(|kind| condition(csr, kind).is_some()) {
        return Plan::rest("it is decided");
    }
    let Some(asked) = asked else { return Plan::rest("it cannot be read") };
    if csr.spec.signer_name != NODE_CLIENT || node_client_problem(asked, &usages(csr)).is_some() {
        return Plan::rest("it is for people to decide");
    }
    let own = csr.spec.username.as_deref() == Some(asked.common_name.as_str());
    let mut choices = Vec::new();
    if own {
        let message = "Auto approving self kubelet client certificate after SubjectAccessReview.";
        choices.extend(choice(csr, "selfnodeclient", message));
    }
    let message = "Auto approving kubelet client certificate after SubjectAccessReview.";
    choices.extend(choice(csr, "nodeclient", message));
    Plan::new("it is a node's", vec![Action::FirstOf(choices)])
}

fn choice(csr: &CertificateSigningRequest, subresource: &str, message: &str) -> Option<(Condition, Patch)> {
    let body = with(csr, "Approved", "AutoApproved", message);
    match patch(csr, Some("approval"), body) {
        Action::Patch(patch) => Some((Condition::Allowed(review(csr, subresource)), patch)),
        _ => None,
    }
}

/// Whether whoever asks may have such requests approved: the spec of a SubjectAccessReview.
fn review(csr: &CertificateSigningRequest, subresource: &str) -> Value {
    let spec = &csr.spec;
    let extra: BTreeMap<_, _> = spec.extra.iter().flatten().collect();
    json!({
        "user": spec.username, "uid": spec.uid, "groups": spec.groups, "extra": extra,
        "resourceAttributes": {
            "group": "certificates.k8s.io", "version": "*", "resource": "certificatesigningrequests",
            "subresource": subresource, "verb": "create",
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::samples::{csr, node};
    use super::*;
    use crate::testing::{Cluster, show};

    const USAGES: &[&str] = &["digital signature", "client auth"];

    #[test]
    fn nodes_requests_are_approved() {
        for (what, csr, asked, expect) in [
            ("its own", csr(NODE_CLIENT, USAGES, ""), Some(node("n")), "[approval c | approval c]"),
            ("another's", csr(NODE_CLIENT, USAGES, ""), Some(node("m")), "[approval c]"),
            ("approved", csr(NODE_CLIENT, USAGES, "Approved"), Some(node("n")), ""),
            ("denied", csr(NODE_CLIENT, USAGES, "Denied"), Some(node("n")), ""),
            ("another signer", csr("example.com/s", USAGES, ""), Some(node("n")), ""),
            ("other usages", csr(NODE_CLIENT, &["any"], ""), Some(node("n")), ""),
            ("no request", csr(NODE_CLIENT, USAGES, ""), None, ""),
        ] {
            assert_eq!(show(&plan(&csr, asked.as_ref()).actions), expect, "{what}");
        }
    }

    #[test]
    fn an_approval_is_enough() {
        let mut cluster = Cluster::default();
        cluster.add(&csr(NODE_CLIENT, USAGES, ""));
        let rested = cluster.settle(2, |cluster| {
            cluster
                .list::<CertificateSigningRequest>()
                .iter()
                .flat_map(|csr| plan(csr, Some(&node("n"))).actions)
                .collect()
        });
        assert!(rested, "{}", cluster.trace());
        assert!(condition(&cluster.only(), "Approved").is_some());
    }
}
