//! `certificates.k8s.io`: requests for certificates, bundles of trust.

mod bundle;
mod csr;
mod pod_request;

pub(crate) use kontiki_machinery::x509;

use serde_json::Value;

use crate::{
    FieldError, Path, ResourceDef,
    rows::{
        value::text_entries,
        vocab::{self, Errors},
    },
};

/// The rows.
#[must_use]
pub fn defs() -> [ResourceDef; 3] {
    [csr::def(), bundle::def(), pod_request::def()]
}

pub(crate) use bundle::name_errors as bundle_name_errors;
pub(crate) use csr::bytes;

const GROUP: (&str, &str) = ("certificates.k8s.io", "v1");

/// The signers that are Kubernetes' own.
pub mod signers {
    /// Clients of the API.
    pub const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
    /// Nodes as clients of the API.
    pub const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
    /// What nodes serve.
    pub const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";
    /// Whatever was asked of an earlier API.
    pub const LEGACY: &str = "kubernetes.io/legacy-unknown";
}

const DOMAIN: usize = 253;
/// A domain, a slash, a namespace, a dot and a name.
const SIGNER: usize = DOMAIN + 1 + DOMAIN + 63 + 1;

/// The name of a signer: `example.com/signer-name`.
pub(crate) fn check_signer(errs: &mut Errors, path: &Path, signer: &str) {
    if signer.is_empty() {
        errs.push(FieldError::required(path, ""));
        return;
    }
    let Some((domain, name)) = signer.split_once('/').filter(|(_, name)| !name.contains('/')) else {
        let message = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errs.push(FieldError::invalid(path, signer, message));
        return;
    };
    if domain.len() > DOMAIN {
        errs.push(FieldError::too_long(path, DOMAIN));
    }
    check_labels(errs, path, domain, vocab::label_errors);
    if !domain.contains('.') {
        let message = "should be a domain with at least two segments separated by dots";
        errs.push(FieldError::invalid(path, domain, message));
    }
    check_labels(errs, path, name, vocab::subdomain_errors);
    if signer.len() > SIGNER {
        errs.push(FieldError::too_long(path, SIGNER));
    }
}

/// An hour, in seconds: no certificate of a pod lives shorter.
pub(crate) const HOUR: i64 = 3600;
/// A day, in seconds.
const DAY: i64 = 24 * HOUR;

/// The longest life, in seconds, that may be asked of a signer for a pod's certificate: a day of Kubernetes' own.
pub(crate) fn longest_life(signer: &str) -> i64 {
    let domain = signer.split('/').next().unwrap_or_default();
    if domain == "kubernetes.io" || domain.ends_with(".kubernetes.io") { DAY } else { 91 * DAY }
}

/// What a pod's owner tells a signer, in a field of `object`.
pub(crate) fn check_annotations(errs: &mut Errors, path: &Path, object: &Value, field: &str) {
    let mut size = 0;
    for (key, value) in text_entries(object, field) {
        vocab::prefixed_key(errs, path, &key.to_lowercase());
        size += key.len() + value.len();
    }
    if size > 256 * 1024 {
        errs.push(FieldError::too_long(path, 256 * 1024));
    }
}

/// The parts between dots, up to the first bad one.
fn check_labels(errs: &mut Errors, path: &Path, text: &str, problems: impl Fn(&str) -> Vec<String>) {
    if let Some((label, found)) = text.split('.').map(|label| (label, problems(label))).find(|(_, p)| !p.is_empty()) {
        let found = found.into_iter().map(|why| format!("validating label \"{label}\": {why}"));
        errs.extend(found.map(|why| FieldError::invalid(path, text, why)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signers_are_domains_with_a_path() {
        for (signer, count) in [
            ("example.com/s", 0),
            ("example.com/ns.name", 0),
            ("", 1),
            ("s", 1),
            ("a/b/c", 1),
            ("com/s", 1),
            ("Com/s", 2),
            ("example.com/S.T", 1),
            ("example.com/", 1),
        ] {
            let mut errs = Errors::new();
            check_signer(&mut errs, &Path::new("p"), signer);
            assert_eq!(errs.len(), count, "{signer}: {errs:?}");
        }
    }
}
