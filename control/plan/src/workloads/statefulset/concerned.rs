//! Which sets a change concerns, besides those of [`crate::workloads::managed::concerned`].

use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;

use super::claims;
use crate::key::NamespacedName;

/// The sets that have a claim of this name: claims do not say whose they are.
pub fn by_claim(
    claim: &NamespacedName,
    get: impl Fn(&NamespacedName) -> Option<Arc<StatefulSet>>,
) -> Vec<NamespacedName> {
    let candidates = claims::owners_of(&claim.name).filter_map(|(template, set)| {
        let key = NamespacedName::new(&claim.namespace, set);
        let has = get(&key)?;
        let claims = claims::templates(&has).any(|own| own == template);
        claims.then_some(key)
    });
    candidates.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workloads::statefulset::tests::{set, with_claims};

    #[test]
    fn a_claim_concerns_the_sets_whose_pods_use_it() {
        for (claim, expect) in [
            ("data-web-0", "ns/web"),
            ("data-web-7", "ns/web"),
            ("logs-web-0", ""),
            ("data-web", ""),
            ("data-other-0", ""),
            ("web-0", ""),
        ] {
            let get = |key: &NamespacedName| (key.name == "web").then(|| Arc::new(with_claims(set(1, "a"))));
            let found = by_claim(&NamespacedName::new("ns", claim), get);
            assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), expect, "{claim}");
        }
    }
}
