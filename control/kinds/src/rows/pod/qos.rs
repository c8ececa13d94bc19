//! Quality-of-service classes.

use serde_json::Value;

use super::super::value::{entries, get, has, list};
use crate::schema::quantity::Amount;

/// The class of a pod with this spec: `Guaranteed` if every container has equal requests and
/// limits for CPU and memory, `BestEffort` if none asks for any, else `Burstable`.
#[must_use]
pub fn class(spec: &Value) -> &'static str {
    let holders: Vec<&Value> = if has(spec, "resources") {
        vec![spec]
    } else {
        list(spec, "containers").iter().chain(list(spec, "initContainers")).collect()
    };
    let mut asked = false;
    let mut guaranteed = true;
    for holder in holders {
        let needs = get(holder, "resources");
        asked |=
            ["requests", "limits"].iter().any(|kind| entries(needs, kind).any(|(name, value)| counts(name, value)));
        guaranteed &= ["cpu", "memory"].iter().all(|name| {
            let of = |kind| Amount::of(get(get(needs, kind), name)).filter(|amount| !amount.is_zero());
            of("limits").is_some() && (of("requests").is_none() || of("requests") == of("limits"))
        });
    }
    match (asked, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn counts(name: &str, value: &Value) -> bool {
    (name == "cpu" || name == "memory") && Amount::of(value).is_some_and(|amount| amount > Amount::ZERO)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn classes() {
        let with = |needs: Value| json!({"containers": [{"resources": needs}]});
        for (needs, expect) in [
            (json!({}), "BestEffort"),
            (json!({"requests": {"example.com/gpu": "1"}}), "BestEffort"),
            (json!({"requests": {"cpu": "1"}}), "Burstable"),
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}}),
                "Guaranteed",
            ),
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}}),
                "Burstable",
            ),
        ] {
            assert_eq!(class(&with(needs.clone())), expect, "{needs}");
        }
    }
}
