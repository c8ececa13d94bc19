//! Watchers that record what they are told, and resume after each lost stream where they were.

use std::{sync::Arc, time::Duration};

use kontiki_proto::etcd::{
    WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse, watch_request::RequestUnion,
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{
    clients::{Lie, Shared},
    history::{Event, Line, Rev, WatchStep, Watched},
    wire,
};

/// Until a stream is open.
const OPENING: Duration = Duration::from_secs(2);
/// The clients never pause for so long: a stream as silent as this is taken for lost.
const SILENCE: Duration = Duration::from_secs(4);
/// How long a watcher may take for the rest once the run has ended.
const CATCH_UP: Duration = Duration::from_secs(40);
/// One event in so many is dropped by a watcher that lies.
const DROPPED: u32 = 400;

/// A watcher: its range, where it likes to be, and how it behaves.
pub struct Watcher {
    pub id: u32,
    pub from: String,
    pub to: String,
    /// The member it watches through, if it is there; without one it hops from member to member.
    pub home: Option<usize>,
    /// Whether it asks for progress, which etcd 3.4 answers wrongly at times.
    pub progress: bool,
    pub shared: Arc<Shared>,
    pub rng: StdRng,
}

enum End {
    Reached,
    Lost(String),
}

impl Watcher {
    #[must_use]
    pub fn new(
        shared: &Arc<Shared>,
        id: u32,
        range: (&str, &str),
        home: Option<usize>,
        progress: bool,
        seed: u64,
    ) -> Self {
        let rng = StdRng::seed_from_u64(seed ^ (u64::from(id) << 40));
        let (from, to) = (range.0.to_owned(), range.1.to_owned());
        Self { id, from, to, home, progress, shared: shared.clone(), rng }
    }

    fn record(&self, step: WatchStep) {
        let (from, to) = (self.from.clone(), self.to.clone());
        let at = self.shared.recorder.now();
        self.shared.recorder.line(&Line::Watch(Watched { watcher: self.id, from, to, at, step }));
    }

    /// Watches from `next` on until the run names its last revision and that is reached.
    pub async fn run(mut self, mut next: Rev, mut goal: watch::Receiver<Option<Rev>>) {
        let mut deadline = None;
        loop {
            let goal_now = *goal.borrow_and_update();
            if let Some(last) = goal_now {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + CATCH_UP);
                if next > last || Instant::now() > deadline {
                    self.record(WatchStep::Done(last));
                    return;
                }
            }
            match self.stream(&mut next, &mut goal).await {
                End::Reached => {}
                End::Lost(why) => {
                    self.record(WatchStep::Closed(why));
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// One stream, to its end.
    async fn stream(&mut self, next: &mut Rev, goal: &mut watch::Receiver<Option<Rev>>) -> End {
        let present = self.shared.doors.present();
        let home = self.home.filter(|home| present.contains(home));
        let member = home.unwrap_or_else(|| *present.choose(&mut self.rng).expect("a group has members"));
        let (sender, mut stream) = match timeout(OPENING, self.open(member, *next)).await {
            Ok(Ok(open)) => open,
            Ok(Err(status)) => return End::Lost(wire::short(&status)),
            Err(_) => return End::Lost("not opened in time".into()),
        };
        self.record(WatchStep::Open { start: *next, member: u32::try_from(member).expect("a handful of members") });
        let hop = if self.home.is_none() { self.rng.random_range(3..10) } else { 3600 };
        let hop = Instant::now() + Duration::from_secs(hop);
        loop {
            let answer = tokio::select! {
                // Cancel-safe: a decoder keeps what it has read of a message.
                answer = timeout(SILENCE, stream.message()) => answer,
                // Cancel-safe: the receiver keeps what it has not seen.
                changed = goal.changed() => match changed {
                    Ok(()) => return End::Lost("to look at the goal".into()),
                    Err(_) => return End::Lost("the run is over".into()),
                },
                // Cancel-safe: a timer.
                () = sleep_until(hop) => return End::Lost("to another member".into()),
            };
            let answer = match answer {
                Ok(Ok(Some(answer))) => answer,
                Ok(Ok(None)) => return End::Lost("ended".into()),
                Ok(Err(status)) => return End::Lost(wire::short(&status)),
                Err(_) => return End::Lost("silent".into()),
            };
            if let Some(end) = self.take(answer, next) {
                return end;
            }
            if goal.borrow().is_some_and(|last| *next > last) {
                return End::Reached;
            }
            if self.progress && self.rng.random_bool(0.02) {
                let request = RequestUnion::ProgressRequest(WatchProgressRequest {});
                sender.try_send(WatchRequest { request_union: Some(request) }).ok();
            }
        }
    }

    async fn open(
        &self,
        member: usize,
        start: Rev,
    ) -> Result<(mpsc::Sender<WatchRequest>, Streaming<WatchResponse>), tonic::Status> {
        let bytes = |text: &str| if text.is_empty() { b"\0".to_vec() } else { text.as_bytes().to_vec() };
        let create = WatchCreateRequest {
            key: bytes(&self.from).into(),
            range_end: bytes(&self.to).into(),
            start_revision: start,
            prev_kv: self.id.is_multiple_of(2),
            ..Default::default()
        };
        // One request and now and then a question for progress.
        let (sender, receiver) = mpsc::channel(8);
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        sender.send(request).await.map_err(|_| tonic::Status::cancelled("nobody reads requests"))?;
        let mut clients = self.shared.doors.clients(member);
        let mut stream = clients.watch.watch(ReceiverStream::new(receiver)).await?.into_inner();
        let first = stream.message().await?.ok_or_else(|| tonic::Status::unavailable("the stream ended"))?;
        if !first.created || first.canceled {
            return Err(tonic::Status::unavailable(format!("not created: {}", first.cancel_reason)));
        }
        Ok((sender, stream))
    }

    fn take(&mut self, answer: WatchResponse, next: &mut Rev) -> Option<End> {
        let header = answer.header.as_ref().map_or(0, |header| header.revision);
        if answer.compact_revision > 0 {
            self.record(WatchStep::Compacted(answer.compact_revision));
            *next = (*next).max(answer.compact_revision);
            return Some(End::Lost("compacted".into()));
        }
        if answer.canceled {
            return Some(End::Lost(format!("canceled: {}", answer.cancel_reason)));
        }
        if answer.events.is_empty() {
            self.record(WatchStep::Progress(header));
            return None;
        }
        let mut events: Vec<Event> = answer.events.iter().map(|event| self.event(event)).collect();
        if self.shared.lie == Some(Lie::DroppedEvent) {
            events.retain(|_| !self.rng.random_ratio(1, DROPPED));
        }
        if let Some(last) = events.last() {
            *next = last.revision + 1;
            self.record(WatchStep::Batch { header, events });
        }
        None
    }

    fn event(&self, event: &kontiki_proto::etcd::Event) -> Event {
        let item = wire::item(&event.kv.clone().unwrap_or_default());
        let before = event.prev_kv.as_ref().map(wire::item).map(|item| (item.value, item.modified));
        Event {
            key: item.key.clone(),
            revision: item.modified,
            item: (event.r#type == 0).then_some(item),
            before: self.id.is_multiple_of(2).then_some(before),
        }
    }
}
