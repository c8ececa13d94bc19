//! Who gets a seat, who waits and who is refused: the arithmetic of API Priority and Fairness (KEP-1040), without clock,
//! locks or tasks.
//!
//! Levels share the server's seats by their shares. What a level does not use, others may borrow: at once, where upstream
//! settles it every ten seconds. A level is never kept from the seats that it does not lend. Within a level each flow is
//! dealt a hand of queues (shuffle sharding) and waits in the one with the least work; of the queues, the one whose next
//! request would end first in virtual time is served (fair queueing), where a request costs its seats times its time.
//!
//! Invariants
//! - Seats in use exceed the server's by no more than what rounding adds to the levels' own, and those of a level never
//!   exceed its upper limit.
//! - Nobody overtakes: who comes while others of the level wait, waits behind them.
//! - A level below its own seats that has somebody waiting goes before all who borrow.

use std::collections::VecDeque;

use crate::fairness::config::{LevelSpec, Response};

/// How long a request is taken to last while nobody knows, in seconds.
const GUESS: f64 = 0.003;
/// Seats of the widest request.
const WIDEST: u32 = 10;

/// A place in a level, given back by [`Core::done`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Slot {
    level: usize,
    queue: usize,
    width: u32,
    began: f64,
}

impl Slot {
    /// Seats that it takes.
    pub fn width(&self) -> u32 {
        self.width
    }
}

/// A request that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    level: usize,
    queue: usize,
    number: u64,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Arrival {
    /// It runs, for none of the seats that are counted.
    Exempt,
    /// It runs.
    Runs(Slot),
    /// It waits.
    Waits(Ticket),
    /// It is refused, for this reason (as upstream's metrics call it).
    Refused(&'static str),
}

struct Waiter<T> {
    number: u64,
    width: u32,
    who: T,
}

struct Queue<T> {
    waiting: VecDeque<Waiter<T>>,
    /// Seats wanted by those that wait.
    wanted: u32,
    executing: u32,
    /// When its next request would begin, in virtual time.
    next: f64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), wanted: 0, executing: 0, next: 0.0 }
    }
}

impl<T> Queue<T> {
    fn is_active(&self) -> bool {
        self.executing > 0 || !self.waiting.is_empty()
    }
}

/// How many seats a level has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Its own.
    pub nominal: u32,
    /// Its own without those it lends.
    pub lower: u32,
    /// With those it may borrow.
    pub upper: u32,
}

pub(crate) struct Level<T> {
    pub spec: LevelSpec,
    pub limits: Limits,
    /// Seats in use.
    pub in_use: u32,
    pub executing: u32,
    pub waiting: u32,
    queues: Vec<Queue<T>>,
    active: u32,
    /// Virtual time, and the time as of which it is right.
    virtual_now: f64,
    as_of: f64,
    gone: bool,
}

impl<T> Level<T> {
    fn new(spec: LevelSpec) -> Self {
        Self {
            spec,
            limits: Limits::default(),
            in_use: 0,
            executing: 0,
            waiting: 0,
            queues: Vec::new(),
            active: 0,
            virtual_now: 0.0,
            as_of: 0.0,
            gone: false,
        }
    }

    fn is_idle(&self) -> bool {
        self.executing == 0 && self.waiting == 0
    }

    /// Virtual time goes by as the seats in use are shared by the active queues.
    fn advance(&mut self, now: f64) {
        let passed = (now - self.as_of).max(0.0);
        if self.active > 0 {
            self.virtual_now += passed * f64::from(self.in_use) / f64::from(self.active);
        }
        self.as_of = self.as_of.max(now);
    }

    /// Notes that a queue is about to be changed, and what that does to the number of active ones.
    fn touch(&mut self, at: usize, change: impl FnOnce(&mut Queue<T>)) {
        let before = self.queues[at].is_active();
        if !before {
            self.queues[at].next = self.virtual_now;
        }
        change(&mut self.queues[at]);
        match (before, self.queues[at].is_active()) {
            (false, true) => self.active += 1,
            (true, false) => self.active -= 1,
            _ => {}
        }
    }

