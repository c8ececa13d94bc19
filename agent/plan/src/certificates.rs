//! Certificates of pods (KEP-4317): what lies in a volume, and when a signer is asked.
//!
//! Invariants
//! - There is one request at a time, with a key of its own; the key in use stays until the next certificate is there.
//! - What a signer denies or fails is final for the pod.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PodCertificateProjection;

/// A certificate that is not replaced by then is overdue.
const OVERDUE: SignedDuration = SignedDuration::from_mins(10);
/// What is asked for if the pod does not say.
const DAY: i32 = 24 * 60 * 60;

/// One source of a projected volume: what is asked of a signer, and where the answer goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// Which of the volume's sources it is.
    pub index: usize,
    pub signer_name: String,
    pub key_type: String,
    pub max_expiration_seconds: i32,
    pub user_annotations: BTreeMap<String, String>,
    pub mode: u32,
    bundle_path: Option<String>,
    key_path: Option<String>,
    chain_path: Option<String>,
}

impl CertificateFiles {
    /// As a pod defines it.
    #[must_use]
    pub fn new(index: usize, source: &PodCertificateProjection, mode: u32) -> Self {
        let given = |path: &Option<String>| path.clone().filter(|path| !path.is_empty());
        Self {
            index,
            signer_name: source.signer_name.clone(),
            key_type: source.key_type.clone(),
            max_expiration_seconds: source.max_expiration_seconds.unwrap_or(DAY),
            user_annotations: source.user_annotations.clone().unwrap_or_default(),
            mode,
            bundle_path: given(&source.credential_bundle_path),
            key_path: given(&source.key_path),
            chain_path: given(&source.certificate_chain_path),
        }
    }

    /// Where something is written.
    pub fn paths(&self) -> impl Iterator<Item = &String> {
        [&self.bundle_path, &self.key_path, &self.chain_path].into_iter().flatten()
    }

    /// What is written where: the key, the chain, both in one.
    #[must_use]
    pub fn content(&self, key: &str, chain: &str) -> Vec<(String, Vec<u8>)> {
        let all = [
            (&self.bundle_path, [key, chain].concat()),
            (&self.key_path, key.to_owned()),
            (&self.chain_path, chain.to_owned()),
        ];
        all.into_iter().filter_map(|(path, text)| Some((path.clone()?, text.into_bytes()))).collect()
    }
}

/// When the certificate in use is replaced, and when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    pub refresh: Timestamp,
    pub ends: Timestamp,
}

/// Whether a signer is asked now, if no request is open.
#[must_use]
pub fn is_due(life: Option<Life>, now: Timestamp) -> bool {
    life.is_none_or(|life| now >= life.refresh)
}

/// What is wrong with a certificate that nobody has replaced; worse is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lapse {
    Overdue,
    Expired,
}

impl Lapse {
    /// Of a certificate in use.
    #[must_use]
    pub fn of(life: Life, now: Timestamp) -> Option<Self> {
        if now > life.ends {
            Some(Self::Expired)
        } else {
            life.refresh.checked_add(OVERDUE).is_ok_and(|limit| now > limit).then_some(Self::Overdue)
        }
    }

    /// Reason and message of the event.
    #[must_use]
    pub fn event(self) -> (&'static str, &'static str) {
        match self {
            Self::Overdue => ("CertificateOverdueForRefresh", "PodCertificate refresh overdue"),
            Self::Expired => ("CertificateExpired", "PodCertificate expired"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_replaced_in_time() {
        let at = |minute: i64| Timestamp::from_second(minute * 60).expect("in range");
        let life = Life { refresh: at(100), ends: at(200) };
        for (name, life, now, due, lapse) in [
            ("none", None, 0, true, None),
            ("fresh", Some(life), 99, false, None),
            ("it is time", Some(life), 100, true, None),
            ("not yet late", Some(life), 110, true, None),
            ("late", Some(life), 111, true, Some(Lapse::Overdue)),
            ("its last minute", Some(life), 200, true, Some(Lapse::Overdue)),
            ("over", Some(life), 201, true, Some(Lapse::Expired)),
        ] {
            assert_eq!(is_due(life, at(now)), due, "{name}");
            assert_eq!(life.and_then(|life| Lapse::of(life, at(now))), lapse, "{name}");
        }
    }

    #[test]
    fn files_hold_what_their_paths_ask_for() {
        for (paths, expect) in [
            ("credentialBundlePath: b", "b=KC"),
            ("keyPath: k, certificateChainPath: c", "k=K c=C"),
            ("credentialBundlePath: b, keyPath: k", "b=KC k=K"),
            ("keyPath: ''", ""),
        ] {
            let source = format!("{{signerName: s, keyType: ED25519, {paths}}}");
            let files = CertificateFiles::new(0, &serde_yaml_ng::from_str(&source).expect("a source"), 0o644);
            let content = files.content("K", "C").into_iter();
            let shown = content.map(|(path, data)| format!("{path}={}", String::from_utf8_lossy(&data)));
            assert_eq!(shown.collect::<Vec<_>>().join(" "), expect, "{paths}");
            assert_eq!(files.max_expiration_seconds, 86400);
        }
    }
}
