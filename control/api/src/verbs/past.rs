//! The past of one object: as it was at a moment, and what became of it when. For whoever may `get` it.
//!
//! Invariants
//! - Only parameters that no client of upstream's sends lead here: what lists, watches and continue tokens can see of the
//!   past is not changed by it.
//! - What is told is what the store tells of one key. An answer says how far back that goes.

use jiff::{Span, SpanRelativeTo, Timestamp};
use kontiki_store::{Change, Told, When};
use serde_json::{Value, json};

use crate::Status;
use crate::call::{Answer, Call, Object};
use crate::clock::format_time;
use crate::encode;
use crate::object::meta_str;
use crate::state::history_error;

/// The moment of which the object is wanted: a revision, a time, or how long ago.
const AS_OF: &str = "kontiki.dev/as-of";
/// The object's changes are wanted.
const CHANGES: &str = "kontiki.dev/changes";

/// Changes in one answer: unless said, and at most.
const PAGE: usize = 50;
const LONGEST_PAGE: usize = 500;
/// Bytes of objects after which an answer ends.
const PAGE_BYTES: usize = 4 << 20;

impl Call {
    /// The past, if this GET asks for it.
    pub async fn past(&self) -> Result<Option<Answer>, Status> {
        if self.params.flag(CHANGES).unwrap_or(false) {
            return self.changes().await.map(Some);
        }
        match self.params.raw(AS_OF) {
            Some(text) => self.as_of(text).await.map(Some),
            None => Ok(None),
        }
    }

    async fn as_of(&self, text: &str) -> Result<Answer, Status> {
        if self.params.get("resourceVersion").is_some() {
            return Err(Status::bad_request(format!("resourceVersion and {AS_OF} exclude each other")));
        }
        let told = self.told(moment(AS_OF, text, self.api.now())?, 1).await?;
        if told.upto.is_none_or(|upto| upto < told.since) {
            return Err(self.not_kept(&told));
        }
        let then = told.changes.into_iter().next().and_then(|change| change.entry).ok_or_else(|| self.not_found())?;
        let then = self.api.one_in_version(&self.def, then, self.deadline).await?;
        Ok(Answer::Object { code: 200, object: Object::of_entry(&self.def, &then)? })
    }

    async fn changes(&self) -> Result<Answer, Status> {
        if self.sub.is_some() {
            return Err(Status::bad_request(format!("{CHANGES} is of objects, not of their parts")));
        }
        let limit = self.params.int("limit")?.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
        let upto = match (self.params.get("continue"), self.params.raw(AS_OF)) {
            (Some(token), _) => moment("continue", token, self.api.now())?,
            (None, Some(text)) => moment(AS_OF, text, self.api.now())?,
            (None, None) => When::Now,
        };
        let told = self.told(upto, limit.unwrap_or(PAGE).min(LONGEST_PAGE)).await?;
        if told.upto.is_none_or(|upto| upto < told.since) {
            return Err(self.not_kept(&told));
        }
        let last = told.changes.last().map(|change| change.revision.0).filter(|_| told.more);
        let next = last.map(|last| last.saturating_sub(1).to_string()).unwrap_or_default();
        let (revision, since) = (told.since.to_string(), told.since_second.and_then(time));
        let mut items = Vec::with_capacity(told.changes.len());
        for change in told.changes {
            items.push(self.change_of(change).await);
        }
        let list = json!({
            "kind": "ChangeList",
            "apiVersion": "kontiki.dev/v1",
            "metadata": {"continue": next},
            "since": {"revision": revision, "time": since},
            "items": items,
        });
        encode::json_document(&list, None, &self.params).map(Answer::Raw)
    }

    async fn told(&self, upto: When, limit: usize) -> Result<Told, Status> {
        // What was acknowledged before the question belongs to the past.
        self.api.fresh().await?;
        let told = self.api.backend().tell(self.key(), upto, limit, PAGE_BYTES).await;
        let asked = if let When::Revision(revision) = upto { revision.0 } else { 0 };
        told.map_err(|error| history_error(error, asked))
    }

    /// A change as it is told. An object that cannot be read hides no other.
    async fn change_of(&self, change: Change) -> Value {
        let mut told = json!({"revision": change.revision.to_string()});
        let mut second = change.second;
        match change.entry {
            None => told["deleted"] = true.into(),
            Some(entry) => {
                if entry.version == 1 {
                    told["created"] = true.into();
                }
                let entry = self.api.one_in_version(&self.def, entry, self.deadline).await;
                match entry.and_then(|entry| Object::of_entry(&self.def, &entry)?.value()) {
                    Ok(object) => {
                        second = second.or_else(|| last_owned(&object));
                        told["object"] = object;
                    }
                    Err(status) => told["unreadable"] = status.message.into(),
                }
            }
        }
        if let Some(time) = second.and_then(time) {
            told["time"] = time.into();
        }
        told
    }

    fn not_kept(&self, told: &Told) -> Status {
        let time = told.since_second.and_then(time).map(|time| format!(", {time}")).unwrap_or_default();
        let (resource, name, since) = (self.def.group_resource(), self.name(), told.since);
        Status::expired(format!(
            "the past of {resource} {name:?} is not kept that far back: it begins at revision {since}{time}"
        ))
    }
}

/// A moment as it is written: a revision, a time (RFC 3339), or how long ago.
fn moment(name: &str, text: &str, now: Timestamp) -> Result<When, Status> {
    let second = |time: Timestamp| When::Second(u64::try_from(time.as_second()).unwrap_or_default());
    if let Ok(revision) = text.parse::<u64>() {
        return Ok(When::Revision(kontiki_store::Revision(revision)));
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(second(time));
    }
    let ago = text.parse::<Span>().and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()));
    let ago = ago.ok().filter(|ago| !ago.is_negative()).and_then(|ago| now.checked_sub(ago).ok());
    ago.map(second).ok_or_else(|| {
        Status::bad_request(format!(
            "{name}: {text:?} is neither a revision nor a time such as 2030-01-31T12:00:00Z nor how long ago, such as 10m"
        ))
    })
}

fn time(second: u64) -> Option<String> {
    Some(format_time(Timestamp::from_second(i64::try_from(second).ok()?).ok()?))
}

/// When somebody last came to own a part of the object, in Unix seconds.
fn last_owned(object: &Value) -> Option<u64> {
    let owners = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let times = owners.filter_map(|owner| owner["time"].as_str()).chain([meta_str(object, "creationTimestamp")]);
    times.filter_map(|time| u64::try_from(time.parse::<Timestamp>().ok()?.as_second()).ok()).max()
}

#[cfg(test)]
mod tests {
    use kontiki_store::Revision;

    use super::*;

    #[test]
    fn moments_are_revisions_times_or_ages() {
        let now = Timestamp::from_second(1_000_000).expect("a time");
        for (text, expect) in [
            ("7", Some(When::Revision(Revision(7)))),
            ("10m", Some(When::Second(999_400))),
            ("1h30m", Some(When::Second(994_600))),
            ("1d", Some(When::Second(913_600))),
            ("0s", Some(When::Second(1_000_000))),
            ("1970-01-01T00:01:00.9Z", Some(When::Second(60))),
            ("1970-01-01T01:01:00+01:00", Some(When::Second(60))),
            ("1969-12-31T00:00:00Z", Some(When::Second(0))),
            ("", None),
            ("-7", None),
            ("-10m", None),
            ("1mo", None),
            ("99999999999999999999", None),
            ("yesterday", None),
            ("1970-01-01", None),
        ] {
            assert_eq!(moment("x", text, now).ok(), expect, "{text:?}");
        }
    }
}