    fn start(&mut self, at: usize, width: u32, now: f64) {
        self.touch(at, |queue| {
            queue.executing += 1;
            queue.next += GUESS * f64::from(width);
        });
        self.in_use += width;
        self.executing += 1;
        self.as_of = self.as_of.max(now);
    }

    /// The queue with the least work of those dealt to a flow.
    fn pick(&self, hash: u64, hand: u32, queues: u32) -> usize {
        let work = |at: usize| (self.queues[at].wanted, self.queues[at].executing);
        deal(hash, hand, queues).min_by_key(|at| work(*at)).unwrap_or(0)
    }

    /// The queue whose first request would end first.
    fn first(&self) -> Option<(usize, u32)> {
        let heads = self
            .queues
            .iter()
            .enumerate()
            .filter_map(|(at, queue)| Some((at, queue.next, queue.waiting.front()?.width)));
        let end = |next: f64, width: u32| next + GUESS * f64::from(width);
        let first = heads.min_by(|a, b| end(a.1, a.2).total_cmp(&end(b.1, b.2)));
        first.map(|(at, _, width)| (at, width))
    }
}

/// A hand of different queues, all hands being as likely; `hash` decides.
#[allow(clippy::needless_range_loop, reason = "the number of the card counts as well")]
fn deal(mut hash: u64, hand: u32, queues: u32) -> impl Iterator<Item = usize> {
    const MOST: usize = 16;
    let hand = usize::try_from(hand.min(queues)).unwrap_or(1).clamp(1, MOST);
    let (mut dealt, mut sorted) = ([0u32; MOST], [0u32; MOST]);
    for card in 0..hand {
        let left = u64::from(queues).saturating_sub(card as u64).max(1);
        let mut drawn = u32::try_from(hash % left).unwrap_or(0);
        hash /= left;
        // The number that was drawn counts only queues that are not dealt yet.
        let mut place = 0;
        while place < card && sorted[place] <= drawn {
            drawn += 1;
            place += 1;
        }
        sorted.copy_within(place..card, place + 1);
        sorted[place] = drawn;
        dealt[card] = drawn;
    }
    dealt.into_iter().take(hand).map(|at| usize::try_from(at).unwrap_or(0))
}

/// All levels of a server. `T` is how who waits is told.
pub(crate) struct Core<T> {
    pub levels: Vec<Level<T>>,
    /// Seats of the server.
    seats: u32,
    in_use: u32,
    /// Seats that no level may take of another.
    reserved: u32,
    /// Levels in which somebody waits.
    waiting: u32,
    tickets: u64,
}

/// Those that run from now on.
pub(crate) type Started<T> = Vec<(T, Slot)>;

impl<T> Core<T> {
    pub fn new(seats: u32, specs: &[LevelSpec]) -> Self {
        let mut core = Self { levels: Vec::new(), seats: seats.max(1), in_use: 0, reserved: 0, waiting: 0, tickets: 0 };
        core.configure(specs);
        core
    }

    /// Takes other levels over. Whoever runs or waits goes on doing so; a level that is gone lasts until it is idle.
    pub fn configure(&mut self, specs: &[LevelSpec]) {
        for level in &mut self.levels {
            level.gone = !specs.iter().any(|spec| spec.name == level.spec.name);
        }
        for spec in specs {
            let same = self.levels.iter().position(|level| level.spec.name == spec.name);
            let free = || self.levels.iter().position(|level| level.gone && level.is_idle());
            match same.or_else(free) {
                Some(at) => {
                    self.levels[at].spec = spec.clone();
                    self.levels[at].gone = false;
                }
                None => self.levels.push(Level::new(spec.clone())),
            }
        }
        let total: u32 = self.levels.iter().filter(|level| !level.gone).map(|level| level.spec.shares).sum();
        for level in &mut self.levels {
            let last = Limits { upper: level.limits.upper, ..Limits::default() };
            level.limits = if level.gone { last } else { limits(&level.spec, self.seats, total) };
            if let Response::Queue { queues, .. } = level.spec.response {
                let queues = usize::try_from(queues).unwrap_or(1).max(level.queues.len());
                level.queues.resize_with(queues, Queue::default);
            } else if level.queues.is_empty() {
                level.queues.push(Queue::default());
            }
        }
        self.reserved = self.levels.iter().map(Self::own).sum();
    }

