//! ComponentStatus: how the parts of a control plane fare, as the server that is asked sees it. It is never stored. Upstream:
//! `pkg/registry/core/componentstatus`.

use kontiki_machinery::measured::{Health, Origin};
use serde_json::{Value, json};

use super::cells::{self, Cell};
use super::value::{list, text};
use crate::resource::names;
use crate::{ResourceDef, Scope, Strategy, Verb, Verbs};

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        scope: Scope::Cluster,
        verbs: Verbs::of(&[Verb::Get, Verb::List]),
        short: names(&["cs"]),
        deprecation: Some("v1 ComponentStatus is deprecated in v1.19+".into()),
        measured: Some(Origin::Server(parts)),
        ..ResourceDef::new(
            ("", "v1"),
            ("componentstatuses", "componentstatus", "ComponentStatus"),
            "io.k8s.api.core.v1.ComponentStatus",
            Parts,
        )
    }
}

/// All objects, under upstream's names: `etcd-0` is the store, and the leader runs the controllers and the scheduler.
fn parts(health: &Health) -> Vec<Value> {
    [("controller-manager", &health.leader), ("etcd-0", &health.store), ("scheduler", &health.leader)]
        .map(|(name, fares)| {
            json!({
                "kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name},
                "conditions": [condition(fares)],
            })
        })
        .into()
}

fn condition(fares: &Result<(), String>) -> Value {
    match fares {
        Ok(()) => json!({"type": "Healthy", "status": "True", "message": "ok"}),
        Err(why) => json!({"type": "Healthy", "status": "False", "error": why}),
    }
}

struct Parts;

impl Strategy for Parts {
    fn row(&self, obj: &Value) -> Vec<Cell> {
        let healthy = list(obj, "conditions").iter().find(|condition| text(condition, "type") == "Healthy");
        let (status, message, error) = match healthy {
            None => ("Unknown", "", ""),
            Some(found) => {
                let status = if text(found, "status") == "True" { "Healthy" } else { "Unhealthy" };
                (status, text(found, "message"), text(found, "error"))
            }
        };
        vec![cells::name(obj), cells::of(status), cells::of(message), cells::of(error)]
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn cells_of(object: &Value) -> Value {
        let include = crate::table::IncludeObject::None;
        crate::table::row(&def(), object, include, Timestamp::UNIX_EPOCH)["cells"].clone()
    }

    #[test]
    fn each_part_says_what_is_wrong_with_it() {
        let wrong = |why: &str| Err(why.to_owned());
        for (health, expect) in [
            (
                Health { store: Ok(()), leader: Ok(()) },
                json!([
                    ["controller-manager", "Healthy", "ok", ""],
                    ["etcd-0", "Healthy", "ok", ""],
                    ["scheduler", "Healthy", "ok", ""],
                ]),
            ),
            (
                Health { store: wrong("no quorum"), leader: wrong("no leader is known") },
                json!([
                    ["controller-manager", "Unhealthy", "", "no leader is known"],
                    ["etcd-0", "Unhealthy", "", "no quorum"],
                    ["scheduler", "Unhealthy", "", "no leader is known"],
                ]),
            ),
        ] {
            let made = parts(&health);
            assert_eq!(made.iter().map(cells_of).collect::<Value>(), expect);
            for object in made {
                let mut settled = object.clone();
                def().schema.normalize(&mut settled);
                assert_eq!(settled, object, "its type has all of it");
            }
        }
        assert_eq!(cells_of(&json!({"metadata": {"name": "x"}})), json!(["x", "Unknown", "", ""]));
    }
}
