//! API Priority and Fairness: no client keeps others from the API.
//!
//! `config` says which flow a request belongs to, `seats` who runs, here is what waits. Requests over HTTP come here once
//! they are authenticated. What runs inside the server and the sessions of nodes never do, and health checks are exempt.
//!
//! Not here: where the configuration comes from.
//!
//! Invariants
//! - A request that finds a seat costs one short lock, and no task or allocation.
//! - Whoever stops waiting, or is dropped, gives back what it has.

mod config;
mod seats;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use kontiki_machinery::access::{Attributes, User};
use kontiki_model::metrics::{Histogram, Kind, heading, sample};
use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use tokio::sync::oneshot;

use self::config::Settings;
use self::seats::{Arrival, Core, Slot, Started, Ticket};
use crate::Status;

/// A request waits for a part of its time only, so that some is left to answer it.
const PATIENCE: u32 = 4;
/// Objects of a list that are worth a seat.
const OBJECTS_PER_SEAT: u32 = 100;
/// Collections whose size is remembered; two may share a place.
const SIZES: usize = 1024;
/// Upper bounds of the buckets of waiting times, in seconds.
const WAITS: &[f64; 9] = &[0.0, 0.005, 0.02, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];

/// How much is done at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Requests at once that only read.
    pub max_requests_inflight: u32,
    /// Requests at once that write. Both together are the seats that the levels share.
    pub max_mutating_requests_inflight: u32,
    /// How likely a request over HTTP/2 ends its connection, so that clients spread over the masters; 0 to 0.02.
    pub goaway_chance: f64,
    /// Bytes that bodies of requests may take while they are worked on, all together.
    pub bytes_in_flight: usize,
}

impl Default for Limits {
    /// As upstream, which has no limit on bytes.
    fn default() -> Self {
        Self {
            max_requests_inflight: 400,
            max_mutating_requests_inflight: 200,
            goaway_chance: 0.0,
            bytes_in_flight: 256 << 20,
        }
    }
}

type Told = oneshot::Sender<Slot>;

/// See the module.
pub struct Fairness {
    began: Instant,
    core: Mutex<Core<Told>>,
    flows: RwLock<Arc<Flows>>,
    sizes: Box<[AtomicU32]>,
}

/// The configuration, and what is counted under it.
struct Flows {
    settings: Settings,
    flows: Vec<Arc<Flow>>,
}

/// What is counted of one flow schema, and how it is called.
pub struct Flow {
    schema: String,
    schema_uid: String,
    level: String,
    level_uid: String,
    dispatched: AtomicU64,
    executing: AtomicU64,
    executing_seats: AtomicU64,
    waiting: AtomicU64,
    rejected: Mutex<Vec<(&'static str, u64)>>,
    waits: Mutex<Histogram<9>>,
}

impl Flows {
    fn new(settings: Settings, before: Option<&Self>) -> Self {
        let flow = |schema: &config::Schema| {
            let level = settings.levels.iter().find(|level| level.name == schema.level);
            let level_uid = level.map(|level| level.uid.clone()).unwrap_or_default();
            let same = |flow: &&Arc<Flow>| {
                flow.schema == schema.name
                    && flow.level == schema.level
                    && flow.schema_uid == schema.uid
                    && flow.level_uid == level_uid
            };
            // What was counted goes on.
            before.and_then(|before| before.flows.iter().find(same).cloned()).unwrap_or_else(|| {
                Arc::new(Flow {
                    schema: schema.name.clone(),
                    schema_uid: schema.uid.clone(),
                    level: schema.level.clone(),
                    level_uid,
                    dispatched: AtomicU64::new(0),
                    executing: AtomicU64::new(0),
                    executing_seats: AtomicU64::new(0),
                    waiting: AtomicU64::new(0),
                    rejected: Mutex::default(),
                    waits: Mutex::new(Histogram::new(WAITS)),
                })
            })
        };
        let flows = settings.schemas.iter().map(flow).collect();
        Self { settings, flows }
    }
}

/// A request as it is judged.
pub struct Asked<'a> {
    /// Who asks.
    pub user: &'a User,
    /// For what.
    pub attributes: &'a Attributes<'a>,
    /// What a list is limited to.
    pub limit: Option<u32>,
    /// When it ends in any case.
    pub deadline: Instant,
}