    /// Seats that are kept for a level.
    fn own(level: &Level<T>) -> u32 {
        level.limits.lower.saturating_sub(level.in_use)
    }

    /// Where a level of this name is.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.levels.iter().position(|level| !level.gone && level.spec.name == name)
    }

    fn fits(&self, at: usize, width: u32) -> bool {
        let level = &self.levels[at];
        let after = level.in_use + width;
        if after <= level.limits.lower {
            return true;
        }
        let others = self.reserved - Self::own(level);
        // With few seats, rounding keeps more of them than there are: a level that has none may take a free one.
        let kept = if level.in_use == 0 { 0 } else { others };
        let free = self.in_use + width + kept <= self.seats;
        free && after <= level.limits.upper && !(after > level.limits.nominal && self.starves(at))
    }

    /// Whether somebody waits for seats of his own level while this one would borrow.
    fn starves(&self, borrower: usize) -> bool {
        let hungry = |level: &Level<T>| level.waiting > 0 && level.in_use < level.limits.nominal;
        self.waiting > 0 && self.levels.iter().enumerate().any(|(at, level)| at != borrower && hungry(level))
    }

    fn start(&mut self, at: usize, queue: usize, width: u32, now: f64) -> Slot {
        self.reserved -= Self::own(&self.levels[at]);
        self.levels[at].start(queue, width, now);
        self.reserved += Self::own(&self.levels[at]);
        self.in_use += width;
        Slot { level: at, queue, width, began: now }
    }

    /// A request of the flow `hash` comes to a level. `who` is kept if it waits.
    pub fn arrive(&mut self, at: usize, hash: u64, width: u32, now: f64, who: impl FnOnce() -> T) -> Arrival {
        let level = &mut self.levels[at];
        if level.spec.response == Response::Exempt {
            return Arrival::Exempt;
        }
        level.advance(now);
        let width = width.clamp(1, WIDEST.min(level.limits.nominal.div_ceil(2).max(1)));
        let queue = match level.spec.response {
            Response::Queue { hand, queues, .. } => level.pick(hash, hand, queues),
            _ => 0,
        };
        if self.levels[at].waiting == 0 && self.fits(at, width) {
            return Arrival::Runs(self.start(at, queue, width, now));
        }
        let level = &mut self.levels[at];
        let Response::Queue { length, .. } = level.spec.response else { return Arrival::Refused("concurrency-limit") };
        if level.queues[queue].waiting.len() >= usize::try_from(length).unwrap_or(usize::MAX) {
            return Arrival::Refused("queue-full");
        }
        self.tickets += 1;
        let number = self.tickets;
        level.touch(queue, |queue| {
            queue.wanted += width;
            queue.waiting.push_back(Waiter { number, width, who: who() });
        });
        level.waiting += 1;
        self.waiting += u32::from(level.waiting == 1);
        Arrival::Waits(Ticket { level: at, queue, number })
    }

    /// A request is over.
    pub fn done(&mut self, slot: Slot, now: f64) -> Started<T> {
        self.reserved -= Self::own(&self.levels[slot.level]);
        let level = &mut self.levels[slot.level];
        level.advance(now);
        level.touch(slot.queue, |queue| {
            queue.executing -= 1;
            // It cost what it took, not what was guessed.
            queue.next += ((now - slot.began).max(0.0) - GUESS) * f64::from(slot.width);
        });
        level.in_use -= slot.width;
        level.executing -= 1;
        self.reserved += Self::own(&self.levels[slot.level]);
        self.in_use -= slot.width;
        self.dispatch(now)
    }

    /// A request waits no longer; `None` if it does not wait any more.
    pub fn leave(&mut self, ticket: Ticket, now: f64) -> Option<Started<T>> {
        let level = &mut self.levels[ticket.level];
        let place = level.queues[ticket.queue].waiting.iter().position(|waiter| waiter.number == ticket.number)?;
        level.advance(now);
        self.take(ticket.level, ticket.queue, place);
        // It may have been in the way of a smaller one.
        Some(self.dispatch(now))
    }

    fn take(&mut self, at: usize, queue: usize, place: usize) -> Option<Waiter<T>> {
        let level = &mut self.levels[at];
        let mut taken = None;
        level.touch(queue, |queue| {
            taken = queue.waiting.remove(place);
            queue.wanted -= taken.as_ref().map_or(0, |waiter| waiter.width);
        });
        level.waiting -= 1;
        self.waiting -= u32::from(level.waiting == 0);
        taken
    }

    /// Gives free seats to those that wait: first to levels below their own, the emptiest first.
    fn dispatch(&mut self, now: f64) -> Started<T> {
        let mut started = Vec::new();
        while self.waiting > 0 {
            let fill = |level: &Level<T>| f64::from(level.in_use) / f64::from(level.limits.nominal.max(1));
            let waiting = self.levels.iter().enumerate().filter(|(_, level)| level.waiting > 0);
            let ready = waiting
                .filter_map(|(at, level)| Some((at, level.first()?)))
                .filter(|(at, (_, width))| self.fits(*at, *width));
            let next = ready.min_by(|a, b| fill(&self.levels[a.0]).total_cmp(&fill(&self.levels[b.0])));
            let Some((at, (queue, width))) = next else { break };
            self.levels[at].advance(now);
            let Some(waiter) = self.take(at, queue, 0) else { break };
            let slot = self.start(at, queue, width, now);
            started.push((waiter.who, slot));
        }
        started
    }
}

