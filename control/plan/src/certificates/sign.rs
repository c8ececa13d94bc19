//! What was approved is signed, if it is what its signer gives; else it has failed.
//!
//! Invariant: nobody becomes a master this way, whoever approved: the masters' own group and names are refused by every
//! signer, beside what upstream refuses.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use serde_json::json;

use super::{
    API_CLIENT, Asked, LEGACY, NODE_CLIENT, NODE_PREFIX, NODE_SERVING, NODES, are, condition, issued, usages, with,
};
use crate::action::{Action, Condition, Order, Plan, patch};

/// How long a certificate lives that asks for nothing else, and the longest: a year, in seconds.
const LONGEST: i64 = 365 * 86_400;
/// The shortest.
const SHORTEST: i64 = 600;
/// Whose members are trusted as the cluster's masters.
const SERVERS: &str = "kontiki:servers";
const SERVER_PREFIX: &str = "system:kontiki:server:";

/// Decides about one request; `asked` is what its bytes say, if they can be read.
#[must_use]
pub fn plan(csr: &CertificateSigningRequest, asked: Option<&Asked>) -> Plan {
    let is = |kind| condition(csr, kind).is_some_and(|condition| condition.status == "True");
    if issued(csr) || !is("Approved") || is("Failed") || is("Denied") {
        return Plan::rest("it is not to be signed");
    }
    if ![API_CLIENT, NODE_CLIENT, NODE_SERVING, LEGACY].contains(&csr.spec.signer_name.as_str()) {
        return Plan::rest("it is for another signer");
    }
    let Some(asked) = asked else { return Plan::rest("it cannot be read") };
    if let Some(why) = problem(&csr.spec.signer_name, asked, &usages(csr)) {
        let body = with(csr, "Failed", "SignerValidationFailure", &why);
        return Plan::new("its signer does not give such", vec![patch(csr, Some("status"), body)]);
    }
    let seconds = csr.spec.expiration_seconds.map_or(LONGEST, |seconds| i64::from(seconds).clamp(SHORTEST, LONGEST));
    let request_pem = String::from_utf8_lossy(&csr.spec.request.0).into_owned();
    let order = Order { request_pem, usages: usages(csr), seconds };
    match patch(csr, Some("status"), json!({"status": {}})) {
        Action::Patch(patch) => {
            Plan::new("it was approved", vec![Action::FirstOf(vec![(Condition::Signed(order), patch)])])
        }
        _ => Plan::rest("it cannot be patched"),
    }
}

/// Why the signer does not sign.
fn problem(signer: &str, asked: &Asked, usages: &[String]) -> Option<String> {
    if asked.organizations.iter().any(|name| name == SERVERS) || asked.common_name.starts_with(SERVER_PREFIX) {
        return Some("certificates of masters are not given on request".to_owned());
    }
    match signer {
        NODE_CLIENT => super::node_client_problem(asked, usages).map(str::to_owned),
        NODE_SERVING => serving_problem(asked, usages).map(str::to_owned),
        API_CLIENT => client_problem(usages),
        _ => None,
    }
}

fn serving_problem(asked: &Asked, usages: &[String]) -> Option<&'static str> {
    Some(match asked {
        _ if asked.organizations != [NODES] => "subject organization is not system:nodes",
        Asked { dns: 0, ips: 0, .. } => "DNS or IP subjectAltName is required",
        Asked { emails: 1.., .. } => "Email subjectAltNames are not allowed",
        Asked { uris: 1.., .. } => "URI subjectAltNames are not allowed",
        _ if !are(usages, "server auth") => "usages did not match [digital signature key encipherment server auth]",
        _ if !asked.common_name.starts_with(NODE_PREFIX) => "subject common name does not begin with system:node:",
        _ => return None,
    })
}

