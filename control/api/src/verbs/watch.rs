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
use kontiki_machinery::{FieldError, ResourceDef};
use kontiki_store::{Entry, Event, EventKind, HistoryError, Revision, Snapshot, Watch, WatchItem};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::call::{Answer, Call};
use crate::clock::{self, Clock};
use crate::encode;
use crate::lines::line;
use crate::negotiate::{Form, Shape};
use crate::object::set_resource_version;
use crate::params::options_error;
use crate::select::Filter;
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
            watch: None,
            at: Revision(0),
            ignore_until: Revision(0),
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
            let state = self.api.snapshot_for(version).await?;
            stream.initial(&state, &prefix, options.mark_initial);
            state.revision()
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

struct Stream {
    api: Api,
    def: Arc<ResourceDef>,
    filter: Filter,
    encoder: Encoder,
    queue: VecDeque<Bytes>,
    watch: Option<Watch>,
    /// Everything up to here has been seen.
    at: Revision,
    /// Events up to here are older than what the client asked for.
    ignore_until: Revision,
    bookmarks: bool,
    next_bookmark: Instant,
    end: Instant,
    over: bool,
}

enum Wake {
    Item(Option<WatchItem>),
    Bookmark,
    End,
}

impl Stream {
    fn initial(&mut self, state: &Snapshot, prefix: &[u8], mark: bool) {
        for entry in state.range(prefix) {
            if self.passes(&entry)
                && let Some(bytes) = self.encoder.event(&self.api, "ADDED", &entry, entry.mod_revision)
            {
                self.queue.push_back(bytes);
            }
        }
        self.at = state.revision();
        if mark {
            self.queue.push_back(self.encoder.bookmark(self.at, true));
        }
    }

    fn subscribe(&mut self, prefix: Bytes, after: Revision) {
        self.at = after;
        match self.api.store().watch(prefix.clone(), Some(after)) {
            Ok(watch) => self.watch = Some(watch),
            Err(HistoryError::Future { .. }) => {
                self.ignore_until = after;
                self.watch = self.api.store().watch(prefix, None).ok();
            }
            Err(HistoryError::Compacted { oldest }) => {
                self.fail(&Status::expired(format!("too old resource version: {} ({oldest})", after.0)));
            }
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
            if self.over {
                return None;
            }
            self.turn().await;
        }
    }

    /// Joins what is waiting, so that a burst is one write.
    fn batch(&mut self, first: Bytes) -> Bytes {
        const MAX: usize = 64 << 10;
        if self.queue.is_empty() || first.len() > MAX {
            return first;
        }
        let mut out = BytesMut::from(first.as_ref());
        while self.queue.front().is_some_and(|next| out.len() + next.len() <= MAX) {
            out.extend_from_slice(&self.queue.pop_front().expect("just seen"));
        }
        out.freeze()
    }

    async fn turn(&mut self) {
        let Some(watch) = &mut self.watch else {
            self.over = true;
            return;
        };
        let stop = &self.api.inner.stop;
        // Each arm is cancel-safe: a watch keeps its items, timers and tokens keep nothing.
        let wake = tokio::select! {
            biased;
            () = stop.cancelled() => Wake::End,
            () = tokio::time::sleep_until(self.end) => Wake::End,
            item = watch.next() => Wake::Item(item),
            () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => Wake::Bookmark,
        };
        match wake {
            Wake::End | Wake::Item(None) => self.over = true,
            Wake::Bookmark => {
                self.next_bookmark += BOOKMARK_EVERY;
                let at = self.at;
                self.queue.push_back(self.encoder.bookmark(at, false));
            }
            Wake::Item(Some(WatchItem::Progress(revision))) => self.at = self.at.max(revision),
            Wake::Item(Some(WatchItem::Lagged)) => {
                let at = self.at;
                self.fail(&Status::expired(format!("too old resource version: {at} ({at}): the client is too slow")));
            }
            Wake::Item(Some(WatchItem::Events(events))) => {
                for event in events.iter() {
                    self.take(event);
                }
            }
        }
    }

    fn take(&mut self, event: &Event) {
        let revision = event.entry.mod_revision;
        self.at = self.at.max(revision);
        if revision <= self.ignore_until {
            return;
        }
        let before = event.prev.as_deref().filter(|entry| self.passes(entry));
        let after = (event.kind == EventKind::Put).then_some(&*event.entry).filter(|entry| self.passes(entry));
        let (kind, shown) = match (before, after) {
            (None, None) => return,
            (None, Some(entry)) => ("ADDED", entry),
            (Some(_), Some(entry)) => ("MODIFIED", entry),
            // As it last was, also where it is still there and only left the selector.
            (Some(entry), None) => ("DELETED", entry),
        };
        if let Some(bytes) = self.encoder.event(&self.api, kind, shown, revision) {
            self.queue.push_back(bytes);
        }
    }

    fn passes(&self, entry: &Entry) -> bool {
        self.filter.passes(&self.api, &self.def, entry)
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
    fn event(&mut self, api: &Api, kind: &'static str, entry: &Entry, revision: Revision) -> Option<Bytes> {
        if self.form.shape == Shape::Full && !self.def.is_view() {
            return Some(api.inner.lines.get(kind, entry, revision));
        }
        let mut object = served(&self.def, entry).ok()?;
        set_resource_version(&mut object, Some(revision));
        let shown = self.shape(object);
        Some(line(kind, &serde_json::to_vec(&shown).ok()?))
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
