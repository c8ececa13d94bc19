//! The `Join` service: tokens in, certificates out.
//!
//! Invariants
//! - A token is judged by the Secret in the store at a linearizable read, so a deleted token admits
//!   nobody.
//! - The CA's key leaves only towards a bearer of a token that was made for servers, which serves one server: the first
//!   that shows it, under one name and address. That one may ask again, if an answer was lost.
//! - A node that lives keeps its name: whoever asks for that has to wait until the node is gone.

use jiff::Timestamp;
use kontiki_api::{Client, PatchKind, Target};
use kontiki_model::GroupResource;
use kontiki_proto::node::{
    AdmitRequest, AdmitResponse, JoinAgentRequest, JoinAgentResponse, JoinServerRequest, JoinServerResponse, Peer,
    join_server::Join,
};
use kontiki_store::{MemberError, Store};
use serde_json::Value;
use std::sync::Arc;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use crate::{
    config::{ClusterSettings, is_host_port, is_label},
    pki::{Bearer, Pki},
    rpc, servers,
    token::{self, JoinToken, Purpose},
};

/// What joining needs of this server.
pub struct Joining {
    /// Signs.
    pub pki: Arc<Pki>,
    /// Reads tokens.
    pub client: Client,
    /// Knows the members.
    pub store: Store,
    /// Told to those who join.
    pub cluster: ClusterSettings,
}

/// A shown token, judged to be good.
struct Shown {
    token: JoinToken,
    secret: Value,
}

impl Joining {
    async fn check(&self, text: &str, purpose: Purpose) -> Result<Shown, Status> {
        let token: JoinToken =
            text.parse().map_err(|error: token::BadToken| Status::unauthenticated(error.to_string()))?;
        let name = token.secret_name();
        let secret = self.read(secret_of(&name)).await?;
        token::check(&token, secret.as_ref(), purpose, Timestamp::now()).map_err(|refused| {
            warn!(token = token.id(), reason = %refused, "a join was refused");
            Status::unauthenticated(refused.to_string())
        })?;
        Ok(Shown { token, secret: secret.unwrap_or_default() })
    }

    async fn read(&self, target: Target<'_>) -> Result<Option<Value>, Status> {
        match self.client.get(target).await {
            Ok(object) => Ok(Some(object)),
            Err(status) if status.is_not_found() => Ok(None),
            Err(status) => Err(Status::unavailable(status.message)),
        }
    }

    /// Makes a token for servers the token of one server.
    async fn bind(&self, shown: &Shown, server: &JoinServerRequest) -> Result<(), Status> {
        let user = format!("{} at {}", server.name, server.peer_address);
        let used = || Status::unauthenticated(token::TokenRefused::Used.to_string());
        match token::user(&shown.secret) {
            Some(known) if known == user => return Ok(()),
            Some(_) => return Err(used()),
            None => {}
        }
        let name = shown.token.secret_name();
        let patch = token::use_by(&shown.secret, &user);
        match self.client.patch(secret_of(&name), PatchKind::Merge, patch).await {
            Ok(_) => Ok(()),
            // Another was faster, or somebody took it away.
            Err(status) if status.is_conflict() || status.is_not_found() => Err(used()),
            Err(status) => Err(Status::unavailable(status.message)),
        }
    }

    /// Whether a node of this name shows signs of life.
    async fn lives(&self, node: &str) -> Result<bool, Status> {
        let nodes = GroupResource { group: "", resource: "nodes" };
        let target = Target { resource: nodes, namespace: None, name: node, subresource: None };
        Ok(self.read(target).await?.is_some_and(|node| is_ready(&node)))
    }
}

fn secret_of(name: &str) -> Target<'_> {
    let secrets = GroupResource { group: "", resource: "secrets" };
    Target { resource: secrets, namespace: Some(token::NAMESPACE), name, subresource: None }
}

