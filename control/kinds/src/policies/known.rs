//! What policies of both kinds have in common: which are known, with which bindings, and what each of them is asked about.
//! Upstream: `k8s.io/apiserver/pkg/admission/plugin/policy/generic`.
//!
//! Invariants
//! - A policy is compiled once for each of its versions, when the store tells of it. A cluster without policies pays one
//!   look at an empty list.
//! - Policies stand in the order of their names, the bindings of each too.
//! - Who says what policies there are is judged by none of them.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use kontiki_machinery::{
    GroupResource, Registry, ResourceDef, Status,
    admission::{Lookup, Request},
};
use kontiki_model::{ObjectKey, resource::NAMESPACES};
use serde_json::Value;

use super::params;
use crate::{
    expressions::{
        Age,
        admission::{CONDITIONS, Conditions, Returns, Run, Scope, Subject, Variable},
    },
    matching::{self, Matching},
    rows::value::{get, has, list, some, text, texts},
    webhooks::{review, shown},
};

/// What every policy says.
pub(super) struct Head {
    pub matching: Matching,
    /// Whether a request passes if the policy cannot be asked.
    pub ignores: bool,
    /// Version and kind of its parameters.
    pub params: Option<(String, String)>,
    conditions: Conditions,
    pub variables: Vec<Variable>,
}

impl Head {
    /// That of a policy as it is stored, and what its other expressions may name.
    pub fn of(stored: &Value) -> (Self, Scope) {
        let spec = get(stored, "spec");
        let params = some(spec, "paramKind").map(|it| (text(it, "apiVersion").to_owned(), text(it, "kind").to_owned()));
        let mut scope = Scope::new(params.is_some(), true, Age::Stored);
        let conditions = Conditions::of(list(spec, "matchConditions"), &scope);
        let mut variables = Vec::new();
        for variable in list(spec, "variables") {
            let known = scope.variables.get_or_insert_default().clone();
            let scope_so_far = Scope { variables: Some(known), ..scope.clone() };
            let (name, program) =
                (text(variable, "name"), scope_so_far.compile(text(variable, "expression"), Returns::Any));
            if let Ok(program) = &program {
                scope.variables.get_or_insert_default().push((name.to_owned(), program.result_type().clone()));
            }
            variables.push(Variable { name: name.to_owned(), program });
        }
        scope.variables.get_or_insert_default();
        let matching = Matching::of(get(spec, "matchConstraints"), "resourceRules");
        let ignores = text(spec, "failurePolicy") == "Ignore";
        (Self { matching, ignores, params, conditions, variables }, scope)
    }

    /// Whether its conditions hold.
    ///
    /// # Errors
    /// That cannot be told.
    pub fn meets(&self, subject: &Subject, request: &Request<'_>, cluster: &dyn Lookup) -> Result<bool, String> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        Run::with((subject, request.user, CONDITIONS), cluster, |run| self.conditions.hold(run))
    }
}

/// A policy of one of the kinds, compiled.
pub(super) trait Compiled: Send + Sync {
    /// As it is stored.
    fn of(stored: &Value) -> Self;

    fn head(&self) -> &Head;
}

/// Where a policy is in force, and with what.
pub(super) struct Binding {
    policy: String,
    /// `None`: wherever the policy is meant.
    matching: Option<Matching>,
    params: Option<Value>,
    pub actions: Vec<String>,
}

impl Binding {
    fn of(stored: &Value) -> Self {
        let spec = get(stored, "spec");
        Self {
            policy: text(spec, "policyName").to_owned(),
            matching: some(spec, "matchResources").map(|it| Matching::of(it, "resourceRules")),
            params: some(spec, "paramRef").cloned(),
            actions: texts(spec, "validationActions").into_iter().map(str::to_owned).collect(),
        }
    }

    pub fn does(&self, action: &str) -> bool {
        self.actions.iter().any(|known| known == action)
    }

