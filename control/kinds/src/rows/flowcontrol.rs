//! `flowcontrol.apiserver.k8s.io`: FlowSchemas say to which PriorityLevelConfiguration a request belongs, and that says
//! how many of its requests are served at once.
//!
//! `data/flow-control.json` has the specs of those that a cluster starts with
//! (`k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap`).

use std::sync::OnceLock;

use serde_json::{Value, json};

use super::cells::{self, Cell, NONE};
use super::parts;
use super::value::{
    annotation, carry_generation, child, copy, default_to, get, has, int, list, num, on, set, set_generation, some,
    some_mut, text, texts,
};
use super::vocab::{self, Errors};
use crate::apply::Counted;
use crate::resource::status_alone;
use crate::{Bad, FieldError, Path, ResourceDef, Scope, Strategy, Verbs, meta};

const GROUP: (&str, &str) = ("flowcontrol.apiserver.k8s.io", "v1");

/// The rows.
#[must_use]
pub fn defs() -> [ResourceDef; 2] {
    let schemas = ResourceDef::new(
        GROUP,
        ("flowschemas", "flowschema", "FlowSchema"),
        "io.k8s.api.flowcontrol.v1.FlowSchema",
        Governing(&FlowSchemas),
    );
    let levels = ResourceDef::new(
        GROUP,
        ("prioritylevelconfigurations", "prioritylevelconfiguration", "PriorityLevelConfiguration"),
        "io.k8s.api.flowcontrol.v1.PriorityLevelConfiguration",
        Governing(&Levels),
    );
    [schemas, levels].map(|def| ResourceDef { scope: Scope::Cluster, ..def }.with_part("status", Verbs::PART))
}

/// Those that upstream puts back whenever they differ; the others may be changed.
pub const MANDATORY: [&str; 2] = ["exempt", "catch-all"];
/// Set to `true`: the object is kept as upstream has it.
pub const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// The objects that a cluster starts with, by `plural`: name and spec.
///
/// # Panics
/// The data is no JSON, which tests find.
pub fn bootstrap(plural: &str) -> impl Iterator<Item = (&'static str, &'static Value)> {
    static DATA: OnceLock<Value> = OnceLock::new();
    let data = DATA
        .get_or_init(|| serde_json::from_str(include_str!("../../data/flow-control.json")).expect("the data is JSON"));
    let objects = data[plural].as_object().into_iter().flatten();
    objects.map(|(name, spec)| (name.as_str(), spec))
}

/// The fixed spec of a mandatory object.
fn fixed(plural: &str, name: &str) -> Option<&'static Value> {
    bootstrap(plural).find(|(known, _)| *known == name && MANDATORY.contains(known)).map(|(_, spec)| spec)
}

/// What the two kinds differ in.
trait Kind: Send + Sync {
    fn default(&self, spec: &mut Value);
    fn check(&self, errs: &mut Errors, obj: &Value);
    fn row(&self, obj: &Value) -> Vec<Cell>;
}

