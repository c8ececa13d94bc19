//! Who owns what after an object was updated or applied.

use std::{borrow::Cow, collections::BTreeMap};

use serde_json::Value;

use super::{
    compare::{Comparison, compare},
    conflict::{self, Conflict},
    element::Element,
    fields::fields_of,
    managed::{Manager, Managers, Owned},
    merge::merge,
    reconcile::reconcile,
    remove::remove,
    set::Set,
    typed::Faults,
    value::same,
    versions::Versions,
};
use crate::schema::shape::Shape;

/// Why something cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Others own what it wants to change.
    Conflicts(Vec<Conflict>),
    /// It makes no object.
    Unfit(String),
}

/// Which parts an update or apply through one door counts for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Counted {
    /// All.
    #[default]
    All,
    /// All but these and what is below them.
    Without(Set),
    /// What lies below one of these paths. `None` in a path stands for any part.
    Only(Vec<Vec<Option<Element>>>),
}

impl Counted {
    /// What counts of `set`.
    #[must_use]
    pub fn of(&self, set: Set) -> Set {
        match self {
            Self::All => set,
            Self::Without(others) => set.without(others),
            Self::Only(patterns) => {
                let patterns: Vec<&[Option<Element>]> = patterns.iter().map(Vec::as_slice).collect();
                below(&set, &patterns)
            }
        }
    }
}

/// What of `set` leads to one of the patterns or lies below it.
fn below(set: &Set, patterns: &[&[Option<Element>]]) -> Set {
    let mut out = Set::default();
    for node in set.nodes() {
        let fits = |pattern: &&[Option<Element>]| match pattern.split_first() {
            Some((first, _)) => first.as_ref().is_none_or(|element| *element == node.element),
            None => false,
        };
        let left: Vec<&[Option<Element>]> = patterns.iter().filter(|p| fits(p)).map(|pattern| &pattern[1..]).collect();
        if left.iter().any(|rest| rest.is_empty()) {
            out.push(|| node.element.clone(), node.member, node.below.clone());
        } else if !left.is_empty() {
            out.push(|| node.element.clone(), node.member, below(&node.below, &left));
        }
    }
    out
}

/// The kind of the object, and the door that it is changed through.
pub struct Updater<'a> {
    /// The versions of the kind.
    pub versions: &'a dyn Versions,
    /// The version in which it is changed.
    pub api_version: &'a str,
    /// The shape of that version.
    pub shape: &'a Shape,
    /// What counts.
    pub counted: &'a Counted,
}

