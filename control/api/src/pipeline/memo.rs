//! What one request has learnt by waiting and by chance, so that a decision made anew on newer state is the same where
//! its reasons are.
//!
//! Invariants
//! - A step that waits is asked a question once: its answer, a refusal too, is used again as long as the object and the
//!   old object are what it saw, byte by byte (their status and owners apart, where the step says that it does not read
//!   the status).
//! - A decision made anew draws the numbers that the first one drew, so that what was made of them is equal too.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kontiki_machinery::admission::{Annotation, Phase, Verdict};
use kontiki_machinery::conversion::Conversions;
use serde_json::Value;

use crate::Status;
use crate::clock::Entropy;

/// Answers that are kept of one step in one phase: it may be asked twice for one decision.
const KEPT: usize = 2;

/// What a step said.
pub(crate) type Answer = Result<Verdict, Status>;

/// What a step is asked.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Question {
    /// Its place in the chain, and its name there.
    member: (usize, String),
    phase: Phase,
    input: Vec<u8>,
}

impl Question {
    pub fn new((place, name): (usize, &str), phase: Phase, object: &Value, old: Option<&Value>, status: bool) -> Self {
        let mut input = Vec::with_capacity(1024);
        put(&mut input, object, status);
        // No JSON holds a line's end.
        input.push(b'\n');
        if let Some(old) = old {
            put(&mut input, old, status);
        }
        Self { member: (place, name.to_owned()), phase, input }
    }
}

/// Without the status, who owns what of an object goes too: that of the status is among it.
fn put(out: &mut Vec<u8>, value: &Value, status: bool) {
    let Some(fields) = value.as_object().filter(|_| !status) else {
        return serde_json::to_writer(out, value).expect("a Value is JSON");
    };
    for field in fields.iter().filter(|(name, _)| *name != "status") {
        match field.1.as_object().filter(|_| field.0 == "metadata") {
            Some(metadata) => put_all(out, metadata.iter().filter(|(name, _)| *name != "managedFields")),
            None => put_all(out, std::iter::once(field)),
        }
    }
}

fn put_all<'a>(out: &mut Vec<u8>, fields: impl Iterator<Item = (&'a String, &'a Value)>) {
    fields.for_each(|field| serde_json::to_writer(&mut *out, &field).expect("a Value is JSON"));
}

/// What one request has learnt.
pub(crate) struct Memo {
    /// The time of the request.
    pub now: Timestamp,
    /// Objects in other versions, as far as somebody outside was asked for them.
    pub conversions: Conversions,
    /// What the audit log is to say.
    pub annotations: BTreeMap<String, String>,
    answers: Vec<(Question, Answer)>,
    drawn: Vec<u64>,
    /// How many of the drawn numbers this decision has used.
    used: usize,
}

impl Memo {
    pub fn new(now: Timestamp) -> Self {
        Self {
            now,
            conversions: Conversions::default(),
            annotations: BTreeMap::new(),
            answers: Vec::new(),
            drawn: Vec::new(),
            used: 0,
        }
    }

    /// Another decision begins.
    pub fn begin(&mut self) {
        self.used = 0;
    }

    /// Chance was bad: other numbers from now on.
    pub fn redraw(&mut self) {
        self.drawn.clear();
    }

    /// The decision's next number.
    pub fn draw(&mut self, entropy: &dyn Entropy) -> u64 {
        if self.used == self.drawn.len() {
            self.drawn.push(entropy.draw());
        }
        self.used += 1;
        self.drawn[self.used - 1]
    }

    /// The audit log is to say this of a round.
    pub fn annotate(&mut self, annotations: Vec<Annotation>, round: u8) {
        self.annotations.extend(annotations.into_iter().map(|it| (it.key.in_round(round), it.value)));
    }

    /// The answer to a question, if it is known.
    pub fn known(&self, question: &Question) -> Option<&Answer> {
        self.answers.iter().find(|(known, _)| known == question).map(|(_, answer)| answer)
    }

    /// An answer came.
    pub fn keep(&mut self, question: Question, answer: Answer) {
        let same = |(other, _): &(Question, Answer)| other.member == question.member && other.phase == question.phase;
        if self.answers.iter().filter(|other| same(other)).count() == KEPT
            && let Some(oldest) = self.answers.iter().position(same)
        {
            drop(self.answers.remove(oldest));
        }
        self.answers.push((question, answer));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use serde_json::json;

    use super::*;

    #[test]
    fn a_question_is_the_same_if_the_objects_are() {
        let base = || json!({"spec": 1, "status": {"a": 1}});
        let other_status = || json!({"spec": 1, "status": {"a": 2}});
        let other_spec = || json!({"spec": 2, "status": {"a": 1}});
        for (what, object, old, reads_status, expect) in [
            ("the same", base(), Some(base()), true, true),
            ("another object", other_spec(), Some(base()), true, false),
            ("another old one", base(), Some(other_spec()), true, false),
            ("none", base(), None, true, false),
            ("another status", base(), Some(other_status()), true, false),
            ("another status that is not read", other_status(), Some(other_status()), false, true),
            ("another object, its status not read", other_spec(), Some(base()), false, false),
        ] {
            let first = Question::new((3, "s"), Phase::Mutating, &base(), Some(&base()), reads_status);
            let again = Question::new((3, "s"), Phase::Mutating, &object, old.as_ref(), reads_status);
            assert_eq!(first == again, expect, "{what}");
        }
        let of = |place, phase| Question::new((place, "s"), phase, &base(), None, true);
        assert_ne!(of(3, Phase::Mutating), of(4, Phase::Mutating));
        assert_ne!(of(3, Phase::Mutating), Question::new((3, "t"), Phase::Mutating, &base(), None, true));
        assert_ne!(of(3, Phase::Mutating), of(3, Phase::Validating));
    }

    #[test]
    fn the_latest_answers_of_each_step_are_kept() {
        let mut memo = Memo::new(Timestamp::UNIX_EPOCH);
        let question = |place, n: u64| Question::new((place, "s"), Phase::Mutating, &json!(n), None, true);
        memo.keep(question(7, 0), Ok(Verdict::default()));
        for n in 0..5 {
            memo.keep(question(1, n), Ok(Verdict { warnings: vec![n.to_string()], ..Verdict::default() }));
        }
        let known: Vec<u64> = (0..5).filter(|n| memo.known(&question(1, *n)).is_some()).collect();
        assert_eq!((known, memo.known(&question(7, 0)).is_some()), (vec![3, 4], true));
    }

    #[test]
    fn a_decision_made_anew_draws_the_same_numbers() {
        struct Counting(AtomicU64);
        impl Entropy for Counting {
            fn draw(&self) -> u64 {
                self.0.fetch_add(1, Ordering::Relaxed)
            }
        }
        let (entropy, mut memo) = (Counting(AtomicU64::new(0)), Memo::new(Timestamp::UNIX_EPOCH));
        let draws = |memo: &mut Memo, count: usize| {
            memo.begin();
            (0..count).map(|_| memo.draw(&entropy)).collect::<Vec<_>>()
        };
        assert_eq!(draws(&mut memo, 2), [0, 1]);
        assert_eq!(draws(&mut memo, 3), [0, 1, 2]);
        memo.redraw();
        assert_eq!(draws(&mut memo, 1), [3]);
    }
}
