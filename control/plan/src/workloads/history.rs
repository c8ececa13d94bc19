//! ControllerRevisions: the templates that a set had, so that pods of an earlier one can be told apart, made again and
//! rolled back to.
//!
//! Invariants
//! - A revision is the one of a template if the templates are equal; hashes only make names.
//! - The revision of the current template has the highest number: one that is in use again gets the next.
//! - A plan that has to write a revision does nothing else, so that pods never name one that is not there.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use crate::action::{Action, DeleteHow, Kind, create, delete, patch, to_value};
use crate::hash::{pod_template_hash, prune};
use crate::object::{controller_reference, created, deleting, name};

/// The label by which pods say which revision they were made from.
pub const POD_LABEL: &str = "controller-revision-hash";
/// Longest part of a set's name in the names of its revisions.
const PREFIX_LIMIT: usize = 223;

/// What is asked of a history.
pub struct Wanted<'a> {
    /// The template whose revision is looked for.
    pub template: &'a PodTemplateSpec,
    /// How often names clashed.
    pub collisions: Option<i32>,
    /// The label of a new revision that holds its hash.
    pub label: &'static str,
    /// The revision, whosever, that has the name that a new one would get ([`name_of`]).
    pub namesake: Option<&'a ControllerRevision>,
    /// Whether nothing can be created any more.
    pub namespace_terminating: bool,
}

/// The revision of a template.
#[allow(clippy::large_enum_variant, reason = "one for each plan, taken apart at once")]
pub enum Current<'a> {
    /// It is there, and has the highest number.
    Is(&'a Arc<ControllerRevision>),
    /// This has to be done first.
    Needs(Action),
    /// Another revision has its name: a collision to be counted.
    Clash,
    /// It cannot be made.
    Never,
}

/// Oldest number first.
#[must_use]
pub fn sorted(mut revisions: Vec<&Arc<ControllerRevision>>) -> Vec<&Arc<ControllerRevision>> {
    revisions
        .sort_by_key(|revision| (number(revision), created(&revision.metadata), name(&revision.metadata).to_owned()));
    revisions
}

/// Looks for the revision of the wanted template in the `sorted` revisions of `owner`.
#[must_use]
pub fn current<'a, O: Kind>(owner: &O, sorted: &[&'a Arc<ControllerRevision>], wanted: &Wanted<'_>) -> Current<'a> {
    let next = sorted.last().map_or(0, |last| number(last)).saturating_add(1);
    match equal(sorted, wanted.template).last() {
        Some(found) if sorted.last().is_some_and(|last| Arc::ptr_eq(last, found)) => return Current::Is(found),
        Some(found) => return Current::Needs(patch(found.as_ref(), None, json!({"revision": next}))),
        None => {}
    }
    match wanted.namesake {
        _ if wanted.namespace_terminating => Current::Never,
        // It goes with a set of the same name that is gone already.
        Some(_) => Current::Clash,
        None => Current::Needs(create(&snapshot(owner, wanted, next), None)),
    }
}

/// Those of the `sorted` revisions that hold `template`.
#[must_use]
pub fn equal<'a>(
    sorted: &[&'a Arc<ControllerRevision>],
    template: &PodTemplateSpec,
) -> Vec<&'a Arc<ControllerRevision>> {
    let form = prune(to_value(template));
    sorted.iter().filter(|revision| form_of(revision).as_ref() == Some(&form)).copied().collect()
}

/// Whether a revision is the one of `template`.
#[must_use]
pub fn holds(revision: &ControllerRevision, template: &PodTemplateSpec) -> bool {
    form_of(revision) == Some(prune(to_value(template)))
}

/// The template that a revision holds; `None` if it cannot be read.
#[must_use]
pub fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.0.get("spec")?.get("template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

fn form_of(revision: &ControllerRevision) -> Option<Value> {
    template(revision).map(|template| prune(to_value(&template)))
}

/// Its number.
#[must_use]
pub fn number(revision: &ControllerRevision) -> i64 {
    revision.revision.unwrap_or(0)
}

/// The name that a new revision of `template` gets.
#[must_use]
pub fn name_of(owner: &ObjectMeta, template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let owner = name(owner);
    let mut end = owner.len().min(PREFIX_LIMIT);
    while !owner.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{}", &owner[..end], hash(template, collisions))
}

fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    // A count of none is written where there was none.
    pod_template_hash(template, collisions.filter(|count| *count > 0))
}