/// The leader takes this away from a node that says nothing for some seconds.
fn is_ready(node: &Value) -> bool {
    let mut conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

#[tonic::async_trait]
impl Join for Joining {
    async fn join_agent(&self, request: Request<JoinAgentRequest>) -> Result<Response<JoinAgentResponse>, Status> {
        let request = request.into_inner();
        self.check(&request.token, Purpose::Agent).await?;
        let node = &request.node_name;
        if node.len() > 253 || !node.split('.').all(is_label) {
            return Err(Status::invalid_argument(format!(
                "{node:?} is not a node name: lower-case letters, digits, '-' and '.'"
            )));
        }
        if self.lives(node).await? {
            warn!(%node, "a join was refused: there is such a node, and it lives");
            return Err(Status::failed_precondition(format!(
                "node {node} lives: its name is free once it has been silent for some seconds"
            )));
        }
        let certificate_pem = self
            .pki
            .sign_node(node, &request.csr_pem, Timestamp::now())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        info!(%node, "a node joined");
        Ok(Response::new(JoinAgentResponse {
            ca_pem: self.pki.ca_pem.clone(),
            certificate_pem,
            servers: servers::session_addresses(&self.store.snapshot()),
            cluster_domain: self.cluster.cluster_domain.clone(),
            pod_cidr: self.cluster.pod_cidr.to_string(),
            service_cidr: self.cluster.service_cidr.to_string(),
        }))
    }

    async fn join_server(&self, request: Request<JoinServerRequest>) -> Result<Response<JoinServerResponse>, Status> {
        let request = request.into_inner();
        let shown = self.check(&request.token, Purpose::Server).await?;
        if !is_label(&request.name) || !is_host_port(&request.peer_address) {
            return Err(Status::invalid_argument("the server's name or peer address is malformed"));
        }
        let members = self.store.status().borrow().members.clone();
        if let Some(taken) = members.iter().find(|m| m.name == request.name || m.address == request.peer_address) {
            let (name, address) = (&taken.name, &taken.address);
            return Err(Status::already_exists(format!(
                "a server {name} at {address} is a member already; if it is lost, remove it first: kontiki member remove {name}"
            )));
        }
        self.bind(&shown, &request).await?;
        let member_id =
            servers::take_member_id(&self.store).await.map_err(|error| Status::unavailable(error.to_string()))?;
        let files = self.pki.shared_files().map_err(|error| Status::internal(format!("{error:#}")))?;
        info!(server = request.name, member_id, "a server was given the cluster's certificates");
        Ok(Response::new(JoinServerResponse {
            member_id,
            files: files.into_iter().collect(),
            peers: members.into_iter().map(|m| Peer { id: m.id, name: m.name, address: m.address }).collect(),
            config_json: serde_json::to_string(&self.cluster).map_err(|error| Status::internal(error.to_string()))?,
            servers: servers::session_addresses(&self.store.snapshot()),
        }))
    }

    async fn admit(&self, request: Request<AdmitRequest>) -> Result<Response<AdmitResponse>, Status> {
        let caller = rpc::caller(&request);
        let request = request.into_inner();
        if caller != Bearer::Server(request.name.clone()) {
            return Err(Status::permission_denied("only the server itself may ask for membership"));
        }
        self.store.add_member(request.member_id, &request.name, &request.peer_address).await.map_err(|error| {
            let text = error.to_string();
            match error {
                MemberError::Conflict(_) => Status::already_exists(text),
                _ => Status::unavailable(text),
            }
        })?;
        Ok(Response::new(AdmitResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_lives_while_it_is_ready() {
        let node = |conditions: Value| json!({"status": {"conditions": conditions}});
        for (what, node, expect) in [
            ("registered and nothing more", json!({}), false),
            (
                "ready",
                node(json!([{"type": "DiskPressure", "status": "False"}, {"type": "Ready", "status": "True"}])),
                true,
            ),
            ("silent", node(json!([{"type": "Ready", "status": "Unknown"}])), false),
            ("not ready, but there", node(json!([{"type": "Ready", "status": "False"}])), false),
            ("another condition", node(json!([{"type": "DiskPressure", "status": "True"}])), false),
        ] {
            assert_eq!(is_ready(&node), expect, "{what}");
        }
    }
}
