//! An object and what is applied to it, together.
//!
//! Nothing is lost by it: what the applied object does not say stays. Items of divided lists keep the order of the
//! object where the applied one does not say another.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Map, Value};

use super::{
    element::Element,
    typed::{Faults, Form, NO_FORM, check_scalar, element_of, first, left, list, map},
};
use crate::schema::shape::{ListShape, MapShape, Relation, Shape};

/// Stands for an item that is there more than once: none of them is merged with.
const TWICE: Value = Value::Null;

/// `live` with `applied` merged into it. Both are of the same shape.
///
/// # Errors
/// They do not fit it.
pub fn merge(live: &Value, applied: &Value, shape: &Shape) -> Result<Value, Faults> {
    let mut faults = Faults::default();
    let merged = part(Some(live), Some(applied), shape, &mut faults);
    faults.or(merged.unwrap_or_default())
}

/// `None`: there is nothing.
fn part(live: Option<&Value>, applied: Option<&Value>, shape: &Shape, faults: &mut Faults) -> Option<Value> {
    let (ours, theirs) = match (live, applied) {
        (Some(live), Some(applied)) => (live, applied),
        // One side alone stays as it is.
        (one, other) => return one.or(other).cloned(),
    };
    let (before, after) = (left(shape, live), left(shape, applied));
    if before != after {
        // It changes its form: both have to fit, and the applied one is taken.
        of_form(ours, theirs, &first(shape, before), faults);
    }
    of_form(ours, theirs, &first(shape, after), faults)
}

fn of_form(live: &Value, applied: &Value, form: &Form<'_>, faults: &mut Faults) -> Option<Value> {
    match form {
        Form::Scalar(scalar) => {
            let fits = |value, prefix| check_scalar(*scalar, Some(value), prefix);
            if let (Some(left), Some(right)) = (fits(live, "lhs: "), fits(applied, "rhs: ")) {
                faults.add(left);
                faults.add(right);
                return None;
            }
            Some(applied.clone())
        }
        Form::List(shape) => {
            let (ours, theirs) = (list(Some(live)), list(Some(applied)));
            let empty = ours.is_none_or(<[Value]>::is_empty) && theirs.is_none_or(<[Value]>::is_empty);
            if empty || shape.relation == Relation::Atomic {
                return Some(applied.clone());
            }
            items(ours.unwrap_or_default(), theirs.unwrap_or_default(), shape, faults)
        }
        Form::Map(shape) => {
            let (ours, theirs) = (map(Some(live)), map(Some(applied)));
            let empty = ours.is_none_or(Map::is_empty) && theirs.is_none_or(Map::is_empty);
            if empty || shape.atomic { Some(applied.clone()) } else { entries(ours, theirs, shape, faults) }
        }
        Form::None => {
            faults.add(NO_FORM);
            None
        }
    }
}

fn entries(
    live: Option<&Map<String, Value>>,
    applied: Option<&Map<String, Value>>,
    shape: &MapShape,
    faults: &mut Faults,
) -> Option<Value> {
    let mut out = Map::new();
    for (key, ours) in live.into_iter().flatten() {
        let merged = match applied.and_then(|applied| applied.get(key)) {
            None => Some(ours.clone()),
            Some(theirs) => entry(key, Some(ours), theirs, shape, faults),
        };
        out.extend(merged.map(|merged| (key.clone(), merged)));
    }
    let new = applied.into_iter().flatten().filter(|(key, _)| live.is_none_or(|live| !live.contains_key(*key)));
    for (key, theirs) in new {
        out.extend(entry(key, None, theirs, shape, faults).map(|merged| (key.clone(), merged)));
    }
    (!out.is_empty()).then_some(Value::Object(out))
}

fn entry(key: &str, live: Option<&Value>, applied: &Value, shape: &MapShape, faults: &mut Faults) -> Option<Value> {
    let mut found = Faults::default();
    let merged = match shape.at(key) {
        Some(shape) => part(live, Some(applied), shape, &mut found),
        None => {
            found.add(NO_FORM);
            None
        }
    };
    if !found.is_empty() {
        faults.of_part(&Element::field(key), found);
    }
    merged
}

