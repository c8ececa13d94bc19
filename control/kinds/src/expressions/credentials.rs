//! Expressions of the files that say who is let in and who decides what they may do: about the claims of a token, about the
//! user made of them, and about what a webhook would be asked. Upstream: `k8s.io/apiserver/pkg/authentication/cel` and
//! `authorization/cel`.

use kontiki_cel::{Activation, Env, PER_CALL_LIMIT, Program, Schema, Type, Value as Known};
use serde_json::Value;

use super::Age;

/// What an expression is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum About {
    /// `claims`
    Claims,
    /// `user`
    User,
    /// `request`: the spec of an access review.
    Access,
}

/// Object types: their fields, and the types of these; `[` a list of, `{` a map to.
const TYPES: &[(&str, &[(&str, &str)])] = &[
    ("kubernetes.UserInfo", &[("username", ""), ("uid", ""), ("groups", "["), ("extra", "{[")]),
    (
        "kubernetes.SubjectAccessReviewSpec",
        &[
            ("resourceAttributes", "kubernetes.ResourceAttributes"),
            ("nonResourceAttributes", "kubernetes.NonResourceAttributes"),
            ("user", ""),
            ("groups", "["),
            ("extra", "{["),
            ("uid", ""),
        ],
    ),
    (
        "kubernetes.ResourceAttributes",
        &[
            ("namespace", ""),
            ("verb", ""),
            ("group", ""),
            ("version", ""),
            ("resource", ""),
            ("subresource", ""),
            ("name", ""),
            ("fieldSelector", "kubernetes.FieldSelectorAttributes"),
            ("labelSelector", "kubernetes.LabelSelectorAttributes"),
        ],
    ),
    ("kubernetes.NonResourceAttributes", &[("path", ""), ("verb", "")]),
    ("kubernetes.FieldSelectorAttributes", &[("rawSelector", ""), ("requirements", "[kubernetes.SelectorRequirement")]),
    ("kubernetes.LabelSelectorAttributes", &[("rawSelector", ""), ("requirements", "[kubernetes.SelectorRequirement")]),
    ("kubernetes.SelectorRequirement", &[("key", ""), ("operator", ""), ("values", "[")]),
];

fn typed(short: &str) -> Type {
    match (short.strip_prefix('['), short.strip_prefix('{')) {
        (Some(item), _) => Type::list(typed(item)),
        (_, Some(value)) => Type::map(Type::String, typed(value)),
        _ if short.is_empty() => Type::String,
        _ => Type::object(short),
    }
}

impl About {
    fn variable(self) -> (&'static str, Type) {
        match self {
            Self::Claims => ("claims", Type::map(Type::String, Type::Dyn)),
            Self::User => ("user", Type::object("kubernetes.UserInfo")),
            Self::Access => ("request", Type::object("kubernetes.SubjectAccessReviewSpec")),
        }
    }

    fn env(self) -> Env {
        let (name, ty) = self.variable();
        let mut env = Env::new(Age::Stored.minor()).variable(name, ty);
        for (name, fields) in TYPES {
            let fields = fields.iter().map(|(field, ty)| ((*field).into(), typed(ty)));
            env = env.object(name, fields.collect());
        }
        env
    }

    /// Compiles what may return anything.
    ///
    /// # Errors
    /// In upstream's words.
    pub fn value(self, text: &str) -> Result<Compiled, String> {
        let program = self.env().compile(text).map_err(|why| why.to_string())?;
        Ok(Compiled { program, about: self, text: text.to_owned() })
    }

    /// Compiles what must return whether something holds.
    ///
    /// # Errors
    /// In upstream's words.
    pub fn condition(self, text: &str) -> Result<Compiled, String> {
        let compiled = self.value(text)?;
        match compiled.program.result_type() {
            Type::Bool => Ok(compiled),
            other if self == Self::Access => Err(format!("must evaluate to bool but got {}", other.full())),
            _ => Err("must evaluate to bool".to_owned()),
        }
    }
}

/// An expression that can be asked.
pub(crate) struct Compiled {
    program: Program,
    about: About,
    /// As it is written.
    pub text: String,
}

impl Compiled {
    /// Whether it names this claim.
    pub fn names_claim(&self, claim: &str) -> bool {
        self.program.selects("claims", claim)
    }

    /// What it gives. `schema`: [`Schema::any_json`].
    ///
    /// # Errors
    /// In upstream's words.
    pub fn evaluate<'a>(&'a self, subject: &'a Value, schema: &'a Schema) -> Result<Known<'a>, String> {
        let (name, _) = self.about.variable();
        let activation = Activation::new().json(name, subject, Some(schema));
        let (result, _) = self.program.evaluate(&activation, PER_CALL_LIMIT);
        result.map_err(|why| format!("expression '{}' resulted in error: {why}", self.text))
    }

    /// Whether it holds.
    ///
    /// # Errors
    /// In upstream's words.
    pub fn holds(&self, subject: &Value, schema: &Schema) -> Result<bool, String> {
        match self.evaluate(subject, schema)? {
            Known::Bool(holds) => Ok(holds),
            _ => Err("validation expression must return a boolean".to_owned()),
        }
    }
}