fn limits(spec: &LevelSpec, seats: u32, total: u32) -> Limits {
    if spec.response == Response::Exempt {
        return Limits::default();
    }
    let of = |whole: u32, part: u64, parts: u64| {
        u32::try_from((u64::from(whole) * part).div_ceil(parts.max(1))).unwrap_or(u32::MAX)
    };
    let nominal = of(seats, u64::from(spec.shares), u64::from(total));
    let lent = u32::try_from((u64::from(nominal) * u64::from(spec.lendable) + 50) / 100).unwrap_or(0);
    let upper =
        spec.borrowing.map_or(seats, |percent| nominal.saturating_add(of(nominal, u64::from(percent), 100)).min(seats));
    Limits { nominal, lower: nominal - lent.min(nominal), upper }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn level(name: &str, shares: u32, lendable: u32, borrowing: Option<u32>, response: Response) -> LevelSpec {
        LevelSpec { name: name.into(), uid: String::new(), shares, lendable, borrowing, response }
    }

    const QUEUE: Response = Response::Queue { queues: 4, hand: 1, length: 3 };

    fn runs<T>(arrival: &Arrival, _: &Core<T>) -> Slot {
        match arrival {
            Arrival::Runs(slot) => *slot,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_hand_has_no_queue_twice_and_reaches_all() {
        let mut seen = BTreeSet::new();
        for number in 0..200u64 {
            let hand: Vec<usize> = deal(number.wrapping_mul(0x9e37_79b9_7f4a_7c15), 6, 16).collect();
            assert_eq!(hand.iter().collect::<BTreeSet<_>>().len(), 6, "{hand:?}");
            assert!(hand.iter().all(|at| *at < 16), "{hand:?}");
            seen.extend(hand);
        }
        assert_eq!(seen.len(), 16);
        assert_eq!(deal(7, 8, 2).count(), 2, "no more than there are");
    }

    #[test]
    fn seats_are_shared_lent_and_kept() {
        for (seats, spec, total, expect) in [
            (600, level("a", 30, 33, None, QUEUE), 245, (74, 50, 600)),
            (600, level("a", 5, 0, None, Response::Reject), 245, (13, 13, 600)),
            (10, level("a", 1, 100, Some(50), QUEUE), 2, (5, 0, 8)),
            (10, level("a", 9, 0, None, Response::Exempt), 9, (0, 0, 0)),
        ] {
            let Limits { nominal, lower, upper } = limits(&spec, seats, total);
            assert_eq!((nominal, lower, upper), expect, "{spec:?}");
        }
    }

    #[test]
    fn who_finds_no_seat_waits_or_is_refused() {
        let specs = [
            level("q", 1, 0, Some(0), QUEUE),
            level("r", 1, 0, Some(0), Response::Reject),
            level("e", 0, 0, None, Response::Exempt),
        ];
        let mut core: Core<u32> = Core::new(2, &specs);
        let first = core.arrive(0, 1, 1, 0.0, || 0);
        let slot = runs(&first, &core);
        let waits: Vec<Arrival> = (1..5).map(|who| core.arrive(0, 1, 1, 0.0, || who)).collect();
        assert!(
            matches!(
                waits[..],
                [Arrival::Waits(_), Arrival::Waits(_), Arrival::Waits(_), Arrival::Refused("queue-full")]
            ),
            "{waits:?}"
        );
        runs(&core.arrive(1, 1, 1, 0.0, || 9), &core);
        assert_eq!(core.arrive(1, 1, 1, 0.0, || 9), Arrival::Refused("concurrency-limit"));
        assert_eq!(core.arrive(2, 1, 1, 0.0, || 9), Arrival::Exempt);
        let Arrival::Waits(ticket) = waits[1] else { panic!() };
        assert!(core.leave(ticket, 0.1).is_some_and(|started| started.is_empty()));
        assert!(core.leave(ticket, 0.1).is_none(), "it waits no more");
        let mut slots = vec![slot];
        let mut order = Vec::new();
        while let Some(slot) = slots.pop() {
            for (who, slot) in core.done(slot, 0.2) {
                order.push(who);
                slots.push(slot);
            }
        }
        assert_eq!(order, [1, 3], "first come, first served");
        assert_eq!((core.levels[0].in_use, core.levels[0].active), (0, 0));
    }

    #[test]
    fn a_level_borrows_what_is_idle_and_never_what_is_kept() {
        let specs = [level("a", 1, 50, None, QUEUE), level("b", 1, 50, None, QUEUE)];
        let mut core: Core<&str> = Core::new(8, &specs);
        let slots: Vec<Slot> = (0..6).map(|hash| runs(&core.arrive(0, hash, 1, 0.0, || "a"), &core)).collect();
        assert!(matches!(core.arrive(0, 0, 1, 0.0, || "a"), Arrival::Waits(_)), "two are kept for the other");
        let others: Vec<Slot> = (0..2).map(|hash| runs(&core.arrive(1, hash, 1, 0.0, || "b"), &core)).collect();
        assert!(matches!(core.arrive(1, 0, 1, 0.0, || "b"), Arrival::Waits(_)));
        let started = core.done(slots[0], 1.0);
        assert_eq!(
            started.iter().map(|(who, _)| *who).collect::<Vec<_>>(),
            ["b"],
            "its own seats come before borrowed ones"
        );
        drop(others);
    }

    #[test]
    fn a_flow_that_asks_for_much_does_not_keep_others_waiting() {
        let specs = [level("a", 1, 0, None, Response::Queue { queues: 64, hand: 1, length: 100 })];
        let mut core: Core<u64> = Core::new(1, &specs);
        let slot = runs(&core.arrive(0, 3, 1, 0.0, || 3), &core);
        for _ in 0..50 {
            core.arrive(0, 3, 1, 0.0, || 3);
        }
        for _ in 0..3 {
            core.arrive(0, 5, 1, 0.0, || 5);
        }
        let (mut slot, mut now, mut order) = (slot, 0.0, Vec::new());
        for _ in 0..8 {
            now += 1.0;
            let started = core.done(slot, now);
            assert_eq!(started.len(), 1);
            order.push(started[0].0);
            slot = started[0].1;
        }
        assert!(order.iter().filter(|who| **who == 5).count() == 3, "{order:?}");
    }

    #[test]
    fn levels_come_and_go_under_load() {
        let mut core: Core<u32> = Core::new(4, &[level("a", 1, 0, None, QUEUE)]);
        let slot = runs(&core.arrive(0, 0, 1, 0.0, || 0), &core);
        core.configure(&[level("b", 1, 0, None, QUEUE)]);
        let at = core.find("b").expect("it is there");
        assert!(core.find("a").is_none() && at == 1);
        assert!(core.done(slot, 1.0).is_empty());
        core.configure(&[level("b", 1, 0, None, QUEUE), level("c", 1, 0, None, QUEUE)]);
        assert_eq!(core.find("c"), Some(0), "the place of one that is gone");
        runs(&core.arrive(0, 0, 1, 2.0, || 0), &core);
    }
}
