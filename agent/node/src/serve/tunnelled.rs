//! Requests that come through the session's tunnels.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use kontiki_proto::node::{Open, open::What};

use super::{logs, stats, streams};
use crate::{
    node::Node,
    session::tunnels::{Handler, TunnelError, TunnelReceiver, TunnelSender},
};

/// Answers what masters ask of this node.
pub struct Server(pub Arc<Node>);

impl Handler for Server {
    fn serve(&self, open: Open, tx: TunnelSender, rx: TunnelReceiver) -> BoxFuture<'static, Result<(), TunnelError>> {
        let node = self.0.clone();
        Box::pin(async move { serve(&node, open, &tx, rx).await })
    }
}

async fn serve(node: &Node, open: Open, tx: &TunnelSender, rx: TunnelReceiver) -> Result<(), TunnelError> {
    match open.what {
        Some(What::Logs(request)) => logs::serve(node, &request, tx).await,
        Some(What::Stream(request)) => streams::serve(node, request, tx, rx).await,
        Some(What::Stats(_)) => {
            let summary = stats::summary(node).await.map_err(|e| TunnelError::new(500, e.to_string()))?;
            tx.send(Bytes::from(summary.to_string())).await;
            Ok(())
        }
        None => Err(TunnelError::new(501, "this agent does not know that kind of stream")),
    }
}
