//! CSIDrivers: what a driver is able to and wants to be told.

use serde_json::{Value, json};

use super::super::cells::{self, Cell, NONE};
use super::super::value::{child, default_text, default_to, flag, get, has, int, list, spec_generation, text, texts};
use super::super::vocab::{self, Errors};
use super::check_token_requests;
use crate::{FieldError, Path, ResourceDef, Scope, Strategy, meta};

const GROUP_POLICIES: &[&str] = &["File", "None", "ReadWriteOnceWithFSType"];
const MODES: &[&str] = &["Persistent", "Ephemeral"];
/// The shortest time between two looks at how many volumes a node can have.
const LEAST_PERIOD: i64 = 10;

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        scope: Scope::Cluster,
        delete_returns_object: true,
        ..ResourceDef::new(
            super::GROUP,
            ("csidrivers", "csidriver", "CSIDriver"),
            "io.k8s.api.storage.v1.CSIDriver",
            Drivers,
        )
    }
}

struct Drivers;

impl Strategy for Drivers {
    fn default(&self, obj: &mut Value) {
        let spec = child(obj, "spec");
        for (field, value) in [
            ("attachRequired", true),
            ("podInfoOnMount", false),
            ("storageCapacity", false),
            ("requiresRepublish", false),
            ("seLinuxMount", false),
        ] {
            default_to(spec, field, value);
        }
        default_text(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if list(spec, "volumeLifecycleModes").is_empty() {
            spec["volumeLifecycleModes"] = json!(["Persistent"]);
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _sub: Option<&str>) {
        spec_generation(new, old);
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let (path, spec) = (Path::new("spec"), get(obj, "spec"));
        let policy = text(spec, "fsGroupPolicy");
        vocab::known_value(&mut errs, &path.child("fsGroupPolicy"), policy, GROUP_POLICIES);
        let requests = list(spec, "tokenRequests");
        check_token_requests(&mut errs, &path.child("tokenRequests"), requests);
        for mode in texts(spec, "volumeLifecycleModes") {
            vocab::known_value(&mut errs, &path.child("volumeLifecycleModes"), mode, MODES);
        }
        if let Some(period) = int(spec, "nodeAllocatableUpdatePeriodSeconds").filter(|period| *period < LEAST_PERIOD) {
            let at = path.child("nodeAllocatableUpdatePeriodSeconds");
            errs.push(FieldError::invalid(at, period, "must be greater than or equal to 10 seconds"));
        }
        if let Some(wanted) = flag(spec, "serviceAccountTokenInSecrets").filter(|_| requests.is_empty()) {
            let message = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
            errs.push(FieldError::invalid(path.child("serviceAccountTokenInSecrets"), wanted, message));
        }
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = meta::validate_object_meta(new, false, &|name, prefix| self.name_errors(name, prefix));
        errs.extend(self.validate(new));
        errs.extend(self.validate(new));
        // Upstream spells the first path so.
        for (field, path) in
            [("attachRequired", "spec.attachedRequired"), ("volumeLifecycleModes", "spec.volumeLifecycleModes")]
        {
            let of = |obj| get(get(obj, "spec"), field);
            vocab::immutable(&mut errs, path, of(new), of(old));
        }
        errs
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let spec = get(obj, "spec");
        if list(spec, "tokenRequests").is_empty() || has(spec, "serviceAccountTokenInSecrets") {
            return Vec::new();
        }
        let message =
            "if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes";
        vec![format!("spec.serviceAccountTokenInSecrets is unset; {message}")]
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        let spec = get(obj, "spec");
        let audiences: Vec<&str> =
            list(spec, "tokenRequests").iter().map(|request| text(request, "audience")).collect();
        let modes = texts(spec, "volumeLifecycleModes").join(",");
        vec![
            cells::name(obj),
            cells::of(flag(spec, "attachRequired").unwrap_or(true)),
            cells::of(flag(spec, "podInfoOnMount").unwrap_or(false)),
            cells::of(flag(spec, "storageCapacity").unwrap_or(false)),
            cells::of(if audiences.is_empty() { "<unset>".into() } else { audiences.join(",") }),
            cells::of(flag(spec, "requiresRepublish").unwrap_or(false)),
            cells::of(if modes.is_empty() { NONE.into() } else { modes }),
            cells::age(obj),
        ]
    }
}
