//! The service proxy and network policies: desired rules from services ([`rules`]) and policies ([`policy`]), the way
//! from loaded to desired ([`diff`]), and the thin shell that hands scripts to nft.
//!
//! Invariants
//! - `loaded` is what the kernel holds, or `None` when that is not known: then the whole table is
//!   replaced, in one transaction.
//! - Not before the first services are known does the table of an earlier run change.

mod command;
mod diff;
pub(crate) mod divert;
mod flows;
mod policy;
mod rules;
#[cfg(test)]
mod tests;

use anyhow::Result;
use command::{run, tables};
use divert::Divert;
use ipnet::Ipv4Net;
use kontiki_agent_plan::{policy::Policies, services::ServicePort};
pub(crate) use rules::Facts;
use rules::{Ruleset, TABLE};

use crate::config::Node;

impl Facts {
    /// What the rules need of a node.
    pub(crate) fn of(node: &Node) -> Self {
        Self {
            pods: node.pods,
            services: node.services,
            subnet: node.subnet,
            own_pods: None,
            egress: node.egress,
            dns: node.dns,
        }
    }
}

/// Rules of this node: wanted and loaded.
pub(crate) struct Proxy {
    facts: Facts,
    services: Option<Vec<ServicePort>>,
    policies: Policies,
    loaded: Option<Ruleset>,
    /// What of the traffic between this node's pods is diverted, once it is.
    diverted: Option<Divert>,
}

impl Proxy {
    /// Nothing is loaded yet.
    pub(crate) fn new(facts: Facts) -> Self {
        Self { facts, services: None, policies: Policies::default(), loaded: None, diverted: None }
    }

    /// This node's pods are the ones that leave the cluster under the node's address.
    pub(crate) async fn set_own_pods(&mut self, own: Ipv4Net) -> Result<()> {
        self.facts.own_pods = Some(own);
        if self.services.is_none() && is_there(TABLE, &tables().await?) {
            return Ok(()); // an earlier run's rules, replaced as soon as the services are known
        }
        self.load().await
    }

    /// This node's pods, once known.
    pub(crate) fn own_pods(&self) -> Option<Ipv4Net> {
        self.facts.own_pods
    }

    /// What of the traffic between this node's pods is diverted.
    pub(crate) fn diverted(&self) -> Option<Divert> {
        self.diverted
    }

    /// Has traffic between this node's pods routed.
    pub(crate) async fn divert(&mut self, divert: Divert) -> Result<()> {
        if self.diverted == Some(divert) {
            return Ok(());
        }
        run(&divert.script()).await?;
        self.diverted = Some(divert);
        Ok(())
    }

    /// Services and policies change together: one transaction.
    pub(crate) async fn set(&mut self, services: Vec<ServicePort>, policies: Policies) -> Result<()> {
        if self.services.as_ref() == Some(&services) && self.policies == policies {
            return self.verify().await;
        }
        let before = self.services.replace(services);
        let old = std::mem::replace(&mut self.policies, policies);
        if let Err(error) = self.load().await {
            (self.services, self.policies) = (before, old);
            return Err(error);
        }
        let now = self.services.as_deref().unwrap_or_default();
        for flow in flows::stale(before.as_deref().unwrap_or_default(), now) {
            if let Err(error) = flows::forget(&flow).await {
                tracing::warn!(?flow, error = format!("{error:#}"), "old UDP flows may live on");
            }
        }
        Ok(())
    }

    /// Puts back what somebody removed.
    async fn verify(&mut self) -> Result<()> {
        let there = tables().await?;
        if let Some(divert) = self.diverted.filter(|_| !is_there(divert::TABLE, &there)) {
            tracing::warn!(table = divert::TABLE, "our packet rules were removed; loading them again");
            run(&divert.script()).await?;
        }
        if self.loaded.is_some() && is_there(TABLE, &there) {
            return Ok(());
        }
        if self.loaded.take().is_some() {
            tracing::warn!(table = TABLE, "our packet rules were removed; loading them again");
        }
        self.load().await
    }

    async fn load(&mut self) -> Result<()> {
        let mut want = rules::build(&self.facts, self.services.as_deref().unwrap_or_default());
        policy::add(&mut want, &self.policies);
        if let Some(have) = &self.loaded {
            let script = diff::between(have, &want);
            if script.is_empty() {
                return Ok(());
            }
            match run(&script).await {
                Ok(()) => {
                    tracing::debug!(lines = script.lines().count(), "packet rules updated");
                    self.loaded = Some(want);
                    return Ok(());
                }
                Err(error) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "the kernel's rules are not the ones loaded; replacing all"
                    );
                    self.loaded = None;
                }
            }
        }
        run(&diff::full(&want)).await?;
        tracing::info!(chains = want.chains.len(), "packet rules loaded");
        self.loaded = Some(want);
        Ok(())
    }
}

fn is_there(table: &str, tables: &[String]) -> bool {
    tables.iter().any(|there| there == table)
}

/// Removes our tables, as far as they are there.
pub(crate) async fn remove() -> Result<()> {
    let there = tables().await?;
    for table in [TABLE, divert::TABLE].into_iter().filter(|table| is_there(table, &there)) {
        run(&format!("delete table {table}\n")).await?;
    }
    Ok(())
}