impl Fairness {
    /// With upstream's configuration, until [`Fairness::configure`] is given another.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let settings = Settings::of(&[], &[]);
        let seats = limits.max_requests_inflight.saturating_add(limits.max_mutating_requests_inflight);
        Self {
            began: Instant::now(),
            core: Mutex::new(Core::new(seats, &settings.levels)),
            flows: RwLock::new(Arc::new(Flows::new(settings, None))),
            sizes: (0..SIZES).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// Takes the objects of both kinds over, in their JSON form.
    pub fn configure(&self, schemas: &[Value], levels: &[Value]) {
        let settings = Settings::of(schemas, levels);
        self.core.lock().configure(&settings.levels);
        let mut flows = self.flows.write();
        *flows = Arc::new(Flows::new(settings, Some(&flows)));
    }

    /// A place for a request, as soon as there is one; and the flow that it belongs to.
    ///
    /// # Errors
    /// 429 if there is none.
    ///
    /// # Cancel safety
    /// Its place in the queue is given up.
    pub async fn admit<'f>(&'f self, asked: &Asked<'_>) -> (Arc<Flow>, Result<Permit<'f>, Status>) {
        let (flow, hash) = self.classify(asked);
        let (width, mut told) = (self.width(asked), None);
        let arrival = {
            let mut core = self.core.lock();
            let level = core.find(&flow.level).unwrap_or_default();
            core.arrive(level, hash, width, self.now(), || {
                let (tell, hear) = oneshot::channel();
                told = Some(hear);
                tell
            })
        };
        let permit = match (arrival, told) {
            (Arrival::Waits(ticket), Some(told)) => {
                flow.waiting.fetch_add(1, Ordering::Relaxed);
                let waiting = Waiting { fairness: self, flow: &flow, ticket, told, since: Instant::now(), over: false };
                // In a box: whoever finds a seat carries no room for the wait.
                Box::pin(waiting.wait(asked.deadline)).await.map(Some).ok_or_else(|| flow.refuse("time-out"))
            }
            (Arrival::Runs(slot), _) => Ok(Some(slot)),
            (Arrival::Refused(reason), _) => Err(flow.refuse(reason)),
            (Arrival::Exempt | Arrival::Waits(_), _) => Ok(None),
        };
        let permit = permit.map(|slot| Permit::new(self, Arc::clone(&flow), slot));
        (flow, permit)
    }

    fn classify(&self, asked: &Asked<'_>) -> (Arc<Flow>, u64) {
        let flows = self.flows.read();
        let at = flows.settings.classify(asked.user, asked.attributes);
        let schema = &flows.settings.schemas[at];
        let mut hasher = DefaultHasher::new();
        (&schema.name, schema.flow(asked.user, asked.attributes)).hash(&mut hasher);
        (Arc::clone(&flows.flows[at]), hasher.finish())
    }