struct Governing(&'static dyn Kind);

impl Strategy for Governing {
    fn counted(&self, sub: Option<&str>) -> Option<Counted> {
        status_alone(sub)
    }

    fn default(&self, obj: &mut Value) {
        self.0.default(child(obj, "spec"));
    }

    fn prepare_create(&self, obj: &mut Value) {
        set(obj, "status", json!({}));
        set_generation(obj, 1);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        if sub == Some("status") {
            parts::only_status(new, old);
        } else {
            let changed = new.get("spec") != old.get("spec");
            carry_generation(new, old, changed);
            copy(new, old, "status");
        }
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        self.0.check(&mut errs, obj);
        parts::check_condition_types(&mut errs, get(obj, "status"));
        errs
    }

    fn validate_update(&self, new: &Value, _old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if sub == Some("status") {
            parts::check_condition_types(&mut errs, get(new, "status"));
        } else {
            errs.extend(meta::validate_object_meta(new, false, &|name, prefix| self.name_errors(name, prefix)));
            errs.extend(self.validate(new));
        }
        errs
    }

    fn managed_generation(&self) -> bool {
        true
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        self.0.row(obj)
    }
}

fn name_of(obj: &Value) -> &str {
    text(get(obj, "metadata"), "name")
}

struct FlowSchemas;

const MAX_PRECEDENCE: i64 = 10_000;
const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

impl Kind for FlowSchemas {
    fn default(&self, spec: &mut Value) {
        if num(spec, "matchingPrecedence") == 0 {
            set(spec, "matchingPrecedence", 1000);
        }
    }

    fn check(&self, errs: &mut Errors, obj: &Value) {
        let (name, spec, path) = (name_of(obj), get(obj, "spec"), Path::new("spec"));
        check_precedence(errs, &path.child("matchingPrecedence"), num(spec, "matchingPrecedence"), name);
        if let Some(method) = some(spec, "distinguisherMethod") {
            let (path, kind) = (path.child("distinguisherMethod").child("type"), text(method, "type"));
            if !["ByNamespace", "ByUser"].contains(&kind) {
                let shown = Bad::Raw(format!("{{\"Type\":{}}}", json!(kind)));
                errs.push(FieldError::not_supported(path, shown, &["ByNamespace", "ByUser"]));
            }
        }
        let (at, level) = (
            path.child("priorityLevelConfiguration").child("name"),
            text(get(spec, "priorityLevelConfiguration"), "name"),
        );
        if level.is_empty() {
            errs.push(FieldError::required(at, "must reference a priority level"));
        } else {
            vocab::subdomain(errs, &at, level);
        }
        for (i, rule) in list(spec, "rules").iter().enumerate() {
            check_rule(errs, &path.child("rules").index(i), rule);
        }
        if fixed("flowschemas", name).is_some_and(|fixed| fixed != spec) {
            errs.push(FieldError::invalid(path, spec.clone(), format!("spec of '{name}' must equal the fixed value")));
        }
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        let spec = get(obj, "spec");
        let dangling = list(get(obj, "status"), "conditions").iter().find(|c| text(c, "type") == "Dangling");
        let method = some(spec, "distinguisherMethod").map_or(NONE, |method| text(method, "type"));
        vec![
            cells::name(obj),
            cells::of(text(get(spec, "priorityLevelConfiguration"), "name")),
            cells::of(num(spec, "matchingPrecedence")),
            cells::of(method),
            cells::age(obj),
            cells::of(dangling.map_or("?", |condition| text(condition, "status"))),
        ]
    }
}

fn check_precedence(errs: &mut Errors, path: &Path, precedence: i64, name: &str) {
    if precedence <= 0 {
        errs.push(FieldError::invalid(path, precedence, "must be a positive value"));
    }
    if precedence > MAX_PRECEDENCE {
        errs.push(FieldError::invalid(path, precedence, format!("must not be greater than {MAX_PRECEDENCE}")));
    }
    if precedence == 1 && name != "exempt" {
        let message = "only the schema named 'exempt' may have matchingPrecedence 1";
        errs.push(FieldError::invalid(path, precedence, message));
    }
}

fn check_rule(errs: &mut Errors, path: &Path, rule: &Value) {
    let subjects = list(rule, "subjects");
    if subjects.is_empty() {
        errs.push(FieldError::required(path.child("subjects"), "subjects must contain at least one value"));
    }
    for (i, subject) in subjects.iter().enumerate() {
        check_subject(errs, &path.child("subjects").index(i), subject);
    }
    let (resources, others) = (list(rule, "resourceRules"), list(rule, "nonResourceRules"));
    if resources.is_empty() && others.is_empty() {
        let message = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errs.push(FieldError::required(path, message));
    }
    for (i, rule) in resources.iter().enumerate() {
        check_resource_rule(errs, &path.child("resourceRules").index(i), rule);
    }
    for (i, rule) in others.iter().enumerate() {
        check_path_rule(errs, &path.child("nonResourceRules").index(i), rule);
    }
}

/// A kind of subject, and the field that says who it is.
const SUBJECTS: [(&str, &str); 3] = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];

fn check_subject(errs: &mut Errors, path: &Path, subject: &Value) {
    let kind = text(subject, "kind");
    let Some((_, field)) = SUBJECTS.iter().find(|(known, _)| *known == kind) else {
        errs.push(FieldError::not_supported(path.child("kind"), kind, &["Group", "ServiceAccount", "User"]));
        return;
    };
    match some(subject, field) {
        None => {
            let message = format!("{field} is required when subject kind is '{kind}'");
            errs.push(FieldError::required(path.child(field), message));
        }
        Some(who) => check_who(errs, &path.child(field), kind, who),
    }
    for (other, field) in SUBJECTS.iter().filter(|(other, field)| *other != kind && has(subject, field)) {
        let message = format!("{field} is forbidden when subject kind is not '{other}'");
        errs.push(FieldError::forbidden(path.child(field), message));
    }
}

