//! Environments: what an expression may name.

use std::collections::HashMap;
use std::sync::Arc;

use crate::check::{self, Checked};
use crate::declare::{Declaration, Fields};
use crate::functions::table::{self, Function};
use crate::plan;
use crate::program::Program;
use crate::source::{CompileError, Issues};
use crate::types::Type;
use crate::{parse, validate};

/// The version whose libraries an expression may use.
pub const CURRENT: u8 = 37;

/// An environment: variables, object types and the libraries of a version of Kubernetes.
#[derive(Clone, Debug)]
pub struct Env {
    pub(crate) minor: u8,
    pub(crate) variables: Vec<(Arc<str>, Type)>,
    pub(crate) objects: HashMap<Arc<str>, Fields>,
    patches: bool,
}

/// The object type of operations of RFC 6902.
const PATCH: &str = "JSONPatch";
/// The object type of objects whose fields nobody declares; so are those of its fields, `Object.spec` and so on.
const OPEN: &str = "Object";

impl Env {
    /// Nothing but the libraries of Kubernetes 1.`minor`. A server lets new expressions use those of the version before
    /// its own, and stored ones those of its own.
    #[must_use]
    pub fn new(minor: u8) -> Self {
        Self { minor, variables: Vec::new(), objects: HashMap::new(), patches: false }
    }

    /// With a variable. A name may have dots (`authorizer.requestResource`).
    #[must_use]
    pub fn variable(mut self, name: &str, ty: Type) -> Self {
        self.variables.retain(|(known, _)| **known != *name);
        self.variables.push((name.into(), ty));
        self
    }

    /// With an object type.
    #[must_use]
    pub fn object(mut self, name: &str, fields: Fields) -> Self {
        self.objects.insert(name.into(), fields);
        self
    }

    /// With one more field of an object type.
    #[must_use]
    pub fn field(mut self, object: &str, name: &str, ty: Type) -> Self {
        self.objects.entry(object.into()).or_default().insert(name.into(), ty);
        self
    }

    /// With what only mutations of policies have: the types `JSONPatch` and `Object`, the latter with whatever is in it, and
    /// `jsonpatch.escapeKey`.
    #[must_use]
    pub fn with_patches(mut self) -> Self {
        self.patches = true;
        let texts = ["op", "path", "from"].map(|field| (field.into(), Type::String));
        self.object(PATCH, texts.into_iter().chain([("value".into(), Type::Dyn)]).collect())
    }

    /// Whether values of an object type may have any field.
    pub(crate) fn is_open(&self, object: &str) -> bool {
        self.patches && object.strip_prefix(OPEN).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    pub(crate) fn function(&self, name: &str) -> Option<&'static Function> {
        let there = self.patches || !name.starts_with("jsonpatch.");
        table::function(name, self.minor).filter(|_| there)
    }

    /// With what a schema declares, and a variable of its type.
    #[must_use]
    pub fn declared(mut self, variable: &str, declaration: &Declaration) -> Self {
        self.objects.extend(declaration.objects.iter().cloned());
        self.variable(variable, declaration.ty.clone())
    }

    /// Parses, checks and plans an expression.
    ///
    /// # Errors
    /// Upstream's words and places.
    pub fn compile(&self, text: &str) -> Result<Program, CompileError> {
        let checked = self.check(text)?;
        let plan = plan::plan(self, &checked).map_err(CompileError::Program)?;
        Ok(Program::new(checked, plan))
    }

    /// The type of an expression, which is parsed and checked and not planned.
    ///
    /// # Errors
    /// All that is wrong with it, in upstream's words.
    pub fn type_of(&self, text: &str) -> Result<Type, String> {
        match self.check(text) {
            Ok(checked) => Ok(checked.of(&checked.root).clone()),
            Err(CompileError::Issues { text, .. } | CompileError::Program(text)) => Err(text),
        }
    }

    fn check(&self, text: &str) -> Result<Checked, CompileError> {
        let mut issues = Issues::new(text);
        let Some(tree) = parse::parse(text, self.minor, &mut issues) else { return Err(issues.into_error()) };
        let checked = check::check(self, tree, &mut issues);
        if issues.is_empty() {
            validate::validate(self, &checked, &mut issues);
        }
        if issues.is_empty() { Ok(checked) } else { Err(issues.into_error()) }
    }
}
