//! Authorizers that know kinds, and the chain of them that a file may ask for.

mod config;
pub(crate) mod node;
mod rbac;
mod rules;
mod webhook;

use std::{collections::BTreeSet, sync::Arc};

use kontiki_machinery::{
    access::{Attributes, Authorizer, Decision, Member, Objects, Rule, User},
    outcall::{Caller, Target},
};

use config::Choice;
pub use rbac::Rbac;
pub(crate) use rules::{describe, quoted};
use webhook::Webhook;

/// All of them, in the order in which they are asked.
#[must_use]
pub fn chain() -> Vec<Member> {
    BuiltIn::default().chain()
}

/// Authorizers of the cluster itself, which stay while the chain of them changes.
#[derive(Clone)]
pub struct BuiltIn {
    node: Arc<dyn Authorizer>,
    rbac: Arc<dyn Authorizer>,
}

impl Default for BuiltIn {
    fn default() -> Self {
        Self { node: Arc::new(node::Node), rbac: Arc::new(Rbac::default()) }
    }
}

/// What a configuration file refers to.
pub struct Surroundings<'a> {
    /// Calls webhooks.
    pub caller: Arc<dyn Caller>,
    /// Whether there is a file of this name that can be read; else why not.
    pub look: &'a dyn Fn(&str) -> Result<(), String>,
    /// The server that a kubeconfig file names.
    pub target: &'a dyn Fn(&str) -> Result<Target, String>,
}

/// A chain as a file asks for it.
pub struct Chain {
    /// In the order in which they are asked.
    pub members: Vec<Member>,
    /// Which authorizers of the cluster itself are in it.
    pub types: BTreeSet<&'static str>,
}

impl BuiltIn {
    /// The chain where no file says another.
    #[must_use]
    pub fn chain(&self) -> Vec<Member> {
        vec![Member::Pure(Arc::clone(&self.node)), Member::Pure(Arc::clone(&self.rbac))]
    }

    /// The chain that a file asks for. `before`: those of the cluster itself that were in the chain at the start: they
    /// have to stay, and no others may come.
    ///
    /// # Errors
    /// What is wrong with it, in upstream's words and in one line.
    pub fn configured(
        &self,
        text: &[u8],
        before: Option<&BTreeSet<&'static str>>,
        world: &Surroundings<'_>,
    ) -> Result<Chain, String> {
        let choices = config::read(text, world.look)?;
        let mut chain = Chain { members: Vec::new(), types: BTreeSet::new() };
        for choice in choices {
            let (of, member) = match choice {
                Choice::AlwaysAllow => (Some("AlwaysAllow"), Member::Pure(Arc::new(Always(Decision::Allow)))),
                Choice::AlwaysDeny => (Some("AlwaysDeny"), Member::Pure(Arc::new(Always(Decision::NoOpinion)))),
                Choice::Node => (Some("Node"), Member::Pure(Arc::clone(&self.node))),
                Choice::Rbac => (Some("RBAC"), Member::Pure(Arc::clone(&self.rbac))),
                Choice::Webhook(settings) => {
                    let target = (world.target)(&settings.kubeconfig)?;
                    (None, Member::Async(Arc::new(Webhook::new(Arc::clone(&world.caller), target, *settings))))
                }
            };
            chain.types.extend(of);
            chain.members.push(member);
        }
        let Some(before) = before else { return Ok(chain) };
        let missing: Vec<&str> = before.difference(&chain.types).copied().collect();
        if !missing.is_empty() {
            return Err(format!("missing required types: [{}]", missing.join(" ")));
        }
        match chain.types.iter().find(|of| matches!(**of, "Node" | "RBAC") && !before.contains(*of)) {
            Some(of) => {
                Err(format!("authorizer type {of} is not allowed if it was not enabled at initial server startup"))
            }
            None => Ok(chain),
        }
    }
}

/// Says the same to everybody.
struct Always(Decision);

impl Authorizer for Always {
    fn authorize(&self, _: &User, _: &Attributes<'_>, _: &dyn Objects) -> Decision {
        self.0
    }

    fn explain(&self, _: &User, _: &Attributes<'_>, _: &dyn Objects) -> String {
        if self.0 == Decision::Allow { String::new() } else { "Everything is forbidden.".to_owned() }
    }

    fn rules(&self, _: &User, _: &str) -> Vec<Rule> {
        if self.0 != Decision::Allow {
            return Vec::new();
        }
        let all = || vec!["*".to_owned()];
        vec![
            Rule { verbs: all(), groups: all(), resources: all(), ..Rule::default() },
            Rule { verbs: all(), paths: all(), ..Rule::default() },
        ]
    }
}
