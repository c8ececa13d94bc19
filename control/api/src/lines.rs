//! Events of watches, encoded once for all who see them in the same form.

use bytes::{Bytes, BytesMut};
use kontiki_store::{Entry, Revision};

use crate::object;

/// One event of a watch, as a line of JSON.
pub(crate) fn line(kind: &str, object: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(object.len() + 40);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
    out.freeze()
}

/// Recently encoded events, so that a thousand watchers of one change share one text.
pub(crate) struct Lines(Vec<parking_lot::Mutex<Option<Line>>>);

struct Line {
    revision: Revision,
    key: Bytes,
    kind: &'static str,
    text: Bytes,
}

impl Default for Lines {
    fn default() -> Self {
        Self((0..1024).map(|_| parking_lot::Mutex::new(None)).collect())
    }
}

impl Lines {
    /// The line of an event about a stored object.
    pub fn get(&self, kind: &'static str, entry: &Entry, revision: Revision) -> Bytes {
        let slot = &self.0[(revision.0 as usize).wrapping_add(entry.key.len()) % self.0.len()];
        let mut slot = slot.lock();
        if let Some(known) = slot.as_ref().filter(|l| l.revision == revision && l.kind == kind && l.key == entry.key) {
            return known.text.clone();
        }
        let text = line(kind, &object::splice(&entry.value, revision));
        *slot = Some(Line { revision, key: entry.key.clone(), kind, text: text.clone() });
        text
    }
}
