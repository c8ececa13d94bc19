//! The table of closed loads, and the objects that they find there.
//!
//! Invariants
//! - Before a case there are [`Scale::pods`] Pods in the namespace `list`, of which a hundredth is in each group and on
//!   each node, and one Pod for each client in `own`.
//! - Creations are counted, not timed: afterwards every store holds as much, however fast it was.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use kontiki_etcd_tests::load::figures::Column;
use rand::{SeedableRng as _, rngs::SmallRng};
use serde_json::{Value, json};

use crate::{
    closed::{self, Client, Limit, Tell, Work},
    compare::Scale,
    objects::{self, Template, name, part},
    peer::Peer,
    wire::{APPLY, DISCOVERY, JSON, PROTOBUF, Request, STRATEGIC, TABLE},
};

/// How many groups of labels and how many nodes the Pods of `list` are spread over.
const PARTS: u64 = 100;
const NAMESPACES: [&str; 4] = ["list", "own", "load", "watch"];
const LISTED: &str = "/api/v1/namespaces/list/pods";
const FILLERS: usize = 32;

/// One closed load.
pub struct Case {
    name: &'static str,
    clients: usize,
    op: Op,
}

#[derive(Clone, Copy)]
enum Op {
    CreatePod,
    CreateConfigMap,
    Update,
    Patch,
    Apply,
    /// One of many by its number, in a form.
    Get(fn(u64) -> String, &'static str),
    List(List),
}

#[derive(Clone, Copy)]
struct List {
    path: &'static str,
    accept: &'static str,
    /// Of how many it answers one: 1 for all Pods there are.
    share: u64,
}

const fn all(accept: &'static str) -> Op {
    Op::List(List { path: LISTED, accept, share: 1 })
}

const fn some(path: &'static str) -> Op {
    Op::List(List { path, accept: JSON, share: PARTS })
}

pub const CASES: &[Case] = &[
    Case { name: "LIST of all Pods", clients: 1, op: all(JSON) },
    Case { name: "LIST of all Pods", clients: 20, op: all(JSON) },
    Case { name: "LIST of all Pods as a Table", clients: 1, op: all(TABLE) },
    Case {
        name: "LIST by a label of one in 100 Pods",
        clients: 1,
        op: some("/api/v1/namespaces/list/pods?labelSelector=group%3Dg0042"),
    },
    Case {
        name: "LIST by spec.nodeName of one in 100 Pods",
        clients: 1,
        op: some("/api/v1/pods?fieldSelector=spec.nodeName%3Dl0042"),
    },
    Case { name: "GET Pod", clients: 16, op: Op::Get(listed, JSON) },
    Case { name: "GET Pod in protobuf", clients: 16, op: Op::Get(listed, PROTOBUF) },
    Case {
        name: "GET Pod, resourceVersion=0",
        clients: 16,
        op: Op::Get(|number| format!("{}?resourceVersion=0", listed(number)), JSON),
    },
    Case { name: "discovery of all groups", clients: 16, op: Op::Get(|_| "/apis".to_owned(), DISCOVERY) },
    Case { name: "OpenAPI v3 of the core group", clients: 4, op: Op::Get(|_| "/openapi/v3/api/v1".to_owned(), JSON) },
    Case { name: "update 4 KiB Pod", clients: 16, op: Op::Update },
    Case { name: "strategic merge patch of a 4 KiB Pod", clients: 16, op: Op::Patch },
    Case { name: "server-side apply of a 4 KiB Pod", clients: 16, op: Op::Apply },
    Case { name: "create 4 KiB Pod", clients: 16, op: Op::CreatePod },
    Case { name: "create ConfigMap", clients: 16, op: Op::CreateConfigMap },
    Case { name: "create ConfigMap", clients: 1, op: Op::CreateConfigMap },
];

fn listed(number: u64) -> String {
    format!("{LISTED}/{}", name(number))
}

impl Case {
    pub fn title(&self) -> String {
        let plural = if self.clients == 1 { "client" } else { "clients" };
        format!("{}, {} {plural}", self.name, self.clients)
    }

    /// Warms up, measures, tells.
    ///
    /// # Errors
    /// A server refuses, or ends.
    pub async fn measure(&self, peer: &Peer, scale: &Scale, column: &mut Column<'_>) -> Result<()> {
        let (warm_up, limit) = self.limits(scale);
        let clients = self.clients(peer, scale).await?;
        let (clients, _) = closed::run(clients, warm_up).await?;
        let (_, sample) = closed::measure(peer, clients, limit).await?;
        let tell = if matches!(self.op, Op::List(_)) { Tell::Lists } else { Tell::Requests };
        sample.tell(&self.title(), tell, column);
        Ok(())
    }

    fn limits(&self, scale: &Scale) -> (Limit, Limit) {
        match self.op {
            Op::CreatePod | Op::CreateConfigMap => {
                let count = if self.clients == 1 { scale.creations / 10 } else { scale.creations };
                (Limit::Requests(count / 10), Limit::Requests(count))
            }
            // All at once, once: what memory that takes is the question.
            Op::List(_) if self.clients > 1 => (Limit::Requests(0), Limit::Requests(self.clients)),
            _ => (Limit::Time(scale.timing.warm_up), Limit::Time(scale.timing.measured)),
        }
    }

    async fn clients(&self, peer: &Peer, scale: &Scale) -> Result<Vec<Client>> {
        let length = match self.op {
            Op::List(list) => list.length(peer, scale.pods / list.share).await?,
            _ => 0,
        };
        let mut clients = Vec::new();
        for number in 0..self.clients {
            let work = self.work(peer, number, scale, length).await?;
            clients.push(Client::new(peer.connect(number).await?, work));
        }
        Ok(clients)
    }

