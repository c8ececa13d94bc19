//! Admission: rules that look beyond the object itself. Each step sees a snapshot; what it relied
//! on goes into the transaction as a compare, so a race means another round, not a broken rule.

mod namespace;
mod pod;
mod service;

use kontiki_kinds::ResourceDef;
use kontiki_store::Snapshot;
use serde_json::Value;

use crate::Status;
use crate::call::Call;
use crate::state::Extra;

/// What is being done.
pub(crate) struct Operation<'a> {
    pub call: &'a Call,
    pub state: &'a Snapshot,
    /// The object before an update; `None` on create.
    pub old: Option<&'a Value>,
}

impl Operation<'_> {
    fn is(&self, group: &str, plural: &str) -> bool {
        self.call.def.group == group && self.call.def.plural == plural
    }

    fn creates(&self) -> bool {
        self.old.is_none()
    }

    /// 403 by an admission step.
    fn forbid(&self, object: &Value, message: impl std::fmt::Display) -> Status {
        let named = ["name", "generateName"].map(|field| crate::object::meta_str(object, field));
        let name = named.into_iter().find(|name| !name.is_empty()).unwrap_or("Unknown");
        Status::forbidden(self.call.def.group_resource(), name, message)
    }
}

type Step = fn(&Operation<'_>, &mut Value) -> Result<Extra, Status>;

/// In upstream's order.
const STEPS: &[Step] = &[
    namespace::lifecycle,
    pod::taint_new_nodes,
    pod::priority,
    pod::service_account,
    pod::default_tolerations,
    pod::runtime_class,
];

/// Runs before the object is prepared and validated. May change it.
pub(crate) fn admit(operation: &Operation<'_>, object: &mut Value) -> Result<Extra, Status> {
    let mut extra = Extra::default();
    for step in STEPS {
        extra.append(step(operation, object)?);
    }
    Ok(extra)
}

/// Runs on a valid object: gives it what there is only one of.
pub(crate) fn allocate(operation: &Operation<'_>, object: &mut Value) -> Result<Extra, Status> {
    if operation.is("", "services") && operation.call.sub.is_none() {
        service::allocate(operation, object)
    } else {
        Ok(Extra::default())
    }
}

/// What a removed object gives back.
pub(crate) fn release(def: &ResourceDef, object: &Value) -> Extra {
    if def.group.is_empty() && def.plural == "services" { service::release(object) } else { Extra::default() }
}
