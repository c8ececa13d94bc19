//! Watch: changes as they happen, each event encoded once for all who see it in the same form.
//!
//! Invariants
//! - Events come in revision order, none is skipped or repeated; who falls behind gets a 410 event
//!   and the end of the stream.
//! - The stream is pulled by the connection: a slow client holds no memory beyond its own queue.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::Response;
use http::header::CONTENT_TYPE;
use kontiki_cache::{Change, Ended, Filter, Shown, Subscription};
use kontiki_machinery::{FieldError, ResourceDef};
use kontiki_store::{Entry, HistoryError, Revision};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::call::{Answer, Call};
use crate::clock::{self, Clock};
use crate::encode;
use crate::negotiate::{Form, Shape};
use crate::object::{self, set_resource_version};
use crate::params::options_error;
use crate::state::{collection_prefix, served};
use crate::verbs::list::{OPTIONS, Version, parse_version};
use crate::{Api, Status};

/// A watch without `timeoutSeconds` lasts between this and twice as long, so that clients spread.
const MIN_SECONDS: u64 = 1800;
/// However long a client asks, a watch ends within a day.
const MAX_SECONDS: u64 = 86_400;
/// How often a client that wants them gets a bookmark.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// The last bookmark comes this long before the end.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);
/// Bytes that are sent at once, about.
const PIECE: usize = 64 << 10;

/// The options of a watch, checked.
struct Options {
    /// Begin with what is there.
    initial: bool,
    /// Say when that is done.
    mark_initial: bool,
    bookmarks: bool,
    version: Option<u64>,
    seconds: u64,
}

impl Call {
    /// Watches the collection, or the one object, that this call names.
    pub async fn watch(&mut self, form: Form) -> Result<Answer, Status> {
        let filter = self.filter.clone()?;
        let options = self.watch_options()?;
        let include = encode::include_object(&self.params)?;
        let mut stream = Stream {
            api: self.api.clone(),
            def: Arc::clone(&self.def),
            filter,
            encoder: Encoder {
                def: Arc::clone(&self.def),
                clock: Arc::clone(&self.api.inner.config.clock),
                form,
                include,
                first: true,
            },
            queue: VecDeque::new(),
            initial: None,
            subscription: None,
            bookmarks: options.bookmarks,
            next_bookmark: Instant::now() + bookmark_delay(options.seconds),
            end: Instant::now() + Duration::from_secs(options.seconds),
            over: false,
        };
        let prefix = collection_prefix(&self.def, self.namespace());
        self.start(&mut stream, prefix, &options).await?;
        let body = Body::from_stream(futures::stream::unfold(stream, Stream::next));
        let response = Response::builder().header(CONTENT_TYPE, "application/json").body(body);
        Ok(Answer::Raw(response.map_err(Status::internal)?))
    }

