//! Questions to the authorizer.

use std::sync::Arc;

use super::extension::Extension;
use super::table::{Row, row};
use crate::types::Type;
use crate::value::{EvalError, NO_OVERLOAD, Res, Value, fail};

/// What a check asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes<'q> {
    /// Whose right is asked for; `None`: of who made the request.
    pub service_account: Option<(&'q str, &'q str)>,
    pub verb: &'q str,
    /// Of a question about a path; else about a resource.
    pub path: Option<&'q str>,
    pub group: &'q str,
    pub resource: &'q str,
    pub subresource: &'q str,
    pub namespace: &'q str,
    pub name: &'q str,
    /// As written; empty if none.
    pub field_selector: &'q str,
    pub label_selector: &'q str,
}

/// What was answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    pub reason: String,
    pub error: Option<String>,
}

/// Who answers checks.
pub trait Authorizer: Send + Sync {
    /// Whether the request's user, or a service account, may.
    fn authorize(&self, attributes: &Attributes<'_>) -> Decision;
}

/// Whose rights are asked for.
#[derive(Clone)]
pub struct Subject {
    authorizer: Arc<dyn Authorizer>,
    account: Option<Arc<(String, String)>>,
}

pub struct PathCheck {
    subject: Subject,
    path: String,
}

pub struct GroupCheck {
    subject: Subject,
    group: String,
}

#[derive(Clone)]
pub struct ResourceCheck {
    subject: Subject,
    group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
    field_selector: String,
    label_selector: String,
}

/// The types of the variables `authorizer` and `authorizer.requestResource`.
#[must_use]
pub fn authorizer_types() -> (Type, Type) {
    let named = |name: &str| Type::object(&format!("kubernetes.authorization.{name}"));
    (named("Authorizer"), named("ResourceCheck"))
}

/// The value of the variable `authorizer`.
#[must_use]
pub fn authorizer_value(authorizer: Arc<dyn Authorizer>) -> Value<'static> {
    Value::Extension(Extension::Authorizer(Subject { authorizer, account: None }))
}

