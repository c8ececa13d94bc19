//! Objects that were converted lately, so that all who watch one version of a kind ask for a change of it once.
//!
//! Invariants
//! - What is kept is of one version of an object under one version of its kind's definition: it is never stale.
//! - It takes no more memory than [`KEPT`] and one object.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use kontiki_machinery::{Name, ResourceDef};
use kontiki_store::{Entry, Revision};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

/// Bytes of objects that are kept.
const KEPT: usize = 8 << 20;

/// An object, its version, the definition of its kind, and the version that it is wanted in.
type Wanted = (Bytes, Revision, Option<u64>, Name);

/// What becomes of an object; who needs it first finds it out.
pub(crate) type Converted = Arc<OnceCell<Arc<Entry>>>;

/// See the module.
#[derive(Default)]
pub(crate) struct Recent(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    known: HashMap<Wanted, Converted>,
    /// The oldest first, with their sizes.
    order: VecDeque<(Wanted, usize)>,
    size: usize,
}

impl Recent {
    /// Where an entry is kept as `def` has it.
    pub fn of(&self, def: &ResourceDef, entry: &Entry) -> Converted {
        let wanted = (entry.key.clone(), entry.mod_revision, def.schema.digest(), def.version.clone());
        let mut kept = self.0.lock();
        if let Some(known) = kept.known.get(&wanted) {
            return Arc::clone(known);
        }
        while kept.size > KEPT
            && let Some((oldest, size)) = kept.order.pop_front()
        {
            kept.known.remove(&oldest);
            kept.size -= size;
        }
        kept.size += entry.value.len();
        kept.order.push_back((wanted.clone(), entry.value.len()));
        Arc::clone(kept.known.entry(wanted).or_default())
    }
}

#[cfg(test)]
mod tests {
    use kontiki_machinery::Strategy;

    use super::*;

    struct Plain;

    impl Strategy for Plain {}

    #[test]
    fn what_is_kept_is_bounded() {
        let recent = Recent::default();
        let def = ResourceDef::new(("", "v1"), ("things", "thing", "Thing"), "io.k8s.api.core.v1.ConfigMap", Plain);
        let entry = |revision: u64, size: usize| Entry {
            key: Bytes::from_static(b"k"),
            value: vec![b' '; size].into(),
            create_revision: Revision(1),
            mod_revision: Revision(revision),
            version: 1,
            expires: None,
            lease: 0,
        };
        let first = recent.of(&def, &entry(1, 10));
        assert!(Arc::ptr_eq(&first, &recent.of(&def, &entry(1, 10))), "one version of an object is one question");
        assert!(!Arc::ptr_eq(&first, &recent.of(&def, &entry(2, 10))));
        for revision in 3..20 {
            recent.of(&def, &entry(revision, KEPT / 4));
        }
        let kept = recent.0.lock();
        assert!(kept.size <= KEPT + KEPT / 4 && kept.known.len() == kept.order.len(), "{}", kept.size);
        assert!(kept.known.keys().all(|wanted| wanted.1 > Revision(10)), "the oldest goes");
    }
}
