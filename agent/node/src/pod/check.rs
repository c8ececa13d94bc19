//! Single checks of a container: what probes and hooks do.
//!
//! Invariants
//! - Every check ends within its time-out, by our own clock.
//! - Texts are kubelet's: they end up in `Unhealthy` events.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction};
use kontiki_agent_plan::{probes, services::container_port};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;

use crate::runtime::cri::{Cri, CriError};

/// As much of a response as kubelet reads.
const MAX_BODY: usize = 10 << 10;

/// How a check ended; a failure says why.
pub(super) type Checked = Result<(), String>;

/// The container that is checked.
pub(super) struct Target<'a> {
    pub(super) cri: &'a Cri,
    pub(super) container: &'a Container,
    pub(super) id: &'a str,
    pub(super) ip: Option<IpAddr>,
}

impl Target<'_> {
    /// Runs a probe once.
    pub(super) async fn probe(&self, probe: &Probe) -> Checked {
        let timeout = probes::timeout(probe);
        if let Some(exec) = &probe.exec {
            return self.exec(exec.command.clone().unwrap_or_default(), timeout).await;
        }
        let check = async {
            if let Some(http) = &probe.http_get {
                self.http(http, "kube-probe/1.37", true).await
            } else if let Some(tcp) = &probe.tcp_socket {
                self.tcp(tcp).await
            } else if let Some(grpc) = &probe.grpc {
                self.grpc(grpc, timeout).await
            } else {
                Ok(())
            }
        };
        match tokio::time::timeout(timeout, check).await {
            Ok(outcome) => outcome,
            Err(_) => Err(late(probe, self.container, self.ip, timeout)),
        }
    }

    /// Runs a lifecycle hook. The caller bounds its time.
    pub(super) async fn hook(&self, handler: &LifecycleHandler, limit: Duration) -> Checked {
        if let Some(exec) = &handler.exec {
            self.exec(exec.command.clone().unwrap_or_default(), limit).await
        } else if let Some(http) = &handler.http_get {
            self.http(http, "kube-lifecycle/1.37", false).await
        } else if let Some(sleep) = &handler.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
            Ok(())
        } else {
            Ok(())
        }
    }

    async fn exec(&self, command: Vec<String>, timeout: Duration) -> Checked {
        match self.cri.exec_sync(self.id, command, timeout).await {
            Ok(answer) if answer.exit_code == 0 => Ok(()),
            Ok(answer) => {
                let mut text = String::from_utf8_lossy(&answer.stdout).into_owned();
                text.push_str(&String::from_utf8_lossy(&answer.stderr));
                Err(text.trim_end().to_owned())
            }
            Err(CriError { code: tonic::Code::DeadlineExceeded, .. }) => {
                Err(format!("command timed out after {}s", timeout.as_secs()))
            }
            Err(error) => Err(format!("error: {error}")),
        }
    }

    fn address(&self, host: Option<&String>) -> Result<String, String> {
        match host.filter(|h| !h.is_empty()) {
            Some(host) => Ok(host.clone()),
            None => self.ip.map(|ip| ip.to_string()).ok_or_else(|| "the pod has no address".to_owned()),
        }
    }

    async fn tcp(&self, action: &TCPSocketAction) -> Checked {
        let port = container_port(self.container, &action.port).ok_or("couldn't find port")?;
        let host = self.address(action.host.as_ref())?;
        TcpStream::connect((host.as_str(), port)).await.map(drop).map_err(|e| dial(&host, port, &e))
    }

    async fn http(&self, action: &HTTPGetAction, agent: &str, expect_success: bool) -> Checked {
        let port = container_port(self.container, &action.port).ok_or("couldn't find port")?;
        let host = self.address(action.host.as_ref())?;
        let https = action.scheme.as_deref() == Some("HTTPS");
        let path = action.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let url = format!("{}://{bracketed}:{port}{path}", if https { "https" } else { "http" });
        let failed = |e: String| format!("Get \"{url}\": {e}");
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|e| failed(dial(&host, port, &e)))?;
        let request = request(action, &path, &format!("{bracketed}:{port}"), agent).map_err(&failed)?;
        let status = if https {
            let name = ServerName::try_from(host.clone()).map_err(|e| failed(e.to_string()))?;
            let connector = tokio_rustls::TlsConnector::from(Arc::new(kontiki_tls::any_certificate(None)));
            let stream = connector.connect(name, stream).await.map_err(|e| failed(e.to_string()))?;
            exchange(stream, request).await.map_err(failed)?
        } else {
            exchange(stream, request).await.map_err(failed)?
        };
        // Hooks only have to reach their server.
        if expect_success && !(status.is_success() || status.is_redirection()) {
            return Err(format!("HTTP probe failed with statuscode: {}", status.as_u16()));
        }
        Ok(())
    }

    async fn grpc(&self, action: &GRPCAction, timeout: Duration) -> Checked {
        let port = u16::try_from(action.port).map_err(|_| "couldn't find port".to_owned())?;
        let host = self.address(None)?;
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let endpoint =
            tonic::transport::Endpoint::from_shared(format!("http://{host}:{port}")).map_err(|e| e.to_string())?;
        let late = || {
            format!(
                "timeout: failed to connect service \"{host}:{port}\" within {}s: context deadline exceeded",
                timeout.as_secs()
            )
        };
        let channel = endpoint.connect_timeout(timeout).connect().await.map_err(|_| late())?;
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.map_err(|e| e.to_string())?;
        let service = action.service.clone().unwrap_or_default();
        let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        let codec = tonic_prost::ProstCodec::<HealthRequest, HealthResponse>::default();
        let answer = client.unary(tonic::Request::new(HealthRequest { service }), path, codec).await;
        match answer.map(|a| a.into_inner().status) {
            Ok(1) => Ok(()),
            Ok(status) => Err(format!("service unhealthy (responded with \"{}\")", serving(status))),
            Err(status) => Err(format!("rpc error: code = {:?} desc = {}", status.code(), status.message())),
        }
    }
}

