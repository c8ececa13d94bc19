//! Rules of a schema when it is written: whether they compile, what they may cost. Upstream: apiextensions-apiserver's
//! `apis/apiextensions/validation`.

use serde_json::{Value, json};

use super::Tolerated;
use crate::{
    Bad, FieldError, Path,
    expressions::{
        Age,
        rules::{self, FIELD, Rule},
    },
    rows::{
        value::{entries, get, has, int, list, on, text},
        vocab::Errors,
    },
};

/// The most that one rule may cost, by what is known of the sizes of values.
const EACH: u64 = 10_000_000;
/// The most that all rules of a schema may cost.
const ALL: u64 = 100_000_000;
/// How many of the dearest rules are named where all together cost too much.
const NAMED: usize = 4;

/// Judges the rules of a version's schema, which is structural. `found`: what is wrong with the schema already.
pub(super) fn check(path: &Path, root: &Value, tolerated: &Tolerated, found: &[FieldError]) -> Errors {
    let mut judge = Judge {
        known: &tolerated.expressions,
        same: tolerated.schemas.contains(root),
        found,
        errs: Errors::new(),
        total: 0,
        dear: Vec::new(),
    };
    judge.look(path, root, &Scope { root: true, times: Some(1), apart: None });
    judge.check_total(path);
    judge.errs
}

struct Judge<'a> {
    /// Expressions that are stored already.
    known: &'a [String],
    /// Whether the schema is as it was: what it costs was accepted.
    same: bool,
    found: &'a [FieldError],
    errs: Errors,
    total: u64,
    /// The dearest rules.
    dear: Vec<(u64, String)>,
}

/// Where in a schema we are.
struct Scope {
    /// Whether values are objects with type and metadata.
    root: bool,
    /// How often at most there are values; `None`: unknown.
    times: Option<u64>,
    /// The list whose items have no counterpart in the object before.
    apart: Option<String>,
}

impl Scope {
    fn below(&self, schema: &Value, inner: &Value, apart: Option<String>) -> Self {
        let times = match (self.times, most(schema)) {
            (Some(times), Some(most)) => Some(times.saturating_mul(most)),
            _ => None,
        };
        let apart = apart.or_else(|| self.apart.clone());
        Self { root: on(inner, "x-kubernetes-embedded-resource"), times, apart }
    }
}

/// How many values there are below one of a schema; `None`: any number.
fn most(schema: &Value) -> Option<u64> {
    let bound = |field: &str| int(schema, field).map(|most| u64::try_from(most).unwrap_or(0));
    match text(schema, "type") {
        "object" if has(schema, "additionalProperties") => bound("maxProperties"),
        "array" => bound("maxItems"),
        _ => Some(1),
    }
}

