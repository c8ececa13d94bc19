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
use kontiki_cache::{Change, Ended, Filter, Object, Shown, Subscription};
use kontiki_machinery::conversion::TIMEOUT;
use kontiki_machinery::{FieldError, ResourceDef};
use kontiki_store::{Entry, HistoryError, Revision};
use tokio::time::Instant;

use crate::call::{Answer, Call};
use crate::clock;
use crate::encode::{self, event::Encoder};
use crate::negotiate::{Form, JSON};
use crate::params::options_error;
use crate::state::collection_prefix;
use crate::verbs::list::{OPTIONS, Version, parse_version};
use crate::{Api, Status, corrupt};

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
        let media = form.media.stream_name().unwrap_or(JSON);
        let clock = Arc::clone(&self.api.inner.config.clock);
        let encoder = Encoder::new(Arc::clone(&self.def), clock, form, include)?;
        let mut stream = Stream {
            api: self.api.clone(),
            def: Arc::clone(&self.def),
            filter,
            converts: self.def.strategy.conversion().is_some(),
            encoder,
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
        let response = Response::builder().header(CONTENT_TYPE, media).body(body);
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
            let known = match stream.encoder.wants_cells() && !stream.converts {
                true => self.api.cache().collection(&collection_prefix(&self.def, None)).of(&list.items),
                false => Vec::new(),
            };
            let known = known.into_iter().chain(std::iter::repeat(None));
            let entries: Vec<_> = list.items.into_iter().zip(known).collect();
            stream.initial = Some(Initial { entries: entries.into_iter(), mark });
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
    entries: std::vec::IntoIter<(Arc<Entry>, Option<Arc<Object>>)>,
    /// As of when, if the client is to be told that this was all.
    mark: Option<Revision>,
}

struct Stream {
    api: Api,
    def: Arc<ResourceDef>,
    filter: Filter,
    /// Whether somebody outside is asked for what is shown.
    converts: bool,
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
            let Some((entry, known)) = initial.entries.next() else {
                let end = initial.mark.take().and_then(|at| self.encoder.bookmark(at, true));
                self.queue.extend(end);
                return;
            };
            let line = self.encoder.event(Shown::Added, &entry, known.as_ref(), entry.mod_revision);
            size += line.as_ref().map_or(0, Bytes::len);
            self.queue.extend(line);
        }
    }

    fn subscribe(&mut self, prefix: Bytes, after: Revision) {
        // What is stored does not tell whether it passes when it is converted.
        let filter = if self.converts { self.filter.by_key() } else { self.filter.clone() };
        match self.api.cache().subscribe(&self.def, prefix, filter, Some(after)) {
            Ok(subscription) => self.subscription = Some(subscription),
            Err(HistoryError::Compacted { oldest }) => {
                self.fail(&Status::expired(format!("too old resource version: {} ({oldest})", after.0)));
            }
            Err(HistoryError::Future { .. }) => self.over = true,
            Err(HistoryError::Storage(detail)) => self.fail(&Status::internal(detail)),
        }
    }

    fn fail(&mut self, status: &Status) {
        self.queue.extend(self.encoder.failure(status));
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
                self.queue.extend(self.encoder.bookmark(at, false));
            }
            Wake::Change(Err(Ended::Lagged)) => {
                self.fail(&Status::expired(format!("too old resource version: {at} ({at}): the client is too slow")));
            }
            Wake::Change(Ok((shown, change))) => {
                match change.shown(shown).map_or(Ok(()), |object| corrupt::check(object.entry())) {
                    Ok(()) if self.converts => self.show_converted(shown, &change).await,
                    Ok(()) => self.queue.extend(self.encoder.change(shown, &change)),
                    Err(status) => self.fail(&status),
                }
            }
        }
    }

    /// Shows a change as it is in the version that is watched. A watch that cannot tell of one is over: who resumes it
    /// misses nothing.
    async fn show_converted(&mut self, shown: Shown, change: &Change) {
        match converted((&self.api, &*self.def), &self.filter, shown, change).await {
            Ok(Some((shown, entry))) => {
                self.queue.extend(self.encoder.event(shown, &entry, None, change.revision));
            }
            Ok(None) => {}
            Err(status) => self.fail(&status),
        }
    }
}

/// How a change is seen in a version that is converted to, and the object that is shown; `None`: it is not seen.
async fn converted(
    (api, def): (&Api, &ResourceDef),
    filter: &Filter,
    shown: Shown,
    change: &Change,
) -> Result<Option<(Shown, Arc<Entry>)>, Status> {
    let deadline = std::time::Instant::now() + TIMEOUT;
    let by_key = filter.is_told_by_key();
    let (mut old, mut new) = (None, None);
    if let Some(object) = &change.new {
        new = Some(api.told_in_version(def, object.entry(), deadline).await?);
    }
    // As it was it is asked about where it is shown or judged.
    if let Some(object) = change.old.as_ref().filter(|_| new.is_none() || !by_key) {
        old = Some(api.told_in_version(def, object.entry(), deadline).await?);
    }
    let passes = |entry: &Option<Arc<Entry>>| entry.as_ref().is_some_and(|entry| filter.passes_entry(def, entry));
    let shown = match (passes(&old), passes(&new)) {
        _ if by_key => shown,
        (false, false) => return Ok(None),
        (false, true) => Shown::Added,
        (true, true) => Shown::Modified,
        (true, false) => Shown::Deleted,
    };
    let entry = if shown == Shown::Deleted { old } else { new };
    Ok(entry.map(|entry| (shown, entry)))
}
