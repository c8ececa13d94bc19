//! What one watch stream said, by watch.
//!
//! Invariants
//! - A watch's items are in the order of their arrival; what arrives for an id that was used before
//!   comes after it.
//! - Events are grouped by revision: how many revisions one message carries is the server's affair,
//!   a revision torn over two messages is not (unless the message says it is a fragment).

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicI64},
};

use kontiki_proto::etcd as pb;
use parking_lot::Mutex;
use tonic::Streaming;

/// Ids from here on belong to the harness and are compared with nothing.
pub const OWN_IDS: i64 = 1_000_000;

/// One thing said to a watch.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    Created {
        revision: i64,
    },
    Canceled {
        revision: i64,
        compact_revision: i64,
        reason: String,
    },
    /// Created and canceled in one answer.
    Refused {
        revision: i64,
        reason: String,
    },
    Events {
        revision: i64,
        events: Vec<pb::Event>,
    },
    Progress {
        revision: i64,
    },
    /// An answer that no server may give, whatever the other one says.
    Wrong(String),
    Ended(String),
}

/// The log of one stream; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Log {
    items: Arc<Mutex<Items>>,
    revision: Arc<AtomicI64>,
}

#[derive(Debug, Default)]
struct Items {
    by_watch: BTreeMap<i64, Vec<Item>>,
    /// Everything that is not an event, in order of arrival.
    answers: Vec<(i64, Item)>,
    /// Watches whose last message was a fragment of a revision.
    torn: BTreeMap<i64, bool>,
}

impl Log {
    /// Writes down what the stream says, to its end.
    pub async fn follow(self, mut stream: Streaming<pb::WatchResponse>) {
        loop {
            match stream.message().await {
                Ok(Some(message)) => self.take(message),
                Ok(None) => return self.push(-1, Item::Ended("without an error".to_owned())),
                Err(status) => {
                    return self.push(-1, Item::Ended(format!("{:?} {}", status.code(), status.message())));
                }
            }
        }
    }

    fn take(&self, message: pb::WatchResponse) {
        let id = message.watch_id;
        let revision = message.header.as_ref().map_or(-1, |header| header.revision);
        let (reason, compact_revision) = (message.cancel_reason, message.compact_revision);
        match (message.created, message.canceled) {
            (true, true) => self.push(id, Item::Refused { revision, reason }),
            (true, false) => self.push(id, Item::Created { revision }),
            (false, true) => self.push(id, Item::Canceled { revision, compact_revision, reason }),
            (false, false) if message.events.is_empty() => self.push(id, Item::Progress { revision }),
            (false, false) => self.take_events(id, revision, message.events, message.fragment),
        }
    }

    fn take_events(&self, id: i64, revision: i64, events: Vec<pb::Event>, fragment: bool) {
        let mut items = self.items.lock();
        let mut goes_on = items.torn.insert(id, fragment).unwrap_or(false);
        let log = items.by_watch.entry(id).or_default();
        for event in events {
            let at = event.kv.as_ref().map_or(-1, |kv| kv.mod_revision);
            if at > revision {
                log.push(Item::Wrong(format!("an event of revision {at} under a header of {revision}")));
            }
            match log.last_mut() {
                Some(Item::Events { revision, events }) if *revision == at && goes_on => events.push(event),
                _ => log.push(Item::Events { revision: at, events: vec![event] }),
            }
            goes_on = true;
        }
    }

    fn push(&self, id: i64, item: Item) {
        let mut items = self.items.lock();
        items.answers.push((id, item.clone()));
        items.by_watch.entry(id).or_default().push(item);
    }

    /// How many answers that are no events have come.
    pub fn answers(&self) -> usize {
        self.items.lock().answers.len()
    }

    /// The answers from the given one on.
    pub fn answers_from(&self, start: usize) -> Vec<(i64, Item)> {
        self.items.lock().answers[start..].to_vec()
    }

    /// The last revision of which a watch has heard.
    pub fn heard(&self, id: i64) -> i64 {
        let items = self.items.lock();
        let revision = |item: &Item| if let Item::Events { revision, .. } = item { Some(*revision) } else { None };
        items.by_watch.get(&id).and_then(|log| log.iter().rev().find_map(revision)).unwrap_or(0)
    }

