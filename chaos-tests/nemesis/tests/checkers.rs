//! The checkers on small histories that are right or wrong in one known way, and on many random ones.

use kontiki_nemesis::{
    Verdict, check,
    history::{
        Answer, Ask, Event, Guard, History, Item, Kind, LeaseAsk, LeaseOp, LeaseOutcome, Line, Mark, Nanos, Op,
        Outcome, Part, Rev, Step, WatchStep, Watched,
    },
    linear,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

const SECOND: Nanos = 1_000_000_000;

fn op(start: Nanos, end: Nanos, ask: Ask, outcome: Outcome) -> Op {
    Op { process: 0, member: 0, start, end, ask, outcome }
}

fn put_step(key: &str, value: &str) -> Step {
    Step::Put { key: key.into(), value: value.into(), lease: 0 }
}

fn ok(succeeded: bool, revision: Rev, parts: Vec<Part>) -> Outcome {
    Outcome::Ok(Answer { succeeded, revision, parts })
}

fn unknown() -> Outcome {
    Outcome::Unknown("timeout".into())
}

fn put(start: Nanos, end: Nanos, value: &str, revision: Rev) -> Op {
    op(start, end, Ask::plain(Kind::Put, vec![put_step("k", value)]), ok(true, revision, vec![Part::Put]))
}

fn lost_put(start: Nanos, end: Nanos, value: &str) -> Op {
    op(start, end, Ask::plain(Kind::Put, vec![put_step("k", value)]), unknown())
}

fn item(key: &str, value: &str, created: Rev, modified: Rev, version: i64) -> Item {
    Item { key: key.into(), value: value.into(), created, modified, version, lease: 0 }
}

fn get(start: Nanos, end: Nanos, revision: Rev, found: Option<Item>) -> Op {
    let part = Part::Items(found.into_iter().collect());
    op(start, end, Ask::plain(Kind::Get, vec![Step::Get { key: "k".into() }]), ok(true, revision, vec![part]))
}

fn cas(start: Nanos, end: Nanos, seen: (Rev, &str), value: &str, outcome: Outcome) -> Op {
    let guard = Guard { key: "k".into(), revision: seen.0, value: Some(seen.1.into()), by_value: false };
    let (then, otherwise) = (vec![put_step("k", value)], vec![Step::Get { key: "k".into() }]);
    let ask = Ask { kind: Kind::Cas, guards: vec![guard], then, otherwise, serializable: false };
    op(start, end, ask, outcome)
}

fn delete(start: Nanos, end: Nanos, outcome: Outcome) -> Op {
    op(start, end, Ask::plain(Kind::Delete, vec![Step::Delete { key: "k".into() }]), outcome)
}

fn ops(ops: Vec<Op>) -> History {
    History { ops, ..History::default() }
}

fn rules(verdict: &Verdict) -> Vec<&'static str> {
    let mut rules: Vec<_> = verdict.violations.iter().map(|violation| violation.rule).collect();
    rules.sort_unstable();
    rules.dedup();
    rules
}

