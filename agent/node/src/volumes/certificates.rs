//! Certificates for projected volumes (KEP-4317): asked of a signer, used, and replaced in time.
//!
//! Invariants
//! - Keys live in memory and in tmpfs volumes only. A restarted agent asks anew; what its volumes hold serves until the
//!   answer is there.
//! - A request that the masters lost is made again; what a signer denied or failed is not.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kontiki_agent_plan::{
    certificates::{CertificateFiles, Lapse, Life, is_due},
    trust,
};
use kontiki_proto::node::{PodCertificateAnswer, PodCertificateAsk};
use tokio::sync::oneshot;

use super::keys::Key;
use crate::{node::Node, session::recorder::EventType};

/// How long a volume waits for its first certificate before it says so.
const PATIENCE: Duration = Duration::from_secs(10);
/// Certificates of one age are not replaced at once: each up to this much later.
const SPREAD: i64 = 5 * 60;
/// Of the name of a request.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const NAME: usize = 10;

/// The certificates of one pod, by volume and source.
#[derive(Default)]
pub(crate) struct Certificates(BTreeMap<(String, usize), Credential>);

/// What is known of one source.
#[derive(Default)]
struct Credential {
    current: Option<Current>,
    asked: Option<Asked>,
    /// Why there will be none.
    refused: Option<String>,
}

/// A certificate in use.
struct Current {
    key: String,
    chain: String,
    life: Life,
    told: Option<Lapse>,
}

/// A request that is open.
struct Asked {
    key: String,
    /// Namespace and name.
    name: String,
    answer: oneshot::Receiver<PodCertificateAnswer>,
}

impl Certificates {
    /// The content of a source's files.
    pub(super) async fn get(
        &mut self,
        node: &Node,
        pod: &Pod,
        volume: &str,
        wanted: &CertificateFiles,
    ) -> Result<Vec<(String, Vec<u8>)>, String> {
        let credential = self.0.entry((volume.to_owned(), wanted.index)).or_default();
        credential.advance(node, pod, wanted).await?;
        credential.warn(node, pod);
        match (&credential.refused, &credential.current) {
            (Some(why), _) => Err(why.clone()),
            (None, Some(current)) => Ok(wanted.content(&current.key, &current.chain)),
            (None, None) => Err("credential bundle is not issued yet".to_owned()),
        }
    }
}

impl Credential {
    /// Takes the answer that is there, and asks if it is time. Waits only while there is no certificate at all.
    async fn advance(&mut self, node: &Node, pod: &Pod, wanted: &CertificateFiles) -> Result<(), String> {
        self.answered(node, pod, Duration::ZERO).await?;
        let life = self.current.as_ref().map(|current| current.life);
        if self.refused.is_some() || !is_due(life, Timestamp::now()) {
            return Ok(());
        }
        if self.asked.is_none() {
            self.asked = Some(ask(node, pod, wanted)?);
        }
        let patience = if self.current.is_some() { Duration::ZERO } else { PATIENCE };
        self.answered(node, pod, patience).await
    }

    /// Takes the answer, if it comes within `patience`. Cancel-safe: the request stays open.
    async fn answered(&mut self, node: &Node, pod: &Pod, patience: Duration) -> Result<(), String> {
        let Some(asked) = &mut self.asked else { return Ok(()) };
        let Ok(answer) = tokio::time::timeout(patience, &mut asked.answer).await else { return Ok(()) };
        let Some(Asked { key, name, .. }) = self.asked.take() else { return Ok(()) };
        let answer = answer.map_err(|_| "no master answered".to_owned())?;
        match outcome(&answer, &name, spread())? {
            Outcome::Issued(life) => {
                let chain = trust::clean(&answer.certificate_chain);
                self.current = Some(Current { key, chain, life, told: None });
            }
            Outcome::Refused { why, reason, message } => {
                event(node, pod, reason, &message);
                self.refused = Some(why);
            }
        }
        Ok(())
    }

    /// Says once that a certificate is overdue, and once that it has expired.
    fn warn(&mut self, node: &Node, pod: &Pod) {
        let Some(current) = &mut self.current else { return };
        let lapse = Lapse::of(current.life, Timestamp::now());
        if lapse > current.told {
            current.told = lapse;
            if let Some((reason, message)) = lapse.map(Lapse::event) {
                event(node, pod, reason, message);
            }
        }
    }
}

fn event(node: &Node, pod: &Pod, reason: &'static str, message: &str) {
    node.recorder.pod(&node.outbox, pod, None, EventType::Warning, reason, message);
}

