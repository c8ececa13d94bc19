//! Quality-of-service classes.

pub use kontiki_model::quota::qos_class as class;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

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
