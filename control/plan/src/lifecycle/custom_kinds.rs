//! CustomResourceDefinitions: their names are accepted, their kinds established, and when one goes, the objects of its kind
//! go first. Upstream: apiextensions-apiserver `pkg/controller/{status,establish,finalizer,apiapproval,nonstructuralschema}`.
//!
//! Invariants
//! - A name that a definition has been given is no other's in its group; who asks later gets it when it is free.
//! - A kind stays established when a later wish for names is refused: its objects are still there.
//! - The finalizer falls only when the cache shows no object of the kind; nothing new is made of a kind that goes.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionCondition, CustomResourceDefinitionNames,
};

use super::gc::Item;
use crate::action::{Action, DeleteHow, Plan, Propagation, patch_to};
use crate::object::{annotation, deleting, name, time};

/// Holds a definition until the objects of its kind are gone.
const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
const APPROVED: &str = "api-approved.kubernetes.io";
/// Most deletions in one plan.
const BURST: usize = 500;

const NAMES: &str = "NamesAccepted";
const ESTABLISHED: &str = "Established";
const TERMINATING: &str = "Terminating";
const APPROVAL: &str = "KubernetesAPIApprovalPolicyConformant";
const LOOSE: &str = "NonStructuralSchema";

/// What a plan is made from.
pub struct View<'a> {
    /// The definition.
    pub definition: &'a CustomResourceDefinition,
    /// Names of resources and of kinds that other definitions of its group have.
    pub taken: [BTreeSet<&'a str>; 2],
    /// The objects of its kind, where it goes.
    pub objects: Vec<Item<'a>>,
    /// Whether something else is stored where its objects are.
    pub overlaps: bool,
}

/// Names of resources, and of kinds, that a definition has been given.
#[must_use]
pub fn accepted(definition: &CustomResourceDefinition) -> [BTreeSet<&str>; 2] {
    let mut taken: [BTreeSet<&str>; 2] = Default::default();
    let Some(names) = definition.status.as_ref().and_then(|status| status.accepted_names.as_ref()) else {
        return taken;
    };
    let short = names.short_names.iter().flatten().map(String::as_str);
    taken[0].extend(short.chain([names.plural.as_str()]).chain(names.singular.as_deref()));
    taken[1].extend([names.kind.as_str()].into_iter().chain(names.list_kind.as_deref()));
    for names in &mut taken {
        names.remove("");
    }
    taken
}

/// Decides the next writes for one definition.
#[must_use]
pub fn plan(view: &View<'_>, now: Timestamp) -> Plan {
    if deleting(&view.definition.metadata) {
        return end(view, now);
    }
    let mut next = view.definition.clone();
    let status = next.status.get_or_insert_default();
    let (names, wanted) = judge(view);
    status.accepted_names = Some(names);
    let conditions = status.conditions.get_or_insert_default();
    let accepted = wanted.1;
    set(conditions, wanted, now);
    if accepted {
        let message = "the initial names have been accepted";
        if !holds(view.definition, ESTABLISHED) {
            set(conditions, (ESTABLISHED, true, "InitialNamesAccepted", message.into()), now);
        }
    } else if !has(view.definition, ESTABLISHED) {
        set(conditions, (ESTABLISHED, false, "NotAccepted", "not all names are accepted".into()), now);
    }
    if let Some(approval) = approval(view.definition) {
        set(conditions, approval, now);
    }
    match loose(view.definition) {
        Some(loose) => set(conditions, loose, now),
        None => conditions.retain(|condition| condition.type_ != LOOSE),
    }
    let action = patch_to(view.definition, &next, Some("status"));
    action.map_or(Plan::rest("its names are settled"), |action| Plan::new("its names are to be settled", vec![action]))
}

