//! What the store stands on: this thread's clock and runtime, a disk in memory, and nobody else.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use kontiki_store::simulation::{self, Call, CallError, Peer, Pieces};

use crate::disk::Disk;
use crate::machine;

#[derive(Default)]
pub struct Environment {
    disk: Disk,
}

impl simulation::World for Environment {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn unix_seconds(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    fn chance(&self) -> u64 {
        machine::draw()
    }

    fn moment(&self) -> Duration {
        Duration::from_micros(100)
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        drop(tokio::spawn(task));
    }

    fn sleep_until(&self, deadline: Instant) -> simulation::Sleep {
        Box::pin(tokio::time::sleep_until(deadline.into()))
    }

    fn disk(&self) -> Arc<dyn simulation::Disk> {
        Arc::new(self.disk.clone())
    }

    fn port(&self) -> Arc<dyn simulation::Port> {
        Arc::new(Nobody)
    }

    fn listen(&self, _: &str, _: Arc<dyn Peer>) {}

    fn saw(&self, _: simulation::Saw<'_>) {}
}

/// The way to other members, of which there are none.
struct Nobody;

fn nobody<T: Send + 'static>() -> BoxFuture<'static, Result<T, CallError>> {
    Box::pin(std::future::ready(Err(CallError::NotSent("there is one member".to_owned()))))
}

impl simulation::Port for Nobody {
    fn call<'a>(&'a self, _: &'a str, _: Call, _: Bytes) -> BoxFuture<'a, Result<Bytes, CallError>> {
        nobody()
    }

    fn stream<'a>(
        &'a self,
        _: &'a str,
        _: BoxStream<'static, Bytes>,
    ) -> BoxFuture<'a, Result<BoxStream<'static, Result<Bytes, CallError>>, CallError>> {
        nobody()
    }

    fn snapshot<'a>(&'a self, _: &'a str, _: Bytes, _: Pieces) -> BoxFuture<'a, Result<Bytes, CallError>> {
        nobody()
    }
}
