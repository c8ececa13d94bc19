//! Volumes, claims and classes of attributes stay while something uses them: a finalizer that the protecting
//! controllers take away again.

use kontiki_machinery::admission::{Lookup, Request, Step};
use serde_json::{Value, json};

use crate::{
    Status,
    rows::value::{child, fields, texts},
};

/// What is protected: group, plural, finalizer.
const PROTECTED: &[(&str, &str, &str)] = &[
    ("", "persistentvolumes", "kubernetes.io/pv-protection"),
    ("", "persistentvolumeclaims", "kubernetes.io/pvc-protection"),
    ("storage.k8s.io", "volumeattributesclasses", "kubernetes.io/vac-protection"),
];

pub(super) struct StorageObjectInUseProtection;

impl Step for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn admit(&self, request: &Request<'_>, object: &mut Value, _cluster: &mut dyn Lookup) -> Result<(), Status> {
        let resource = request.def.group_resource();
        let found =
            PROTECTED.iter().find(|(group, plural, _)| (*group, *plural) == (resource.group, resource.resource));
        if let Some((_, _, finalizer)) = found
            && request.creates()
            && request.sub.is_none()
        {
            hold(object, finalizer);
        }
        Ok(())
    }
}

fn hold(object: &mut Value, finalizer: &str) {
    let meta = child(object, "metadata");
    if texts(meta, "finalizers").contains(&finalizer) {
        return;
    }
    if let Some(list) = fields(meta).entry("finalizers").or_insert_with(|| json!([])).as_array_mut() {
        list.push(json!(finalizer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_finalizer_comes_once_and_last() {
        for (before, after) in
            [(json!(null), json!(["f"])), (json!(["a"]), json!(["a", "f"])), (json!(["f"]), json!(["f"]))]
        {
            let mut object = if before.is_null() { json!({}) } else { json!({"metadata": {"finalizers": before}}) };
            hold(&mut object, "f");
            assert_eq!(object["metadata"]["finalizers"], after);
        }
    }
}