fn check_who(errs: &mut Errors, path: &Path, kind: &str, who: &Value) {
    let (name, namespace) = (text(who, "name"), text(who, "namespace"));
    if name.is_empty() {
        errs.push(FieldError::required(path.child("name"), ""));
    }
    if kind != "ServiceAccount" {
        return;
    }
    if !name.is_empty() && name != "*" {
        vocab::subdomain(errs, &path.child("name"), name);
    }
    if namespace.is_empty() {
        let message = "must specify namespace for service account";
        errs.push(FieldError::required(path.child("namespace"), message));
    } else {
        vocab::label(errs, &path.child("namespace"), namespace);
    }
}

fn check_verbs(errs: &mut Errors, path: &Path, rule: &Value) {
    let (path, verbs) = (path.child("verbs"), texts(rule, "verbs"));
    if verbs.is_empty() {
        errs.push(FieldError::required(path, "verbs must contain at least one value"));
    } else if verbs.contains(&"*") {
        if verbs.len() > 1 {
            errs.push(FieldError::invalid(path, json!(verbs), "if '*' is present, must not specify other verbs"));
        }
    } else if !verbs.iter().all(|verb| VERBS.contains(verb)) {
        errs.push(FieldError::not_supported(path, json!(verbs), VERBS));
    }
}

fn check_resource_rule(errs: &mut Errors, path: &Path, rule: &Value) {
    check_verbs(errs, path, rule);
    for (field, one, many) in [("apiGroups", "api group", "api groups"), ("resources", "resource", "resources")] {
        let (path, items) = (path.child(field), texts(rule, field));
        if items.is_empty() {
            errs.push(FieldError::required(path, format!("resource rules must supply at least one {one}")));
        } else if items.len() > 1 && items.contains(&"*") {
            let message = format!("if '*' is present, must not specify other {many}");
            errs.push(FieldError::invalid(path, json!(items), message));
        }
    }
    let (path, namespaces) = (path.child("namespaces"), texts(rule, "namespaces"));
    if namespaces.is_empty() && !on(rule, "clusterScope") {
        let message = "resource rules that are not cluster scoped must supply at least one namespace";
        errs.push(FieldError::required(path, message));
    } else if namespaces.contains(&"*") {
        if namespaces.len() > 1 {
            let message = "if '*' is present, must not specify other namespaces";
            errs.push(FieldError::invalid(path, json!(namespaces), message));
        }
    } else {
        for (i, namespace) in namespaces.iter().enumerate() {
            let problems = vocab::label_errors(namespace).into_iter();
            let problems =
                problems.map(|why| format!("each member of this list must be '*' or a DNS-1123 label; {why}"));
            vocab::invalid(errs, &path.index(i), *namespace, problems.collect());
        }
    }
}

fn check_path_rule(errs: &mut Errors, path: &Path, rule: &Value) {
    check_verbs(errs, path, rule);
    let (path, urls) = (path.child("nonResourceURLs"), texts(rule, "nonResourceURLs"));
    if urls.is_empty() {
        errs.push(FieldError::required(path, "nonResourceURLs must contain at least one value"));
    } else if urls.contains(&"*") {
        if urls.len() > 1 {
            let message = "if '*' is present, must not specify other non-resource URLs";
            errs.push(FieldError::invalid(path, json!(urls), message));
        }
    } else {
        for (i, url) in urls.iter().enumerate() {
            if let Some(problem) = path_problem(url) {
                errs.push(FieldError::invalid(path.index(i), *url, problem));
            }
        }
    }
}

fn path_problem(path: &str) -> Option<&'static str> {
    let stars = path.matches('*').count();
    match path {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !path.starts_with('/') => Some("must start with slash"),
        _ if path.contains(' ') => Some("must not contain white-space"),
        _ if path.contains("//") => Some("must not contain double slash"),
        _ if stars > 1 || (stars == 1 && !path.ends_with("/*")) => Some("wildcard can only do suffix matching"),
        _ => None,
    }
}

struct Levels;

const MAX_QUEUES: i64 = 10_000_000;
/// Bits of a hash that hands are drawn from.
const HASH_BITS: f64 = 60.0;
const ZERO_SHARES: &str = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares";

