//! Whether an object is legal for itself, and beside what it was.

use kontiki_machinery::{validate_create, validate_update};

use crate::Status;
use crate::object::meta_str;
use crate::pipeline::draft::Draft;

pub(super) fn run(draft: &mut Draft<'_>) -> Result<(), Status> {
    let (call, object) = (draft.call, &draft.object);
    let (name, errors) = match draft.old {
        None => (meta_str(object, "name"), validate_create(&call.def, object)),
        Some(old) => (call.name(), validate_update(&call.def, object, old, call.sub_name())),
    };
    if !errors.is_empty() {
        return Err(call.invalid(name, &errors));
    }
    call.def.forget_empty(&mut draft.object);
    Ok(())
}
