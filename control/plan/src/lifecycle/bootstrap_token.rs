//! Bootstrap tokens: a join token's Secret goes when the token expires.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

use crate::action::{DeleteHow, Plan, delete};
use crate::object::deleting;

/// Type of a join token's Secret.
const TYPE: &str = "bootstrap.kubernetes.io/token";

/// Deletes the Secret if its token has expired. An expiry that cannot be read does not count, as it
/// does not where tokens are checked.
#[must_use]
pub fn plan(secret: &Secret, now: Timestamp) -> Plan {
    if !is_token(secret) {
        return Plan::rest("it is no join token");
    }
    if deleting(&secret.metadata) {
        return Plan::rest("it is being deleted");
    }
    let text = secret.data.as_ref().and_then(|data| data.get("expiration"));
    let expiry = text.and_then(|text| std::str::from_utf8(&text.0).ok()?.trim().parse::<Timestamp>().ok());
    match expiry {
        Some(at) if at <= now => Plan::new("it has expired", vec![delete(secret, DeleteHow::default(), None)]),
        Some(at) => Plan { wake: Some(at), ..Plan::rest("it has not expired yet") },
        None => Plan::rest("it does not expire"),
    }
}

/// Whether a Secret is a join token's.
#[must_use]
pub fn is_token(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some(TYPE)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use proptest::prelude::*;

    use super::*;
    use crate::object::{after_seconds, time};
    use crate::testing::{Cluster, NOW, meta, show};

    #[test]
    fn goes_when_its_time_has_come() {
        let at = |seconds| after_seconds(NOW, seconds);
        for (kind, expiration, going, expect, wake, why) in [
            (TYPE, at(0).to_string(), false, "-t", None, "it has expired"),
            (TYPE, at(0).to_string(), true, "", None, "it is being deleted"),
            (TYPE, at(60).to_string(), false, "", Some(at(60)), "it has not expired yet"),
            (TYPE, "soon".into(), false, "", None, "it does not expire"),
            ("Opaque", at(0).to_string(), false, "", None, "it is no join token"),
        ] {
            let plan = plan(&secret(kind, &expiration, going), NOW);
            assert_eq!((show(&plan.actions).as_str(), plan.wake, plan.why), (expect, wake, why));
        }
    }

    fn secret(kind: &str, expiration: &str, going: bool) -> Secret {
        let deletion_timestamp = going.then(|| time(NOW));
        Secret {
            metadata: ObjectMeta { deletion_timestamp, ..meta("t") },
            type_: Some(kind.into()),
            data: Some([("expiration".to_owned(), ByteString(expiration.as_bytes().to_vec()))].into()),
            ..Secret::default()
        }
    }

    proptest! {
        /// A token goes when its time has come, no sooner; then there is nothing left to do.
        #[test]
        fn no_token_goes_early_and_none_stays(left in -100i64..100) {
            let mut cluster = Cluster::default();
            cluster.add(&secret(TYPE, &after_seconds(NOW, left).to_string(), false));
            let turn = |cluster: &Cluster| {
                cluster.list::<Secret>().iter().flat_map(|secret| plan(secret, NOW).actions).collect()
            };
            prop_assert!(cluster.settle(2, turn), "{}", cluster.trace());
            prop_assert_eq!(cluster.list::<Secret>().is_empty(), left <= 0);
        }
    }
}