    fn now(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Seats that a request takes: a list takes more the longer it was when it was last asked for.
    fn width(&self, asked: &Asked<'_>) -> u32 {
        if asked.attributes.verb != "list" {
            return 1;
        }
        let size = self.size(asked.attributes).load(Ordering::Relaxed);
        asked.limit.map_or(size, |limit| size.min(limit)).div_ceil(OBJECTS_PER_SEAT).max(1)
    }

    fn size(&self, list: &Attributes<'_>) -> &AtomicU32 {
        let mut hasher = DefaultHasher::new();
        (list.group, list.resource, list.namespace).hash(&mut hasher);
        &self.sizes[usize::try_from(hasher.finish() % SIZES as u64).unwrap_or(0)]
    }

    /// A list was this long.
    pub(crate) fn listed(&self, list: &Attributes<'_>, objects: usize) {
        self.size(list).store(u32::try_from(objects).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// Tells those that run from now on.
    fn tell(&self, mut started: Started<Told>) {
        while let Some((told, slot)) = started.pop() {
            // Who does not listen any more has no use for it.
            if let Err(slot) = told.send(slot) {
                started.extend(self.core.lock().done(slot, self.now()));
            }
        }
    }

    fn done(&self, slot: Slot) {
        let started = self.core.lock().done(slot, self.now());
        self.tell(started);
    }

    /// Writes the series, under upstream's names.
    pub(crate) fn write_metrics(&self, out: &mut String) {
        let flows = Arc::clone(&self.flows.read());
        for (name, kind, help, of) in SERIES {
            let name = format!("apiserver_flowcontrol_{name}");
            heading(out, &name, *kind, help);
            for flow in &flows.flows {
                sample(
                    out,
                    &name,
                    &[("priority_level", &flow.level), ("flow_schema", &flow.schema)],
                    of(flow).load(Ordering::Relaxed),
                );
            }
        }
        let name = "apiserver_flowcontrol_rejected_requests_total";
        heading(out, name, Kind::Counter, "Requests that were refused.");
        for flow in &flows.flows {
            for (reason, count) in &*flow.rejected.lock() {
                sample(
                    out,
                    name,
                    &[("priority_level", flow.level.as_str()), ("flow_schema", &flow.schema), ("reason", reason)],
                    count,
                );
            }
        }
        let name = "apiserver_flowcontrol_request_wait_duration_seconds";
        heading(out, name, Kind::Histogram, "How long requests waited in a queue.");
        for flow in &flows.flows {
            flow.waits.lock().write(out, name, &[("priority_level", &flow.level), ("flow_schema", &flow.schema)]);
        }
        self.write_limits(out);
    }

    fn write_limits(&self, out: &mut String) {
        let core = self.core.lock();
        type Of = fn(&seats::Limits) -> u32;
        let series: [(&str, &str, Of); 3] = [
            ("nominal_limit_seats", "Seats of its own.", |limits| limits.nominal),
            ("lower_limit_seats", "Seats that it does not lend.", |limits| limits.lower),
            ("upper_limit_seats", "Seats with those that it may borrow.", |limits| limits.upper),
        ];
        for (name, help, of) in series {
            let name = format!("apiserver_flowcontrol_{name}");
            heading(out, &name, Kind::Gauge, help);
            for level in core.levels.iter().filter(|level| level.limits.nominal > 0) {
                sample(out, &name, &[("priority_level", &level.spec.name)], of(&level.limits));
            }
        }
    }
}

/// `(name, kind, help, which)`.
type Series = (&'static str, Kind, &'static str, fn(&Flow) -> &AtomicU64);

const SERIES: &[Series] = &[
    ("dispatched_requests_total", Kind::Counter, "Requests that were let through.", |flow| &flow.dispatched),
    ("current_inqueue_requests", Kind::Gauge, "Requests that wait.", |flow| &flow.waiting),
    ("current_executing_requests", Kind::Gauge, "Requests that run.", |flow| &flow.executing),
    ("current_executing_seats", Kind::Gauge, "Seats of requests that run.", |flow| &flow.executing_seats),
];

impl Flow {
    /// Uids of the flow schema and of its level; empty where there is no object of it.
    #[must_use]
    pub fn uids(&self) -> (&str, &str) {
        (&self.schema_uid, &self.level_uid)
    }

    /// Name of the flow schema.
    #[must_use]
    pub fn schema(&self) -> &str {
        &self.schema
    }

    fn refuse(&self, reason: &'static str) -> Status {
        let mut rejected = self.rejected.lock();
        match rejected.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += 1,
            None => rejected.push((reason, 1)),
        }
        Status::too_many_requests("Too many requests, please try again later.", 1)
    }
}

/// A place in a queue.
struct Waiting<'a> {
    fairness: &'a Fairness,
    flow: &'a Flow,
    ticket: Ticket,
    told: oneshot::Receiver<Slot>,
    since: Instant,
    /// It has its slot.
    over: bool,
}

impl Waiting<'_> {
    /// Its slot; `None` if that takes too long.
    async fn wait(mut self, deadline: Instant) -> Option<Slot> {
        let patience = deadline.saturating_duration_since(self.since) / PATIENCE;
        let slot = tokio::time::timeout(patience, &mut self.told).await.ok().and_then(Result::ok);
        self.over = slot.is_some();
        slot
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.flow.waiting.fetch_sub(1, Ordering::Relaxed);
        self.flow.waits.lock().observe(self.since.elapsed().as_secs_f64());
        if self.over {
            return;
        }
        let left = self.fairness.core.lock().leave(self.ticket, self.fairness.now());
        match left {
            Some(started) => self.fairness.tell(started),
            // It was given one in this moment: what was sent is here, what was not comes back to the sender.
            None => {
                self.told.close();
                if let Ok(slot) = self.told.try_recv() {
                    self.fairness.done(slot);
                }
            }
        }
    }
}

