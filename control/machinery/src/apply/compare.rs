//! What has become of an object, part by part.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    element::Element,
    set::Set,
    typed::{Faults, Form, NO_FORM, check_scalar, element_of, first, left, list, map},
    value::same,
};
use crate::schema::shape::{ListShape, MapShape, Relation, Scalar, Shape};

/// The parts that differ between two objects. None is in two of the sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Parts that are gone.
    pub removed: Set,
    /// Parts that are there in both and differ.
    pub modified: Set,
    /// Parts that are new.
    pub added: Set,
}

impl Comparison {
    /// What is there and was not, or not so.
    #[must_use]
    pub fn changed(&self) -> Set {
        self.modified.union(&self.added)
    }

    /// Whether nothing differs.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.removed.is_empty() && self.modified.is_empty() && self.added.is_empty()
    }

    /// Each of the sets, narrowed.
    pub(super) fn map(self, narrow: impl Fn(Set) -> Set) -> Self {
        Self { removed: narrow(self.removed), modified: narrow(self.modified), added: narrow(self.added) }
    }
}

/// Compares `old` and `new`, which are of the same shape.
///
/// # Errors
/// They do not fit it.
pub fn compare(old: &Value, new: &Value, shape: &Shape) -> Result<Comparison, Faults> {
    let Delta { below, faults, .. } = of_part(Some(old), Some(new), shape);
    let [removed, modified, added] = below;
    faults.or(Comparison { removed, modified, added })
}

const REMOVED: usize = 0;
const MODIFIED: usize = 1;
const ADDED: usize = 2;

/// What has become of one part: of itself, and of what is in it.
#[derive(Default)]
struct Delta {
    own: [bool; 3],
    below: [Set; 3],
    faults: Faults,
}

impl Delta {
    /// Adds what another look at the same part has found.
    fn join(&mut self, other: Self) {
        for (kind, below) in other.below.iter().enumerate() {
            self.own[kind] |= other.own[kind];
            self.below[kind] = self.below[kind].union(below);
        }
        self.faults.append(other.faults);
    }

    /// Takes over what has become of a part of it.
    fn take(&mut self, element: impl Fn() -> Element, part: Self) {
        for (kind, below) in part.below.into_iter().enumerate() {
            self.below[kind].push(&element, part.own[kind], below);
        }
        if !part.faults.is_empty() {
            self.faults.of_part(&element(), part.faults);
        }
    }
}

fn of_part(old: Option<&Value>, new: Option<&Value>, shape: &Shape) -> Delta {
    let mut out = Delta::default();
    let (before, after) = (left(shape, old), left(shape, new));
    if new.is_none() {
        of_form(old, new, &first(shape, before), &mut out);
    } else {
        of_form(old, new, &first(shape, after), &mut out);
        if old.is_some() && before != after {
            // It has changed its form: it is looked at as what it was, too.
            let mut was = Delta::default();
            of_form(old, new, &first(shape, before), &mut was);
            out.join(was);
        }
    }
    out.own[ADDED] |= old.is_none();
    out.own[REMOVED] |= new.is_none();
    out
}

fn of_form(old: Option<&Value>, new: Option<&Value>, form: &Form<'_>, out: &mut Delta) {
    match form {
        Form::Scalar(scalar) => of_scalar(old, new, *scalar, out),
        Form::List(shape) => {
            let (before, after) = (list(old), list(new));
            let empty = before.is_none_or(<[Value]>::is_empty) && after.is_none_or(<[Value]>::is_empty);
            if empty || shape.relation == Relation::Atomic {
                of_leaf(old, new, out);
            } else if before != after {
                of_items(before.unwrap_or_default(), after.unwrap_or_default(), shape, out);
            }
        }
        Form::Map(shape) => {
            let (before, after) = (map(old), map(new));
            let empty = before.is_none_or(Map::is_empty) && after.is_none_or(Map::is_empty);
            if empty || shape.atomic { of_leaf(old, new, out) } else { of_entries(before, after, shape, out) }
        }
        Form::None => out.faults.add(NO_FORM),
    }
}

fn of_scalar(old: Option<&Value>, new: Option<&Value>, scalar: Scalar, out: &mut Delta) {
    match (check_scalar(scalar, old, "lhs: "), check_scalar(scalar, new, "rhs: ")) {
        (Some(old), Some(new)) => {
            out.faults.add(old);
            out.faults.add(new);
        }
        _ => of_leaf(old, new, out),
    }
}

fn of_leaf(old: Option<&Value>, new: Option<&Value>, out: &mut Delta) {
    if let (Some(old), Some(new)) = (old, new) {
        out.own[MODIFIED] |= !same(old, new);
    }
}

fn of_entries(old: Option<&Map<String, Value>>, new: Option<&Map<String, Value>>, shape: &MapShape, out: &mut Delta) {
    let mut before = old.into_iter().flatten().peekable();
    let mut after = new.into_iter().flatten().peekable();
    loop {
        let key = match (before.peek(), after.peek()) {
            (None, None) => return,
            (Some((a, _)), Some((b, _))) => (*a).min(*b),
            (Some((key, _)), None) | (None, Some((key, _))) => *key,
        };
        let (old, new) = (next_at(&mut before, key), next_at(&mut after, key));
        match shape.at(key) {
            Some(part) => out.take(|| Element::field(key), of_part(old, new, part)),
            None => {
                let mut unknown = Faults::default();
                unknown.add(NO_FORM);
                out.faults.of_part(&Element::field(key), unknown);
            }
        }
    }
}

fn next_at<'a, I>(entries: &mut std::iter::Peekable<I>, key: &str) -> Option<&'a Value>
where
    I: Iterator<Item = (&'a String, &'a Value)>,
{
    entries.next_if(|(own, _)| *own == key).map(|(_, value)| value)
}

/// Items of one name, before and after.
type Pair<'a> = (Vec<&'a Value>, Vec<&'a Value>);

fn of_items(old: &[Value], new: &[Value], shape: &ListShape, out: &mut Delta) {
    let Some(part) = shape.item() else { return };
    let mut pairs: BTreeMap<Element, Pair<'_>> = BTreeMap::new();
    for (items, after) in [(old, false), (new, true)] {
        for (index, item) in items.iter().enumerate() {
            match element_of(shape, item) {
                Ok(element) => {
                    let (before_it, after_it) = pairs.entry(element).or_default();
                    if after { after_it } else { before_it }.push(item);
                }
                Err(fault) => out.faults.add(format!("element {index}: {fault}")),
            }
        }
    }
    for (element, (old, new)) in pairs {
        let delta = of_item(&old, &new, part);
        out.take(|| element.clone(), delta);
    }
}

/// What is there twice is one value: who changes one of them changes all.
fn of_item(old: &[&Value], new: &[&Value], part: &Shape) -> Delta {
    match (old, new) {
        ([] | [_], [] | [_]) => of_part(old.first().copied(), new.first().copied(), part),
        ([_, _, ..], [_, _, ..]) => {
            let equal = old.len() == new.len() && old.iter().zip(new).all(|(old, new)| same(old, new));
            Delta { own: [false, !equal, false], ..Delta::default() }
        }
        ([_, _, ..], _) => {
            let mut delta = new.first().map(|new| of_part(None, Some(new), part)).unwrap_or_default();
            delta.own[REMOVED] = true;
            delta
        }
        (_, _) => {
            let mut delta = old.first().map(|old| of_part(Some(old), None, part)).unwrap_or_default();
            delta.own[ADDED] = true;
            delta
        }
    }
}