fn end(view: &View<'_>, now: Timestamp) -> Plan {
    let definition = view.definition;
    let held = definition.metadata.finalizers.iter().flatten().any(|name| name == CLEANUP);
    if !held {
        return Plan::rest("others hold it");
    }
    let stays = view.overlaps || !holds(definition, ESTABLISHED);
    if stays || view.objects.is_empty() {
        let mut next = definition.clone();
        next.metadata.finalizers.iter_mut().for_each(|all| all.retain(|name| name != CLEANUP));
        let action = patch_to(definition, &next, None);
        return Plan::new("nothing is left of its kind", action.into_iter().collect());
    }
    let mut actions: Vec<Action> =
        view.objects.iter().filter(|object| !object.deleting).take(BURST).map(delete).collect();
    let mut next = definition.clone();
    let conditions = next.status.get_or_insert_default().conditions.get_or_insert_default();
    let message = "CustomResource deletion is in progress";
    set(conditions, (TERMINATING, true, "InstanceDeletionInProgress", message.into()), now);
    let why = if actions.is_empty() {
        "what is left of its kind has to go by itself"
    } else {
        "objects are left of its kind"
    };
    actions.extend(patch_to(definition, &next, Some("status")));
    Plan::new(why, actions)
}

fn delete(object: &Item<'_>) -> Action {
    Action::Delete {
        key: object.key.clone(),
        uid: object.uid.to_owned(),
        how: DeleteHow::with(Propagation::Background),
        announce: None,
    }
}

/// `(type, status, reason, message)`.
type Wanted = (&'static str, bool, &'static str, String);

/// The names that a definition gets, and what is to be said of that.
fn judge(view: &View<'_>) -> (CustomResourceDefinitionNames, Wanted) {
    let [resources, kinds] = &view.taken;
    let wished = &view.definition.spec.names;
    let mut given = view.definition.status.as_ref().and_then(|it| it.accepted_names.clone()).unwrap_or_default();
    let mut refused = None;
    let mut take = |given: &mut String, wish: &str, taken: &BTreeSet<&str>, reason: &'static str| {
        if wish != given.as_str() && taken.contains(wish) {
            refused = Some((reason, format!("\"{wish}\" is already in use")));
        } else {
            wish.clone_into(given);
        }
    };
    let mut singular = given.singular.clone().unwrap_or_default();
    let mut list_kind = given.list_kind.clone().unwrap_or_default();
    take(&mut given.plural, &wished.plural, resources, "PluralConflict");
    take(&mut singular, wished.singular.as_deref().unwrap_or_default(), resources, "SingularConflict");
    let short = taken_short(&given, wished, resources);
    if short.is_none() {
        given.short_names.clone_from(&wished.short_names);
    }
    let short = short.map(|why| ("ShortNamesConflict", why));
    let before_kinds = refused.take();
    let mut take = |given: &mut String, wish: &str, reason: &'static str| {
        if wish != given.as_str() && kinds.contains(wish) {
            refused = Some((reason, format!("\"{wish}\" is already in use")));
        } else {
            wish.clone_into(given);
        }
    };
    take(&mut given.kind, &wished.kind, "KindConflict");
    take(&mut list_kind, wished.list_kind.as_deref().unwrap_or_default(), "ListKindConflict");
    given.singular = Some(singular).filter(|name| !name.is_empty());
    given.list_kind = Some(list_kind).filter(|name| !name.is_empty());
    given.categories.clone_from(&wished.categories);
    // Of several refusals the last is told.
    let told = match refused.or(short).or(before_kinds) {
        Some((reason, why)) => (NAMES, false, reason, why),
        None => (NAMES, true, "NoConflicts", "no conflicts found".into()),
    };
    (given, told)
}

/// Why short names cannot be had.
fn taken_short(
    given: &CustomResourceDefinitionNames,
    wished: &CustomResourceDefinitionNames,
    taken: &BTreeSet<&str>,
) -> Option<String> {
    let own: Vec<&String> = given.short_names.iter().flatten().collect();
    let wished = wished.short_names.iter().flatten().filter(|name| !own.contains(name));
    let refused: Vec<String> = wished
        .filter(|name| taken.contains(name.as_str()))
        .map(|name| format!("\"{name}\" is already in use"))
        .collect();
    match refused.len() {
        0 => None,
        1 => refused.into_iter().next(),
        _ => Some(format!("[{}]", refused.join(", "))),
    }
}

/// What is said of a kind that keeps fields which nobody declares. Only those that were so already may stay so: whatever
/// else is wrong with a schema is refused when it is written.
fn loose(definition: &CustomResourceDefinition) -> Option<Wanted> {
    let message = "spec.preserveUnknownFields: Invalid value: true: must be false";
    let keeps = definition.spec.preserve_unknown_fields == Some(true);
    keeps.then(|| (LOOSE, true, "Violations", message.to_owned()))
}

