//! A user from the claims of a token. Upstream: `k8s.io/apiserver/plugin/pkg/authenticator/token/oidc`.
//!
//! Deviations: a user whose name is empty is none, also where the name comes from a claim; claims that are to be fetched
//! elsewhere (`_claim_sources`) are not fetched.

use kontiki_cel::{Schema, Value as Known};
use kontiki_machinery::{access::User, authentication::Claims};
use serde_json::{Map, Value, json};

use crate::expressions::credentials::Compiled;

/// Extra that says by which credential a user came.
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// Where something of a user comes from.
#[derive(Default)]
pub(super) enum Source {
    #[default]
    Nothing,
    Claim {
        name: String,
        prefix: String,
    },
    Expression(Box<Compiled>),
}

/// What is made of claims.
#[derive(Default)]
pub(super) struct Mapper {
    pub username: Source,
    pub groups: Source,
    pub uid: Source,
    /// By key.
    pub extra: Vec<(String, Compiled)>,
    /// Claims and the values that they must have.
    pub required: Vec<(String, String)>,
    /// With what is said of a token for which they do not hold.
    pub claim_rules: Vec<(Compiled, String)>,
    pub user_rules: Vec<(Compiled, String)>,
}

impl Claims for Mapper {
    fn user(&self, claims: &Value) -> Result<User, String> {
        let none = Map::new();
        let said = claims.as_object().unwrap_or(&none);
        let schema = Schema::any_json();
        let seen = Seen { said, claims, schema: &schema };
        let mut user =
            User { name: self.username(&seen)?, groups: self.groups(&seen)?, uid: self.uid(&seen)?, ..User::default() };
        if let Some(id) = said.get("jti").and_then(Value::as_str).filter(|id| !id.is_empty()) {
            user.extra.insert(CREDENTIAL_ID.to_owned(), vec![format!("JTI={id}")]);
        }
        for (key, expression) in &self.extra {
            let values = seen.evaluate(expression)?;
            let values = texts(&values)
                .map_err(|why| format!("oidc: error evaluating extra claim expression: {}: {why}", expression.text))?;
            if !values.is_empty() {
                user.extra.insert(key.clone(), values);
            }
        }
        self.required(&seen)?;
        let rules = held(&self.claim_rules, claims, &schema);
        rules.map_err(|why| format!("oidc: error evaluating claim validation expression: {why}"))?;
        if !self.user_rules.is_empty() {
            let shown = json!({"username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra});
            let rules = held(&self.user_rules, &shown, &schema);
            rules.map_err(|why| format!("oidc: error evaluating user info validation rule: {why}"))?;
        }
        Ok(user)
    }
}

/// The claims of a token.
struct Seen<'a> {
    said: &'a Map<String, Value>,
    claims: &'a Value,
    schema: &'a Schema,
}

impl<'a> Seen<'a> {
    fn evaluate(&self, expression: &'a Compiled) -> Result<Known<'a>, String> {
        expression.evaluate(self.claims, self.schema)
    }

    /// A claim that is a text.
    fn text(&self, name: &str) -> Result<String, String> {
        match self.said.get(name) {
            None => Err("claim not present".to_owned()),
            Some(Value::Null) => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Err(not_a(other, "string")),
        }
    }
}

/// What Go's decoder says of a value of another type.
fn not_a(value: &Value, wanted: &str) -> String {
    let found = match value {
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
        Value::String(_) | Value::Null => "string",
    };
    format!("json: cannot unmarshal {found} into Go value of type {wanted}")
}

impl Mapper {
    fn username(&self, seen: &Seen<'_>) -> Result<String, String> {
        let empty = || "oidc: empty username via CEL expression is not allowed".to_owned();
        match &self.username {
            Source::Nothing => Err("oidc: there is no username mapping".to_owned()),
            Source::Claim { name, prefix } => {
                let text = seen.text(name).map_err(|why| format!("oidc: parse username claims \"{name}\": {why}"))?;
                if name == "email" {
                    verified(seen)?;
                }
                if text.is_empty() {
                    Err("oidc: empty username is not allowed".to_owned())
                } else {
                    Ok(prefix.clone() + &text)
                }
            }
            Source::Expression(expression) => {
                let failed = |why: &str| format!("oidc: error evaluating username claim expression: {why}");
                let value = seen.evaluate(expression).map_err(|why| failed(&why))?;
                let name = value.as_str().ok_or_else(|| failed("username claim expression must return a string"))?;
                if name.is_empty() { Err(empty()) } else { Ok(name.to_owned()) }
            }
        }
    }