/// A request that runs. Its seats are free again when this is dropped.
#[must_use = "dropping it ends the request"]
pub struct Permit<'a> {
    fairness: &'a Fairness,
    flow: Arc<Flow>,
    slot: Option<Slot>,
}

impl<'a> Permit<'a> {
    fn new(fairness: &'a Fairness, flow: Arc<Flow>, slot: Option<Slot>) -> Self {
        flow.dispatched.fetch_add(1, Ordering::Relaxed);
        flow.executing.fetch_add(1, Ordering::Relaxed);
        flow.executing_seats.fetch_add(width_of(slot), Ordering::Relaxed);
        Self { fairness, flow, slot }
    }
}

fn width_of(slot: Option<Slot>) -> u64 {
    slot.map_or(1, |slot| u64::from(slot.width()))
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.flow.executing.fetch_sub(1, Ordering::Relaxed);
        self.flow.executing_seats.fetch_sub(width_of(self.slot), Ordering::Relaxed);
        if let Some(slot) = self.slot.take() {
            self.fairness.done(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn small() -> Fairness {
        let fairness =
            Fairness::new(Limits { max_requests_inflight: 1, max_mutating_requests_inflight: 0, ..Limits::default() });
        let level = json!({"metadata": {"name": "one", "uid": "l"}, "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 1000,
            "limitResponse": {"type": "Queue", "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": 2}}}}});
        let schema = json!({"metadata": {"name": "all", "uid": "s"}, "spec": {"matchingPrecedence": 2, "priorityLevelConfiguration": {"name": "one"},
            "rules": [{"subjects": [{"kind": "Group", "group": {"name": "*"}}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}});
        fairness.configure(&[schema], &[level]);
        fairness
    }

    async fn ask(fairness: &Fairness, patience: Duration) -> Result<Permit<'_>, Status> {
        let user = User::new("a", &["system:authenticated"]);
        let attributes = Attributes { verb: "get", path: "/version", ..Attributes::default() };
        let asked =
            Asked { user: &user, attributes: &attributes, limit: None, deadline: Instant::now() + patience * PATIENCE };
        let (flow, permit) = fairness.admit(&asked).await;
        assert_eq!((flow.schema(), flow.uids()), ("all", ("s", "l")));
        permit
    }

    #[tokio::test]
    async fn who_waits_is_let_in_when_a_seat_is_free_and_not_before() {
        let (fairness, long) = (Arc::new(small()), Duration::from_secs(60));
        let Ok(first) = ask(&fairness, long).await else { panic!("there is a seat") };
        let mut waiting: Vec<_> = (0..2).map(|_| Box::pin(ask(&fairness, long))).collect();
        for one in &mut waiting {
            assert!(futures::poll!(one).is_pending());
        }
        let refused = ask(&fairness, long).await.err().expect("the queue is full");
        assert_eq!((refused.code, refused.details.map(|details| details.retry_after_seconds)), (429, Some(1)));
        // One goes away; the other is next.
        drop(waiting.remove(0));
        drop(first);
        let Ok(second) = waiting.remove(0).await else { panic!("there is a seat") };
        assert!(ask(&fairness, Duration::from_millis(5)).await.is_err(), "it waits no longer than it has time");
        drop(second);
        assert!(ask(&fairness, long).await.is_ok(), "nothing is lost");
        let mut text = String::new();
        fairness.write_metrics(&mut text);
        for line in [
            "apiserver_flowcontrol_dispatched_requests_total{priority_level=\"one\",flow_schema=\"all\"} 3",
            "apiserver_flowcontrol_current_inqueue_requests{priority_level=\"one\",flow_schema=\"all\"} 0",
            "apiserver_flowcontrol_rejected_requests_total{priority_level=\"one\",flow_schema=\"all\",reason=\"queue-full\"} 1",
            "apiserver_flowcontrol_rejected_requests_total{priority_level=\"one\",flow_schema=\"all\",reason=\"time-out\"} 1",
            "apiserver_flowcontrol_nominal_limit_seats{priority_level=\"one\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn long_lists_are_wide() {
        let fairness = Fairness::new(Limits::default());
        let user = User::default();
        let list = Attributes { verb: "list", resource: "things", ..Attributes::default() };
        let width = |limit| fairness.width(&Asked { user: &user, attributes: &list, limit, deadline: Instant::now() });
        assert_eq!(width(None), 1);
        fairness.listed(&list, 450);
        assert_eq!((width(None), width(Some(100))), (5, 1));
    }
}
