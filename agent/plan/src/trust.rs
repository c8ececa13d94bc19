//! The anchors of trust that a projected volume shows (KEP-3257).
//!
//! Invariants
//! - Each anchor is there once, whichever bundles it is in.
//! - Their order says nothing: it is another on each node, and on one node always the same, so that nothing is written
//!   again while the bundles stay as they are.

use std::collections::BTreeSet;

use k8s_openapi::api::{certificates::v1::ClusterTrustBundle, core::v1::ClusterTrustBundleProjection};
use kontiki_model::selector::Selector;

use crate::env::Sources;

/// No bundle where there must be one. The text is for the `FailedMount` event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    #[error("while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io {0:?} not found")]
    NoBundle(String),
    #[error("combination of signerName and labelSelector matched zero ClusterTrustBundles")]
    NoMatch,
    #[error("while parsing label selector: it is not valid")]
    Selector,
    #[error("ClusterTrustBundle projection requires either name or signerName to be set")]
    NoReference,
}

/// The anchors that a source names, as PEM; nothing if it names none and need not.
///
/// # Errors
/// No bundle fits, and the source is not optional.
pub fn anchors(source: &ClusterTrustBundleProjection, sources: &dyn Sources, node: &str) -> Result<String, TrustError> {
    let (bundles, missing) = match (&source.name, &source.signer_name) {
        (Some(name), _) => (sources.trust_bundle(name).into_iter().collect(), TrustError::NoBundle(name.clone())),
        (None, Some(signer)) => (of_signer(signer, source, sources)?, TrustError::NoMatch),
        (None, None) => return Err(TrustError::NoReference),
    };
    if bundles.is_empty() && source.optional != Some(true) {
        return Err(missing);
    }
    let all = bundles.iter().flat_map(|bundle| blocks(&bundle.spec.trust_bundle));
    let mut anchors: Vec<(u64, String)> =
        all.collect::<BTreeSet<String>>().into_iter().map(|anchor| (mix(node, &anchor), anchor)).collect();
    anchors.sort();
    Ok(anchors.iter().map(|(_, anchor)| pem(anchor)).collect())
}

/// A signer's bundles with fitting labels. Without a selector none fits, with an empty one all do.
fn of_signer<'a>(
    signer: &str,
    source: &ClusterTrustBundleProjection,
    sources: &'a dyn Sources,
) -> Result<Vec<&'a ClusterTrustBundle>, TrustError> {
    let Some(spec) = &source.label_selector else { return Ok(Vec::new()) };
    let selector = Selector::from_spec(spec).ok_or(TrustError::Selector)?;
    let none = std::collections::BTreeMap::new();
    let fits = |bundle: &&ClusterTrustBundle| {
        bundle.spec.signer_name.as_deref() == Some(signer)
            && selector.matches(bundle.metadata.labels.as_ref().unwrap_or(&none))
    };
    Ok(sources.trust_bundles().into_iter().filter(fits).collect())
}

/// The certificates in a text of PEM blocks (RFC 7468), each as its base64; what is around them and their headers are
/// dropped. Masters keep only what decodes.
fn blocks(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut open: Option<String> = None;
    for line in text.lines().map(str::trim) {
        if line.starts_with("-----BEGIN ") {
            open = Some(String::new());
        } else if line.starts_with("-----END ") {
            out.extend(open.take().filter(|body| !body.is_empty()));
        } else if let Some(body) = open.as_mut().filter(|_| !line.contains(':')) {
            body.push_str(line);
        }
    }
    out
}

/// One certificate as a PEM block.
fn pem(body: &str) -> String {
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for (i, c) in body.chars().enumerate() {
        if i > 0 && i % 64 == 0 {
            out.push('\n');
        }
        out.push(c);
    }
    out.push_str("\n-----END CERTIFICATE-----\n");
    out
}

/// A chain of certificates without what is around its blocks and without their headers.
#[must_use]
pub fn clean(chain: &str) -> String {
    blocks(chain).iter().map(|body| pem(body)).collect()
}