/// Each history, and the rule that the search without revisions, and the one by revision, find broken.
#[test]
fn single_keys() {
    let a = || Some(item("k", "a", 2, 2, 1));
    let b = || Some(item("k", "b", 2, 3, 2));
    for (name, history, by_search, by_order) in [
        (
            "one after the other",
            vec![put(0, 10, "a", 2), get(20, 30, 2, a()), put(40, 50, "b", 3), get(60, 70, 3, b())],
            "",
            "",
        ),
        (
            "either order while both are open",
            vec![put(0, 10, "a", 2), put(20, 90, "b", 3), get(30, 40, 2, a()), get(50, 60, 3, b())],
            "",
            "",
        ),
        (
            "a stale read",
            vec![put(0, 10, "a", 2), put(20, 30, "b", 3), get(40, 50, 2, a())],
            "linearizability",
            "stale-read",
        ),
        (
            "a stale read under a fresh header",
            vec![put(0, 10, "a", 2), put(20, 30, "b", 3), get(40, 50, 3, a())],
            "linearizability",
            "read-of-no-state",
        ),
        ("a lost write", vec![put(0, 10, "a", 2), get(20, 30, 2, None)], "linearizability", "read-of-no-state"),
        (
            "a write lost to an older one",
            vec![put(0, 10, "a", 2), put(20, 30, "b", 3), get(40, 50, 4, a())],
            "linearizability",
            "read-of-no-state",
        ),
        (
            "an unknown write that shows later",
            vec![put(0, 10, "a", 2), lost_put(20, 30, "b"), get(40, 50, 2, a()), get(60, 70, 3, b())],
            "",
            "",
        ),
        (
            "an unknown write that never shows",
            vec![put(0, 10, "a", 2), lost_put(20, 30, "b"), get(40, 50, 2, a()), get(60, 70, 2, a())],
            "",
            "",
        ),
        (
            "an unknown write that shows and goes",
            vec![put(0, 10, "a", 2), lost_put(20, 30, "b"), get(40, 50, 3, b()), get(60, 70, 3, a())],
            "linearizability",
            "read-of-no-state",
        ),
        (
            "a write that shows before it was asked for",
            vec![put(0, 10, "a", 2), get(20, 30, 3, b()), lost_put(40, 50, "b")],
            "linearizability",
            "effect-before-cause",
        ),
        (
            "reads that go back in time",
            vec![put(0, 10, "a", 2), put(20, 90, "b", 3), get(30, 40, 3, b()), get(50, 60, 2, a())],
            "linearizability",
            "stale-read",
        ),
        (
            "a cas that succeeds once",
            vec![
                put(0, 10, "a", 2),
                cas(20, 60, (2, "a"), "b", ok(true, 3, vec![Part::Put])),
                cas(20, 60, (2, "a"), "c", ok(false, 3, vec![Part::Items(b().into_iter().collect())])),
            ],
            "",
            "",
        ),
        (
            "a cas that succeeds twice",
            vec![
                put(0, 10, "a", 2),
                cas(20, 60, (2, "a"), "b", ok(true, 3, vec![Part::Put])),
                cas(20, 60, (2, "a"), "c", ok(true, 4, vec![Part::Put])),
            ],
            "linearizability",
            "guard-did-not-hold",
        ),
        (
            "a cas that fails without a reason",
            vec![
                put(0, 10, "a", 2),
                cas(20, 60, (2, "a"), "b", ok(false, 2, vec![Part::Items(a().into_iter().collect())])),
            ],
            "",
            "guard-held",
        ),
        (
            "an unknown delete that shows",
            vec![put(0, 10, "a", 2), delete(20, 30, unknown()), get(40, 50, 3, None)],
            "",
            "",
        ),
        (
            "one unknown delete cannot delete twice",
            vec![
                put(0, 10, "a", 2),
                delete(20, 30, unknown()),
                get(40, 50, 3, None),
                put(60, 70, "b", 4),
                get(80, 90, 5, None),
            ],
            "linearizability",
            "read-of-no-state",
        ),
        (
            "a delete that found nothing, yet there was something",
            vec![put(0, 10, "a", 2), delete(20, 30, ok(true, 2, vec![Part::Deleted(0)]))],
            "linearizability",
            "wrong-delete",
        ),
        ("two writes at one revision", vec![put(0, 10, "a", 2), put(0, 10, "b", 2)], "", "two-writes-at-one-revision"),
        ("a later write below an earlier one", vec![put(0, 10, "a", 3), put(20, 30, "b", 2)], "", "revision-went-back"),
        (
            "a value nobody wrote",
            vec![put(0, 10, "a", 2), get(20, 30, 3, Some(item("k", "z", 2, 3, 2)))],
            "linearizability",
            "invented-value",
        ),
    ] {
        let searched = linear::check(&history);
        assert!(searched.undecided.is_empty(), "{name}");
        assert_eq!(rules(&searched).join(" "), by_search, "{name}: {:?}", searched.violations);
        let (ordered, _) = kontiki_nemesis::order::check(&ops(history));
        let found = rules(&ordered);
        assert!(
            if by_order.is_empty() { found.is_empty() } else { found.contains(&by_order) },
            "{name}: {:?}",
            ordered.violations
        );
    }
}

