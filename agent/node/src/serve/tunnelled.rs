//! Requests that come through the session's tunnels.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use kontiki_proto::node::{Open, Stats, open::What};

use super::{dial, http, logs, metrics, stats, streams};
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
        Some(What::Stats(Stats { form })) => {
            let summary = stats::summary(node).await.map_err(|e| TunnelError::new(500, e.to_string()))?;
            let text = match form.as_str() {
                "" => summary.to_string(),
                "resource" => metrics::resource(&summary),
                "cadvisor" => metrics::cadvisor(&summary),
                other => return Err(TunnelError::new(404, format!("there are no statistics called {other:?}"))),
            };
            tx.send(Bytes::from(text)).await;
            Ok(())
        }
        Some(What::Dial(request)) => dial::serve(&request, tx, rx).await,
        Some(What::Serve(_)) => http::serve(node, tx, rx).await,
        None => Err(TunnelError::new(501, "this agent does not know that kind of stream")),
    }
}