/// What is said of a kind in one of Kubernetes' own groups.
fn approval(definition: &CustomResourceDefinition) -> Option<Wanted> {
    let group = &definition.spec.group;
    let protected = ["k8s.io", "kubernetes.io"].iter().any(|own| group == own || group.ends_with(&format!(".{own}")));
    let said = annotation(&definition.metadata, APPROVED).filter(|said| protected && !said.is_empty())?;
    Some(if said.starts_with("unapproved") {
        (APPROVAL, false, "UnapprovedAnnotation", format!("not approved: {said:?}"))
    } else {
        (APPROVAL, true, "ApprovedAnnotation", format!("approved in {said}"))
    })
}

fn conditions(definition: &CustomResourceDefinition) -> impl Iterator<Item = &CustomResourceDefinitionCondition> {
    definition.status.iter().flat_map(|status| status.conditions.iter().flatten())
}

fn has(definition: &CustomResourceDefinition, kind: &str) -> bool {
    conditions(definition).any(|condition| condition.type_ == kind)
}

fn holds(definition: &CustomResourceDefinition, kind: &str) -> bool {
    conditions(definition).any(|condition| condition.type_ == kind && condition.status == "True")
}

fn set(
    conditions: &mut Vec<CustomResourceDefinitionCondition>,
    (kind, state, reason, message): Wanted,
    now: Timestamp,
) {
    let status = if state { "True" } else { "False" };
    let old = conditions.iter().position(|condition| condition.type_ == kind);
    let before = old.map(|at| &conditions[at]);
    let same = |c: &CustomResourceDefinitionCondition| {
        c.status == status && c.reason.as_deref() == Some(reason) && c.message.as_deref() == Some(&message)
    };
    if before.is_some_and(same) {
        return;
    }
    let since = before.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
    let new = CustomResourceDefinitionCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_transition_time: Some(since.unwrap_or_else(|| time(now))),
        ..CustomResourceDefinitionCondition::default()
    };
    match old {
        Some(at) => conditions[at] = new,
        None => conditions.push(new),
    }
}

/// Whether a change of a definition may free names that others of its group wait for.
#[must_use]
pub fn frees_names(old: Option<&CustomResourceDefinition>, new: Option<&CustomResourceDefinition>) -> bool {
    let (before, now) = (old.map(accepted).unwrap_or_default(), new.map(accepted).unwrap_or_default());
    before.iter().zip(&now).any(|(before, now)| !before.is_subset(now))
}

