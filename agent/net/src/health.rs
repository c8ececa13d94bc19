//! Health check ports: a load balancer asks each node whether a Service of the `Local` policy has endpoints there.
//!
//! Invariants
//! - A port is open exactly while a Service names it. One that cannot be opened is tried again with the next update.
//! - Whatever the path, the answer is about the Service: 200 if this node has an endpoint that is ready, else 503,
//!   in the words of upstream's `pkg/proxy/healthcheck`.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc, time::Duration};

use kontiki_agent_plan::services::Health;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::AbortHandle,
};

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Questions that are answered at once at one port; more wait in its backlog.
const MOST: usize = 16;

/// The ports that are open, each with what is answered there.
#[derive(Default)]
pub(crate) struct HealthPorts {
    open: BTreeMap<u16, Port>,
}

struct Port {
    answer: watch::Sender<Health>,
    task: AbortHandle,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HealthPorts {
    /// Makes exactly these ports answer.
    pub(crate) async fn update(&mut self, want: BTreeMap<u16, Health>) {
        self.open.retain(|port, _| want.contains_key(port));
        for (port, health) in want {
            if let Some(open) = self.open.get(&port) {
                open.answer.send_if_modified(|old| {
                    let changed = *old != health;
                    *old = health;
                    changed
                });
                continue;
            }
            match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await {
                Ok(listener) => {
                    let (answer, told) = watch::channel(health);
                    let task = tokio::spawn(serve(listener, told)).abort_handle();
                    self.open.insert(port, Port { answer, task });
                }
                Err(error) => tracing::warn!(
                    port,
                    namespace = health.namespace,
                    service = health.name,
                    %error,
                    "the health check port of a Service cannot be opened"
                ),
            }
        }
    }
}

async fn serve(listener: TcpListener, told: watch::Receiver<Health>) {
    let permits = Arc::new(tokio::sync::Semaphore::new(MOST));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else { continue };
        let health = told.borrow().clone();
        tokio::spawn(async move {
            let _permit = permit;
            // A load balancer that leaves early asks again.
            let _ = tokio::time::timeout(PATIENCE, answer(stream, &health)).await;
        });
    }
}

async fn answer(mut stream: TcpStream, health: &Health) -> std::io::Result<()> {
    let mut head = [0; 1024];
    if stream.read(&mut head).await? == 0 {
        return Ok(());
    }
    stream.write_all(text(health).as_bytes()).await?;
    stream.shutdown().await
}

fn text(health: &Health) -> String {
    let status = if health.local == 0 { "503 Service Unavailable" } else { "200 OK" };
    let body = format!(
        "{:#}",
        json!({
            "service": {"namespace": health.namespace, "name": health.name},
            "localEndpoints": health.local,
            "serviceProxyHealthy": true,
        })
    );
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n\
         X-Load-Balancing-Endpoint-Weight: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        health.local,
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(port: u16) -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    }

    #[tokio::test]
    async fn a_port_answers_for_its_service_while_there_is_one() {
        let port = kontiki_test_ports::one().port();
        let health = |local| Health { namespace: "d".into(), name: "web".into(), local };
        let mut ports = HealthPorts::default();
        for (local, status) in [(2, "HTTP/1.1 200"), (0, "HTTP/1.1 503"), (1, "HTTP/1.1 200")] {
            ports.update(BTreeMap::from([(port, health(local))])).await;
            let text = ask(port).await.expect("an answer");
            assert!(text.starts_with(status), "{text}");
            assert!(text.contains(&format!("\"localEndpoints\": {local}")), "{text}");
            assert!(text.contains(&format!("X-Load-Balancing-Endpoint-Weight: {local}\r\n")), "{text}");
        }
        ports.update(BTreeMap::new()).await;
        // The port closes when its task is dropped, which the runtime does next.
        while ask(port).await.is_some() {
            tokio::task::yield_now().await;
        }
    }
}