fn spread() -> SignedDuration {
    SignedDuration::from_secs(rand::random_range(0..SPREAD))
}

fn ask(node: &Node, pod: &Pod, wanted: &CertificateFiles) -> Result<Asked, String> {
    let Key { pem, request } =
        Key::generate(&wanted.key_type).map_err(|error| format!("while generating keypair: {error}"))?;
    let own = |text: &Option<String>| text.clone().unwrap_or_default();
    let suffix: String = (0..NAME).map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())])).collect();
    let (namespace, name) = (own(&pod.metadata.namespace), format!("req-{suffix}"));
    let account = pod.spec.as_ref().map(|spec| own(&spec.service_account_name)).unwrap_or_default();
    let shown = format!("{namespace}/{name}");
    let answer = node.outbox.certificate(PodCertificateAsk {
        id: 0,
        namespace,
        name,
        pod_name: own(&pod.metadata.name),
        pod_uid: own(&pod.metadata.uid),
        service_account: account,
        signer_name: wanted.signer_name.clone(),
        stub_pkcs10_request: request,
        max_expiration_seconds: wanted.max_expiration_seconds,
        user_annotations: wanted.user_annotations.clone().into_iter().collect(),
    });
    Ok(Asked { key: pem, name: shown, answer })
}

/// What a signer decided.
#[derive(Debug, PartialEq)]
enum Outcome {
    Issued(Life),
    /// Reason and message are those of the event.
    Refused {
        why: String,
        reason: &'static str,
        message: String,
    },
}

/// Reads an answer. `later`: how much later than it may the certificate is replaced.
fn outcome(answer: &PodCertificateAnswer, name: &str, later: SignedDuration) -> Result<Outcome, String> {
    let PodCertificateAnswer { decision, reason, message, error, .. } = answer;
    let refused = |kind: &'static str, was: &str| Outcome::Refused {
        why: format!(
            "PodCertificateRequest was permanently {}: reason={reason:?} message={message:?}",
            kind.to_lowercase()
        ),
        reason: kind,
        message: format!("PodCertificateRequest {name} {was}, reason={reason:?}, message={message:?}"),
    };
    let moment = |text: &str| text.parse::<Timestamp>().map_err(|error| format!("unreadable time {text:?}: {error}"));
    match decision.as_str() {
        "Issued" => {
            let (refresh, ends) = (moment(&answer.begin_refresh_at)?, moment(&answer.not_after)?);
            Ok(Outcome::Issued(Life { refresh: refresh.checked_add(later).unwrap_or(refresh), ends }))
        }
        "Denied" => Ok(refused("Denied", "was denied")),
        "Failed" => Ok(refused("Failed", "failed")),
        _ => Err(error.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let answer = |decision: &str| PodCertificateAnswer {
            decision: decision.to_owned(),
            begin_refresh_at: "2026-01-01T12:00:00Z".to_owned(),
            not_after: "2026-01-02T00:00:00Z".to_owned(),
            reason: "R".to_owned(),
            message: "m".to_owned(),
            error: "gone".to_owned(),
            ..PodCertificateAnswer::default()
        };
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        let refused = |reason: &'static str, why: &str, message: &str| {
            Ok(Outcome::Refused { why: why.to_owned(), reason, message: message.to_owned() })
        };
        for (decision, expect) in [
            (
                "Issued",
                Ok(Outcome::Issued(Life { refresh: at("2026-01-01T12:00:07Z"), ends: at("2026-01-02T00:00:00Z") })),
            ),
            (
                "Denied",
                refused(
                    "Denied",
                    "PodCertificateRequest was permanently denied: reason=\"R\" message=\"m\"",
                    "PodCertificateRequest a/n was denied, reason=\"R\", message=\"m\"",
                ),
            ),
            (
                "Failed",
                refused(
                    "Failed",
                    "PodCertificateRequest was permanently failed: reason=\"R\" message=\"m\"",
                    "PodCertificateRequest a/n failed, reason=\"R\", message=\"m\"",
                ),
            ),
            ("", Err("gone".to_owned())),
        ] {
            assert_eq!(outcome(&answer(decision), "a/n", SignedDuration::from_secs(7)), expect, "{decision}");
        }
        let broken = PodCertificateAnswer { not_after: "x".to_owned(), ..answer("Issued") };
        assert!(outcome(&broken, "a/n", SignedDuration::ZERO).is_err());
    }
}