/// FNV-1a of both: a number that is the same in every run and release.
fn mix(node: &str, anchor: &str) -> u64 {
    let bytes = node.bytes().chain([0]).chain(anchor.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::core::v1::{ConfigMap, Secret};

    use super::*;

    struct Bundles(BTreeMap<String, ClusterTrustBundle>);

    impl Sources for Bundles {
        fn config_map(&self, _: &str) -> Option<&ConfigMap> {
            None
        }
        fn secret(&self, _: &str) -> Option<&Secret> {
            None
        }
        fn trust_bundle(&self, name: &str) -> Option<&ClusterTrustBundle> {
            self.0.get(name)
        }
        fn trust_bundles(&self) -> Vec<&ClusterTrustBundle> {
            self.0.values().collect()
        }
    }

    /// `name signer label anchors`
    fn bundles(all: &[(&str, &str, &str, &str)]) -> Bundles {
        let one = |(name, signer, label, anchors): &(&str, &str, &str, &str)| {
            let mut bundle = ClusterTrustBundle::default();
            bundle.metadata.labels = Some([("l".to_owned(), (*label).to_owned())].into());
            bundle.spec.signer_name = Some((*signer).to_owned()).filter(|signer| !signer.is_empty());
            bundle.spec.trust_bundle = anchors.split(' ').map(pem).collect();
            ((*name).to_owned(), bundle)
        };
        Bundles(all.iter().map(one).collect())
    }

    fn shown(text: &str) -> String {
        let mut found = blocks(text);
        found.sort();
        found.join(" ")
    }

    #[test]
    fn bundles_are_found_by_name_or_by_signer_and_labels() {
        let known = bundles(&[
            ("a", "", "x", "AAAA BBBB"),
            ("s:a", "e.com/s", "x", "CCCC DDDD"),
            ("s:b", "e.com/s", "y", "DDDD EEEE"),
            ("t:c", "e.com/t", "x", "FFFF"),
        ]);
        let none = "combination of signerName and labelSelector matched zero ClusterTrustBundles";
        for (name, source, expect) in [
            ("a name", "name: a", Ok("AAAA BBBB")),
            (
                "a name of nothing",
                "name: z",
                Err("while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io \"z\" not found"),
            ),
            ("that may be missing", "name: z, optional: true", Ok("")),
            ("a signer's, each once", "signerName: e.com/s, labelSelector: {}", Ok("CCCC DDDD EEEE")),
            ("some of a signer's", "signerName: e.com/s, labelSelector: {matchLabels: {l: y}}", Ok("DDDD EEEE")),
            ("no selector, no bundle", "signerName: e.com/s", Err(none)),
            ("and none is fine", "signerName: e.com/s, optional: true", Ok("")),
            ("no fitting label", "signerName: e.com/t, labelSelector: {matchLabels: {l: y}}", Err(none)),
            ("another signer", "signerName: e.com/u, labelSelector: {}", Err(none)),
        ] {
            let source = serde_yaml_ng::from_str(&format!("{{path: p, {source}}}")).expect("a source");
            let got = anchors(&source, &known, "n").map(|text| shown(&text)).map_err(|error| error.to_string());
            assert_eq!(got, expect.map(str::to_owned).map_err(str::to_owned), "{name}");
        }
    }

    #[test]
    fn the_order_is_the_nodes_own_and_stays() {
        let many: Vec<String> = (0..40).map(|i| format!("A{i:03}")).collect();
        let (there, back) = (many.join(" "), many.iter().rev().cloned().collect::<Vec<_>>().join(" "));
        let source = serde_yaml_ng::from_str("{path: p, name: a}").expect("a source");
        let on = |anchors_of: &str, node: &str| {
            anchors(&source, &bundles(&[("a", "", "x", anchors_of)]), node).expect("there")
        };
        assert_eq!(on(&there, "n"), on(&back, "n"), "the bundle's own order does not matter");
        assert_ne!(on(&there, "n"), on(&there, "m"), "nobody can rely on it");
    }

    #[test]
    fn blocks_are_cleaned() {
        let long = "A".repeat(100);
        let text = format!("words\n-----BEGIN CERTIFICATE-----\nKey: value\n\n{long}\n-----END CERTIFICATE-----\nmore");
        let expect =
            format!("-----BEGIN CERTIFICATE-----\n{}\n{}\n-----END CERTIFICATE-----\n", &long[..64], &long[64..]);
        assert_eq!(clean(&text), expect);
        assert_eq!(clean(&expect), expect);
    }
}