    /// `length` is that of an answer to a list.
    async fn work(&self, peer: &Peer, number: usize, scale: &Scale, length: u64) -> Result<Work> {
        Ok(match self.op {
            Op::CreatePod => create(peer, "pods", objects::pod(false)),
            Op::CreateConfigMap => create(peer, "configmaps", objects::config_map()),
            Op::Update => {
                let (path, pod) = own_pod(peer, number).await?;
                let version = pod["metadata"]["resourceVersion"].as_str().context("a version")?.to_owned();
                Work::Update { path, template: replacement(pod), version, turn: 0 }
            }
            Op::Patch => {
                let template = Template::new(&closed::annotate(objects::TURN), &[objects::TURN]);
                Work::Patch { path: own_pod(peer, number).await?.0, media: STRATEGIC, template, turn: 1 << 32 }
            }
            Op::Apply => {
                // Whoever made it owns it, too.
                let path = format!("{}?fieldManager=api-load&force=true", own_pod(peer, number).await?.0);
                Work::Patch { path, media: APPLY, template: whole(number)?, turn: 1 << 33 }
            }
            Op::Get(path, accept) => {
                Work::Get { path, accept, count: scale.pods, rng: SmallRng::seed_from_u64(number as u64) }
            }
            Op::List(list) => Work::List { path: list.path.to_owned(), accept: list.accept, length },
        })
    }
}

impl List {
    /// Bytes of its answer, which is looked at once.
    async fn length(&self, peer: &Peer, expected: u64) -> Result<u64> {
        let mut connection = peer.connect(0).await?;
        let answer = connection.ask(&Request { accept: self.accept, ..Request::get(self.path) }).await?;
        ensure!(answer.status == 200, "{}: {}", self.path, String::from_utf8_lossy(connection.body()));
        let list: Value = serde_json::from_slice(connection.body())?;
        let items = list["items"].as_array().or(list["rows"].as_array()).context("items or rows")?;
        ensure!(items.len() as u64 == expected, "{} has {} of {expected}", self.path, items.len());
        Ok(answer.length)
    }
}

fn create(peer: &Peer, resource: &str, template: Template) -> Work {
    let holes = |number| vec![name(number), part('c', number % PARTS)];
    let path = format!("/api/v1/namespaces/load/{resource}");
    Work::Create { path, template: Arc::new(template), holes, next: peer.next.clone() }
}

/// What a client sends to make its Pod.
fn own(number: u64) -> Result<Value> {
    let mut body = Vec::new();
    objects::pod(false).fill(&[&name(number), &part('o', number)], &mut body);
    Ok(serde_json::from_slice(&body)?)
}

/// The same with a hole for a number in it, as somebody applies it who wants all of it.
fn whole(number: usize) -> Result<Template> {
    let mut pod = own(number as u64)?;
    pod["metadata"]["annotations"][objects::ANNOTATION] = json!(objects::TURN);
    Ok(Template::new(&pod.to_string(), &[objects::TURN]))
}

/// The Pod of a client, made where it is not yet, and its path.
async fn own_pod(peer: &Peer, number: usize) -> Result<(String, Value)> {
    let number = number as u64;
    let collection = "/api/v1/namespaces/own/pods";
    peer.ensure(collection, &own(number)?).await?;
    let path = format!("{collection}/{}", name(number));
    let (status, pod) = peer.connect(0).await?.json("GET", &path, None).await?;
    ensure!(status == 200, "{pod}");
    Ok((path, pod))
}

/// A Pod as a client sends it back that has read it and changed an annotation.
fn replacement(mut pod: Value) -> Template {
    pod["metadata"]["resourceVersion"] = json!(objects::VERSION);
    pod["metadata"]["annotations"][objects::ANNOTATION] = json!(objects::TURN);
    Template::new(&pod.to_string(), &[objects::TURN, objects::VERSION])
}

/// Makes namespaces, nodes and the Pods of `list`, and waits until that has had its effect.
///
/// # Errors
/// A server refuses.
pub async fn fill(peer: &Peer, scale: &Scale) -> Result<()> {
    for namespace in NAMESPACES {
        peer.ensure("/api/v1/namespaces", &objects::namespace(namespace)).await?;
        let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        peer.ensure(&accounts, &objects::service_account()).await?;
    }
    for number in 0..PARTS {
        peer.ensure("/api/v1/nodes", &objects::node(&part('l', number))).await?;
    }
    let holes = |number| vec![name(number), part('g', number % PARTS), part('l', number / PARTS % PARTS)];
    fill_pods(peer, "list", holes, scale.pods).await?;
    peer.calm().await
}

/// Creates so many bound Pods in a namespace, numbered from 0; bytes of the answers.
///
/// # Errors
/// A server refuses.
pub async fn fill_pods(peer: &Peer, namespace: &str, holes: fn(u64) -> Vec<String>, count: u64) -> Result<u64> {
    let (template, next) = (Arc::new(objects::pod(true)), Arc::default());
    let mut clients = Vec::new();
    for number in 0..FILLERS {
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let work = Work::Create { path, template: template.clone(), holes, next: Arc::clone(&next) };
        clients.push(Client::new(peer.connect(number).await?, work));
    }
    let (_, run) = closed::run(clients, Limit::Requests(usize::try_from(count)?)).await?;
    ensure!(run.latencies.len() as u64 == count, "{} of {count} Pods were refused", run.refusals);
    Ok(run.bytes)
}