fn serving(status: i32) -> &'static str {
    match status {
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

fn late(probe: &Probe, container: &Container, ip: Option<IpAddr>, timeout: Duration) -> String {
    let ip = ip.map(|ip| ip.to_string()).unwrap_or_default();
    if let Some(http) = &probe.http_get {
        let port = container_port(container, &http.port).unwrap_or(0);
        let scheme = http.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
        let path = http.path.as_deref().unwrap_or("/");
        return format!(
            "Get \"{scheme}://{ip}:{port}{path}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        );
    }
    if let Some(tcp) = &probe.tcp_socket {
        let port = container_port(container, &tcp.port).unwrap_or(0);
        return format!("dial tcp {ip}:{port}: i/o timeout");
    }
    format!("timeout: failed to connect service within {}s: context deadline exceeded", timeout.as_secs())
}

fn dial(host: &str, port: u16, error: &std::io::Error) -> String {
    let what = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {host}:{port}: {what}")
}

fn request(
    action: &HTTPGetAction,
    path: &str,
    host: &str,
    agent: &str,
) -> Result<Request<Empty<bytes::Bytes>>, String> {
    let mut request = Request::get(path);
    let own = |name: &str| action.http_headers.iter().flatten().any(|h| h.name.eq_ignore_ascii_case(name));
    for header in action.http_headers.iter().flatten() {
        request = request.header(&header.name, &header.value);
    }
    for (name, value) in [(header::HOST, host), (header::USER_AGENT, agent), (header::ACCEPT, "*/*")] {
        if !own(name.as_str()) {
            request = request.header(name, value);
        }
    }
    request.header(header::CONNECTION, "close").body(Empty::new()).map_err(|e| e.to_string())
}

async fn exchange<S>(stream: S, request: Request<Empty<bytes::Bytes>>) -> Result<StatusCode, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let work = async {
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = answer.status();
        // The server should see its answer taken; its size is its own affair.
        let _ = Limited::new(answer.into_body(), MAX_BODY).collect().await;
        Ok(status)
    };
    tokio::pin!(connection);
    tokio::pin!(work);
    let mut open = true;
    loop {
        tokio::select! {
            // Both futures stay pinned across turns: nothing is lost by the other's progress.
            result = &mut work => return result,
            _ = &mut connection, if open => open = false,
        }
    }
}