#[test]
fn refused_writes_never_show() {
    let mut refused = lost_put(0, 10, "a");
    refused.outcome = Outcome::Failed("no".into());
    let verdict = check(&ops(vec![refused, get(20, 30, 2, Some(item("k", "a", 2, 2, 1)))]));
    assert!(verdict.broke("refused-write-shows") && verdict.broke("linearizability"), "{:?}", verdict.violations);
}

/// A transfer between two keys, and a range that must see both sides or none.
#[test]
fn transactions_over_several_keys() {
    let both = |a: &str, b: &str| vec![put_step("a", a), put_step("b", b)];
    let first = || op(0, 10, Ask::plain(Kind::Txn, both("a1", "b1")), ok(true, 2, vec![Part::Put, Part::Put]));
    let guards =
        ["a", "b"].map(|key| Guard { key: key.into(), revision: 2, value: Some(format!("{key}1")), by_value: false });
    let transfer = |revision| {
        let ask = Ask {
            kind: Kind::Txn,
            guards: guards.to_vec(),
            then: both("a2", "b2"),
            otherwise: vec![],
            serializable: false,
        };
        op(20, 90, ask, ok(true, revision, vec![Part::Put, Part::Put]))
    };
    let range = |revision, items: Vec<Item>| {
        let ask = Ask::plain(Kind::Range, vec![Step::Range { from: "a".into(), to: "c".into() }]);
        op(30, 40, ask, ok(true, revision, vec![Part::Items(items)]))
    };
    let (a1, b1) = (item("a", "a1", 2, 2, 1), item("b", "b1", 2, 2, 1));
    let (a2, b2) = (item("a", "a2", 2, 3, 2), item("b", "b2", 2, 3, 2));
    for (name, seen, rule) in [
        ("before", range(2, vec![a1.clone(), b1.clone()]), ""),
        ("after", range(3, vec![a2.clone(), b2.clone()]), ""),
        ("half of it", range(3, vec![a2, b1]), "read-of-no-state"),
        ("half of it, the other way", range(2, vec![a1, b2]), "read-of-no-state"),
    ] {
        let verdict = check(&ops(vec![first(), transfer(3), seen]));
        assert_eq!(rules(&verdict).join(" "), rule, "{name}: {:?}", verdict.violations);
    }
}

#[test]
fn serializable_reads_are_some_past_state() {
    let stale = |revision, found: Option<Item>| {
        let mut read = get(60, 70, revision, found);
        read.ask = Ask::plain(Kind::Stale, read.ask.then);
        read
    };
    let before = || vec![put(0, 10, "a", 2), put(20, 30, "b", 3)];
    let old = stale(2, Some(item("k", "a", 2, 2, 1)));
    let mixed = stale(2, Some(item("k", "b", 2, 3, 2)));
    let verdict = check(&ops(before().into_iter().chain([old]).collect()));
    assert!(verdict.violations.is_empty(), "{:?}", verdict.violations);
    let verdict = check(&ops(before().into_iter().chain([mixed]).collect()));
    assert!(verdict.broke("read-of-no-state"), "{:?}", verdict.violations);
}

fn watched(at: Nanos, step: WatchStep) -> Watched {
    Watched { watcher: 1, from: String::new(), to: String::new(), at, step }
}

fn event(key: &str, value: Option<&str>, revision: Rev, version: i64) -> Event {
    let item = value.map(|value| item(key, value, revision - version + 1, revision, version));
    Event { key: key.into(), item, revision, before: None }
}

fn batch(at: Nanos, events: Vec<Event>) -> Watched {
    watched(at, WatchStep::Batch { header: events.last().map_or(0, |event| event.revision), events })
}

