//! Leads the objects that configure the API's fairness to it, on each server.

use kontiki_api::Api;
use kontiki_cache::{Cached, Informer, Part};
use kontiki_model::{GroupResource, typed};
use serde::Deserialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";

/// All of a flow schema.
#[derive(Deserialize)]
#[serde(transparent)]
struct FlowSchema(Value);

impl typed::Part for FlowSchema {
    const RESOURCE: GroupResource<'static> = GroupResource { group: GROUP, resource: "flowschemas" };
}

/// All of a priority level.
#[derive(Deserialize)]
#[serde(transparent)]
struct PriorityLevel(Value);

impl typed::Part for PriorityLevel {
    const RESOURCE: GroupResource<'static> = GroupResource { group: GROUP, resource: "prioritylevelconfigurations" };
}

/// Keeps the API's configuration as the objects say, until `stop`.
pub(crate) async fn follow(api: Api, stop: CancellationToken) {
    let schemas: Informer<Part<FlowSchema>> = api.cache().get();
    let levels: Informer<Part<PriorityLevel>> = api.cache().get();
    let (mut schema_changes, mut level_changes) = (schemas.subscribe(), levels.subscribe());
    loop {
        api.fairness().configure(&all(&schemas, |schema| &schema.0), &all(&levels, |level| &level.0));
        // Each is cancel-safe.
        tokio::select! {
            () = stop.cancelled() => return,
            _ = schema_changes.next() => {}
            _ = level_changes.next() => {}
        }
    }
}

fn all<T: typed::Part>(objects: &Informer<Part<T>>, value: fn(&T) -> &Value) -> Vec<Value>
where
    Part<T>: Cached,
{
    objects.list().iter().map(|object| value(&object.0).clone()).collect()
}
