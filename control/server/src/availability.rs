//! Looks at the servers behind APIServices: on each server for its own discovery, on the leader for the objects' conditions
//! too.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kontiki_api::{Api, Looked, Writer, leader::LeaderContext, recorder::Recorder};
use kontiki_cache::Informer;
use kontiki_controllers::Executor;
use kontiki_plan::lifecycle::api_availability;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// How often servers are looked at, if no APIService changes.
const EVERY: Duration = Duration::from_secs(30);
/// How soon after a change, and how long at least between two looks.
const SOON: Duration = Duration::from_secs(1);

/// Looks at them until `stop`, for discovery.
pub async fn follow(api: Api, stop: CancellationToken) {
    let services: Informer<APIService> = api.cache().get();
    let mut changes = services.subscribe();
    loop {
        api.look_behind().await;
        api.read_openapi_behind().await;
        // Each is cancel-safe: a look sees everything.
        tokio::select! {
            () = stop.cancelled() => return,
            _ = changes.next() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SOON) => {}
        }
    }
}

/// Keeps the conditions of APIServices while the term lasts.
pub async fn lead(context: LeaderContext) {
    let (recorder, recording) = Recorder::new(context.client.clone(), Writer::Server, context.stop.clone());
    let mut tasks = JoinSet::from_iter([recording]);
    let executor = Executor::new(&context, &recorder, "api-service-availability", Writer::Server);
    let services: Informer<APIService> = context.api.cache().get();
    let mut changes = services.subscribe();
    loop {
        for looked in context.api.look_behind().await {
            write(&executor, &services, &looked).await;
        }
        tokio::select! {
            () = context.stop.cancelled() => break,
            _ = changes.next() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
        tokio::select! {
            () = context.stop.cancelled() => break,
            () = tokio::time::sleep(SOON) => {}
        }
    }
    tasks.shutdown().await;
}

async fn write(executor: &Executor, services: &Informer<APIService>, looked: &Looked) {
    let Some(service) = services.get(None, &format!("{}.{}", looked.version, looked.group)) else { return };
    let plan = api_availability::plan(&service, &looked.outcome, Timestamp::now());
    if plan.actions.is_empty() {
        return;
    }
    debug!(group = looked.group, version = looked.version, why = plan.why, "an APIService's condition changes");
    // What is refused is looked at again next time.
    executor.apply(plan.actions).await;
}