/// Three puts of one key at revisions 2 to 4, and what a watcher was told of them.
#[test]
fn watchers() {
    let e = |value: &str, revision| event("k", Some(value), revision, revision - 1);
    let open = |start| watched(0, WatchStep::Open { start, member: 0 });
    let closed = || watched(5, WatchStep::Closed("lost".into()));
    let done = || watched(99, WatchStep::Done(4));
    let mut wrong_before = e("c", 4);
    wrong_before.before = Some(Some(("a".into(), 2)));
    let mut right_before = e("c", 4);
    right_before.before = Some(Some(("b".into(), 3)));
    let at = 95;
    for (name, steps, rule) in [
        ("all of it", vec![open(2), batch(at, vec![e("a", 2)]), batch(at, vec![e("b", 3), e("c", 4)]), done()], ""),
        (
            "resumed",
            vec![
                open(2),
                batch(at, vec![e("a", 2)]),
                closed(),
                open(3),
                batch(at, vec![e("b", 3), right_before]),
                done(),
            ],
            "",
        ),
        ("one left out", vec![open(2), batch(at, vec![e("a", 2)]), batch(at, vec![e("c", 4)]), done()], "watch-gap"),
        ("one left out at the end", vec![open(2), batch(at, vec![e("a", 2), e("b", 3)]), done()], "watch-gap"),
        (
            "one left out while away",
            vec![open(2), batch(at, vec![e("a", 2)]), closed(), open(3), batch(at, vec![e("c", 4)]), done()],
            "watch-gap",
        ),
        (
            "one twice",
            vec![open(2), batch(at, vec![e("a", 2), e("b", 3)]), batch(at, vec![e("b", 3), e("c", 4)]), done()],
            "watch-order",
        ),
        (
            "one again after resuming",
            vec![
                open(2),
                batch(at, vec![e("a", 2)]),
                closed(),
                open(3),
                batch(at, vec![e("a", 2), e("b", 3), e("c", 4)]),
                done(),
            ],
            "watch-order",
        ),
        (
            "out of order",
            vec![open(2), batch(at, vec![e("a", 2), e("c", 4)]), batch(at, vec![e("b", 3)]), done()],
            "watch-gap watch-order",
        ),
        (
            "another value",
            vec![open(2), batch(at, vec![e("a", 2), e("x", 3), e("c", 4)]), done()],
            "invented-value two-values-at-one-revision watch-wrong-event",
        ),
        (
            "a delete that was none",
            vec![open(2), batch(at, vec![e("a", 2), event("k", None, 3, 1), e("c", 4)]), done()],
            "event-of-nothing watch-wrong-event",
        ),
        (
            "a wrong state before",
            vec![open(2), batch(at, vec![e("a", 2), e("b", 3), wrong_before]), done()],
            "watch-wrong-event",
        ),
        (
            "progress too far",
            vec![
                open(2),
                batch(at, vec![e("a", 2)]),
                watched(at, WatchStep::Progress(3)),
                batch(at, vec![e("b", 3), e("c", 4)]),
                done(),
            ],
            "watch-gap watch-order",
        ),
        (
            "told before it was asked for",
            vec![open(2), batch(15, vec![e("a", 2), e("b", 3)]), batch(at, vec![e("c", 4)]), done()],
            "effect-before-cause revision-went-back",
        ),
    ] {
        let mut history = ops(vec![put(0, 10, "a", 2), put(20, 30, "b", 3), put(40, 90, "c", 4)]);
        // The other watcher saw everything, so nothing is known only from the one on trial.
        let whole = vec![open(2), batch(at, vec![e("a", 2), e("b", 3), e("c", 4)]), done()];
        history.watches = whole.into_iter().map(|step| Watched { watcher: 0, ..step }).chain(steps).collect();
        let verdict = check(&history);
        assert_eq!(rules(&verdict).join(" "), rule, "{name}: {:?}", verdict.violations);
    }
}

#[test]
fn a_revision_needs_a_change() {
    let mut history = ops(vec![put(0, 10, "a", 2), put(20, 30, "b", 4)]);
    let events =
        vec![event("k", Some("a"), 2, 1), Event { item: Some(item("k", "b", 2, 4, 2)), ..event("k", None, 4, 1) }];
    history.watches =
        vec![watched(0, WatchStep::Open { start: 2, member: 0 }), batch(40, events), watched(50, WatchStep::Done(4))];
    let verdict = check(&history);
    assert_eq!(rules(&verdict).join(" "), "revision-without-change", "{:?}", verdict.violations);
}

