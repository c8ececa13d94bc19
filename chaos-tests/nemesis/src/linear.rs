//! Linearizability of single keys, judged without the store's revisions: it sees only what a client
//! sees that knows nothing of etcd.
//!
//! Linearizability is local, so every key is judged alone; a transaction over several keys counts on
//! each of them with what it saw and did there ([`crate::order`] judges it as a whole). The search is
//! Wing and Gong's with Lowe's two improvements: configurations are remembered, and an operation is
//! given its place only when one that returns needs it. It goes forward in time once, with all orders
//! that are still possible, so its cost follows how many operations are open at once and not how long
//! the history is.
//!
//! Operations of unknown outcome:
//! - a put whose value somebody read took effect, before that read ended; one whose value nobody read
//!   may be left out, since whatever order is legal with it is legal without it;
//! - a delete may be used at most once, at any time after it was asked.
//!
//! Where there are too many orders, everything up to the next moment without open operations is
//! reported as undecided, never as passed, and the search goes on from any state.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{
    history::{Nanos, Op, Outcome, Part, Step},
    verdict::Verdict,
};

/// Configurations visited for one return before the search gives up.
const BUDGET: usize = 200_000;
/// Operations that are shown for a violation.
const SHOWN: usize = 24;

/// A value of one key, as a number.
type Val = u32;
const MISSING: Val = 0;
/// Some value that nobody read: which one makes no difference.
const UNREAD: Val = 1;
/// Any state at all: after an undecided segment.
const WILD: Val = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Need {
    Any,
    Is(Val),
    Present,
}

/// An operation as seen from one key.
#[derive(Clone, Copy, Debug)]
struct Local {
    op: usize,
    start: Nanos,
    end: Nanos,
    need: Need,
    write: Option<Val>,
    /// A delete of unknown outcome.
    optional: bool,
}

/// What an operation saw of a key.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Seen<'a> {
    Nothing,
    Value(&'a str),
    Missing,
    Present,
}

/// What an operation saw of and did to a key.
#[derive(Clone, Copy, Debug)]
struct Touch<'a> {
    seen: Seen<'a>,
    write: Option<Option<&'a str>>,
}

/// Judges every key.
#[must_use]
pub fn check(ops: &[Op]) -> Verdict {
    let mut verdict = Verdict::default();
    let keys = keys(ops);
    let leased = leased(ops);
    let mut by_key: BTreeMap<&str, Vec<(usize, Touch)>> = BTreeMap::new();
    for (index, op) in ops.iter().enumerate() {
        for (key, touch) in touches(op, &keys, &mut verdict) {
            by_key.entry(key).or_default().push((index, touch));
        }
    }
    let (mut count, mut widest) = (0, 0);
    for (key, touched) in by_key.into_iter().filter(|(key, _)| !leased.contains(key)) {
        let locals = locals(ops, &touched);
        count += locals.len();
        widest = widest.max(judge(ops, key, &locals, &mut verdict));
    }
    verdict.saw("operations by key", count);
    verdict.saw("orders open at most", widest);
    verdict
}

/// Keys that may go without anybody's question: [`crate::order`] and [`crate::leases`] judge them.
fn leased(ops: &[Op]) -> BTreeSet<&str> {
    let steps = ops.iter().flat_map(|op| op.ask.then.iter().chain(&op.ask.otherwise));
    let keys = steps.filter_map(|step| match step {
        Step::Put { key, lease, .. } if *lease != 0 => Some(key.as_str()),
        _ => None,
    });
    keys.collect()
}

fn keys(ops: &[Op]) -> BTreeSet<&str> {
    let mut keys = BTreeSet::new();
    for op in ops {
        keys.extend(op.ask.guards.iter().map(|guard| guard.key.as_str()));
        for step in op.ask.then.iter().chain(&op.ask.otherwise) {
            if let Step::Put { key, .. } | Step::Delete { key } | Step::Get { key } = step {
                keys.insert(key.as_str());
            }
        }
    }
    keys
}

