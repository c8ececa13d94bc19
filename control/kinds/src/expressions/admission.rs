//! Expressions of webhooks and policies: their variables and types, and how they are asked about a request. Upstream:
//! `k8s.io/apiserver/pkg/admission/plugin/cel`.
//!
//! Invariant: asking changes nothing and waits for nobody. What an expression asks of the authorizer is noted, answered
//! between two runs, and the expression is run again.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use kontiki_cel::{
    Activation, Attributes, Authorizer, Decision, Declaration, Env, EvalError, Fields, ObjectFields, PER_CALL_LIMIT,
    Program, Type, Value as Known, authorizer_types, authorizer_value, request_resource_value,
};
use kontiki_machinery::{
    access::{self, User},
    admission::Lookup,
};
use serde_json::Value;

use super::Age;
use crate::status;

/// What an expression must return.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Returns {
    /// Whether something holds.
    Bool,
    /// A text.
    String,
    /// A text or null.
    StringOrNull,
    /// Operations of a JSON patch.
    Patch,
    /// What is to be applied.
    Configuration,
    /// Anything.
    Any,
}

/// What an expression may name besides `object`, `oldObject`, `request` and `namespaceObject`.
#[derive(Clone, Debug)]
pub struct Scope {
    /// `params`.
    pub params: bool,
    /// `authorizer`.
    pub authorizer: bool,
    /// `variables`: those before it, with their types; `None`: there is nothing of the kind.
    pub variables: Option<Vec<(String, Type)>>,
    /// `Object{}` and `JSONPatch{}`.
    pub patches: bool,
    pub age: Age,
}

impl Scope {
    /// Without variables.
    pub fn new(params: bool, authorizer: bool, age: Age) -> Self {
        Self { params, authorizer, variables: None, patches: false, age }
    }

    /// Compiles an expression.
    ///
    /// # Errors
    /// In upstream's words.
    pub fn compile(&self, text: &str, returns: Returns) -> Result<Program, String> {
        let program = self.env().compile(text).map_err(|why| why.to_string())?;
        let got = program.result_type();
        let wanted = match returns {
            Returns::Any => return Ok(program),
            Returns::Bool if *got == Type::Bool => return Ok(program),
            Returns::String | Returns::StringOrNull if *got == Type::String => return Ok(program),
            Returns::StringOrNull if *got == Type::Null => return Ok(program),
            Returns::Patch if *got == Type::list(Type::object("JSONPatch")) => return Ok(program),
            Returns::Configuration if *got == Type::object("Object") => return Ok(program),
            Returns::Patch => "must evaluate to list(JSONPatch)",
            Returns::Configuration => "must evaluate to Object",
            Returns::Bool => "must evaluate to bool",
            Returns::String => "must evaluate to string",
            Returns::StringOrNull => "must evaluate to one of [string null_type]",
        };
        Err(format!("{wanted} but got {}", got.full()))
    }

    fn env(&self) -> Env {
        let mut env = base(self.age).variable("object", Type::Dyn).variable("oldObject", Type::Dyn);
        if self.params {
            env = env.variable("params", Type::Dyn);
        }
        if self.authorizer {
            let (authorizer, check) = authorizer_types();
            env = env.variable("authorizer", authorizer).variable("authorizer.requestResource", check);
        }
        if self.patches {
            env = env.with_patches();
        }
        if let Some(variables) = &self.variables {
            let fields: ObjectFields = variables.iter().map(|(name, ty)| (name.as_str().into(), ty.clone())).collect();
            env = env.object(VARIABLES, fields).variable("variables", Type::object(VARIABLES));
        }
        env
    }
}

/// What every expression may name.
fn base(age: Age) -> Env {
    let mut env = Env::new(age.minor())
        .variable("request", Type::object("kubernetes.AdmissionRequest"))
        .variable("namespaceObject", Type::object("kubernetes.Namespace"));
    for (name, fields) in TYPES {
        let fields = fields.iter().map(|(field, ty)| ((*field).into(), typed(ty)));
        env = env.object(name, fields.collect());
    }
    env
}