fn lease(ask: LeaseAsk, start: Nanos, end: Nanos, outcome: LeaseOutcome) -> LeaseOp {
    LeaseOp { process: 0, lease: 7, ttl: 5, start, end, ask, outcome }
}

/// A lease of 5 s from second 1 (renewed at 3), two keys, and when they went.
#[test]
fn leases() {
    let granted = |revision| LeaseOutcome::Ok { ttl: 5, revision };
    let s = |tenths: u64| tenths * SECOND / 10;
    let tied = |key: &str, value: &str| Step::Put { key: key.into(), value: value.into(), lease: 7 };
    let puts = || {
        op(s(11), s(12), Ask::plain(Kind::Txn, vec![tied("a", "a1"), tied("b", "b1")]), ok(true, 2, vec![Part::Put; 2]))
    };
    let gone = |at, revision, keys: &[&str]| batch(at, keys.iter().map(|key| event(key, None, revision, 1)).collect());
    let there = |at, revision| {
        let ask = Ask::plain(Kind::Get, vec![Step::Get { key: "z".into() }]);
        op(at, at + 1, ask, ok(true, revision, vec![Part::Items(vec![])]))
    };
    let renew = || lease(LeaseAsk::KeepAlive, s(30), s(31), granted(2));
    let lost = |at| lease(LeaseAsk::KeepAlive, at, at + s(10), LeaseOutcome::Unknown("lost".into()));
    let revoke = |at, revision| lease(LeaseAsk::Revoke, at, at + s(1), granted(revision));
    let fault = Mark {
        name: "kill".into(),
        detail: String::new(),
        start: s(60),
        healed: s(90),
        recovered: Some(s(100)),
        gap: 0,
    };
    for (name, asked, faults, went, seen, rule) in [
        ("in time", vec![renew()], vec![], gone(s(85), 3, &["a", "b"]), there(s(70), 2), ""),
        ("too early", vec![renew()], vec![], gone(s(75), 3, &["a", "b"]), there(s(70), 2), "lease-ended-early"),
        (
            "a lost renewal promises nothing",
            vec![lost(s(40))],
            vec![],
            gone(s(65), 3, &["a", "b"]),
            there(s(60), 2),
            "",
        ),
        ("too late", vec![renew()], vec![], gone(s(200), 3, &["a", "b"]), there(s(190), 2), "lease-ended-late"),
        ("late after a fault", vec![renew()], vec![fault], gone(s(200), 3, &["a", "b"]), there(s(190), 2), ""),
        ("revoked early", vec![renew(), revoke(s(40), 3)], vec![], gone(s(41), 3, &["a", "b"]), there(s(39), 2), ""),
        (
            "revoked, yet there",
            vec![renew(), revoke(s(40), 2)],
            vec![],
            gone(s(85), 3, &["a", "b"]),
            there(s(70), 2),
            "lease-revoked-alive",
        ),
        ("one left behind", vec![renew()], vec![], gone(s(85), 3, &["a"]), there(s(200), 3), "lease-ended-late"),
    ] {
        let mut history = ops(vec![puts(), seen]);
        history.leases = std::iter::once(lease(LeaseAsk::Grant, s(10), s(11), granted(1))).chain(asked).collect();
        history.faults = faults;
        let both = vec![("a", "a1"), ("b", "b1")].into_iter().map(|(key, value)| Event {
            item: Some(Item { lease: 7, ..item(key, value, 2, 2, 1) }),
            ..event(key, None, 2, 1)
        });
        history.watches = vec![
            watched(0, WatchStep::Open { start: 2, member: 0 }),
            batch(s(12), both.collect()),
            went,
            watched(s(300), WatchStep::Done(3)),
        ];
        let verdict = check(&history);
        assert_eq!(rules(&verdict).join(" "), rule, "{name}: {:?}", verdict.violations);
    }
}