impl Updater<'_> {
    /// The parts that an update has changed, and who owns what then: all but those who own nothing more. What somebody
    /// owns that is changed is no longer theirs.
    ///
    /// # Errors
    /// An object does not fit its type.
    pub fn update(&self, live: &Value, new: &Value, managers: Managers) -> Result<(Set, Managers), Refusal> {
        let mut managers = self.reconciled(managers);
        let compared = self.settle(live, new, &mut managers, None, true)?;
        Ok((self.counted.of(compared.changed()), managers))
    }

    /// The object with `config` applied by `manager`, and who owns what then. `None` is an object that is as it was.
    ///
    /// # Errors
    /// Conflicts, unless they are forced, or something that does not fit.
    pub fn apply(
        &self,
        live: &Value,
        config: &Value,
        managers: Managers,
        manager: &Manager,
        force: bool,
    ) -> Result<(Option<Value>, Managers), Refusal> {
        let mut managers = self.reconciled(managers);
        let merged = merge(live, config, self.shape).map_err(|why| unfit("failed to merge config", why))?;
        let set = fields_of(config, self.shape).map_err(|why| unfit("failed to get field set", why))?;
        let set = self.counted.of(set);
        let api_version = self.api_version.to_owned();
        let last = managers.remove(manager);
        let time = last.as_ref().and_then(|last| last.time.clone());
        let same_version = |last: &Owned| last.api_version == api_version;
        let all_again = last.as_ref().is_none_or(|last| same_version(last) && last.set.difference(&set).is_empty());
        managers.insert(manager.clone(), Owned { set, api_version, time });
        let new = match last {
            Some(last) if !all_again => self.prune(merged, &managers, &last)?,
            _ => merged,
        };
        self.settle(live, &new, &mut managers, Some(manager), force)?;
        Ok(((!same(live, &new)).then_some(new), managers))
    }

    /// Sets that were written when the shape was another, as it is now.
    fn reconciled(&self, managers: Managers) -> Managers {
        let reconciled = |(manager, mut owned): (Manager, Owned)| {
            let shape = self.shape_in(&owned.api_version)?;
            if let Some(set) = reconcile(&owned.set, &shape) {
                owned.set = set;
            }
            Some((manager, owned))
        };
        // Versions that are gone are forgotten.
        managers.into_iter().filter_map(reconciled).collect()
    }

    fn shape_in(&self, api_version: &str) -> Option<Shape> {
        if api_version == self.api_version { Some(self.shape.clone()) } else { self.versions.shape(api_version) }
    }

    /// Takes from all but `manager` what has changed. Conflicts are what they own of it, if it is not forced.
    fn settle(
        &self,
        live: &Value,
        new: &Value,
        managers: &mut Managers,
        manager: Option<&Manager>,
        force: bool,
    ) -> Result<Comparison, Refusal> {
        let compared = compare(live, new, self.shape).map_err(|why| unfit("failed to compare objects", why))?;
        let compared = compared.map(|set| self.counted.of(set));
        let mut versions: BTreeMap<String, Comparison> = BTreeMap::from([(self.api_version.to_owned(), compared)]);
        let others: Vec<Manager> = managers.keys().filter(|other| Some(*other) != manager).cloned().collect();
        let mut conflicts = BTreeMap::new();
        for other in &others {
            let version = managers[other].api_version.clone();
            if !versions.contains_key(&version) {
                let Some(compared) = self.compared_in(live, new, &version)? else {
                    managers.remove(other);
                    continue;
                };
                versions.insert(version.clone(), compared);
            }
            let taken = managers[other].set.intersection(&versions[&version].changed());
            if !taken.is_empty() {
                conflicts.insert(other.clone(), taken);
            }
        }
        if !force && !conflicts.is_empty() {
            return Err(Refusal::Conflicts(conflict::list(&conflicts)));
        }
        for other in &others {
            let Some(owned) = managers.get_mut(other) else { continue };
            if let Some(taken) = conflicts.get(other) {
                owned.set = owned.set.difference(taken);
            }
            let gone = owned.set.intersection(&versions[&owned.api_version].removed);
            if !gone.is_empty() {
                owned.set = owned.set.difference(&gone);
            }
        }
        managers.retain(|_, owned| !owned.set.is_empty());
        Ok(versions.remove(self.api_version).unwrap_or_default())
    }

    fn compared_in(&self, live: &Value, new: &Value, version: &str) -> Result<Option<Comparison>, Refusal> {
        let converted = |object| self.versions.convert(object, self.api_version, version);
        let (Some(live), Some(new), Some(shape)) = (converted(live), converted(new), self.shape_in(version)) else {
            return Ok(None);
        };
        let compared = compare(&live, &new, &shape).map_err(|why| unfit("failed to compare objects", why))?;
        Ok(Some(compared.map(|set| self.counted.of(set))))
    }

    /// `merged` without what the applier applied the last time and does not now, and what nobody else owns.
    fn prune(&self, merged: Value, managers: &Managers, last: &Owned) -> Result<Value, Refusal> {
        let Some(shape) = self.shape_in(&last.api_version) else { return Ok(merged) };
        let Some(before) = self.versions.convert(&merged, self.api_version, &last.api_version) else {
            return Ok(merged);
        };
        let pruned = remove(&before, &with_structs(&last.set, &shape), &shape);
        let pruned = self.with_owned(before.into_owned(), pruned, &last.api_version, managers)?;
        let (before, pruned) = match pruned {
            Some((before, pruned)) => (before, pruned),
            None => return Ok(merged),
        };
        let pruned =
            without_last(&before, &pruned, &last.set, &shape).map_err(|why| unfit("failed to prune fields", why))?;
        let back = self.versions.convert(&pruned, &last.api_version, self.api_version);
        Ok(back.map_or(merged, Cow::into_owned))
    }

    /// `pruned` with what somebody owns in the version that it is in, and then in all others. Beside it, what it was made
    /// from; both in the version that they came in.
    fn with_owned(
        &self,
        merged: Value,
        pruned: Value,
        version: &str,
        managers: &Managers,
    ) -> Result<Option<(Value, Value)>, Refusal> {
        let mut owned: BTreeMap<&str, Set> = BTreeMap::new();
        for other in managers.values() {
            let set = owned.entry(other.api_version.as_str()).or_default();
            *set = set.union(&other.set);
        }
        let own = owned.remove(version).unwrap_or_default();
        let (mut merged, mut pruned, mut at) = (merged, pruned, version.to_owned());
        for (version, set) in [(version, own)].into_iter().chain(owned) {
            let both = (self.versions.convert(&merged, &at, version), self.versions.convert(&pruned, &at, version));
            let ((Some(before), Some(after)), Some(shape)) = (both, self.shape_in(version)) else { continue };
            let kept = keep_owned(&before, &after, &set, &shape).map_err(|why| unfit("failed to prune fields", why))?;
            (merged, pruned, at) = (before.into_owned(), kept, version.to_owned());
        }
        let back = (self.versions.convert(&merged, &at, version), self.versions.convert(&pruned, &at, version));
        Ok(match back {
            (Some(merged), Some(pruned)) => Some((merged.into_owned(), pruned.into_owned())),
            _ => None,
        })
    }
}