/// The items of a list: their names in order, and each by its name.
struct Items<'a> {
    names: Vec<Element>,
    by_name: BTreeMap<Element, &'a Value>,
}

fn index<'a>(items: &'a [Value], shape: &ListShape, repeats: bool, faults: &mut Faults) -> Items<'a> {
    let mut out = Items { names: Vec::with_capacity(items.len()), by_name: BTreeMap::new() };
    for (at, item) in items.iter().enumerate() {
        match element_of(shape, item) {
            Err(fault) => faults.add(format!("element {at}: {fault}")),
            Ok(name) if !out.by_name.contains_key(&name) => {
                out.by_name.insert(name.clone(), item);
                out.names.push(name);
            }
            Ok(name) if repeats => {
                out.by_name.insert(name.clone(), &TWICE);
                out.names.push(name);
            }
            Ok(name) => faults.add(format!("duplicate entries for key {name}")),
        }
    }
    out
}

fn items(live: &[Value], applied: &[Value], shape: &ListShape, faults: &mut Faults) -> Option<Value> {
    let mut found = Faults::default();
    let theirs = index(applied, shape, false, &mut found);
    let ours = index(live, shape, true, &mut found);
    if !found.is_empty() {
        faults.append(found);
        return None;
    }
    let mut weave = Weave { live, ours: &ours, theirs: &theirs, shape, out: Vec::new(), faults };
    weave.run();
    let out = weave.out;
    (!out.is_empty()).then_some(Value::Array(out))
}

/// Brings the items of both sides into one order.
struct Weave<'a, 'f> {
    live: &'a [Value],
    ours: &'a Items<'a>,
    theirs: &'a Items<'a>,
    shape: &'a ListShape,
    out: Vec<Value>,
    faults: &'f mut Faults,
}

impl Weave<'_, '_> {
    fn run(&mut self) {
        let (ours, theirs) = (self.ours, self.theirs);
        // What both have, in the order in which the applied list has it.
        let mut shared: VecDeque<&Element> =
            theirs.names.iter().filter(|name| ours.by_name.contains_key(name)).collect();
        let mut next = shared.pop_front();
        let mut taken: BTreeSet<&Element> = BTreeSet::new();
        let (mut left, mut right) = (0, 0);
        while left < ours.names.len() || right < theirs.names.len() {
            if let (Some(name), Some(applied)) = (ours.names.get(left), theirs.names.get(right)) {
                if name == applied {
                    taken.insert(name);
                    self.merged(name);
                    (left, right) = (left + 1, right + 1);
                    next = shared.pop_front();
                    continue;
                }
                if theirs.by_name.contains_key(name) && next.is_some_and(|next| next != name) {
                    // Its turn comes later.
                    left += 1;
                    continue;
                }
            }
            if let Some(name) = ours.names.get(left) {
                if !theirs.by_name.contains_key(name) {
                    self.out.push(self.live[left].clone());
                    left += 1;
                    continue;
                }
                if taken.contains(name) {
                    left += 1;
                }
            }
            if let Some(name) = theirs.names.get(right) {
                taken.insert(name);
                self.merged(name);
                right += 1;
                if next == Some(name) {
                    next = shared.pop_front();
                }
            }
        }
    }

    /// Takes the applied item, merged with that of the same name.
    fn merged(&mut self, name: &Element) {
        let (live, applied) = (self.ours.by_name.get(name).copied(), self.theirs.by_name.get(name).copied());
        let mut found = Faults::default();
        let merged = match self.shape.item() {
            Some(shape) => part(live, applied, shape, &mut found),
            None => applied.cloned(),
        };
        if !found.is_empty() {
            self.faults.of_part(name, found);
        }
        self.out.extend(merged);
    }
}
