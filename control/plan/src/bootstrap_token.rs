//! Bootstrap tokens: a join token's Secret goes when the token expires.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

use crate::action::{DeleteHow, Plan, delete};
use crate::object::deleting;

/// Type of a join token's Secret.
pub const TYPE: &str = "bootstrap.kubernetes.io/token";

/// Deletes the Secret if its token has expired. An expiry that cannot be read does not count, as it
/// does not where tokens are checked.
#[must_use]
pub fn plan(secret: &Secret, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if secret.type_.as_deref() != Some(TYPE) || deleting(&secret.metadata) {
        return plan;
    }
    let text = secret.data.as_ref().and_then(|data| data.get("expiration"));
    let expiry = text.and_then(|text| std::str::from_utf8(&text.0).ok()?.trim().parse::<Timestamp>().ok());
    match expiry {
        Some(at) if at <= now => plan.actions.push(delete(secret, DeleteHow::default(), None)),
        Some(at) => plan.wake_at(at),
        None => {}
    }
    plan
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;
    use crate::object::after_seconds;
    use crate::testing::{NOW, meta, show};

    #[test]
    fn goes_when_its_time_has_come() {
        let at = |seconds| after_seconds(NOW, seconds);
        for (kind, expiration, expect, wake) in [
            (TYPE, at(0).to_string(), "-t", None),
            (TYPE, at(60).to_string(), "", Some(at(60))),
            (TYPE, "soon".into(), "", None),
            ("Opaque", at(0).to_string(), "", None),
        ] {
            let secret = Secret {
                metadata: meta("t"),
                type_: Some(kind.into()),
                data: Some([("expiration".to_owned(), ByteString(expiration.clone().into_bytes()))].into()),
                ..Secret::default()
            };
            let plan = plan(&secret, NOW);
            assert_eq!((show(&plan.actions).as_str(), plan.wake), (expect, wake), "{kind} {expiration}");
        }
    }
}