    fn watch_options(&self) -> Result<Options, Status> {
        const MATCH: &str = "resourceVersionMatch";
        let params = &self.params;
        let (initial, rule) = (params.flag("sendInitialEvents"), params.get(MATCH));
        let mut errors = Vec::new();
        if initial.is_some() && rule != Some("NotOlderThan") {
            errors.push(FieldError::forbidden(
                MATCH,
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        if rule.is_some() && initial.is_none() {
            errors.push(FieldError::forbidden(
                MATCH,
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
        if let Some(rule) = rule.filter(|rule| *rule != "NotOlderThan") {
            errors.push(FieldError::not_supported(MATCH, rule, &["NotOlderThan"]));
        }
        if params.get("continue").is_some() {
            errors.push(FieldError::forbidden(MATCH, "resourceVersionMatch is forbidden when continue is provided"));
        }
        if !errors.is_empty() {
            return Err(options_error(OPTIONS, &errors));
        }
        let seconds = params.int("timeoutSeconds")?.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
        params.int("limit")?;
        let version = params.get("resourceVersion").map(parse_version).transpose()?;
        let bookmarks = params.flag("allowWatchBookmarks").unwrap_or(false);
        Ok(Options {
            initial: initial.unwrap_or(matches!(version, None | Some(0))),
            mark_initial: initial == Some(true) && bookmarks,
            bookmarks,
            version,
            seconds: seconds.map_or_else(
                || clock::between(self.api.entropy(), MIN_SECONDS..2 * MIN_SECONDS),
                |s| s.min(MAX_SECONDS),
            ),
        })
    }

    async fn start(&self, stream: &mut Stream, prefix: Bytes, options: &Options) -> Result<(), Status> {
        let version = match options.version {
            None => Version::Latest,
            Some(0) => Version::Any,
            Some(wanted) => Version::NotOlder(wanted),
        };
        let from = if options.initial {
            let list = self.first_page(version, None, &stream.filter).await?;
            let mark = options.mark_initial.then_some(list.revision);
            stream.initial = Some(Initial { entries: list.items.into_iter(), mark });
            list.revision
        } else {
            match options.version {
                None | Some(0) => self.api.snapshot_for(version).await?.revision(),
                Some(wanted) => Revision(wanted),
            }
        };
        stream.subscribe(prefix, from);
        Ok(())
    }
}

fn bookmark_delay(seconds: u64) -> Duration {
    let left = Duration::from_secs(seconds).saturating_sub(BOOKMARK_BEFORE_END);
    left.min(BOOKMARK_EVERY)
}

/// What was there at the beginning and has not been sent yet.
struct Initial {
    entries: std::vec::IntoIter<Arc<Entry>>,
    /// As of when, if the client is to be told that this was all.
    mark: Option<Revision>,
}

struct Stream {
    api: Api,
    def: Arc<ResourceDef>,
    filter: Filter,
    encoder: Encoder,
    queue: VecDeque<Bytes>,
    initial: Option<Initial>,
    subscription: Option<Subscription>,
    bookmarks: bool,
    next_bookmark: Instant,
    end: Instant,
    over: bool,
}

enum Wake {
    Change(Result<(Shown, Arc<Change>), Ended>),
    Bookmark,
    End,
}

impl Stream {
    /// Puts the next piece of what was there at the beginning in the queue.
    fn fill(&mut self, initial: &mut Initial) {
        let mut size = 0;
        while size < PIECE {
            let Some(entry) = initial.entries.next() else {
                let end = initial.mark.take().map(|at| self.encoder.bookmark(at, true));
                self.queue.extend(end);
                return;
            };
            let line = self.encoder.event(Shown::Added, &entry, entry.mod_revision);
            size += line.as_ref().map_or(0, Bytes::len);
            self.queue.extend(line);
        }
    }

    fn subscribe(&mut self, prefix: Bytes, after: Revision) {
        match self.api.cache().subscribe(&self.def, prefix, self.filter.clone(), Some(after)) {
            Ok(subscription) => self.subscription = Some(subscription),
            Err(HistoryError::Compacted { oldest }) => {
                self.fail(&Status::expired(format!("too old resource version: {} ({oldest})", after.0)));
            }
            Err(HistoryError::Future { .. }) => self.over = true,
            Err(HistoryError::Storage(detail)) => self.fail(&Status::internal(detail)),
        }
    }

    fn fail(&mut self, status: &Status) {
        self.queue.push_back(line("ERROR", &serde_json::to_vec(status).expect("plain data")));
        self.over = true;
    }

    /// The next piece of the body.
    async fn next(mut self) -> Option<(Result<Bytes, std::convert::Infallible>, Self)> {
        loop {
            if let Some(first) = self.queue.pop_front() {
                return Some((Ok(self.batch(first)), self));
            }
            if let Some(mut initial) = self.initial.take() {
                self.fill(&mut initial);
                self.initial = (!self.queue.is_empty()).then_some(initial);
            } else if self.over {
                return None;
            } else {
                self.turn().await;
            }
        }
    }

    /// Joins what is waiting, so that a burst is one write.
    fn batch(&mut self, first: Bytes) -> Bytes {
        if self.queue.is_empty() || first.len() > PIECE {
            return first;
        }
        let mut out = BytesMut::from(first.as_ref());
        while self.queue.front().is_some_and(|next| out.len() + next.len() <= PIECE) {
            out.extend_from_slice(&self.queue.pop_front().expect("just seen"));
        }
        out.freeze()
    }

    async fn turn(&mut self) {
        let Some(subscription) = &mut self.subscription else {
            self.over = true;
            return;
        };
        let stop = &self.api.inner.stop;
        // Each arm is cancel-safe: a subscription keeps its changes, timers and tokens keep nothing.
        let wake = tokio::select! {
            biased;
            () = stop.cancelled() => Wake::End,
            () = tokio::time::sleep_until(self.end) => Wake::End,
            change = subscription.next() => Wake::Change(change),
            () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => Wake::Bookmark,
        };
        let at = subscription.position();
        match wake {
            Wake::End | Wake::Change(Err(Ended::Stopped)) => self.over = true,
            Wake::Bookmark => {
                self.next_bookmark += BOOKMARK_EVERY;
                self.queue.push_back(self.encoder.bookmark(at, false));
            }
            Wake::Change(Err(Ended::Lagged)) => {
                self.fail(&Status::expired(format!("too old resource version: {at} ({at}): the client is too slow")));
            }
            Wake::Change(Ok((shown, change))) => self.queue.extend(self.encoder.change(shown, &change)),
        }
    }
}

/// Turns events into lines of the client's form.
struct Encoder {
    def: Arc<ResourceDef>,
    clock: Arc<dyn Clock>,
    form: Form,
    include: encode::Include,
    /// Only the first Table of a stream has column definitions.
    first: bool,
}

impl Encoder {
    /// `None` if the object cannot be read; such an object was not written by the API.
    fn change(&mut self, shown: Shown, change: &Change) -> Option<Bytes> {
        let (object, revision) = (change.shown(shown)?, change.revision);
        if self.is_stored_form() {
            let encode = || line(word(shown), &object::splice(&object.entry().value, revision));
            return Some(change.line(shown, encode));
        }
        self.event(shown, object.entry(), revision)
    }

    fn event(&mut self, shown: Shown, entry: &Entry, revision: Revision) -> Option<Bytes> {
        if self.is_stored_form() {
            return Some(line(word(shown), &object::splice(&entry.value, revision)));
        }
        let mut object = served(&self.def, entry).ok()?;
        set_resource_version(&mut object, Some(revision));
        let shaped = self.shape(object);
        Some(line(word(shown), &serde_json::to_vec(&shaped).ok()?))
    }

    /// Whether the client gets objects as they lie in the store.
    fn is_stored_form(&self) -> bool {
        self.form.shape == Shape::Full && !self.def.is_view()
    }

    fn shape(&mut self, object: Value) -> Value {
        let columns = std::mem::take(&mut self.first);
        encode::shape_event(&self.def, &self.form.shape, self.include, object, columns, self.clock.now())
    }

    fn bookmark(&mut self, at: Revision, initial_done: bool) -> Bytes {
        let mut object = json!({"kind": self.def.kind, "apiVersion": self.def.api_version(), "metadata": {"resourceVersion": at.to_string()}});
        if initial_done {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let shown = match &self.form.shape {
            Shape::Full => object,
            _ => self.shape(object),
        };
        line("BOOKMARK", &serde_json::to_vec(&shown).expect("a Value is JSON"))
    }
}

fn word(shown: Shown) -> &'static str {
    match shown {
        Shown::Added => "ADDED",
        Shown::Modified => "MODIFIED",
        Shown::Deleted => "DELETED",
    }
}

fn line(kind: &str, object: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(object.len() + 40);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
    out.freeze()
}