/// What an operation saw and did, key by key. Serializable reads and refused questions say nothing.
fn touches<'a>(op: &'a Op, keys: &BTreeSet<&'a str>, verdict: &mut Verdict) -> BTreeMap<&'a str, Touch<'a>> {
    let mut map = BTreeMap::new();
    if op.ask.serializable || matches!(op.outcome, Outcome::Failed(_)) {
        return map;
    }
    let succeeded = op.answer().is_none_or(|answer| answer.succeeded);
    if succeeded {
        for guard in &op.ask.guards {
            let seen = guard.value.as_deref().map_or(Seen::Missing, Seen::Value);
            see(&mut map, &guard.key, seen, op, verdict);
        }
    }
    let parts = op.answer().map_or(&[][..], |answer| &answer.parts);
    for (index, step) in op.ask.branch(succeeded).iter().enumerate() {
        match (step, parts.get(index)) {
            (Step::Put { key, value, .. }, _) => touch(&mut map, key).write = Some(Some(value)),
            (Step::Delete { key }, Some(Part::Deleted(0))) => see(&mut map, key, Seen::Missing, op, verdict),
            (Step::Delete { key }, part) => {
                if part.is_some() {
                    see(&mut map, key, Seen::Present, op, verdict);
                }
                touch(&mut map, key).write = Some(None);
            }
            (Step::Get { key }, Some(Part::Items(items))) => {
                let seen = items.first().map_or(Seen::Missing, |item| Seen::Value(&item.value));
                see(&mut map, key, seen, op, verdict);
            }
            (Step::Range { from, to }, Some(Part::Items(items))) => {
                let found: HashMap<&str, &str> = items.iter().map(|item| (&*item.key, &*item.value)).collect();
                for key in keys.range(from.as_str()..).take_while(|key| to.is_empty() || **key < to.as_str()) {
                    let seen = found.get(key).map_or(Seen::Missing, |value| Seen::Value(value));
                    see(&mut map, key, seen, op, verdict);
                }
            }
            _ => {}
        }
    }
    map
}

fn touch<'m, 'a>(map: &'m mut BTreeMap<&'a str, Touch<'a>>, key: &'a str) -> &'m mut Touch<'a> {
    map.entry(key).or_insert(Touch { seen: Seen::Nothing, write: None })
}

/// Notes what was seen before the operation's own write.
fn see<'a>(map: &mut BTreeMap<&'a str, Touch<'a>>, key: &'a str, seen: Seen<'a>, op: &Op, verdict: &mut Verdict) {
    let touch = touch(map, key);
    if touch.write.is_some() {
        return;
    }
    match (touch.seen, seen) {
        (Seen::Nothing, _) | (Seen::Present, Seen::Value(_)) => touch.seen = seen,
        (Seen::Value(_), Seen::Present) => {}
        (before, now) if before == now => {}
        (before, now) => {
            verdict.fail("torn-transaction", format!("{key} is both {before:?} and {now:?} in {}", show(op)));
        }
    }
}

/// The values that were read, and by when they must have been written: the end of the first operation
/// that needed them. A guarded write of unknown outcome whose own value was read is such an operation.
fn first_read<'a>(ops: &[Op], touched: &[(usize, Touch<'a>)]) -> HashMap<&'a str, Nanos> {
    let mut first: HashMap<&str, Nanos> = HashMap::new();
    let mut changed = true;
    while std::mem::take(&mut changed) {
        for (index, touch) in touched {
            let (Seen::Value(value), op) = (touch.seen, &ops[*index]) else { continue };
            let end = match touch.write {
                _ if !op.unknown() => op.end,
                Some(Some(written)) if first.contains_key(written) => first[written],
                _ => continue,
            };
            let known = first.entry(value).or_insert(Nanos::MAX);
            changed |= end < *known;
            *known = end.min(*known);
        }
    }
    first
}

