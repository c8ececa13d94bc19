//! Who is let in, what is probed without gRPC, and how much may be sent at once.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kontiki_etcd_tests::{
    client::{self, Clients},
    group::Group,
    pki::{Certs, Pki},
};
use kontiki_proto::etcd as pb;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Code;

use crate::support::{equal, group, holds};

const MIB: usize = 1024 * 1024;

/// A plain GET over TLS, as a prober makes it.
async fn get(address: SocketAddr, path: &str, ca: &Certs, identity: Option<&Certs>) -> Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&ca.ca)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = builder.with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(certs) => {
            let chain = vec![CertificateDer::from_pem_file(&certs.cert)?];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&certs.key)?)?
        }
    };
    let exchange = async {
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let tcp = TcpStream::connect(address).await?;
        let mut tls = connector.connect(ServerName::from(address.ip()), tcp).await?;
        tls.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())
            .await?;
        let mut answer = Vec::new();
        match tls.read_to_end(&mut answer).await {
            // The answer is whole: some servers close without saying so first.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof && !answer.is_empty() => {}
            other => drop(other?),
        }
        Ok(String::from_utf8(answer)?)
    };
    tokio::time::timeout(Duration::from_secs(10), exchange).await.context("no answer in 10 s")?
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_version_over_https() -> Result<()> {
    let group = group(3).await?;
    for member in group.members() {
        let health = get(member.client, "/health", &group.certs, Some(&group.certs)).await?;
        holds(&health, "HTTP/1.1 200")?;
        holds(&health, r#"{"health":"true""#)?;
        let version = get(member.client, "/version", &group.certs, Some(&group.certs)).await?;
        holds(&version, "HTTP/1.1 200")?;
        let body = version.split("\r\n\r\n").nth(1).context("a body")?;
        let body: serde_json::Value = serde_json::from_str(body.trim()).with_context(|| version.clone())?;
        for field in ["etcdserver", "etcdcluster"] {
            let version = body[field].as_str().with_context(|| format!("{field} in {body}"))?;
            ensure!(version.starts_with("3.") && version.split('.').count() == 3, "{field}: {version}");
        }
        holds(&get(member.client, "/metrics", &group.certs, Some(&group.certs)).await?, "HTTP/1.1 200")?;
        holds(&get(member.client, "/nothing", &group.certs, Some(&group.certs)).await?, "HTTP/1.1 404")?;
    }
    Ok(())
}

/// Without a majority a member is not healthy, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn health_is_false_without_a_majority() -> Result<()> {
    let mut group = group(3).await?;
    group.kill(1)?;
    group.kill(2)?;
    crate::support::until("an unhealthy member", async || {
        let health = get(group.members()[0].client, "/health", &group.certs, Some(&group.certs)).await?;
        holds(&health, "HTTP/1.1 503")?;
        holds(&health, r#"{"health":"false""#)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused() -> Result<()> {
    let group = group(1).await?;
    let address = group.members()[0].client;
    let other = Pki::new(&group.dir().join("other"))?.issue("client", &[])?;
    // The stranger believes in the server: what fails is not its own check of that.
    let stranger = Certs { ca: group.certs.ca.clone(), ..other };
    for path in ["/health", "/version"] {
        for identity in [None, Some(&stranger)] {
            let answer = get(address, path, &group.certs, identity).await;
            ensure!(answer.is_err(), "{path} answers a stranger: {answer:?}");
        }
    }
    let read = || pb::RangeRequest { key: "a".into(), ..pb::RangeRequest::default() };
    let anonymous = {
        let ca = tonic::transport::Certificate::from_pem(std::fs::read(&group.certs.ca)?);
        let tls = tonic::transport::ClientTlsConfig::new().ca_certificate(ca);
        tonic::transport::Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?.connect_lazy()
    };
    for channel in [anonymous, client::connect(address, &stranger)?] {
        let refused = Clients::new(channel).kv.range(read()).await.err().context("a stranger reads")?;
        // However its library names a connection that was cut: no answer of the store.
        ensure!(matches!(refused.code(), Code::Unavailable | Code::Unknown | Code::Cancelled), "{refused:?}");
        ensure!(std::error::Error::source(&refused).is_some(), "the store itself answers: {refused:?}");
    }
    group.clients(0)?.kv.range(read()).await?;
    Ok(())
}

/// Certificates of peers count at the peers' port only if it is told so; a plain client gets nothing.
#[tokio::test(flavor = "multi_thread")]
async fn plain_text_is_refused() -> Result<()> {
    let group = group(1).await?;
    for address in [group.members()[0].client, group.members()[0].peer] {
        let mut tcp = TcpStream::connect(address).await?;
        tcp.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(10), tcp.read_to_end(&mut answer)).await?; // a reset will do
        let text = String::from_utf8_lossy(&answer);
        ensure!(!text.contains("200 OK"), "{address} answers plain text: {text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn authentication_is_not_served() -> Result<()> {
    let group = group(1).await?;
    if group.kind().is_etcd() {
        return Ok(()); // etcd does serve it: there is nothing to tell
    }
    let mut client = crate::client_crate::connect(&group).await?;
    for outcome in [
        client.auth_enable().await.map(|_| ()),
        client.user_list().await.map(|_| ()),
        client.role_list().await.map(|_| ()),
    ] {
        match outcome {
            Err(etcd_client::Error::GRpcStatus(status)) => equal(status.code(), Code::Unimplemented)?,
            other => anyhow::bail!("{other:?}"),
        }
    }
    Ok(())
}

async fn put_of(group: &Group, length: usize) -> Result<Result<(), tonic::Status>> {
    let put = pb::PutRequest { key: "large".into(), value: Bytes::from(vec![7; length]), ..pb::PutRequest::default() };
    Ok(group.clients(0)?.kv.put(put).await.map(|_| ()))
}

#[tokio::test(flavor = "multi_thread")]
async fn too_large_requests_are_refused() -> Result<()> {
    let group = group(1).await?;
    put_of(&group, MIB * 3 / 2 - 4096).await??;
    let too_large = put_of(&group, MIB * 3 / 2 + 1).await?.err().context("1.5 MiB and a byte are taken")?;
    equal((too_large.code(), too_large.message()), (Code::InvalidArgument, "etcdserver: request is too large"))?;
    let over_the_message = put_of(&group, 3 * MIB).await?.err().context("3 MiB are taken")?;
    equal(over_the_message.code(), Code::ResourceExhausted)?;
    // The same in one transaction, of which no single part is too large.
    let part = |i: usize| {
        let put = pb::PutRequest {
            key: format!("part/{i}").into(),
            value: Bytes::from(vec![7; MIB / 2]),
            ..pb::PutRequest::default()
        };
        pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
    };
    let txn = pb::TxnRequest { success: (0..3).map(part).collect(), ..pb::TxnRequest::default() };
    let too_large = group.clients(0)?.kv.txn(txn).await.err().context("a transaction of 1.5 MiB is taken")?;
    equal((too_large.code(), too_large.message()), (Code::InvalidArgument, "etcdserver: request is too large"))?;
    // Large answers are no offence.
    for i in 0..4 {
        let put = pb::PutRequest {
            key: format!("big/{i}").into(),
            value: Bytes::from(vec![7; MIB]),
            ..pb::PutRequest::default()
        };
        group.clients(0)?.kv.put(put).await?;
    }
    let all = pb::RangeRequest { key: "big/".into(), range_end: "big0".into(), ..pb::RangeRequest::default() };
    let answer = group.clients(0)?.kv.range(all).await?.into_inner();
    equal(answer.kvs.iter().map(|kv| kv.value.len()).sum::<usize>(), 4 * MIB)
}