    pub fn events(&self) -> usize {
        let items = self.items.lock();
        let count = |item: &Item| if let Item::Events { events, .. } = item { events.len() } else { 0 };
        items.by_watch.values().flatten().map(count).sum()
    }

    /// Remembers the store's revision as another call told it.
    pub fn note(&self, revision: i64) {
        self.revision.store(revision, std::sync::atomic::Ordering::Relaxed);
    }

    pub fn revision(&self) -> i64 {
        self.revision.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// The first watch and place where two logs are not the same.
    pub fn first_difference(&self, other: &Self) -> Option<String> {
        let (one, two) = (self.items.lock(), other.items.lock());
        let ids = one.by_watch.keys().chain(two.by_watch.keys()).filter(|id| **id < OWN_IDS);
        let none = Vec::new();
        for id in ids {
            let (a, b) = (one.by_watch.get(id).unwrap_or(&none), two.by_watch.get(id).unwrap_or(&none));
            if a != b {
                let place = a.iter().zip(b).take_while(|(a, b)| a == b).count();
                return Some(format!("watch {id}, item {place}: {:?}, {:?}", a.get(place), b.get(place)));
            }
        }
        None
    }

    /// Both logs where they part, with a few items before.
    pub fn around_difference(&self, other: &Self) -> (String, String) {
        let (one, two) = (self.items.lock(), other.items.lock());
        let none = Vec::new();
        for id in one.by_watch.keys().chain(two.by_watch.keys()).filter(|id| **id < OWN_IDS) {
            let (a, b) = (one.by_watch.get(id).unwrap_or(&none), two.by_watch.get(id).unwrap_or(&none));
            if a != b {
                let place = a.iter().zip(b).take_while(|(a, b)| a == b).count();
                let part = |log: &[Item]| {
                    let shown = &log[place.saturating_sub(2)..log.len().min(place + 2)];
                    format!("watch {id}, item {place} of {}, with those around it: {shown:?}", log.len())
                };
                return (part(a), part(b));
            }
        }
        ("the same by now, but late".to_owned(), "the same by now, but late".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: i64) -> pb::Event {
        let kv = pb::KeyValue { key: "a".into(), mod_revision: revision, ..pb::KeyValue::default() };
        pb::Event { kv: Some(kv), ..pb::Event::default() }
    }

    fn message(revisions: &[i64], fragment: bool) -> pb::WatchResponse {
        let header = Some(pb::ResponseHeader { revision: 9, ..pb::ResponseHeader::default() });
        let events = revisions.iter().map(|revision| event(*revision)).collect();
        pb::WatchResponse { header, watch_id: 1, events, fragment, ..pb::WatchResponse::default() }
    }

    fn log(messages: &[pb::WatchResponse]) -> Log {
        let log = Log::default();
        messages.iter().for_each(|message| log.take(message.clone()));
        log
    }

    #[test]
    fn batches_are_no_difference_but_torn_revisions_are() {
        let whole = log(&[message(&[2, 2], false), message(&[3], false)]);
        let batched = log(&[message(&[2, 2, 3], false)]);
        let fragments = log(&[message(&[2], true), message(&[2], false), message(&[3], false)]);
        let torn = log(&[message(&[2], false), message(&[2], false), message(&[3], false)]);
        assert_eq!(whole.first_difference(&batched), None);
        assert_eq!(whole.first_difference(&fragments), None);
        assert!(whole.first_difference(&torn).is_some());
    }

    #[test]
    fn lost_doubled_and_swapped_events_are_noticed() {
        let all = log(&[message(&[2, 3, 4], false)]);
        for (what, other) in [("lost", &[2, 4][..]), ("doubled", &[2, 3, 3, 4]), ("swapped", &[2, 4, 3])] {
            assert!(all.first_difference(&log(&[message(other, false)])).is_some(), "{what}");
        }
    }

    #[test]
    fn an_event_ahead_of_its_header_is_wrong() {
        let ahead = log(&[message(&[10], false)]);
        assert!(matches!(ahead.items.lock().by_watch[&1][0], Item::Wrong(_)));
    }
}