/// What goes at one revision without being asked for has to be all of leases that ended.
#[test]
fn leases_that_end_together() {
    let s = |tenths: u64| tenths * SECOND / 10;
    let grant =
        |id| LeaseOp { lease: id, ..lease(LeaseAsk::Grant, s(10), s(11), LeaseOutcome::Ok { ttl: 5, revision: 1 }) };
    let tied = [("a", 7), ("b", 8), ("c", 0)];
    let value = |key: &str| format!("{key}1");
    let steps = tied.map(|(key, lease)| Step::Put { key: key.into(), value: value(key), lease });
    let puts = op(s(11), s(12), Ask::plain(Kind::Txn, steps.to_vec()), ok(true, 2, vec![Part::Put; 3]));
    for (name, gone, several, rule) in [
        ("two leases at once", vec![("a", 3), ("b", 3)], 1, ""),
        ("one after the other", vec![("a", 3), ("b", 4)], 0, ""),
        ("with a key of no lease", vec![("a", 3), ("b", 3), ("c", 3)], 0, "unexplained-delete"),
        ("a key of no lease", vec![("c", 3)], 0, "unexplained-delete"),
    ] {
        let mut history = ops(vec![puts.clone()]);
        history.leases = vec![grant(7), grant(8)];
        let made = tied.map(|(key, lease)| Event {
            item: Some(Item { lease, ..item(key, &value(key), 2, 2, 1) }),
            ..event(key, None, 2, 1)
        });
        let last = gone.iter().map(|(_, revision)| *revision).max().unwrap();
        history.watches = vec![watched(0, WatchStep::Open { start: 2, member: 0 }), batch(s(12), made.to_vec())];
        let went = gone.iter().map(|(key, revision)| event(key, None, *revision, 1)).collect();
        history.watches.extend([batch(s(70), went), watched(s(100), WatchStep::Done(last))]);
        let verdict = check(&history);
        assert_eq!(rules(&verdict).join(" "), rule, "{name}: {:?}", verdict.violations);
        assert_eq!(verdict.count("revisions that ended several leases"), several, "{name}");
    }
}

/// A register that is right by construction: every operation takes effect at one moment between its
/// question and its answer, or, of unknown outcome, later or never.
fn simulate(seed: u64, count: usize, clients: usize) -> Vec<Op> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut plans: Vec<(Nanos, Nanos, Nanos, usize)> = Vec::new(); // effect, start, end, client
    for client in 0..clients {
        let mut now = rng.random_range(0..50);
        for _ in 0..count / clients {
            let (start, effect) = (now, now + rng.random_range(1..40));
            now = effect + rng.random_range(1..40);
            plans.push((effect, start, now, client));
            now += rng.random_range(1..60);
        }
    }
    // A late effect of an operation whose client has given up.
    let late: Vec<bool> = plans.iter().map(|_| rng.random_bool(0.1)).collect();
    for (plan, late) in plans.iter_mut().zip(&late) {
        if *late {
            plan.0 += rng.random_range(0..400);
        }
    }
    let mut order: Vec<usize> = (0..plans.len()).collect();
    order.sort_by_key(|index| plans[*index].0);
    let mut state: Option<Item> = None;
    let (mut revision, mut out) = (1, Vec::new());
    for index in order {
        let (_, start, end, client) = plans[index];
        let never = late[index] && rng.random_bool(0.3);
        let value = format!("v{index}");
        let kept = (state.clone(), revision);
        let write = |state: &mut Option<Item>, revision: &mut Rev| {
            *revision += 1;
            let (created, version) = state.as_ref().map_or((*revision, 1), |item| (item.created, item.version + 1));
            *state = Some(item("k", &value, created, *revision, version));
            ok(true, *revision, vec![Part::Put])
        };
        let mut made = match rng.random_range(0..10) {
            0..4 => get(start, end, revision, state.clone()),
            4..7 => {
                let outcome = write(&mut state, &mut revision);
                op(start, end, Ask::plain(Kind::Put, vec![put_step("k", &value)]), outcome)
            }
            7..9 => match state.clone() {
                Some(old) => {
                    let seen = (old.modified, old.value.as_str());
                    let outcome = write(&mut state, &mut revision);
                    cas(start, end, seen, &value, outcome)
                }
                None => get(start, end, revision, None),
            },
            _ => {
                let there = i64::from(state.take().is_some());
                revision += there;
                delete(start, end, ok(true, revision, vec![Part::Deleted(there)]))
            }
        };
        made.process = client as u32;
        if late[index] {
            made.outcome = unknown();
        }
        if never {
            (state, revision) = kept;
        }
        out.push(made);
    }
    out
}

