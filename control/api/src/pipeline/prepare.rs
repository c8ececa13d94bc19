//! The server's own fields: those of a new object are filled in, those that an update may not change are put back.

use kontiki_machinery::{meta, resource::Author};

use crate::clock::{format_time, uid};
use crate::object::{meta_str, metadata_mut};
use crate::pipeline::draft::Draft;

pub(super) fn run(draft: &mut Draft<'_>) {
    match draft.old {
        None => new(draft),
        Some(old) => draft.call.def.strategy.prepare_update(&mut draft.object, old, draft.call.sub_name()),
    }
    let by = Author { user: &draft.call.user, now: &format_time(draft.memo.now) };
    draft.call.def.strategy.stamp(&mut draft.object, draft.old, draft.call.sub_name(), by);
}

fn new(draft: &mut Draft<'_>) {
    let entropy = draft.call.api.entropy();
    let (high, low) = (draft.memo.draw(entropy), draft.memo.draw(entropy));
    // Only now, as upstream: a refusal by admission names the stem, so that repeated ones are alike.
    generate_name(draft);
    meta::fill_system_fields(&mut draft.object, &uid(high, low), &format_time(draft.memo.now));
    draft.call.def.strategy.prepare_create(&mut draft.object);
}

fn generate_name(draft: &mut Draft<'_>) {
    let stem = meta_str(&draft.object, "generateName");
    if meta_str(&draft.object, "name").is_empty() && !stem.is_empty() {
        let [a, b, c, d, e, ..] = draft.memo.draw(draft.call.api.entropy()).to_le_bytes();
        let name = meta::generate_name(stem, [a, b, c, d, e]);
        metadata_mut(&mut draft.object).insert("name".into(), name.into());
    }
}