    fn means(
        &self,
        (request, object): (&Request<'_>, &Value),
        registry: &Registry,
        cluster: &dyn Lookup,
    ) -> Result<bool, Status> {
        let Some(matching) = &self.matching else { return Ok(true) };
        let named = matching.says_nothing() || matching.resource(request, &registry.table()).is_some();
        Ok(named && matching.selects(request, object, cluster)?)
    }
}

/// The policies of one kind.
pub(super) struct Known<P> {
    registry: Registry,
    /// The resource of the bindings.
    bindings: GroupResource<'static>,
    said: RwLock<Arc<Said<P>>>,
}

struct Said<P> {
    policies: BTreeMap<String, Arc<P>>,
    bindings: BTreeMap<String, Arc<Binding>>,
}

impl<P> Clone for Said<P> {
    fn clone(&self) -> Self {
        Self { policies: self.policies.clone(), bindings: self.bindings.clone() }
    }
}

/// A policy that is to be asked by one of its bindings.
pub(super) struct Invocation<P> {
    pub policy: (String, Arc<P>),
    pub binding: (String, Arc<Binding>),
    /// As what the request is meant.
    pub def: Arc<ResourceDef>,
    /// With each of these it is asked once; why there are none.
    pub params: Result<Vec<Value>, String>,
}

impl<P: Compiled> Known<P> {
    /// None yet.
    pub fn new(registry: &Registry, bindings: GroupResource<'static>) -> Self {
        let said = Said { policies: BTreeMap::new(), bindings: BTreeMap::new() };
        Self { registry: registry.clone(), bindings, said: RwLock::new(Arc::new(said)) }
    }

    /// A policy or binding is so now, as it is stored; `None`: it is gone.
    pub fn changed(&self, key: &ObjectKey, object: Option<&[u8]>) {
        // What is stored has been validated; whatever is no JSON says nothing.
        let stored: Option<Value> = object.and_then(|object| serde_json::from_slice(object).ok());
        let is_binding = key.resource == self.bindings.resource;
        let policy = stored.as_ref().filter(|it| !is_binding && has(get(it, "spec"), "matchConstraints"));
        let policy = policy.map(|it| Arc::new(P::of(it)));
        let binding = stored.as_ref().filter(|_| is_binding).map(|it| Arc::new(Binding::of(it)));
        let mut said = self.said.write().unwrap_or_else(PoisonError::into_inner);
        let (said, name) = (Arc::make_mut(&mut said), &key.name);
        if is_binding {
            put(&mut said.bindings, name, binding);
        } else {
            put(&mut said.policies, name, policy);
        }
    }

    /// Who is to be asked about a request, in order, by those bindings of which `wanted` says so.
    pub fn invocations(
        &self,
        (request, object): (&Request<'_>, &Value),
        cluster: &dyn Lookup,
        wanted: &dyn Fn(&Binding) -> bool,
    ) -> Result<Vec<Invocation<P>>, Status> {
        let said = Arc::clone(&self.said.read().unwrap_or_else(PoisonError::into_inner));
        let mut found = Vec::new();
        if said.bindings.is_empty() || matching::is_exempt(request) {
            return Ok(found);
        }
        for (name, policy) in &said.policies {
            let mut bindings =
                said.bindings.iter().filter(|(_, binding)| binding.policy == *name && wanted(binding)).peekable();
            let head = policy.head();
            if bindings.peek().is_none() {
                continue;
            }
            let Some(def) = head.matching.resource(request, &self.registry.table()) else { continue };
            if !head.matching.selects(request, object, cluster)? {
                continue;
            }
            for (bound, binding) in bindings {
                if binding.means((request, object), &self.registry, cluster)? {
                    let params = params::collect(head, binding.params.as_ref(), request, cluster);
                    found.push(Invocation {
                        policy: (name.clone(), Arc::clone(policy)),
                        binding: (bound.clone(), Arc::clone(binding)),
                        def: Arc::clone(&def),
                        params: params.map_err(|why| format!("failed to configure binding: {why}")),
                    });
                }
            }
        }
        Ok(found)
    }
}

fn put<T>(map: &mut BTreeMap<String, T>, name: &str, value: Option<T>) {
    match value {
        Some(value) => map.insert(name.to_owned(), value),
        None => map.remove(name),
    };
}

/// What the expressions of a policy are asked about, parameters left out.
///
/// # Errors
/// The object cannot be shown as the policy names it, or the namespace is not there.
pub(super) fn subject_of(
    request: &Request<'_>,
    object: &Value,
    def: &ResourceDef,
    cluster: &dyn Lookup,
) -> Result<Subject, Status> {
    let old = request.old.map(|old| shown(request, old, def, cluster)).transpose()?.unwrap_or_default();
    let about = review::about(request, def, (object, request.old));
    let own = request.def.group_resource() == NAMESPACES;
    let namespace = match request.namespace.filter(|_| !own) {
        Some(name) => cluster.glance(NAMESPACES, None, name)?.ok_or_else(|| Status::not_found(NAMESPACES, name))?,
        None => Value::Null,
    };
    Ok(Subject { object: shown(request, object, def, cluster)?, old, request: about, namespace, params: Value::Null })
}