/// A new revision. Its data is the strategic merge patch that brings the template back: `kubectl rollout undo` applies
/// it.
fn snapshot<O: Kind>(owner: &O, wanted: &Wanted<'_>, number: i64) -> ControllerRevision {
    let meta = owner.metadata();
    let mut template = prune(to_value(wanted.template));
    template["$patch"] = json!("replace");
    let mut labels = wanted.template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    labels.insert(wanted.label.to_owned(), hash(wanted.template, wanted.collisions));
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(name_of(meta, wanted.template, wanted.collisions)),
            namespace: meta.namespace.clone(),
            labels: Some(labels),
            annotations: meta.annotations.clone(),
            owner_references: Some(vec![controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        data: RawExtension(json!({"spec": {"template": template}})),
        revision: Some(number),
    }
}

/// Deletes the oldest `surplus` of the revisions that nobody needs, `unused`, oldest first.
#[must_use]
pub fn trim(unused: &[&Arc<ControllerRevision>], surplus: usize) -> Vec<Action> {
    let doomed = unused.iter().take(surplus).filter(|revision| !deleting(&revision.metadata));
    doomed.map(|revision| delete(revision.as_ref(), DeleteHow::default(), None)).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use k8s_openapi::api::apps::v1::StatefulSet;

    use super::*;
    use crate::testing::{meta, show, template as pod_template};

    pub(crate) fn image(image: &str) -> PodTemplateSpec {
        let mut template = pod_template("web");
        template.spec.as_mut().unwrap().containers[0].image = Some(image.into());
        template
    }

    fn wanted<'a>(template: &'a PodTemplateSpec, namesake: Option<&'a ControllerRevision>) -> Wanted<'a> {
        Wanted { template, collisions: None, label: "hash", namesake, namespace_terminating: false }
    }

    /// Revisions of `owner` with the images of `text`, numbered from 1, called and labelled `<image><position>`.
    pub(crate) fn revisions_of<O: Kind>(owner: &O, label: &'static str, text: &str) -> Vec<Arc<ControllerRevision>> {
        let one = |(at, word): (usize, &str)| {
            let template = image(word);
            let wanted = Wanted { label, ..wanted(&template, None) };
            let mut revision = snapshot(owner, &wanted, i64::try_from(at).unwrap() + 1);
            let name = format!("{word}{at}");
            revision.metadata.labels.get_or_insert_default().insert(label.into(), name.clone());
            revision.metadata.uid = Some(format!("uid-{name}"));
            revision.metadata.name = Some(name);
            Arc::new(revision)
        };
        text.split_whitespace().enumerate().map(one).collect()
    }

    fn revisions(text: &str) -> Vec<Arc<ControllerRevision>> {
        revisions_of(&StatefulSet { metadata: meta("web"), ..StatefulSet::default() }, "hash", text)
    }

    #[test]
    fn an_equal_revision_is_used_again_with_the_highest_number() {
        let owner = StatefulSet { metadata: meta("web"), ..StatefulSet::default() };
        for (name, have, want, expect) in [
            ("the first", "", "a", "make 1"),
            ("another", "a b", "c", "make 3"),
            ("the newest", "a b", "b", "is b1"),
            ("an old one", "a b c", "a", "a0 becomes 4"),
            ("equal ones", "a b a", "a", "is a2"),
        ] {
            let (revisions, template) = (revisions(have), image(want));
            let sorted = sorted(revisions.iter().collect());
            let found = match current(&owner, &sorted, &wanted(&template, None)) {
                Current::Is(revision) => format!("is {}", super::name(&revision.metadata)),
                Current::Needs(Action::Create { object, .. }) => format!("make {}", object["revision"]),
                Current::Needs(Action::Patch(patch)) => {
                    format!("{} becomes {}", patch.key.name, patch.body["revision"])
                }
                _ => "something else".to_owned(),
            };
            assert_eq!(found, expect, "{name}");
        }
    }

    #[test]
    fn a_name_that_is_taken_is_a_collision_and_collisions_make_other_names() {
        let (owner, template) = (StatefulSet { metadata: meta("web"), ..StatefulSet::default() }, image("a"));
        let other = revisions("b").remove(0);
        assert!(matches!(current(&owner, &[], &wanted(&template, Some(&other))), Current::Clash));
        let terminating = Wanted { namespace_terminating: true, ..wanted(&template, None) };
        assert!(matches!(current(&owner, &[], &terminating), Current::Never));
        let name = |collisions| name_of(&owner.metadata, &template, collisions);
        assert_eq!(name(None), name(Some(0)));
        assert_ne!(name(None), name(Some(1)));
    }

    #[test]
    fn a_revision_gives_back_its_template() {
        let revision = revisions("a").remove(0);
        assert_eq!(revision.data.0["spec"]["template"]["$patch"], "replace");
        assert_eq!(template(&revision), Some(image("a")));
        assert!(holds(&revision, &image("a")) && !holds(&revision, &image("b")));
        let broken = ControllerRevision { data: RawExtension(json!({"spec": 1})), ..ControllerRevision::default() };
        assert_eq!(template(&broken), None);
    }

    #[test]
    fn the_oldest_go_first() {
        let revisions = revisions("a b c");
        let unused: Vec<_> = revisions.iter().collect();
        assert_eq!(show(&trim(&unused, 2)), "-a0 -b1");
        assert_eq!(show(&trim(&unused, 0)), "");
    }
}
