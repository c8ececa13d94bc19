//! ServiceAccount tokens for projected volumes.
//!
//! Invariants
//! - Tokens live in memory and in tmpfs volumes only.
//! - While no master answers, a token that is still good is used on.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kontiki_agent_plan::{rotation, volumes::TokenFile};
use kontiki_proto::node::TokenRequest;

use crate::{
    node::Node,
    session::outbox::{Token, TokenAnswer},
};

const ANSWER: Duration = Duration::from_secs(10);

/// Tokens that were asked for, by (volume, path), with the time they were given.
#[derive(Default)]
pub(crate) struct Tokens(BTreeMap<(String, String), (Token, Timestamp)>);

impl Tokens {
    pub(super) async fn get(
        &mut self,
        node: &Node,
        pod: &Pod,
        volume: &str,
        wanted: &TokenFile,
    ) -> Result<String, String> {
        let key = (volume.to_owned(), wanted.path.clone());
        let now = Timestamp::now();
        if let Some((token, given)) = self.0.get(&key)
            && !rotation::token_is_due(*given, token.expires, now)
        {
            return Ok(token.token.clone());
        }
        match request(node, pod, wanted).await {
            Ok(token) => {
                let text = token.token.clone();
                self.0.insert(key, (token, now));
                Ok(text)
            }
            Err(reason) => match self.0.get(&key) {
                Some((token, _)) if token.expires > now => Ok(token.token.clone()),
                _ => Err(format!("failed to fetch token: {reason}")),
            },
        }
    }
}

async fn request(node: &Node, pod: &Pod, wanted: &TokenFile) -> TokenAnswer {
    let own = |text: &Option<String>| text.clone().unwrap_or_default();
    let account =
        pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).unwrap_or_else(|| "default".to_owned());
    let request = TokenRequest {
        id: 0,
        namespace: own(&pod.metadata.namespace),
        service_account: account,
        pod_name: own(&pod.metadata.name),
        pod_uid: own(&pod.metadata.uid),
        audiences: if wanted.audience.is_empty() { Vec::new() } else { vec![wanted.audience.clone()] },
        expiration_seconds: wanted.expiration_seconds,
    };
    match tokio::time::timeout(ANSWER, node.outbox.token(request)).await {
        Ok(Ok(answer)) => answer,
        _ => Err("no master answered".to_owned()),
    }
}