impl Kind for Levels {
    fn default(&self, spec: &mut Value) {
        for (field, shares) in [("exempt", 0), ("limited", 30)] {
            if let Some(level) = some_mut(spec, field) {
                default_to(level, "nominalConcurrencyShares", shares);
                default_to(level, "lendablePercent", 0);
            }
        }
        let queuing = some_mut(spec, "limited")
            .and_then(|limited| some_mut(limited, "limitResponse"))
            .and_then(|response| some_mut(response, "queuing"));
        if let Some(queuing) = queuing {
            for (field, value) in [("handSize", 8), ("queues", 64), ("queueLengthLimit", 50)] {
                if num(queuing, field) == 0 {
                    set(queuing, field, value);
                }
            }
        }
    }

    fn check(&self, errs: &mut Errors, obj: &Value) {
        let (name, spec, path) = (name_of(obj), get(obj, "spec"), Path::new("spec"));
        if annotation(obj, ZERO_SHARES).is_some() {
            let message = format!("annotation '{ZERO_SHARES}' is forbidden");
            errs.push(FieldError::forbidden("metadata.annotations", message));
        }
        let kind = text(spec, "type");
        if (name == "exempt") != (kind == "Exempt") {
            let message = "must be 'Exempt' if and only if `name` is 'exempt'";
            errs.push(FieldError::invalid(path.child("type"), kind, message));
        }
        match kind {
            "Exempt" => check_exempt(errs, &path, spec),
            "Limited" => check_limited(errs, &path, spec),
            kind => vocab::one_of(errs, &path.child("type"), kind, &["Exempt", "Limited"]),
        }
        if let Some(message) = fixed("prioritylevelconfigurations", name).and_then(|fixed| deviates(name, spec, fixed))
        {
            errs.push(FieldError::invalid(path, spec.clone(), message));
        }
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        let spec = get(obj, "spec");
        let limited = get(spec, "limited");
        let queuing = get(get(limited, "limitResponse"), "queuing");
        let shown = |owner: &Value, field: &str| int(owner, field).map_or(cells::of(NONE), cells::of);
        vec![
            cells::name(obj),
            cells::of(text(spec, "type")),
            shown(limited, "nominalConcurrencyShares"),
            shown(queuing, "queues"),
            shown(queuing, "handSize"),
            shown(queuing, "queueLengthLimit"),
            cells::age(obj),
        ]
    }
}

/// Whether a mandatory level is another than it must be. What `exempt` lends may be changed.
fn deviates(name: &str, spec: &Value, fixed: &Value) -> Option<String> {
    if name != "exempt" {
        return (spec != fixed).then(|| format!("spec of '{name}' must equal the fixed value"));
    }
    let mut rest = spec.clone();
    copy(&mut rest, fixed, "exempt");
    (rest != *fixed).then(|| format!("spec of '{name}' except the 'spec.exempt' field must equal the fixed value"))
}

fn check_shares(errs: &mut Errors, path: &Path, level: &Value) {
    if let Some(shares) = int(level, "nominalConcurrencyShares").filter(|shares| *shares < 0) {
        errs.push(FieldError::invalid(
            path.child("nominalConcurrencyShares"),
            shares,
            "must be a non-negative integer",
        ));
    }
}

fn check_lendable(errs: &mut Errors, path: &Path, level: &Value) {
    if let Some(percent) = int(level, "lendablePercent").filter(|percent| !(0..=100).contains(percent)) {
        errs.push(FieldError::invalid(path.child("lendablePercent"), percent, vocab::between(0, 100)));
    }
}

fn check_exempt(errs: &mut Errors, path: &Path, spec: &Value) {
    if has(spec, "limited") {
        errs.push(FieldError::forbidden(path.child("limited"), "must be nil if the type is not Limited"));
    }
    let (path, exempt) = (path.child("exempt"), get(spec, "exempt"));
    check_shares(errs, &path, exempt);
    check_lendable(errs, &path, exempt);
}