fn client_problem(usages: &[String]) -> Option<String> {
    const KNOWN: [&str; 3] = ["client auth", "digital signature", "key encipherment"];
    if let Some(odd) = usages.iter().find(|usage| !KNOWN.contains(&usage.as_str())) {
        return Some(format!("invalid usage for client certificate: {odd}"));
    }
    let client = usages.iter().any(|usage| usage == KNOWN[0]);
    (!client).then(|| format!("missing required usage for client certificate: {}", KNOWN[0]))
}

#[cfg(test)]
mod tests {
    use super::super::samples::{csr, node};
    use super::*;
    use crate::testing::{Cluster, show};

    const CLIENT: &[&str] = &["digital signature", "client auth"];
    const SERVER: &[&str] = &["digital signature", "server auth"];

    fn user(name: &str, group: &str) -> Asked {
        Asked { common_name: name.into(), organizations: vec![group.into()], ..Asked::default() }
    }

    #[test]
    fn signers_give_what_they_are_for() {
        let serving = Asked { ips: 1, ..node("n") };
        for (what, csr, asked, expect, why) in [
            ("a client", csr(API_CLIENT, CLIENT, "Approved"), user("u", "g"), "[status c]", "it was approved"),
            ("a node", csr(NODE_CLIENT, CLIENT, "Approved"), node("n"), "[status c]", "it was approved"),
            ("what it serves", csr(NODE_SERVING, SERVER, "Approved"), serving.clone(), "[status c]", "it was approved"),
            ("anything", csr(LEGACY, &["any"], "Approved"), user("u", "g"), "[status c]", "it was approved"),
            ("no name", csr(NODE_SERVING, SERVER, "Approved"), node("n"), "status c", "its signer does not give such"),
            ("usage", csr(API_CLIENT, SERVER, "Approved"), user("u", "g"), "status c", "its signer does not give such"),
            (
                "a master",
                csr(LEGACY, CLIENT, "Approved"),
                user("u", SERVERS),
                "status c",
                "its signer does not give such",
            ),
            (
                "a master's name",
                csr(API_CLIENT, CLIENT, "Approved"),
                user("system:kontiki:server:a", "g"),
                "status c",
                "its signer does not give such",
            ),
            ("not approved", csr(API_CLIENT, CLIENT, ""), user("u", "g"), "", "it is not to be signed"),
            ("failed", csr(API_CLIENT, CLIENT, "Approved Failed"), user("u", "g"), "", "it is not to be signed"),
            ("signed", csr(API_CLIENT, CLIENT, "Approved issued"), user("u", "g"), "", "it is not to be signed"),
            ("foreign", csr("example.com/s", CLIENT, "Approved"), user("u", "g"), "", "it is for another signer"),
        ] {
            let plan = plan(&csr, Some(&asked));
            assert_eq!((show(&plan.actions).as_str(), plan.why), (expect, why), "{what}");
        }
    }

    #[test]
    fn lives_are_bounded() {
        for (asked, expect) in [(None, LONGEST), (Some(3600), 3600), (Some(60), SHORTEST), (Some(i32::MAX), LONGEST)] {
            let mut csr = csr(API_CLIENT, CLIENT, "Approved");
            csr.spec.expiration_seconds = asked;
            let actions = plan(&csr, Some(&user("u", "g"))).actions;
            let [Action::FirstOf(choices)] = actions.as_slice() else { panic!("{actions:?}") };
            let Condition::Signed(order) = &choices[0].0 else { panic!("{choices:?}") };
            assert_eq!(order.seconds, expect, "{asked:?}");
        }
    }

    #[test]
    fn signed_once_and_failed_once() {
        for usages in [CLIENT, SERVER] {
            let mut cluster = Cluster::default();
            cluster.add(&csr(API_CLIENT, usages, "Approved"));
            let rested = cluster.settle(2, |cluster| {
                cluster
                    .list::<CertificateSigningRequest>()
                    .iter()
                    .flat_map(|csr| plan(csr, Some(&user("u", "g"))).actions)
                    .collect()
            });
            assert!(rested, "{}", cluster.trace());
        }
    }
}
