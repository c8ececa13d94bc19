//! ClusterTrustBundles: anchors of trust, of a signer or of nobody in particular.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{GROUP, check_signer, x509};
use crate::{
    FieldError, Path, ResourceDef, Scope, Strategy, meta,
    resource::names,
    rows::{
        cells::{self, Cell},
        value::{get, text},
        vocab::{self, Errors},
    },
};

/// The row.
pub(super) fn def() -> ResourceDef {
    ResourceDef {
        scope: Scope::Cluster,
        fields: names(&["spec.signerName"]),
        ..ResourceDef::new(
            GROUP,
            ("clustertrustbundles", "clustertrustbundle", "ClusterTrustBundle"),
            "io.k8s.api.certificates.v1.ClusterTrustBundle",
            Bundles,
        )
    }
}

/// The longest bundle, in bytes.
const LONGEST: usize = 1024 * 1024;

struct Bundles;

impl Strategy for Bundles {
    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        check(&mut errs, obj);
        check_anchors(&mut errs, text(get(obj, "spec"), "trustBundle"));
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = meta::validate_object_meta(new, false, &|name, prefix| self.name_errors(name, prefix));
        check(&mut errs, new);
        let (spec, before) = (get(new, "spec"), get(old, "spec"));
        if text(spec, "trustBundle") != text(before, "trustBundle") {
            check_anchors(&mut errs, text(spec, "trustBundle"));
        }
        vocab::immutable(&mut errs, "spec.signerName", get(spec, "signerName"), get(before, "signerName"));
        errs
    }

    /// The signer has a say in it: see [`check_name`].
    fn name_errors(&self, name: &str, prefix: bool) -> Vec<String> {
        meta::name_is_path_segment(name, prefix)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        vec![cells::name(obj), cells::or_none(text(get(obj, "spec"), "signerName"))]
    }
}

fn check(errs: &mut Errors, obj: &Value) {
    let (signer, metadata) = (text(get(obj, "spec"), "signerName"), get(obj, "metadata"));
    for (field, prefix) in [("generateName", true), ("name", false)] {
        let name = text(metadata, field);
        if !name.is_empty() {
            vocab::invalid(errs, &Path::new("metadata").child(field), name, check_name(signer, name, prefix));
        }
    }
    if !signer.is_empty() {
        check_signer(errs, &Path::new("spec").child("signerName"), signer);
    }
}

/// Why no bundle can have this name, whose signer it tells if it has one.
pub(crate) fn name_errors(name: &str) -> Vec<String> {
    let parts: Vec<&str> = name.split(':').collect();
    match parts[..] {
        [domain, signer, _] => check_name(&format!("{domain}/{signer}"), name, false),
        _ => check_name("", name, false),
    }
}

/// Why a name does not go with a signer.
fn check_name(signer: &str, name: &str, prefix: bool) -> Vec<String> {
    if signer.is_empty() {
        if name.contains(':') {
            return vec!["ClusterTrustBundle without signer name must not have \":\" in its name".into()];
        }
        return meta::name_is_dns_subdomain(name, prefix);
    }
    let wanted = format!("{}:", signer.replace('/', ":"));
    match name.strip_prefix(&wanted) {
        Some(rest) => meta::name_is_dns_subdomain(rest, prefix),
        None => vec![format!("ClusterTrustBundle for signerName {signer} must be named with prefix {wanted}")],
    }
}

fn check_anchors(errs: &mut Errors, bundle: &str) {
    let path = Path::new("spec").child("trustBundle");
    if bundle.len() > LONGEST {
        errs.push(FieldError::too_long(path, LONGEST));
        return;
    }
    let blocks = x509::blocks(bundle.as_bytes());
    let mut problems: Vec<String> = blocks
        .iter()
        .enumerate()
        .filter_map(|(i, block)| problem(block).map(|problem| format!("entry {i} {problem}")))
        .collect();
    if problems.is_empty() {
        problems = repeated(&blocks);
        if blocks.is_empty() {
            problems.push("at least one trust anchor must be provided".to_owned());
        }
    }
    errs.extend(problems.into_iter().map(|why| FieldError::invalid(&path, "<value omitted>", why)));
}

fn problem(block: &x509::Block) -> Option<String> {
    if block.label != "CERTIFICATE" {
        return Some(format!("has bad block type: {}", block.label));
    }
    if block.headers {
        return Some("has PEM block headers".to_owned());
    }
    match x509::certificate(&block.bytes) {
        None => Some("does not parse as X.509".to_owned()),
        Some(certificate) if !certificate.is_ca() => Some("does not have the CA bit set".to_owned()),
        Some(_) => None,
    }
}

fn repeated(blocks: &[x509::Block]) -> Vec<String> {
    let mut places = BTreeMap::<&[u8], Vec<String>>::new();
    for (i, block) in blocks.iter().enumerate() {
        places.entry(&block.bytes).or_default().push(i.to_string());
    }
    let again = places.into_values().filter(|places| places.len() > 1);
    again.map(|places| format!("duplicate trust anchor (indices [{}])", places.join(" "))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_with_signers() {
        for (signer, name, good) in [
            ("", "a", true),
            ("", "a:b", false),
            ("example.com/s", "example.com:s:a", true),
            ("example.com/s", "a", false),
            ("example.com/s", "example.com:s:A", false),
        ] {
            assert_eq!(check_name(signer, name, false).is_empty(), good, "{signer} {name}");
        }
    }
}