/// `merged` without what is not in `pruned` and that nobody owns.
fn keep_owned(merged: &Value, pruned: &Value, owned: &Set, shape: &Shape) -> Result<Value, Faults> {
    let all = with_structs(&fields_of(merged, shape)?, shape);
    let left = with_structs(&fields_of(pruned, shape)?, shape).union(&with_structs(owned, shape));
    Ok(remove(merged, &all.difference(&left), shape))
}

/// `merged` without what is not in `pruned` and was applied the last time: the rest was not the applier's.
fn without_last(merged: &Value, pruned: &Value, last: &Set, shape: &Shape) -> Result<Value, Faults> {
    let gone =
        with_structs(&fields_of(merged, shape)?, shape).difference(&with_structs(&fields_of(pruned, shape)?, shape));
    Ok(remove(merged, &gone.intersection(&with_structs(last, shape)), shape))
}

/// The set with the fields of structs that lead to its members.
fn with_structs(set: &Set, shape: &Shape) -> Set {
    let forms = shape.forms();
    let mut out = Set::default();
    for node in set.nodes() {
        let named = |name: &str| forms.map.as_ref().is_some_and(|map| map.fields().contains_key(name));
        let member =
            node.member || matches!(&node.element, Element::Field(name) if !node.below.is_empty() && named(name));
        let part = match &node.element {
            Element::Field(name) => forms.map.as_ref().and_then(|map| map.at(name)),
            Element::Key(_) => forms.list.as_ref().and_then(|list| list.item()),
            Element::Value(_) | Element::Index(_) => None,
        };
        let below = part.map_or_else(|| node.below.clone(), |part| with_structs(&node.below, part));
        out.push(|| node.element.clone(), member, below);
    }
    out
}

fn unfit(what: &str, why: impl std::fmt::Display) -> Refusal {
    Refusal::Unfit(format!("{what}: {why}"))
}