#[test]
fn random_histories_of_a_right_register_pass() {
    for seed in 0..300 {
        let history = simulate(seed, 120, 6);
        let verdict = check(&ops(history));
        assert!(verdict.violations.is_empty(), "seed {seed}: {:?}", verdict.violations);
        assert!(verdict.undecided.is_empty(), "seed {seed}: {:?}", verdict.undecided);
    }
}

/// A read is changed to show a value that had surely been overwritten before the read began.
#[test]
fn random_histories_with_one_lie_fail() {
    let mut lies = 0;
    for seed in 0..300 {
        let mut history = simulate(seed, 120, 6);
        let writes: Vec<(Nanos, Nanos, Item)> = history
            .iter()
            .filter_map(|op| match (&op.ask.then[0], op.wrote()) {
                (Step::Put { value, .. }, Some(revision)) => {
                    Some((op.start, op.end, item("k", value, revision, revision, 1)))
                }
                _ => None,
            })
            .collect();
        let lie = history.iter().enumerate().find_map(|(index, op)| {
            let (Kind::Get, Some(_)) = (op.ask.kind, op.answer()) else { return None };
            let newer = writes.iter().filter(|(_, end, _)| *end < op.start).max_by_key(|(start, ..)| *start)?;
            let old = writes.iter().find(|(_, end, _)| *end < newer.0)?;
            Some((index, old.2.clone()))
        });
        let Some((index, old)) = lie else { continue };
        lies += 1;
        if let Outcome::Ok(answer) = &mut history[index].outcome {
            answer.parts = vec![Part::Items(vec![old])];
        }
        let verdict = linear::check(&history);
        assert!(verdict.broke("linearizability"), "seed {seed}: the search believed it");
        assert!(
            !kontiki_nemesis::order::check(&ops(history)).0.violations.is_empty(),
            "seed {seed}: the order believed it"
        );
    }
    assert!(lies > 200, "only {lies} histories had room for a lie");
}

/// Half an hour of clients is searched in seconds, and what is too much is called undecided.
#[test]
fn long_and_hard_histories() {
    let verdict = linear::check(&simulate(1, 20_000, 5));
    assert!(verdict.violations.is_empty() && verdict.undecided.is_empty(), "{verdict:?}");
    // Forty guarded writes at once of which none fits: 2^40 orders of the blind ones to go through.
    let mut hard: Vec<Op> = (0..40).map(|n| put(10, 1000, &format!("w{n}"), n + 2)).collect();
    hard.extend(
        (0..40).map(|n| cas(10, 1000, (n + 2, &format!("w{n}")), &format!("x{n}"), ok(true, n + 100, vec![Part::Put]))),
    );
    hard.push(get(10, 1000, 3, Some(item("k", "y", 2, 3, 1))));
    let verdict = linear::check(&hard);
    assert_eq!(verdict.undecided.len(), 1, "{:?}", verdict.violations);
    assert!(verdict.violations.is_empty());
}

#[test]
fn a_history_survives_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.jsonl");
    let recorder = kontiki_nemesis::history::Recorder::create(&path).unwrap();
    let history = simulate(3, 60, 3);
    history.iter().for_each(|op| recorder.line(&Line::Op(op.clone())));
    recorder.flush().unwrap();
    assert_eq!(History::load(&path).unwrap().ops, history);
}