/// What the expressions of a stored policy may name, where types of objects are known; `params`: and it has parameters.
/// Variables are added by [`with_variable`]. Upstream forgets `authorizer.requestResource` here.
pub fn of_types(object: Option<&Declaration>, params: Option<Option<&Declaration>>) -> Env {
    let declared = |env: Env, name: &str, as_what: Option<&Declaration>| match as_what {
        Some(declaration) => env.declared(name, declaration),
        None => env.variable(name, Type::Dyn),
    };
    let mut env = declared(base(Age::Stored), "object", object);
    env = env.variable("oldObject", object.map_or(Type::Dyn, |it| it.ty.clone()));
    if let Some(params) = params {
        env = declared(env, "params", params);
    }
    env.variable("authorizer", authorizer_types().0)
        .object(VARIABLES, ObjectFields::new())
        .variable("variables", Type::object(VARIABLES))
}

/// The same, with a variable of a policy.
pub fn with_variable(env: Env, name: &str, ty: Type) -> Env {
    env.field(VARIABLES, name, ty)
}

const VARIABLES: &str = "kubernetes.variables";

/// Types of objects, their fields, and the types of these.
const TYPES: &[(&str, &[(&str, &str)])] = &[
    ("kubernetes.GroupVersionKind", &[("group", "s"), ("version", "s"), ("kind", "s")]),
    ("kubernetes.GroupVersionResource", &[("group", "s"), ("version", "s"), ("resource", "s")]),
    ("kubernetes.UserInfo", &[("username", "s"), ("uid", "s"), ("groups", "[s"), ("extra", "{[s")]),
    (
        "kubernetes.AdmissionRequest",
        &[
            ("kind", "kubernetes.GroupVersionKind"),
            ("resource", "kubernetes.GroupVersionResource"),
            ("subResource", "s"),
            ("requestKind", "kubernetes.GroupVersionKind"),
            ("requestResource", "kubernetes.GroupVersionResource"),
            ("requestSubResource", "s"),
            ("name", "s"),
            ("namespace", "s"),
            ("operation", "s"),
            ("userInfo", "kubernetes.UserInfo"),
            ("dryRun", "b"),
            ("options", "*"),
        ],
    ),
    ("kubernetes.NamespaceSpec", &[("finalizers", "[s")]),
    (
        "kubernetes.NamespaceCondition",
        &[("status", "s"), ("type", "s"), ("lastTransitionTime", "t"), ("message", "s"), ("reason", "s")],
    ),
    ("kubernetes.NamespaceStatus", &[("conditions", "[kubernetes.NamespaceCondition"), ("phase", "s")]),
    (
        "kubernetes.NamespaceMetadata",
        &[
            ("name", "s"),
            ("generateName", "s"),
            ("namespace", "s"),
            ("labels", "{s"),
            ("annotations", "{s"),
            ("UID", "s"),
            ("creationTimestamp", "t"),
            ("deletionGracePeriodSeconds", "i"),
            ("deletionTimestamp", "t"),
            ("generation", "i"),
            ("resourceVersion", "s"),
            ("finalizers", "[s"),
        ],
    ),
    (
        "kubernetes.Namespace",
        &[
            ("metadata", "kubernetes.NamespaceMetadata"),
            ("spec", "kubernetes.NamespaceSpec"),
            ("status", "kubernetes.NamespaceStatus"),
        ],
    ),
];

/// `[` a list of, `{` a map to.
fn typed(short: &str) -> Type {
    match short {
        "s" => Type::String,
        "b" => Type::Bool,
        "i" => Type::Int,
        "t" => Type::Timestamp,
        "*" => Type::Dyn,
        _ => match (short.strip_prefix('['), short.strip_prefix('{')) {
            (Some(item), _) => Type::list(typed(item)),
            (_, Some(value)) => Type::map(Type::String, typed(value)),
            _ => Type::object(short),
        },
    }
}

/// What expressions are asked about.
#[derive(Default)]
pub struct Subject {
    pub object: Value,
    pub old: Value,
    /// As reviews have it, without the objects.
    pub request: Value,
    /// The namespace of the request, or null.
    pub namespace: Value,
    pub params: Value,
}

/// One run over expressions about one subject, within a budget.
pub struct Run<'r> {
    subject: &'r Subject,
    court: Arc<Court>,
    /// What may still be spent.
    left: Mutex<u64>,
}

