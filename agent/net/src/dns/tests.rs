use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use domain::{
    base::{Message, MessageBuilder, Name, Rtype, iana::Rcode},
    rdata::AllRecordData,
};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::{Dns, DnsConfig};

const PATIENCE: Duration = Duration::from_secs(10);

fn config(domain: &str, resolv_conf: PathBuf) -> DnsConfig {
    let clients = vec!["127.0.0.0/8".parse().expect("a range")];
    DnsConfig { address: [127, 0, 0, 1].into(), port: 0, domain: domain.into(), resolv_conf, clients }
}

fn service(name: &str, spec: &str) -> Arc<Service> {
    let text = format!(r#"{{"metadata": {{"namespace": "ns", "name": "{name}"}}, "spec": {{{spec}}}}}"#);
    Arc::new(serde_json::from_str(&text).expect("a service"))
}

/// So many endpoints of a headless Service.
fn slice(owner: &str, endpoints: usize) -> Arc<EndpointSlice> {
    let one = |n: usize| format!(r#"{{"addresses": ["10.1.{}.{}"]}}"#, n / 250, n % 250 + 1);
    let all = (0..endpoints).map(one).collect::<Vec<_>>().join(",");
    let meta = format!(
        r#""metadata": {{"namespace": "ns", "name": "s", "labels": {{"kubernetes.io/service-name": "{owner}"}}}}"#
    );
    Arc::new(
        serde_json::from_str(&format!(r#"{{{meta}, "addressType": "IPv4", "endpoints": [{all}]}}"#)).expect("a slice"),
    )
}

async fn serve(config: &DnsConfig, services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> Arc<Dns> {
    let dns = Arc::new(Dns::bind(config).expect("ports"));
    dns.set_services(services, slices);
    let serving = dns.clone();
    tokio::spawn(async move { serving.run().await });
    dns
}

fn packet(name: &str, kind: Rtype, size: Option<u16>) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(7);
    let mut builder = builder.question();
    builder.push((name.parse::<Name<Vec<u8>>>().expect("a name"), kind)).expect("room");
    let mut builder = builder.additional();
    if let Some(size) = size {
        let sized = builder.opt(|opt| {
            opt.set_udp_payload_size(size);
            Ok(())
        });
        sized.expect("room");
    }
    builder.finish()
}

async fn udp(to: SocketAddr, packet: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    socket.send_to(packet, to).await.expect("sent");
    let mut buffer = vec![0; 65_535];
    let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.ok()?.expect("received");
    buffer.truncate(length);
    Some(buffer)
}

async fn tcp(to: SocketAddr, packet: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).await.expect("connected");
    let length = u16::try_from(packet.len()).expect("short").to_be_bytes();
    stream.write_all(&[&length[..], packet].concat()).await.expect("sent");
    let mut bytes = vec![0; usize::from(stream.read_u16().await.expect("a length"))];
    stream.read_exact(&mut bytes).await.expect("an answer");
    bytes
}

fn show(bytes: &[u8]) -> String {
    let message = Message::from_slice(bytes).expect("a message");
    let header = message.header();
    let records = message.answer().expect("answers").limit_to::<AllRecordData<_, _>>();
    let data = records.map(|record| record.expect("a record")).map(|record| match record.data() {
        AllRecordData::A(a) => a.addr().to_string(),
        other => format!("{other}").trim_end_matches('.').to_owned(),
    });
    let data = data.collect::<Vec<_>>().join(" ");
    format!("{} {}{data}", header.rcode(), if header.aa() { "aa " } else { "" }).trim_end().to_owned()
}

#[tokio::test]
async fn cluster_names_come_from_memory_and_others_from_the_machines_own_servers() {
    let dir = std::env::temp_dir().join(format!("kontiki-dns-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let (nobody, file) = (dir.join("none"), dir.join("resolv.conf"));
    std::fs::write(&file, "search x\nnameserver 127.0.0.1\nnameserver 127.0.77.53\n").expect("written");
    // The machine's own server: another one of ours, with another domain.
    let elsewhere = DnsConfig { address: [127, 0, 77, 53].into(), port: 53, ..config("example.org", nobody) };
    let _elsewhere =
        serve(&elsewhere, &[service("far", r#""clusterIP": "9.9.9.9", "ports": [{"port": 1}]"#)], &[]).await;
    let near = [
        service("web", r#""clusterIP": "10.96.0.5", "ports": [{"port": 80}]"#),
        service("out", r#""type": "ExternalName", "externalName": "far.ns.svc.example.org""#),
        service("alias", r#""type": "ExternalName", "externalName": "web.ns.svc.cluster.local""#),
        service("round", r#""type": "ExternalName", "externalName": "round.ns.svc.cluster.local""#),
    ];
    let dns = serve(&config("cluster.local", file), &near, &[]).await;
    let to = dns.address().expect("bound");
    for (name, kind, expect) in [
        ("web.ns.svc.cluster.local", Rtype::A, "NOERROR aa 10.96.0.5"),
        ("web.ns.svc.cluster.local", Rtype::AAAA, "NOERROR aa"),
        ("no.ns.svc.cluster.local", Rtype::A, "NXDOMAIN aa"),
        ("far.ns.svc.example.org", Rtype::A, "NOERROR 9.9.9.9"),
        ("no.ns.svc.example.org", Rtype::A, "NXDOMAIN"),
        ("out.ns.svc.cluster.local", Rtype::A, "NOERROR far.ns.svc.example.org 9.9.9.9"),
        ("alias.ns.svc.cluster.local", Rtype::A, "NOERROR aa web.ns.svc.cluster.local 10.96.0.5"),
        ("web.ns.svc.cluster.local", Rtype::AXFR, "REFUSED"),
    ] {
        let bytes = udp(to, &packet(name, kind, None)).await.expect("an answer");
        assert_eq!(show(&bytes), expect, "{kind} {name}");
    }
    let round = udp(to, &packet("round.ns.svc.cluster.local", Rtype::A, None)).await.expect("an answer");
    assert!(show(&round).starts_with("NOERROR"), "a circle of names ends: {}", show(&round));
    std::fs::remove_dir_all(dir).expect("removed");
}

#[tokio::test]
async fn nobody_to_ask_is_a_server_failure() {
    let dns = serve(&config("cluster.local", "/none".into()), &[], &[]).await;
    let bytes = udp(dns.address().expect("bound"), &packet("example.org", Rtype::A, None)).await.expect("an answer");
    assert_eq!(show(&bytes), "SERVFAIL");
}

#[tokio::test]
async fn an_answer_fits_or_says_that_it_does_not() {
    let many = [service("db", r#""clusterIP": "None""#)];
    let dns = serve(&config("cluster.local", "/none".into()), &many, &[slice("db", 300)]).await;
    let (to, name) = (dns.address().expect("bound"), "db.ns.svc.cluster.local");
    for (size, limit) in [(None, 512), (Some(100), 512), (Some(900), 900), (Some(9000), 1232)] {
        let bytes = udp(to, &packet(name, Rtype::A, size)).await.expect("an answer");
        let message = Message::from_slice(&bytes).expect("a message");
        assert!(bytes.len() <= limit && message.header().tc(), "{} bytes for {size:?}", bytes.len());
        assert!(bytes.len() > limit - 40, "{} bytes for {size:?}: there was room for more", bytes.len());
    }
    let whole = tcp(dns.tcp.local_addr().expect("bound"), &packet(name, Rtype::A, None)).await;
    let message = Message::from_slice(&whole).expect("a message");
    assert_eq!((message.header().tc(), message.header_counts().ancount()), (false, 300));
}

#[tokio::test]
async fn hostile_bytes_get_a_short_answer_or_none() {
    let dns = serve(&config("cluster.local", "/none".into()), &[], &[]).await;
    let to = dns.address().expect("bound");
    let question = packet("web.ns.svc.cluster.local", Rtype::A, None);
    let mut answer = question.clone();
    answer[2] |= 0x80;
    let mut counts = question.clone();
    counts[5] = 9;
    let mut status = question.clone();
    status[2] |= 0x10;
    let mut pointer = question[..12].to_vec();
    pointer.extend([0xc0, 12, 0, 1, 0, 1]);
    for (what, bytes, expect) in [
        ("more questions than there are", counts, Rcode::FORMERR),
        ("a name that leads to itself", pointer, Rcode::FORMERR),
        ("a header alone", question[..12].to_vec(), Rcode::FORMERR),
        ("another opcode", status, Rcode::NOTIMP),
    ] {
        let got = udp(to, &bytes).await.expect(what);
        assert_eq!(Message::from_slice(&got).expect(what).header().rcode(), expect, "{what}");
        assert!(got.len() <= question.len() + 11, "{what}: {} bytes", got.len());
    }
    // What is not answered is passed over: the question behind it is.
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    for bytes in [&answer[..], &[1, 2, 3], &[], &question] {
        socket.send_to(bytes, to).await.expect("sent");
    }
    let mut buffer = [0; 512];
    let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("in time").expect("an answer");
    assert_eq!(show(&buffer[..length]), "NXDOMAIN aa");
    assert!(timeout(Duration::from_millis(200), socket.recv(&mut buffer)).await.is_err(), "one answer only");
}
