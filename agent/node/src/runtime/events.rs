//! Ends of processes, as containerd's own event stream reports them.
//!
//! The CRI of containerd 1.6 has no events, and asking for every container's state all the time
//! is slow or late. The workers still look by themselves now and then, so a lost event costs
//! time and nothing else.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{cri::Cri, watchers::Watchers};

const RETRY: Duration = Duration::from_millis(500);

#[derive(Clone, PartialEq, prost::Message)]
struct SubscribeRequest {
    #[prost(string, repeated, tag = "1")]
    filters: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(string, tag = "3")]
    topic: String,
    #[prost(message, optional, tag = "4")]
    event: Option<Any>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TaskExit {
    #[prost(string, tag = "1")]
    container_id: String,
    /// Differs from `container_id` for an exec's process.
    #[prost(string, tag = "2")]
    id: String,
}

/// Wakes workers until `stop`.
pub(crate) async fn run(cri: &Cri, watchers: &Watchers, stop: CancellationToken) {
    loop {
        tokio::select! {
            // Cancel-safe: dropping the stream only loses hints.
            result = follow(cri, watchers) => if let Err(error) = result {
                tracing::debug!(%error, "containerd's events are not available");
            },
            () = stop.cancelled() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn follow(cri: &Cri, watchers: &Watchers) -> Result<(), tonic::Status> {
    let mut client = tonic::client::Grpc::new(cri.channel());
    client.ready().await.map_err(|e| tonic::Status::unavailable(e.to_string()))?;
    let path = http::uri::PathAndQuery::from_static("/containerd.services.events.v1.Events/Subscribe");
    let codec = tonic_prost::ProstCodec::<SubscribeRequest, Envelope>::default();
    let request = SubscribeRequest { filters: vec!["topic==\"/tasks/exit\"".to_owned()] };
    let mut stream = client.server_streaming(tonic::Request::new(request), path, codec).await?.into_inner();
    watchers.wake_all();
    while let Some(envelope) = stream.message().await? {
        let exit = envelope.event.and_then(|any| <TaskExit as prost::Message>::decode(any.value.as_slice()).ok());
        if let Some(exit) = exit
            && exit.id == exit.container_id
        {
            watchers.wake(&exit.container_id);
        }
    }
    Ok(())
}