/// Why an expression gave nothing.
#[derive(Debug, PartialEq, Eq)]
pub enum EvalFailure {
    /// Nothing more is to be asked.
    Spent,
    Failed(EvalError),
}

/// What is said when all expressions together cost too much.
pub const SPENT: &str = "validation failed due to running out of cost budget, no further validation rules will be run";

impl<'r> Run<'r> {
    /// Runs as often as the authorizer has questions to answer.
    pub fn with<T>(
        (subject, user, budget): (&'r Subject, &User, u64),
        cluster: &dyn Lookup,
        mut run: impl FnMut(&Self) -> T,
    ) -> T {
        let court = Arc::new(Court::default());
        loop {
            let this = Self { subject, court: Arc::clone(&court), left: Mutex::new(budget) };
            let result = run(&this);
            if !court.answer(user, cluster) {
                return result;
            }
        }
    }

    /// Evaluates an expression. `variables`: those that it may use.
    ///
    /// # Errors
    /// It fails, or costs too much.
    pub fn evaluate<'a>(
        &'a self,
        program: &'a Program,
        variables: Option<&'a Composed<'a>>,
    ) -> Result<Known<'a>, EvalFailure> {
        let mut activation = Activation::new()
            .json("object", &self.subject.object, None)
            .json("oldObject", &self.subject.old, None)
            .json("request", &self.subject.request, None)
            .json("namespaceObject", &self.subject.namespace, None)
            .json("params", &self.subject.params, None);
        if program.variables().any(|name| name.starts_with("authorizer")) {
            let court: Arc<dyn Authorizer> = Arc::clone(&self.court) as _;
            activation = activation
                .with("authorizer", authorizer_value(Arc::clone(&court)))
                .with("authorizer.requestResource", request_resource_value(court, &self.own_resource()));
        }
        if let Some(variables) = variables {
            activation = activation.with("variables", Known::Lazy(variables));
        }
        let (result, cost) = program.evaluate(&activation, PER_CALL_LIMIT);
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left = left.checked_sub(cost).ok_or(EvalFailure::Spent)?;
        result.map_err(EvalFailure::Failed)
    }

    fn own_resource(&self) -> Attributes<'_> {
        let (request, resource) = (&self.subject.request, &self.subject.request["resource"]);
        let text = |value: &'r Value| value.as_str().unwrap_or_default();
        Attributes {
            group: text(&resource["group"]),
            resource: text(&resource["resource"]),
            subresource: text(&request["subResource"]),
            namespace: text(&request["namespace"]),
            name: text(&request["name"]),
            ..Attributes::default()
        }
    }
}

/// A variable of a policy.
pub struct Variable {
    pub name: String,
    pub program: Result<Program, String>,
}

/// What became of a variable in one run.
pub struct Slot<'a> {
    variable: &'a Variable,
    value: OnceLock<Result<Known<'a>, EvalError>>,
    /// What its own expression sees.
    below: OnceLock<Composed<'a>>,
}

impl<'a> Slot<'a> {
    pub fn of(variables: &'a [Variable]) -> Vec<Self> {
        let slot = |variable| Self { variable, value: OnceLock::new(), below: OnceLock::new() };
        variables.iter().map(slot).collect()
    }
}

/// The variables of a policy for one run, each worked out when it is first asked for.
#[derive(Clone, Copy)]
pub struct Composed<'a> {
    pub run: &'a Run<'a>,
    pub slots: &'a [Slot<'a>],
}

impl<'a> Composed<'a> {
    fn value(self, slot: &'a Slot<'a>) -> Result<Known<'a>, EvalError> {
        let below = slot.below.get_or_init(|| self);
        let failed = |what: &str, why: &str| {
            EvalError::Failed(format!("composited variable \"{}\" fails to {what}: {why}", slot.variable.name).into())
        };
        let value = slot.value.get_or_init(|| match &slot.variable.program {
            Err(why) => Err(failed("compile", why)),
            Ok(program) => self.run.evaluate(program, Some(below)).map_err(|why| match why {
                EvalFailure::Failed(EvalError::Failed(why)) => failed("evaluate", &why),
                EvalFailure::Failed(EvalError::Budget) | EvalFailure::Spent => EvalError::Budget,
            }),
        });
        value.clone()
    }
}

