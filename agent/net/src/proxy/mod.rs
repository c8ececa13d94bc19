//! The service proxy: desired rules from services ([`rules`]), the way from loaded to desired
//! ([`diff`]), and the thin shell that hands scripts to nft.
//!
//! Invariants
//! - `loaded` is what the kernel holds, or `None` when that is not known: then the whole table is
//!   replaced, in one transaction.
//! - Not before the first services are known does the table of an earlier run change.

mod command;
mod diff;
mod flows;
mod rules;
#[cfg(test)]
mod tests;

use anyhow::Result;
use command::{run, table_exists};
use ipnet::Ipv4Net;
use kontiki_agent_plan::services::ServicePort;
pub(crate) use rules::Facts;
use rules::{Ruleset, TABLE};

use crate::config::Node;

impl Facts {
    /// What the rules need of a node.
    pub(crate) fn of(node: &Node) -> Self {
        Self { pods: node.pods, services: node.services, subnet: node.subnet, own_pods: None, egress: node.egress }
    }
}

/// Rules of this node: wanted and loaded.
pub(crate) struct Proxy {
    facts: Facts,
    services: Option<Vec<ServicePort>>,
    loaded: Option<Ruleset>,
}

impl Proxy {
    /// Nothing is loaded yet.
    pub(crate) fn new(facts: Facts) -> Self {
        Self { facts, services: None, loaded: None }
    }

    /// This node's pods are the ones that leave the cluster under the node's address.
    pub(crate) async fn set_own_pods(&mut self, own: Ipv4Net) -> Result<()> {
        self.facts.own_pods = Some(own);
        if self.services.is_none() && table_exists().await? {
            return Ok(()); // an earlier run's rules, replaced as soon as the services are known
        }
        self.load().await
    }

    pub(crate) async fn set_services(&mut self, services: Vec<ServicePort>) -> Result<()> {
        if self.services.as_ref() == Some(&services) {
            return self.verify().await;
        }
        let before = self.services.replace(services);
        if let Err(error) = self.load().await {
            self.services = before;
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

    /// Puts the table back if somebody removed it.
    async fn verify(&mut self) -> Result<()> {
        if self.loaded.is_some() {
            if table_exists().await? {
                return Ok(());
            }
            tracing::warn!(table = TABLE, "our packet rules were removed; loading them again");
            self.loaded = None;
        }
        self.load().await
    }

    async fn load(&mut self) -> Result<()> {
        let want = rules::build(&self.facts, self.services.as_deref().unwrap_or_default());
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

/// Removes the table, if it is there.
pub(crate) async fn remove() -> Result<()> {
    run(&format!("add table {TABLE}\ndelete table {TABLE}\n")).await
}
