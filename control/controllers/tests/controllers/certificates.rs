//! A node's way to a certificate, against real controllers, API and store.

use std::time::Duration;

use crate::support::{Master, resource};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use kontiki_api::{PatchKind, Target};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::{Value, json};

fn request(organization: &str) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.distinguished_name.push(DnType::CommonName, "system:node:n1");
    STANDARD.encode(params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap())
}

fn csr(name: &str, signer: &str, organization: &str) -> Value {
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {"signerName": signer, "usages": ["digital signature", "client auth"], "request": request(organization)},
    })
}

fn at<'a>(name: &'a str, subresource: Option<&'a str>) -> Target<'a> {
    Target {
        resource: resource("certificates.k8s.io", "certificatesigningrequests"),
        namespace: None,
        name,
        subresource,
    }
}

/// Waits until a condition of the request is as wanted; its status then.
async fn until(master: &Master, name: &str, what: &str, done: fn(&Value) -> bool) -> Value {
    master
        .until(what, || async {
            let found = master.client.get(at(name, None)).await.map_err(|status| status.message)?;
            if done(&found["status"]) { Ok(found["status"].clone()) } else { Err(found["status"].to_string()) }
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nodes_request_is_approved_and_signed_and_others_wait_for_people() {
    let master = Master::start(&[]).await;
    let (group, plural) = ("certificates.k8s.io", "certificatesigningrequests");
    master
        .create(group, plural, None, csr("node", "kubernetes.io/kube-apiserver-client-kubelet", "system:nodes"))
        .await;
    let status = until(&master, "node", "the certificate", |status| status["certificate"].is_string()).await;
    assert_eq!(status["conditions"][0]["reason"], "AutoApproved");
    assert!(status["conditions"][0]["lastUpdateTime"].is_string(), "{status}");

    master.create(group, plural, None, csr("user", "kubernetes.io/kube-apiserver-client", "people")).await;
    master.still(Duration::from_millis(300)).await;
    let waiting = master.client.get(at("user", None)).await.unwrap();
    assert_eq!(waiting["status"], json!({}), "nobody approved");
    let condition = json!({"type": "Approved", "status": "True", "reason": "ByHand", "message": "m"});
    let approval = json!({"status": {"conditions": [condition]}});
    master.client.patch(at("user", Some("approval")), PatchKind::Merge, approval.clone()).await.unwrap();
    until(&master, "user", "the certificate", |status| status["certificate"].is_string()).await;

    // A subject that its signer does not give, though somebody approved it.
    master.create(group, plural, None, csr("odd", "kubernetes.io/kube-apiserver-client-kubelet", "others")).await;
    master.client.patch(at("odd", Some("approval")), PatchKind::Merge, approval).await.unwrap();
    let failed = |status: &Value| status["conditions"].as_array().is_some_and(|all| all.len() == 2);
    let status = until(&master, "odd", "the failure", failed).await;
    assert_eq!((&status["conditions"][1]["type"], &status["certificate"]), (&json!("Failed"), &Value::Null));
    master.still(Duration::from_millis(300)).await;
}