    fn groups(&self, seen: &Seen<'_>) -> Result<Vec<String>, String> {
        match &self.groups {
            Source::Nothing => Ok(Vec::new()),
            Source::Claim { name, prefix } => {
                let Some(claim) = seen.said.get(name) else { return Ok(Vec::new()) };
                let groups = one_or_many(claim).map_err(|why| format!("oidc: parse groups claim \"{name}\": {why}"))?;
                Ok(groups.into_iter().map(|group| format!("{prefix}{group}")).collect())
            }
            Source::Expression(expression) => {
                let failed = |why: String| format!("oidc: error evaluating group claim expression: {why}");
                let value = seen.evaluate(expression).map_err(failed)?;
                texts(&value).map_err(failed)
            }
        }
    }

    fn uid(&self, seen: &Seen<'_>) -> Result<String, String> {
        match &self.uid {
            Source::Nothing => Ok(String::new()),
            Source::Claim { name, .. } => {
                seen.text(name).map_err(|why| format!("oidc: parse uid claim \"{name}\": {why}"))
            }
            Source::Expression(expression) => {
                let failed = |why: &str| format!("oidc: error evaluating uid claim expression: {why}");
                let value = seen.evaluate(expression).map_err(|why| failed(&why))?;
                let uid = value.as_str().ok_or_else(|| failed("uid claim expression must return a string"))?;
                Ok(uid.to_owned())
            }
        }
    }

    fn required(&self, seen: &Seen<'_>) -> Result<(), String> {
        for (claim, wanted) in &self.required {
            if !seen.said.contains_key(claim) {
                return Err(format!("oidc: required claim {claim} not present in ID token"));
            }
            let got = seen.text(claim).map_err(|why| format!("oidc: parse claim {claim}: {why}"))?;
            if got != *wanted {
                let why = "value does not match";
                return Err(format!("oidc: required claim {claim} {why}. Got = {got}, want = {wanted}"));
            }
        }
        Ok(())
    }
}

/// A mail address names somebody only if it is known to be theirs, where the issuer says whether it is.
fn verified(seen: &Seen<'_>) -> Result<(), String> {
    match seen.said.get("email_verified") {
        None | Some(Value::Bool(true)) => Ok(()),
        Some(Value::Bool(false) | Value::Null) => Err("oidc: email not verified".to_owned()),
        Some(Value::String(_)) => {
            Err("oidc: parse 'email_verified' claim: json: cannot unmarshal string into Go value of type bool"
                .to_owned())
        }
        Some(other) => Err(format!("oidc: parse 'email_verified' claim: {}", not_a(other, "bool"))),
    }
}

fn one_or_many(claim: &Value) -> Result<Vec<String>, String> {
    match claim {
        Value::String(text) => Ok(vec![text.clone()]),
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => {
            items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(|| not_a(claim, "string"))).collect()
        }
        other => Err(not_a(other, "string")),
    }
}

/// A text, a list of texts or null; empty texts are none.
fn texts(value: &Known<'_>) -> Result<Vec<String>, String> {
    let wrong = || "expression must return a string or a list of strings".to_owned();
    let found = match value {
        Known::Null => Vec::new(),
        Known::String(text) => vec![text.to_string()],
        Known::List(list) => {
            let item = |at| match list.get(at) {
                Some(Ok(Known::String(text))) => Ok(text.to_string()),
                _ => Err(wrong()),
            };
            (0..list.len()).map(item).collect::<Result<_, _>>()?
        }
        _ => return Err(wrong()),
    };
    Ok(found.into_iter().filter(|text| !text.is_empty()).collect())
}

/// Whether all rules hold of a subject. All are asked before one is found not to hold, as upstream has it.
fn held(rules: &[(Compiled, String)], subject: &Value, schema: &Schema) -> Result<(), String> {
    let mut failed = None;
    for (rule, message) in rules {
        if !rule.holds(subject, schema)? {
            let why = || format!("validation expression '{}' failed: {message}", rule.text);
            failed.get_or_insert_with(why);
        }
    }
    failed.map_or(Ok(()), Err)
}