impl Judge<'_> {
    fn look(&mut self, path: &Path, schema: &Value, scope: &Scope) {
        let additional = get(schema, "additionalProperties");
        if additional.is_object() {
            self.look(&path.child("additionalProperties"), additional, &scope.below(schema, additional, None));
        }
        for (name, inner) in entries(schema, "properties") {
            self.look(&path.child("properties").key(name), inner, &scope.below(schema, inner, None));
        }
        let items = get(schema, "items");
        if items.is_object() {
            let keyed = text(schema, "x-kubernetes-list-type") == "map";
            let apart = (!keyed).then(|| path.as_str().to_owned());
            self.look(&path.child("items"), items, &scope.below(schema, items, apart));
        }
        // A schema with faults would only explain them in other words.
        let here = |error: &FieldError| error.path.starts_with(path.as_str());
        if !list(schema, FIELD).is_empty() && !self.found.iter().any(here) {
            self.compile(&path.child(FIELD), schema, scope);
        }
    }

    fn compile(&mut self, path: &Path, schema: &Value, scope: &Scope) {
        let known = self.known;
        let age = |text: &str| if known.iter().any(|known| known == text) { Age::Stored } else { Age::New };
        let Some(compiled) = rules::compile(schema, scope.root, &age) else {
            let why = "internal error: failed to construct type information for x-kubernetes-validations rules: unable to convert structural schema to CEL declarations";
            self.errs.push(FieldError::internal(path, why));
            return;
        };
        let times = scope.times.unwrap_or(compiled.cardinality);
        for (i, (rule, said)) in compiled.rules.iter().zip(list(schema, FIELD)).enumerate() {
            self.check(&path.index(i), (rule, said), (times, scope));
        }
    }

    fn check(&mut self, path: &Path, (rule, said): (&Rule, &Value), (times, scope): (u64, &Scope)) {
        let at = path.child("rule");
        self.charge(&at, "estimated rule cost", rule.costs[0].saturating_mul(times));
        if let Err(why) = &rule.program {
            self.errs.push(FieldError::invalid(&at, shown(said), why));
        }
        let message = path.child("messageExpression");
        match &rule.message {
            Ok(None) => {}
            Ok(Some(_)) => self.charge(&message, "estimated messageExpression cost", rule.costs[1]),
            Err(why) => self.errs.push(FieldError::invalid(&message, shown(said), why)),
        }
        if !matches!(rule.program, Ok(Some(_))) {
            return;
        }
        match &scope.apart {
            Some(apart) if rule.uses_old => {
                let why = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {apart}");
                self.errs.push(FieldError::invalid(at, text(said, "rule"), why));
            }
            _ if !rule.uses_old && has(said, "optionalOldSelf") => {
                let why = "may not be set if oldSelf is not used in rule";
                self.errs.push(FieldError::invalid(path.child("optionalOldSelf"), on(said, "optionalOldSelf"), why));
            }
            _ => {}
        }
    }

    fn charge(&mut self, path: &Path, what: &str, cost: u64) {
        if cost > EACH && !self.same {
            self.errs.push(FieldError::forbidden(path, excess(what, cost, EACH)));
        }
        self.total = self.total.saturating_add(cost);
        if cost >= ALL / 100 {
            self.dear.push((cost, path.as_str().to_owned()));
            self.dear.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
            self.dear.truncate(NAMED);
        }
    }

    fn check_total(&mut self, path: &Path) {
        if self.total <= ALL || self.same {
            return;
        }
        const SHARE: &str = "contributed to estimated rule & messageExpression cost total exceeding cost limit for entire OpenAPIv3 schema";
        let dear = self.dear.iter().map(|(_, path)| FieldError::forbidden(path, SHARE));
        self.errs.extend(dear);
        let what = "x-kubernetes-validations estimated rule & messageExpression cost total for entire OpenAPIv3 schema";
        self.errs.push(FieldError::forbidden(path, excess(what, self.total, ALL)));
    }
}

fn excess(what: &str, cost: u64, limit: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "it is shown with a digit or six")]
    let factor = cost as f64 / limit as f64;
    let factor = match factor {
        100.0.. => "more than 100x".to_owned(),
        1.5.. => format!("{factor:.1}x"),
        _ => format!("{factor:.6}x"),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

/// A rule as upstream's internal type prints it.
fn shown(rule: &Value) -> Bad {
    let text = |field: &str| json!(text(rule, field));
    Bad::Raw(format!(
        "{{\"Rule\":{},\"Message\":{},\"MessageExpression\":{},\"Reason\":{},\"FieldPath\":{},\"OptionalOldSelf\":{}}}",
        text("rule"),
        text("message"),
        text("messageExpression"),
        get(rule, "reason"),
        text("fieldPath"),
        get(rule, "optionalOldSelf"),
    ))
}

/// All expressions of a schema's rules.
pub(super) fn expressions(schema: &Value) -> Vec<String> {
    let mut found = Vec::new();
    super::schema::each(schema, &mut |schema| {
        for rule in list(schema, FIELD) {
            found.extend(["rule", "messageExpression"].map(|field| text(rule, field).to_owned()));
        }
    });
    found
}