/// The operations of one key, ready to be searched.
fn locals(ops: &[Op], touched: &[(usize, Touch)]) -> Vec<Local> {
    let first_read = first_read(ops, touched);
    let numbers: HashMap<&str, Val> = first_read.keys().copied().zip(UNREAD + 1..).collect();
    let number = |value: Option<&str>| value.map_or(MISSING, |value| numbers.get(value).copied().unwrap_or(UNREAD));
    let unread = touched.iter().filter(|(index, touch)| {
        ops[*index].unknown() && matches!(touch.write, Some(Some(value)) if !numbers.contains_key(value))
    });
    let first_unread = unread.map(|(index, _)| ops[*index].start).min().unwrap_or(Nanos::MAX);

    let mut locals = Vec::new();
    for (index, touch) in touched {
        let op = &ops[*index];
        let need = match touch.seen {
            Seen::Nothing => Need::Any,
            Seen::Value(value) => Need::Is(number(Some(value))),
            Seen::Missing => Need::Is(MISSING),
            // A put that is left out may have been what was there.
            Seen::Present if first_unread < op.end => Need::Any,
            Seen::Present => Need::Present,
        };
        let write = touch.write.map(number);
        let local = Local { op: *index, start: op.start, end: op.end, need, write, optional: false };
        match (op.unknown(), touch.write) {
            (false, _) if need == Need::Any && write.is_none() => {}
            (false, _) => locals.push(local),
            (true, Some(None)) => locals.push(Local { end: Nanos::MAX, optional: true, ..local }),
            (true, Some(Some(value))) => {
                // Read, so it happened, and before that read ended.
                locals.extend(first_read.get(value).map(|end| Local { end: *end, ..local }));
            }
            (true, None) => {}
        }
    }
    locals.sort_by_key(|local| (local.start, local.op));
    locals
}

/// What has happened so far in one possible order: the state, and which of the open operations are part of it.
#[derive(Clone, Copy)]
struct Config {
    done: u128,
    state: Val,
    /// Deletes of unknown outcome that were asked and are not used yet.
    left: u32,
}

/// Configurations, those left out that differ from another only by having fewer deletes left.
#[derive(Default)]
struct Orders(HashMap<(u128, Val), u32>);

impl Orders {
    fn one(state: Val, left: u32) -> Self {
        Self(HashMap::from([((0, state), left)]))
    }

    /// Answers whether it was new, or better than the one it replaces.
    fn add(&mut self, config: Config) -> bool {
        let known = self.0.insert((config.done, config.state), config.left);
        let worse = known.filter(|left| *left >= config.left);
        if let Some(left) = worse {
            self.0.insert((config.done, config.state), left);
        }
        worse.is_none()
    }

    fn drain(&mut self) -> Vec<Config> {
        self.0.drain().map(|((done, state), left)| Config { done, state, left }).collect()
    }
}

/// The open operations of a key, each in a slot of its own, and every order that is still possible.
struct Search<'a> {
    locals: &'a [Local],
    slots: Vec<Option<usize>>,
    configs: Orders,
    widest: usize,
}

/// Goes through the calls and returns of one key; answers how many orders were open at most.
fn judge(ops: &[Op], key: &str, locals: &[Local], verdict: &mut Verdict) -> usize {
    let mut moments: Vec<(Nanos, bool, usize)> = Vec::new();
    for (index, local) in locals.iter().enumerate() {
        moments.push((local.start, false, index));
        if !local.optional {
            moments.push((local.end, true, index));
        }
    }
    // A call at the very moment of a return counts as concurrent with it.
    moments.sort_unstable();
    let mut search = Search::new(locals);
    let mut given_up: Option<(Nanos, usize)> = None;
    for (at, returned, index) in moments {
        let fits = if returned { given_up.is_some() || search.returned(index) } else { search.called(index) };
        if returned {
            search.free(index);
        }
        let quiet = search.slots.iter().all(Option::is_none);
        match &mut given_up {
            None if !fits => given_up = Some((at, 1)),
            None if search.configs.0.is_empty() => {
                let open = search.slots.iter().flatten().copied().chain([index]).collect();
                verdict.fail("linearizability", format!("no order explains {key}: {}", show_all(ops, locals, open)));
                return search.widest;
            }
            None => {}
            Some((_, count)) if !quiet => *count += usize::from(returned),
            Some((since, count)) => {
                let (since, at) = (seconds(*since), seconds(at));
                verdict.undecided.push(format!("{key}: {count} operations from {since} to {at}"));
                search.start_anew(index);
                given_up = None;
            }
        }
    }
    if let Some((since, count)) = given_up {
        verdict.undecided.push(format!("{key}: {count} operations from {} on", seconds(since)));
    }
    search.widest
}

impl<'a> Search<'a> {
    fn new(locals: &'a [Local]) -> Self {
        Self { locals, slots: vec![None; 128], configs: Orders::one(MISSING, 0), widest: 1 }
    }

    /// Any state, and every delete of unknown outcome so far unused.
    fn start_anew(&mut self, upto: usize) {
        let before = self.locals.iter().take(upto + 1).filter(|local| local.optional).count();
        let left = u32::try_from(before).expect("fewer than 2^32 operations");
        self.configs = Orders::one(WILD, left);
    }

