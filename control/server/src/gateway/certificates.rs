//! Certificates for pods (KEP-4317): an agent's request becomes an object, in the node's own name, and its signer is
//! waited for.
//!
//! Invariants
//! - An agent that asks again gets the same request: it chooses the name, and the object is its own only with its key.
//! - The cache is trusted to lack an object only once it shows the revision that made or read it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kontiki_api::{Client, Status, Target};
use kontiki_model::{GroupResource, Revision};
use kontiki_proto::node::{PodCertificateAnswer, PodCertificateAsk};
use serde_json::{Value, json};

use super::cache::Caches;

const REQUESTS: GroupResource<'static> =
    GroupResource { group: "certificates.k8s.io", resource: "podcertificaterequests" };
const DECISIONS: [&str; 3] = ["Issued", "Denied", "Failed"];

/// The answer to `ask`. `client` acts as `node`, so the rules for nodes apply.
pub async fn answer(caches: &Caches, client: &Client, node: &str, ask: PodCertificateAsk) -> PodCertificateAnswer {
    let decided = match make(caches, client, node, &ask).await {
        Ok(revision) => wait(caches, &ask, revision).await,
        Err(error) => Err(error),
    };
    let answer = decided.unwrap_or_else(|error| PodCertificateAnswer { error, ..PodCertificateAnswer::default() });
    PodCertificateAnswer { id: ask.id, ..answer }
}

/// Makes the request, unless it was made before; the revision at which it was there.
async fn make(caches: &Caches, client: &Client, node: &str, ask: &PodCertificateAsk) -> Result<Revision, String> {
    let uid = |object: Option<Value>| object.and_then(|o| o["metadata"]["uid"].as_str().map(str::to_owned));
    let account = uid(caches.service_account(&ask.namespace, &ask.service_account));
    let account = account.ok_or_else(|| {
        format!("while fetching service account: serviceaccounts {:?} not found", ask.service_account)
    })?;
    let own =
        uid(caches.node(node)).ok_or_else(|| "while getting node object from local cache: not found".to_owned())?;
    let object = request(ask, (node, &own), &account);
    let failed = |status: Status| format!("while creating PodCertificateRequest: {}", status.message);
    let stored = match client.create(REQUESTS, Some(&ask.namespace), object.clone()).await {
        Err(status) if status.is_already_exists() => {
            let target =
                Target { resource: REQUESTS, namespace: Some(&ask.namespace), name: &ask.name, subresource: None };
            let stored = client.get(target).await.map_err(failed)?;
            let same = |field: &str| stored["spec"][field] == object["spec"][field];
            if ["nodeName", "podUID", "stubPKCS10Request"].into_iter().all(same) { Ok(stored) } else { Err(status) }
        }
        outcome => outcome,
    };
    let stored = stored.map_err(failed)?;
    let revision = stored["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok());
    revision.map(Revision).ok_or_else(|| "the stored PodCertificateRequest has no resourceVersion".to_owned())
}

fn request(ask: &PodCertificateAsk, (node, node_uid): (&str, &str), account_uid: &str) -> Value {
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": ask.pod_name, "uid": ask.pod_uid});
    let mut spec = json!({
        "signerName": ask.signer_name,
        "podName": ask.pod_name, "podUID": ask.pod_uid,
        "serviceAccountName": ask.service_account, "serviceAccountUID": account_uid,
        "nodeName": node, "nodeUID": node_uid,
        "maxExpirationSeconds": ask.max_expiration_seconds,
        "stubPKCS10Request": STANDARD.encode(&ask.stub_pkcs10_request),
    });
    if !ask.user_annotations.is_empty() {
        spec["unverifiedUserAnnotations"] = json!(ask.user_annotations);
    }
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "PodCertificateRequest",
        "metadata": {"namespace": ask.namespace, "name": ask.name, "ownerReferences": [owner]},
        "spec": spec,
    })
}

/// Waits until the signer has decided, or the request is gone.
async fn wait(caches: &Caches, ask: &PodCertificateAsk, revision: Revision) -> Result<PodCertificateAnswer, String> {
    let mut changed = caches.certificates_changed();
    caches.wait_for(revision).await;
    loop {
        changed.borrow_and_update();
        let (namespace, name) = (&ask.namespace, &ask.name);
        let Some(object) = caches.pod_certificate_request(namespace, name) else {
            return Err(format!("PodCertificateRequest \"{namespace}/{name}\" appears to have been deleted"));
        };
        if let Some(decided) = decided(&object) {
            return Ok(decided);
        }
        if changed.changed().await.is_err() {
            return Err("this server is stopping".to_owned());
        }
    }
}

fn decided(object: &Value) -> Option<PodCertificateAnswer> {
    let status = &object["status"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut conditions = status["conditions"].as_array()?.iter();
    let condition = conditions.find(|c| DECISIONS.iter().any(|decision| c["type"] == *decision))?;
    Some(PodCertificateAnswer {
        id: 0,
        decision: text(&condition["type"]),
        certificate_chain: text(&status["certificateChain"]),
        begin_refresh_at: text(&status["beginRefreshAt"]),
        not_after: text(&status["notAfter"]),
        reason: text(&condition["reason"]),
        message: text(&condition["message"]),
        error: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signers_decide_by_conditions() {
        for (status, expect) in [
            (json!({}), None),
            (json!({"conditions": []}), None),
            (json!({"conditions": [{"type": "Other"}]}), None),
            (
                json!({"conditions": [{"type": "Denied", "status": "True", "reason": "R", "message": "m"}]}),
                Some("Denied R m  "),
            ),
            (
                json!({"conditions": [{"type": "Issued", "status": "True", "reason": "R", "message": "m"}],
                       "certificateChain": "C", "beginRefreshAt": "B", "notAfter": "A"}),
                Some("Issued R m C B A"),
            ),
        ] {
            let got = decided(&json!({"status": status})).map(|a| {
                [a.decision, a.reason, a.message, a.certificate_chain, a.begin_refresh_at, a.not_after].join(" ")
            });
            assert_eq!(got.as_deref().map(str::trim_end), expect.map(str::trim_end), "{status}");
        }
    }

    #[test]
    fn a_request_says_who_asks_for_whom() {
        let ask = PodCertificateAsk {
            namespace: "a".to_owned(),
            name: "req-1".to_owned(),
            pod_name: "p".to_owned(),
            pod_uid: "pu".to_owned(),
            service_account: "s".to_owned(),
            signer_name: "e.com/s".to_owned(),
            stub_pkcs10_request: vec![1, 2, 3],
            max_expiration_seconds: 3600,
            user_annotations: [("e.com/k".to_owned(), "v".to_owned())].into(),
            ..PodCertificateAsk::default()
        };
        let object = request(&ask, ("n", "nu"), "su");
        assert_eq!(
            object["spec"],
            json!({"signerName": "e.com/s", "podName": "p", "podUID": "pu", "serviceAccountName": "s",
                   "serviceAccountUID": "su", "nodeName": "n", "nodeUID": "nu", "maxExpirationSeconds": 3600,
                   "stubPKCS10Request": "AQID", "unverifiedUserAnnotations": {"e.com/k": "v"}})
        );
        assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "pu", "it goes with its pod");
    }
}