/// The name of a definition.
#[must_use]
pub fn called(definition: &CustomResourceDefinition) -> &str {
    name(&definition.metadata)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use kontiki_model::{GroupResource, ObjectKey};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Cluster, NOW, meta};

    /// Wishes for `plural`, `kind` and a short name.
    fn definition(called: &str, plural: &str, kind: &str, short: &str) -> CustomResourceDefinition {
        let names = CustomResourceDefinitionNames {
            plural: plural.into(),
            kind: kind.into(),
            singular: Some(kind.to_lowercase()),
            list_kind: Some(format!("{kind}List")),
            short_names: (!short.is_empty()).then(|| vec![short.into()]),
            categories: None,
        };
        CustomResourceDefinition {
            metadata: ObjectMeta { namespace: None, ..meta(called) },
            spec: CustomResourceDefinitionSpec { group: "example.com".into(), names, ..Default::default() },
            status: None,
        }
    }

    fn settle(cluster: &mut Cluster) -> bool {
        cluster.settle(40, |cluster| {
            let all = cluster.list::<CustomResourceDefinition>();
            let plans = all.iter().map(|definition| {
                let mut taken: [BTreeSet<&str>; 2] = Default::default();
                for other in all.iter().filter(|other| called(other) != called(definition)) {
                    let [resources, kinds] = accepted(other);
                    taken[0].extend(resources);
                    taken[1].extend(kinds);
                }
                plan(&View { definition, taken, objects: Vec::new(), overlaps: false }, NOW).actions
            });
            plans.into_iter().find(|actions| !actions.is_empty()).unwrap_or_default()
        })
    }

    fn said(definition: &CustomResourceDefinition) -> String {
        let texts =
            conditions(definition).map(|c| format!("{} {} {}", c.type_, c.status, c.reason.as_deref().unwrap_or("")));
        texts.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn names_are_given_once() {
        let good = "NamesAccepted True NoConflicts, Established True InitialNamesAccepted";
        for (second, expect) in [
            (definition("b", "bs", "B", "y"), good),
            (definition("b", "as", "B", "y"), "NamesAccepted False PluralConflict, Established False NotAccepted"),
            (definition("b", "bs", "B", "x"), "NamesAccepted False ShortNamesConflict, Established False NotAccepted"),
            (definition("b", "bs", "A", "y"), "NamesAccepted False ListKindConflict, Established False NotAccepted"),
        ] {
            let mut cluster = Cluster::default();
            cluster.add(&definition("a", "as", "A", "x"));
            assert!(settle(&mut cluster));
            cluster.add(&second);
            assert!(settle(&mut cluster), "{}", cluster.trace());
            let all = cluster.list::<CustomResourceDefinition>();
            let of = |name: &str| all.iter().find(|it| called(it) == name).map(|it| said(it)).unwrap_or_default();
            assert_eq!((of("a").as_str(), of("b").as_str()), (good, expect));
        }
    }

    #[test]
    fn what_keeps_undeclared_fields_is_told_of_until_it_does_not() {
        let mut cluster = Cluster::default();
        let mut kept = definition("a", "as", "A", "");
        for (keeps, expect) in
            [(true, "NonStructuralSchema True Violations"), (false, ""), (true, "NonStructuralSchema True Violations")]
        {
            kept.spec.preserve_unknown_fields = Some(keeps);
            cluster.add(&kept);
            assert!(settle(&mut cluster), "{}", cluster.trace());
            kept = cluster.only();
            let told = said(&kept);
            assert_eq!(told.split(", ").nth(2).unwrap_or_default(), expect, "{told}");
        }
    }

    #[test]
    fn objects_go_before_their_definition() {
        let key = ObjectKey::new(GroupResource { group: "example.com", resource: "as" }, Some("ns"), "one");
        let item = |deleting| Item { key: &key, uid: "u", owners: &[], finalizers: &[], deleting, revision: 1 };
        let mut established = definition("a", "as", "A", "");
        set(
            established.status.get_or_insert_default().conditions.get_or_insert_default(),
            (ESTABLISHED, true, "InitialNamesAccepted", String::new()),
            NOW,
        );
        established.metadata.deletion_timestamp = Some(time(NOW));
        established.metadata.finalizers = Some(vec![CLEANUP.into()]);
        let never = CustomResourceDefinition { status: None, ..established.clone() };
        let free = CustomResourceDefinition {
            metadata: ObjectMeta { finalizers: None, ..established.metadata.clone() },
            ..established.clone()
        };
        for (what, definition, objects, overlaps, why) in [
            ("objects", &established, vec![item(false)], false, "objects are left of its kind"),
            ("they go", &established, vec![item(true)], false, "what is left of its kind has to go by itself"),
            ("none is left", &established, vec![], false, "nothing is left of its kind"),
            ("it never was", &never, vec![item(false)], false, "nothing is left of its kind"),
            ("what is there is something else's", &established, vec![item(false)], true, "nothing is left of its kind"),
            ("nobody waits", &free, vec![], false, "others hold it"),
        ] {
            let plan = plan(&View { definition, taken: Default::default(), objects, overlaps }, NOW);
            assert_eq!(plan.why, why, "{what}");
        }
    }

    proptest! {
        #[test]
        fn whoever_wants_which_names_they_come_to_rest(wishes in prop::collection::vec(("[ab]", "[AB]", "[xy]?"), 1..5)) {
            let mut cluster = Cluster::default();
            for (at, (plural, kind, short)) in wishes.iter().enumerate() {
                cluster.add(&definition(&format!("d{at}"), plural, kind, short));
            }
            prop_assert!(settle(&mut cluster), "{}", cluster.trace());
        }
    }
}