/// The value of the variable `authorizer.requestResource`: the resource of the request.
#[must_use]
pub fn request_resource_value(authorizer: Arc<dyn Authorizer>, of: &Attributes<'_>) -> Value<'static> {
    Value::Extension(Extension::ResourceCheck(Arc::new(ResourceCheck {
        subject: Subject { authorizer, account: None },
        group: of.group.to_owned(),
        resource: of.resource.to_owned(),
        subresource: of.subresource.to_owned(),
        namespace: of.namespace.to_owned(),
        name: of.name.to_owned(),
        field_selector: String::new(),
        label_selector: String::new(),
    })))
}

const REFINE: &str = "resource.(string) -> resource";

pub(crate) static ROWS: &[Row] = &[
    row(27, "path", "authorizer_path", "authorizer.(string) -> path", |args| {
        let (subject, path) = (subject(args)?, text(args, 1)?);
        if path.trim().is_empty() {
            return Err(fail("path must not be empty"));
        }
        Ok(Value::Extension(Extension::PathCheck(Arc::new(PathCheck { subject, path: path.to_owned() }))))
    }),
    row(27, "group", "authorizer_group", "authorizer.(string) -> group", |args| {
        let (subject, group) = (subject(args)?, text(args, 1)?.to_owned());
        Ok(Value::Extension(Extension::GroupCheck(Arc::new(GroupCheck { subject, group }))))
    }),
    row(27, "serviceAccount", "authorizer_serviceaccount", "authorizer.(string, string) -> authorizer", account),
    row(27, "resource", "groupcheck_resource", "group.(string) -> resource", resource),
    row(27, "subresource", "resourcecheck_subresource", REFINE, |args| refine(args, |check| &mut check.subresource)),
    row(27, "namespace", "resourcecheck_namespace", REFINE, |args| refine(args, |check| &mut check.namespace)),
    row(27, "name", "resourcecheck_name", REFINE, |args| refine(args, |check| &mut check.name)),
    row(31, "fieldSelector", "authorizer_fieldselector", REFINE, |args| {
        refine(args, |check| &mut check.field_selector)
    }),
    row(31, "labelSelector", "authorizer_labelselector", REFINE, |args| {
        refine(args, |check| &mut check.label_selector)
    }),
    row(27, "check", "pathcheck_check", "path.(string) -> decision", check),
    row(27, "check", "resourcecheck_check", "resource.(string) -> decision", check),
    row(27, "errored", "decision_errored", "decision.() -> bool", |args| {
        Ok(Value::Bool(decision(args)?.error.is_some()))
    }),
    row(27, "error", "decision_error", "decision.() -> string", |args| {
        Ok(Value::text(decision(args)?.error.clone().unwrap_or_default()))
    }),
    row(27, "allowed", "decision_allowed", "decision.() -> bool", |args| Ok(Value::Bool(decision(args)?.allowed))),
    row(27, "reason", "decision_reason", "decision.() -> string", |args| {
        Ok(Value::text(decision(args)?.reason.as_str()))
    }),
];

fn text<'v>(args: &'v [Value<'_>], at: usize) -> Result<&'v str, EvalError> {
    args.get(at).and_then(Value::as_str).ok_or(NO_OVERLOAD)
}

fn subject(args: &[Value<'_>]) -> Result<Subject, EvalError> {
    match &args[0] {
        Value::Extension(Extension::Authorizer(subject)) => Ok(subject.clone()),
        _ => Err(NO_OVERLOAD),
    }
}

fn decision<'v>(args: &'v [Value<'_>]) -> Result<&'v Decision, EvalError> {
    match &args[0] {
        Value::Extension(Extension::Decision(decision)) => Ok(decision),
        _ => Err(NO_OVERLOAD),
    }
}

fn account<'a>(args: &[Value<'a>]) -> Res<'a> {
    let (mut subject, namespace, name) = (subject(args)?, text(args, 1)?, text(args, 2)?);
    if !super::named::is_subdomain_name(name) {
        return Err(fail("Invalid service account name"));
    }
    if !super::named::is_label_name(namespace) {
        return Err(fail("Invalid service account namespace"));
    }
    subject.account = Some(Arc::new((namespace.to_owned(), name.to_owned())));
    Ok(Value::Extension(Extension::Authorizer(subject)))
}

fn resource<'a>(args: &[Value<'a>]) -> Res<'a> {
    let (Value::Extension(Extension::GroupCheck(group)), resource) = (&args[0], text(args, 1)?) else {
        return Err(NO_OVERLOAD);
    };
    if resource.trim().is_empty() {
        return Err(fail("resource must not be empty"));
    }
    Ok(Value::Extension(Extension::ResourceCheck(Arc::new(ResourceCheck {
        subject: group.subject.clone(),
        group: group.group.clone(),
        resource: resource.to_owned(),
        subresource: String::new(),
        namespace: String::new(),
        name: String::new(),
        field_selector: String::new(),
        label_selector: String::new(),
    }))))
}

fn refine<'a>(args: &[Value<'a>], part: fn(&mut ResourceCheck) -> &mut String) -> Res<'a> {
    let (Value::Extension(Extension::ResourceCheck(check)), text) = (&args[0], text(args, 1)?) else {
        return Err(NO_OVERLOAD);
    };
    let mut check = (**check).clone();
    text.clone_into(part(&mut check));
    Ok(Value::Extension(Extension::ResourceCheck(Arc::new(check))))
}

fn check<'a>(args: &[Value<'a>]) -> Res<'a> {
    let verb = text(args, 1)?;
    let (subject, asked) = match &args[0] {
        Value::Extension(Extension::PathCheck(check)) => {
            (&check.subject, Attributes { path: Some(&check.path), ..Attributes::default() })
        }
        Value::Extension(Extension::ResourceCheck(check)) => (
            &check.subject,
            Attributes {
                group: &check.group,
                resource: &check.resource,
                subresource: &check.subresource,
                namespace: &check.namespace,
                name: &check.name,
                field_selector: &check.field_selector,
                label_selector: &check.label_selector,
                ..Attributes::default()
            },
        ),
        _ => return Err(NO_OVERLOAD),
    };
    let account = subject.account.as_deref().map(|(namespace, name)| (namespace.as_str(), name.as_str()));
    let decision = subject.authorizer.authorize(&Attributes { service_account: account, verb, ..asked });
    Ok(Value::Extension(Extension::Decision(Arc::new(decision))))
}