impl Fields for Composed<'_> {
    fn field<'s>(&'s self, name: &str) -> Option<Result<Known<'s>, EvalError>> {
        let slot = self.slots.iter().find(|slot| slot.variable.name == name)?;
        Some(self.value(slot))
    }
}

/// A question to the authorizer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Asked {
    account: Option<(String, String)>,
    verb: String,
    path: Option<String>,
    /// Group, resource, subresource, namespace, name.
    about: [String; 5],
}

impl Asked {
    fn attributes(&self) -> access::Attributes<'_> {
        let [group, resource, subresource, namespace, name] = self.about.each_ref().map(String::as_str);
        let path = self.path.as_deref().unwrap_or_default();
        access::Attributes {
            verb: &self.verb,
            resource,
            group,
            subresource,
            namespace,
            name,
            path,
            ..access::Attributes::default()
        }
    }
}

/// Questions to the authorizer, and what it answered to those that it was asked.
#[derive(Default)]
struct Court(Mutex<BTreeMap<Asked, Option<bool>>>);

impl Court {
    /// Answers what is open; says whether anything was. Selectors do not narrow what is asked.
    fn answer(&self, user: &User, cluster: &dyn Lookup) -> bool {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut any = false;
        for (asked, answer) in asked.iter_mut().filter(|(_, answer)| answer.is_none()) {
            let account = asked.account.as_ref().map(|(namespace, name)| account(namespace, name));
            *answer = Some(cluster.allows(account.as_ref().unwrap_or(user), &asked.attributes()));
            any = true;
        }
        any
    }
}

fn account(namespace: &str, name: &str) -> User {
    let all = format!("system:serviceaccounts:{namespace}");
    let groups = ["system:serviceaccounts", &all, "system:authenticated"];
    User::new(&format!("system:serviceaccount:{namespace}:{name}"), &groups)
}

impl Authorizer for Court {
    fn authorize(&self, asked: &Attributes<'_>) -> Decision {
        let asked = Asked {
            account: asked.service_account.map(|(namespace, name)| (namespace.to_owned(), name.to_owned())),
            verb: asked.verb.to_owned(),
            path: asked.path.map(str::to_owned),
            about: [asked.group, asked.resource, asked.subresource, asked.namespace, asked.name].map(str::to_owned),
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let allowed = known.entry(asked).or_default().unwrap_or(false);
        Decision { allowed, ..Decision::default() }
    }
}

/// What all match conditions of a webhook or policy may cost.
pub const CONDITIONS: u64 = 2_500_000;

/// Match conditions, compiled.
pub struct Conditions(Vec<(String, Result<Program, String>)>);

impl Conditions {
    /// The `matchConditions` of a webhook or policy.
    pub fn of(conditions: &[Value], scope: &Scope) -> Self {
        let text = |condition: &Value| condition["expression"].as_str().unwrap_or_default().to_owned();
        let compiled = conditions.iter().map(text).map(|text| {
            let program = scope.compile(&text, Returns::Bool);
            (text, program)
        });
        Self(compiled.collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all hold. One that does not outweighs those that fail.
    ///
    /// # Errors
    /// None says no, and some fail.
    pub fn hold(&self, run: &Run<'_>) -> Result<bool, String> {
        let mut failed = Vec::new();
        for (text, program) in &self.0 {
            let why = match program {
                Err(why) => format!("compilation error: {why}"),
                Ok(program) => match run.evaluate(program, None) {
                    Ok(holds) if holds.as_bool() == Some(true) => continue,
                    Ok(_) => return Ok(false),
                    Err(EvalFailure::Spent) => return Err(SPENT.to_owned()),
                    Err(EvalFailure::Failed(why)) => resulted(text, &why),
                },
            };
            failed.push(why);
        }
        status::aggregate(failed).map_or(Ok(true), Err)
    }
}

/// What is said of an expression that failed.
pub fn resulted(text: &str, why: &EvalError) -> String {
    format!("expression '{}' resulted in error: {why}", text.trim())
}