fn check_limited(errs: &mut Errors, path: &Path, spec: &Value) {
    if has(spec, "exempt") {
        errs.push(FieldError::forbidden(path.child("exempt"), "must be nil if the type is Limited"));
    }
    let path = path.child("limited");
    let Some(limited) = some(spec, "limited") else {
        errs.push(FieldError::required(path, "must not be empty when type is Limited"));
        return;
    };
    check_shares(errs, &path, limited);
    check_response(errs, &path.child("limitResponse"), get(limited, "limitResponse"));
    check_lendable(errs, &path, limited);
    if let Some(percent) = int(limited, "borrowingLimitPercent").filter(|percent| *percent < 0) {
        let message = "if specified, must be a non-negative integer";
        errs.push(FieldError::invalid(path.child("borrowingLimitPercent"), percent, message));
    }
}

fn check_response(errs: &mut Errors, path: &Path, response: &Value) {
    let at = path.child("queuing");
    match (text(response, "type"), some(response, "queuing")) {
        ("Reject", Some(_)) => {
            let message = "must be nil if limited.limitResponse.type is not Limited";
            errs.push(FieldError::forbidden(at, message));
        }
        ("Reject", None) => {}
        ("Queue", Some(queuing)) => check_queuing(errs, &at, queuing),
        ("Queue", None) => {
            errs.push(FieldError::required(at, "must not be empty if limited.limitResponse.type is Limited"));
        }
        (kind, _) => vocab::one_of(errs, &path.child("type"), kind, &["Queue", "Reject"]),
    }
}

fn check_queuing(errs: &mut Errors, path: &Path, queuing: &Value) {
    let [limit, queues, hand] = ["queueLengthLimit", "queues", "handSize"].map(|field| num(queuing, field));
    let mut wrong =
        |field: &str, value: i64, why: String| errs.push(FieldError::invalid(path.child(field), value, why));
    if limit <= 0 {
        wrong("queueLengthLimit", limit, "must be positive".into());
    }
    if queues <= 0 {
        wrong("queues", queues, "must be positive".into());
    } else if queues > MAX_QUEUES {
        wrong("queues", queues, format!("must not be greater than {MAX_QUEUES}"));
    }
    if hand <= 0 {
        wrong("handSize", hand, "must be positive".into());
    } else if hand > queues {
        wrong("handSize", hand, format!("should not be greater than queues ({queues})"));
    } else if entropy(queues, hand) > HASH_BITS {
        let why = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
        );
        wrong("handSize", hand, why);
    }
}

/// Bits that drawing a hand from so many queues needs.
#[allow(clippy::cast_precision_loss, reason = "both are at most 10^7 where the result counts")]
fn entropy(queues: i64, hand: i64) -> f64 {
    ((queues as f64).log2() * hand as f64).ceil()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cluster_starts_with_is_valid_and_needs_no_defaults() {
        let kinds: [(&str, &dyn Kind); 2] = [("flowschemas", &FlowSchemas), ("prioritylevelconfigurations", &Levels)];
        for (plural, kind) in kinds {
            assert!(bootstrap(plural).count() > 6, "{plural}");
            for (name, spec) in bootstrap(plural) {
                let (mut filled, mut errs) = (spec.clone(), Errors::new());
                kind.default(&mut filled);
                assert_eq!(filled, *spec, "{plural} {name}");
                kind.check(&mut errs, &json!({"metadata": {"name": name}, "spec": spec}));
                assert_eq!(errs, [], "{plural} {name}");
            }
        }
    }

    #[test]
    fn mandatory_ones_are_fixed() {
        let edited = |plural: &str, name: &str, pointer: &str| {
            let mut spec = fixed(plural, name).expect("a mandatory one").clone();
            *spec.pointer_mut(pointer).expect("it is there") = json!(7);
            json!({"metadata": {"name": name}, "spec": spec})
        };
        let levels = "prioritylevelconfigurations";
        for (kind, obj, count) in [
            (&FlowSchemas as &dyn Kind, edited("flowschemas", "catch-all", "/matchingPrecedence"), 1),
            (&Levels, edited(levels, "catch-all", "/limited/lendablePercent"), 1),
            (&Levels, edited(levels, "exempt", "/exempt/lendablePercent"), 0),
        ] {
            let mut errs = Errors::new();
            kind.check(&mut errs, &obj);
            assert_eq!(errs.len(), count, "{obj}: {errs:?}");
        }
    }

    #[test]
    fn hands_need_bits() {
        for (queues, hand, enough) in [(64, 8, true), (128, 8, true), (1024, 6, true), (1024, 7, false)] {
            assert_eq!(entropy(queues, hand) <= HASH_BITS, enough, "{queues} {hand}");
        }
    }
}