    /// Answers false if more are open than there are slots.
    fn called(&mut self, index: usize) -> bool {
        if self.locals[index].optional {
            self.configs.0.values_mut().for_each(|left| *left += 1);
            return true;
        }
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.is_none()) else { return false };
        *slot = Some(index);
        true
    }

    fn free(&mut self, index: usize) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| **slot == Some(index)) {
            *slot = None;
        }
    }

    /// Keeps the orders in which this operation has taken effect, adding what must come before it.
    /// Answers false if there are too many.
    fn returned(&mut self, index: usize) -> bool {
        let Some(slot) = self.slots.iter().position(|slot| *slot == Some(index)) else { return false };
        let mut seen = Orders::default();
        let mut todo: Vec<Config> = self.configs.drain();
        while let Some(config) = todo.pop() {
            if config.done >> slot & 1 == 1 {
                self.configs.add(Config { done: config.done & !(1 << slot), ..config });
                continue;
            }
            todo.extend(self.successors(config).into_iter().filter(|next| seen.add(*next)));
            if seen.0.len() > BUDGET {
                return false;
            }
        }
        self.widest = self.widest.max(seen.0.len());
        true
    }

    /// What can take effect next.
    fn successors(&self, config: Config) -> Vec<Config> {
        let mut next = Vec::new();
        for (slot, index) in self.slots.iter().enumerate() {
            let Some(local) = index.map(|index| &self.locals[index]).filter(|_| config.done >> slot & 1 == 0) else {
                continue;
            };
            let done = config.done | 1 << slot;
            if let Some(state) = after(local, config.state) {
                let reached = Config { done, state, ..config };
                if local.write.is_none() && state == config.state {
                    // A read that fits now takes nothing from the others by coming first.
                    return vec![reached];
                }
                next.push(reached);
            } else if local.need == Need::Is(MISSING) && config.left > 0 {
                // Only a delete of unknown outcome just before it can explain this one.
                let state = local.write.unwrap_or(MISSING);
                next.push(Config { done, state, left: config.left - 1 });
            }
        }
        next
    }
}

/// The state after an operation, if it can come next.
fn after(local: &Local, state: Val) -> Option<Val> {
    let seen = match local.need {
        Need::Any => state,
        Need::Is(value) if state == value || state == WILD => value,
        Need::Present if state != MISSING => state,
        _ => return None,
    };
    Some(local.write.unwrap_or(seen))
}

fn seconds(at: Nanos) -> String {
    format!("{:.6}", at as f64 / 1e9)
}

/// One operation in a line.
#[must_use]
pub fn show(op: &Op) -> String {
    let end = if op.unknown() { "?".to_owned() } else { seconds(op.end) };
    let ask = serde_json::to_string(&(op.ask.kind, &op.ask.guards, &op.ask.then)).unwrap_or_default();
    let outcome = match &op.outcome {
        Outcome::Ok(answer) => serde_json::to_string(&(answer.succeeded, answer.revision, &answer.parts)),
        Outcome::Failed(why) => Ok(format!("failed: {why}")),
        Outcome::Unknown(why) => Ok(format!("unknown: {why}")),
    };
    let short = |text: String| {
        if text.len() > 300 { format!("{}…", text.chars().take(300).collect::<String>()) } else { text }
    };
    let outcome = short(outcome.unwrap_or_default());
    format!("process {} at member {} [{}..{end}] {} -> {outcome}", op.process, op.member, seconds(op.start), short(ask))
}

fn show_all(ops: &[Op], locals: &[Local], mut open: Vec<usize>) -> String {
    let first = open.iter().map(|index| locals[*index].start).min().unwrap_or(0);
    let last = open.iter().map(|index| locals[*index].end).max().unwrap_or(0);
    // What ended shortly before shows what the state should have been.
    let before = locals.iter().enumerate().filter(|(_, local)| local.end <= first).map(|(index, _)| index);
    open.extend(before.collect::<Vec<_>>().iter().rev().take(4));
    open.extend((0..locals.len()).filter(|index| locals[*index].start <= last && locals[*index].end > first));
    open.sort_unstable();
    open.dedup();
    let lines = open.iter().take(SHOWN).map(|index| format!("\n    {}", show(&ops[locals[*index].op])));
    format!("{} operations{}", open.len(), lines.collect::<String>())
}
