//! `kontiki get`, `log` and `undo`: the past of one object.
//!
//! Invariants
//! - What is undone is written as any client would write it: with the version that was looked at, and never the status.
//! - Standard output has objects and diffs only.

use std::{collections::BTreeSet, fmt::Write as _, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use http::StatusCode;
use serde_json::Value;

use crate::{
    Target,
    client::{Client, Refusal},
    diff::unified,
    status,
};

const AS_OF: &str = "kontiki.dev/as-of";
const CHANGES: &str = "kontiki.dev/changes";
/// Whose the fields are that an undo changes.
const MANAGER: &str = "kontiki-undo";
/// Changes that are asked for at once.
const PAGE: usize = 100;
const NO_PAST: &str = "whoever serves this kind keeps no past of it";
/// Finalizers of deletions that were under way.
const OF_DELETIONS: [&str; 2] = ["foregroundDeletion", "orphan"];

/// Names an object.
#[derive(clap::Args)]
pub struct Object {
    #[command(flatten)]
    target: Target,
    /// Its kind, as kubectl takes it: configmap, deploy, jobs.batch
    kind: String,
    /// Its name
    name: String,
    /// Its namespace, if its kind has them
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

#[derive(clap::Args)]
pub struct GetArgs {
    #[command(flatten)]
    object: Object,
    /// The moment: how long ago (10m), a time (2030-01-31T12:00:00Z), or a revision [default: now]
    #[arg(long, value_name = "MOMENT")]
    as_of: Option<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Form::Yaml)]
    output: Form,
}

#[derive(clap::Args)]
pub struct LogArgs {
    #[command(flatten)]
    object: Object,
    /// Changes to show, the newest first
    #[arg(long, default_value_t = 20, value_name = "NUMBER")]
    limit: usize,
    /// Show the status and who owns what, too
    #[arg(long)]
    all: bool,
}

#[derive(clap::Args)]
pub struct UndoArgs {
    #[command(flatten)]
    object: Object,
    /// The moment to go back to, as for get [default: before the last change of anything but the status]
    #[arg(long, value_name = "MOMENT")]
    to: Option<String>,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
}

#[derive(clap::ValueEnum, Clone, Copy)]
pub enum Form {
    Yaml,
    Json,
}

/// Where an object is served.
struct Place {
    collection: String,
    name: String,
}

impl Place {
    fn path(&self, query: &[(&str, &str)]) -> String {
        with_query(format!("{}/{}", self.collection, encode(&self.name)), query)
    }
}

/// The object as it is or was.
pub async fn get(args: GetArgs) -> Result<ExitCode> {
    let (client, place) = find(&args.object).await?;
    let moment = args.as_of.as_deref().map(|moment| (AS_OF, moment));
    if moment.is_some() {
        know_the_past(&client, &place).await?;
    }
    let path = place.path(moment.as_slice());
    match args.output {
        Form::Json => println!("{:#}", client.get(&path).await?),
        Form::Yaml => match client.accepting("application/yaml").get(&path).await? {
            Value::String(text) => print!("{text}"),
            other => print!("{}", serde_yaml_ng::to_string(&other)?),
        },
    }
    Ok(ExitCode::SUCCESS)
}

/// What became of the object.
pub async fn log(args: LogArgs) -> Result<ExitCode> {
    let (client, place) = find(&args.object).await?;
    // One more, so that the last one shown can be compared with what was before it.
    let past = Past::of(&client, &place, args.limit.saturating_add(1)).await?;
    if past.changes.is_empty() {
        bail!("nothing is known of {} {:?} since {}", args.object.kind, args.object.name, past.since);
    }
    print!("{}", past.show(args.limit, args.all)?);
    Ok(ExitCode::SUCCESS)
}

/// Makes the object what it was.
pub async fn undo(args: UndoArgs) -> Result<ExitCode> {
    let (client, place) = find(&args.object).await?;
    let now = match client.get(&place.path(&[])).await {
        Ok(now) => Some(now),
        Err(error) if is_absent(&error) => None,
        Err(error) => return Err(error),
    };
    let then = match &args.to {
        Some(moment) => {
            know_the_past(&client, &place).await?;
            client.get(&place.path(&[(AS_OF, moment)])).await.map_err(|error| {
                if is_absent(&error) { error.context(format!("it did not exist as of {moment}")) } else { error }
            })?
        }
        None => before_last(&client, &place, now.as_ref()).await?,
    };
    let wanted = wanted(&then, now.as_ref());
    let mut query = vec![("fieldManager", MANAGER)];
    if args.dry_run {
        query.push(("dryRun", "All"));
    }
    let done = match &now {
        Some(_) => client.put(&place.path(&query), &wanted).await?,
        None => client.post(&with_query(place.collection.clone(), &query), &wanted).await?,
    };
    let diff = unified(&text(now.as_ref(), false)?, &text(Some(&done), false)?);
    if diff.is_empty() {
        eprintln!("nothing to undo: it is as it was at revision {}", revision(&then));
    }
    print!("{diff}");
    Ok(ExitCode::SUCCESS)
}

/// A server that knows no past would answer with the present.
async fn know_the_past(client: &Client, place: &Place) -> Result<()> {
    Past::default().read(client, place, 1, &mut String::new()).await.map(drop)
}

/// The newest version that was otherwise; of an object that is gone the newest that was not going.
async fn before_last(client: &Client, place: &Place, now: Option<&Value>) -> Result<Value> {
    let mut past = Past::default();
    let mut next = String::new();
    loop {
        let more = past.read(client, place, PAGE, &mut next).await?;
        if let Some(then) = last_other(&past.changes, now)? {
            return Ok(then);
        }
        past.changes.clear();
        if !more {
            bail!("nothing to undo: no other version of it is known since {}", past.since);
        }
    }
}

fn last_other(changes: &[Value], now: Option<&Value>) -> Result<Option<Value>> {
    let current = text(now, false)?;
    for then in changes.iter().map(|change| &change["object"]).filter(|then| then.is_object()) {
        let other = match now {
            Some(_) => text(Some(then), false)? != current,
            None => then["metadata"]["deletionTimestamp"].is_null(),
        };
        if other {
            return Ok(Some(then.clone()));
        }
    }
    Ok(None)
}

/// What is written so that the object becomes what it was. What ties it to others, and what only the server writes, is
/// taken from what it is now.
fn wanted(then: &Value, now: Option<&Value>) -> Value {
    let mut wanted = then.clone();
    if let Some(fields) = wanted.as_object_mut() {
        fields.remove("status");
        if let Some(status) = now.and_then(|now| now.get("status")) {
            fields.insert("status".to_owned(), status.clone());
        }
    }
    let Some(metadata) = wanted["metadata"].as_object_mut() else { return wanted };
    let of_the_present = [
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "ownerReferences",
        "selfLink",
    ];
    metadata.remove("managedFields");
    for field in of_the_present {
        metadata.remove(field);
        if let Some(value) = now.and_then(|now| now["metadata"].get(field)) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    match now {
        Some(now) => {
            metadata.remove("finalizers");
            if let Some(finalizers) = now["metadata"].get("finalizers") {
                metadata.insert("finalizers".to_owned(), finalizers.clone());
            }
        }
        None => {
            if let Some(finalizers) = metadata.get_mut("finalizers").and_then(Value::as_array_mut) {
                finalizers.retain(|finalizer| !OF_DELETIONS.iter().any(|of| finalizer == of));
            }
        }
    }
    wanted
}

/// The changes of an object, as the API tells them.
#[derive(Default)]
struct Past {
    changes: Vec<Value>,
    /// Whether all are here that are kept.
    is_whole: bool,
    /// How far back they are kept, for a person.
    since: String,
}

impl Past {
    async fn of(client: &Client, place: &Place, want: usize) -> Result<Self> {
        let mut past = Self::default();
        let mut next = String::new();
        while past.changes.len() < want {
            let page = PAGE.min(want - past.changes.len());
            if !past.read(client, place, page, &mut next).await? {
                past.is_whole = true;
                break;
            }
        }
        Ok(past)
    }

    /// Reads a page more; whether there are others.
    async fn read(&mut self, client: &Client, place: &Place, limit: usize, next: &mut String) -> Result<bool> {
        let limit = limit.to_string();
        let mut query = vec![(CHANGES, "true"), ("limit", &*limit)];
        if !next.is_empty() {
            query.push(("continue", &**next));
        }
        let mut list = client.get(&place.path(&query)).await?;
        let items = list["items"].as_array_mut().context(NO_PAST)?;
        self.changes.append(items);
        let said = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        self.since = format!("revision {} {}", said(&list["since"]["revision"]), said(&list["since"]["time"]));
        self.since.truncate(self.since.trim_end().len());
        *next = said(&list["metadata"]["continue"]);
        Ok(!next.is_empty())
    }

    fn show(&self, limit: usize, all: bool) -> Result<String> {
        let mut out = String::new();
        for (at, change) in self.changes.iter().enumerate().take(limit) {
            let before = self.changes.get(at + 1);
            let object = |change: Option<&Value>| change.map(|c| c["object"].clone()).filter(Value::is_object);
            let (old, new) = (object(before), object(Some(change)));
            let is_made = change["created"] == true;
            let old = old.filter(|_| !is_made);
            let said = |field: &str| change[field].as_str().unwrap_or("-").to_owned();
            let _ = write!(out, "revision {}  {}", said("revision"), said("time"));
            let who = new.as_ref().map(|new| owners(old.as_ref(), new)).unwrap_or_default();
            if !who.is_empty() {
                let _ = write!(out, "  by {}", who.join(", "));
            }
            out.push('\n');
            if change["unreadable"].is_string() {
                let _ = writeln!(out, "it cannot be read: {}", said("unreadable"));
            } else if change["deleted"] == true {
                out.push_str("deleted\n");
            } else if old.is_none() && !is_made {
                let what = if before.is_some() { "cannot be read" } else { "is not kept" };
                let _ = writeln!(out, "what was before {what}");
            } else {
                let diff = unified(&text(old.as_ref(), all)?, &text(new.as_ref(), all)?);
                out.push_str(if diff.is_empty() {
                    "nothing but its status, or who owns what (--all)\n"
                } else {
                    &diff
                });
            }
            out.push('\n');
        }
        if self.is_whole && self.changes.len() <= limit {
            let _ = writeln!(out, "The past is kept since {}.", self.since);
        }
        Ok(out)
    }
}

/// Who wrote a version, as far as it says so: the managers whose entries are newer than in the version before, or have
/// fields more. One whose entry has only lost fields has lost them to somebody; if that is all that changed, it is told.
/// If no entry changed, whose fields changed: an entry of scale has no time, and one has whole seconds only.
fn owners(old: Option<&Value>, new: &Value) -> Vec<String> {
    let entries = |object: &Value| object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let before = old.map(entries).unwrap_or_default();
    let changed: Vec<Value> = entries(new).into_iter().filter(|entry| !before.contains(entry)).collect();
    let same =
        |a: &Value, b: &Value| ["manager", "operation", "subresource"].iter().all(|field| a[*field] == b[*field]);
    let lost = |entry: &&Value| {
        let older = before.iter().find(|older| same(older, entry));
        older.is_some_and(|older| older["time"] == entry["time"] && within(&entry["fieldsV1"], &older["fieldsV1"]))
    };
    let (_, mut writers): (Vec<_>, Vec<_>) = changed.iter().partition(lost);
    if writers.is_empty() {
        writers = changed.iter().collect();
    }
    let unchanged = if writers.is_empty() { entries(new) } else { Vec::new() };
    if let Some(old) = old {
        writers.extend(unchanged.iter().filter(|entry| touched(&entry["fieldsV1"], old, new)));
    }
    let name = |entry: &Value| {
        let manager = entry["manager"].as_str().unwrap_or_default().to_owned();
        match entry["subresource"].as_str().filter(|sub| !sub.is_empty()) {
            Some(sub) => format!("{manager} ({sub})"),
            None => manager,
        }
    };
    writers.into_iter().map(name).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Whether a set of fields has one that differs. Elements of lists are not told apart.
fn touched(fields: &Value, old: &Value, new: &Value) -> bool {
    fields.as_object().into_iter().flatten().any(|(field, below)| match field.strip_prefix("f:") {
        Some(name) => {
            let (old, new) = (&old[name], &new[name]);
            let is_leaf = below.as_object().is_none_or(serde_json::Map::is_empty);
            old != new && (is_leaf || touched(below, old, new))
        }
        None => field != "." && old != new,
    })
}

/// Whether a set of fields has none that the other has not.
fn within(fields: &Value, others: &Value) -> bool {
    let Some(fields) = fields.as_object() else { return true };
    fields.iter().all(|(field, below)| others.get(field).is_some_and(|other| within(below, other)))
}

/// An object as a person compares it; nothing if there is none.
fn text(object: Option<&Value>, all: bool) -> Result<String> {
    let Some(mut object) = object.cloned() else { return Ok(String::new()) };
    if !all {
        if let Some(fields) = object.as_object_mut() {
            fields.remove("status");
        }
        if let Some(metadata) = object["metadata"].as_object_mut() {
            for field in ["managedFields", "resourceVersion", "generation"] {
                metadata.remove(field);
            }
        }
    }
    Ok(serde_yaml_ng::to_string(&object)?)
}

fn revision(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap_or("?")
}

fn is_absent(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refusal>().is_some_and(|refusal| refusal.code == StatusCode::NOT_FOUND)
}

async fn find(object: &Object) -> Result<(Client, Place)> {
    let (client, _) = status::find(&object.target)?;
    let (root, found) = resolve(&client, &object.kind).await?;
    let plural = found["name"].as_str().unwrap_or_default();
    let namespace = match found["namespaced"].as_bool() {
        Some(true) => format!("/namespaces/{}", encode(&object.namespace)),
        _ => String::new(),
    };
    let place = Place { collection: format!("{root}{namespace}/{plural}"), name: object.name.clone() };
    Ok((client, place))
}

/// The path of a kind's group and version, and what discovery says of it. Groups come in the server's order.
async fn resolve(client: &Client, kind: &str) -> Result<(String, Value)> {
    let (word, group) = kind.split_once('.').map_or((kind, None), |(word, group)| (word, Some(group)));
    if group.is_none()
        && let Some(found) = named(&client.get("/api/v1").await?, word)
    {
        return Ok(("/api/v1".to_owned(), found));
    }
    let groups = client.get("/apis").await?;
    let mut silent = None;
    for known in groups["groups"].as_array().into_iter().flatten() {
        if group.is_some_and(|group| known["name"] != group) {
            continue;
        }
        let path = format!("/apis/{}", known["preferredVersion"]["groupVersion"].as_str().unwrap_or_default());
        match client.get(&path).await {
            Ok(list) => {
                if let Some(found) = named(&list, word) {
                    return Ok((path, found));
                }
            }
            // A server behind that is away hides no other group.
            Err(error) => silent = Some(error),
        }
    }
    match silent {
        Some(error) => Err(error.context(format!("no kind {kind:?} was found, but not every group answers"))),
        None => bail!("the server has no kind {kind:?}"),
    }
}

/// The resource of a discovery document that a person calls so.
fn named(list: &Value, word: &str) -> Option<Value> {
    let is_it = |name: &Value| name.as_str().is_some_and(|name| name.eq_ignore_ascii_case(word));
    let mut resources = list["resources"].as_array()?.iter();
    let found = resources.find(|resource| {
        let name = &resource["name"];
        let short = resource["shortNames"].as_array().into_iter().flatten();
        !name.as_str().unwrap_or("/").contains('/')
            && [name, &resource["singularName"], &resource["kind"]].into_iter().chain(short).any(is_it)
    });
    found.cloned()
}

fn with_query(path: String, query: &[(&str, &str)]) -> String {
    let pairs = query.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value)));
    let query = pairs.collect::<Vec<_>>().join("&");
    if query.is_empty() { path } else { format!("{path}?{query}") }
}

/// What stands for itself in every part of an address.
fn encode(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_only_lost_fields_did_not_write() {
        let object = |owners: Value| json!({"metadata": {"managedFields": owners}});
        let owner =
            |manager: &str, time: u8, fields: Value| json!({"manager": manager, "time": time, "fieldsV1": fields});
        let (both, one, other) =
            (json!({"f:a": {}, "f:b": {"f:c": {}}}), json!({"f:a": {}}), json!({"f:b": {"f:c": {}}}));
        let old = object(json!([owner("maker", 1, both.clone())]));
        for (new, expect) in [
            (json!([owner("maker", 1, one.clone()), owner("patcher", 2, other.clone())]), &["patcher"][..]),
            (json!([owner("maker", 1, one.clone())]), &["maker"]),
            (json!([owner("maker", 2, one.clone())]), &["maker"]),
            (json!([owner("maker", 1, json!({"f:a": {}, "f:d": {}}))]), &["maker"]),
            (json!([owner("maker", 1, both.clone())]), &[]),
        ] {
            assert_eq!(owners(Some(&old), &object(new.clone())), expect, "{new}");
        }
        assert_eq!(owners(None, &old), ["maker"]);
    }

    #[test]
    fn a_change_that_no_entry_tells_of_is_its_fields_owners() {
        let entries = json!([
            {"manager": "kubectl", "subresource": "scale", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
            {"manager": "maker", "time": 1, "fieldsV1": {"f:spec": {".": {}, "f:template": {}, "f:list": {"k:{\"a\":1}": {}}}}},
        ]);
        let object = |spec: Value| json!({"spec": spec, "metadata": {"managedFields": entries}});
        let old = object(json!({"replicas": 1, "template": {"a": 1}, "list": [{"a": 1}]}));
        for (spec, expect) in [
            (json!({"replicas": 2, "template": {"a": 1}, "list": [{"a": 1}]}), &["kubectl (scale)"][..]),
            (json!({"replicas": 1, "template": {"a": 2}, "list": [{"a": 1}]}), &["maker"]),
            (json!({"replicas": 1, "template": {"a": 1}, "list": [{"a": 1, "b": 2}]}), &["maker"]),
            (json!({"replicas": 1, "template": {"a": 1}, "list": [{"a": 1}], "other": 1}), &[]),
        ] {
            assert_eq!(owners(Some(&old), &object(spec.clone())), expect, "{spec}");
        }
    }

    fn object(revision: u64, data: &str, managers: &[(&str, &str)]) -> Value {
        let owner = |(manager, time): &(&str, &str)| json!({"manager": manager, "time": time});
        let owners: Vec<Value> = managers.iter().map(owner).collect();
        json!({"kind": "Map", "data": data, "status": {"n": revision},
               "metadata": {"name": "x", "resourceVersion": revision.to_string(), "managedFields": owners}})
    }

    #[test]
    fn addresses_are_written_so_that_nothing_is_taken_for_a_part_of_them() {
        let place = Place { collection: "/api/v1/nodes".to_owned(), name: "a/../b?c".to_owned() };
        assert_eq!(place.path(&[]), "/api/v1/nodes/a%2F..%2Fb%3Fc");
        let time = "2030-01-31T12:00:00+01:00";
        assert_eq!(
            place.path(&[(AS_OF, time), ("limit", "5")]),
            "/api/v1/nodes/a%2F..%2Fb%3Fc?kontiki.dev%2Fas-of=2030-01-31T12%3A00%3A00%2B01%3A00&limit=5"
        );
    }

    #[test]
    fn kinds_are_called_as_in_kubectl() {
        let list = json!({"resources": [
            {"name": "pods/log", "singularName": "", "kind": "Pod"},
            {"name": "configmaps", "singularName": "configmap", "kind": "ConfigMap", "shortNames": ["cm"]},
            {"name": "pods", "singularName": "pod", "kind": "Pod", "shortNames": ["po"]},
        ]});
        for (word, expect) in [
            ("cm", Some("configmaps")),
            ("ConfigMap", Some("configmaps")),
            ("configmaps", Some("configmaps")),
            ("pod", Some("pods")),
            ("pods/log", None),
            ("c", None),
            ("", None),
        ] {
            assert_eq!(
                named(&list, word).as_ref().map(|found| &found["name"]),
                expect.map(Value::from).as_ref(),
                "{word}"
            );
        }
    }

    #[test]
    fn each_change_is_shown_with_when_and_who() {
        let (ann, bob) = (("ann", "1"), ("bob", "2"));
        let change =
            |revision: u64, object: Value| json!({"revision": revision.to_string(), "time": "T", "object": object});
        let mut made = change(1, object(1, "a", &[ann]));
        made["created"] = true.into();
        let past = Past {
            changes: vec![
                json!({"revision": "5", "deleted": true}),
                json!({"revision": "4", "unreadable": "sealed"}),
                change(3, object(3, "b", &[ann, ("bob", "3")])),
                change(2, object(2, "b", &[ann, bob])),
                made,
            ],
            is_whole: true,
            since: "revision 0".to_owned(),
        };
        let all = past.show(9, false).unwrap();
        let expect = "revision 5  -\ndeleted\n\n\
                      revision 4  -\nit cannot be read: sealed\n\n\
                      revision 3  T  by bob\nnothing but its status, or who owns what (--all)\n\n\
                      revision 2  T  by bob\n@@ -1,4 +1,4 @@\n-data: a\n+data: b\n kind: Map\n metadata:\n   name: x\n\n\
                      revision 1  T  by ann\n@@ -0,0 +1,4 @@\n+data: a\n+kind: Map\n+metadata:\n+  name: x\n\n\
                      The past is kept since revision 0.\n";
        assert_eq!(all, expect);
        assert!(past.show(3, true).unwrap().contains("-  n: 2\n+  n: 3\n"));
        assert_eq!(past.show(1, false).unwrap(), "revision 5  -\ndeleted\n\n");
        let cut = Past { changes: vec![past.changes[3].clone()], is_whole: true, since: "revision 2".to_owned() };
        let expect = "revision 2  T  by ann, bob\nwhat was before is not kept\n\nThe past is kept since revision 2.\n";
        assert_eq!(cut.show(9, false).unwrap(), expect);
    }

    #[test]
    fn undoing_writes_what_was_under_what_is() {
        let with = |object: &Value, metadata: Value, status: Option<u64>| {
            let mut object = object.clone();
            object["metadata"] = metadata;
            match status {
                Some(n) => object["status"] = json!({"n": n}),
                None => drop(object.as_object_mut().unwrap().remove("status")),
            }
            object
        };
        let base = object(1, "a", &[]);
        let then = with(
            &base,
            json!({"name": "x", "labels": {"a": "b"}, "uid": "u1", "resourceVersion": "1", "generation": 1,
                   "creationTimestamp": "t", "managedFields": [], "ownerReferences": [{"uid": "dead"}],
                   "finalizers": ["orphan", "keep"]}),
            Some(1),
        );
        let now = with(
            &object(9, "b", &[]),
            json!({"name": "x", "uid": "u2", "resourceVersion": "9", "generation": 4, "finalizers": ["f"]}),
            Some(9),
        );
        let over = json!({"name": "x", "labels": {"a": "b"}, "uid": "u2", "resourceVersion": "9", "generation": 4,
                          "finalizers": ["f"]});
        assert_eq!(wanted(&then, Some(&now)), with(&base, over, Some(9)));
        let anew = json!({"name": "x", "labels": {"a": "b"}, "finalizers": ["keep"]});
        assert_eq!(wanted(&then, None), with(&base, anew, None));
    }

    #[test]
    fn what_is_undone_is_the_last_change_that_shows() {
        let change = |object: Value| json!({"object": object});
        let mut going = object(4, "c", &[]);
        going["metadata"]["deletionTimestamp"] = "t".into();
        let changes = [
            json!({"deleted": true}),
            change(going.clone()),
            change(object(3, "b", &[("ann", "1")])),
            change(object(2, "b", &[])),
            change(object(1, "a", &[])),
        ];
        let last = |now: Option<&Value>| last_other(&changes[1..], now).unwrap().map(|then| revision(&then).to_owned());
        assert_eq!(last(None).as_deref(), Some("3"), "it is gone");
        assert_eq!(last(Some(&going)).as_deref(), Some("3"));
        assert_eq!(last(Some(&object(9, "b", &[]))).as_deref(), Some("4"));
        let settled = last_other(&changes[2..], Some(&object(3, "b", &[]))).unwrap();
        assert_eq!(settled.as_ref().map(revision), Some("1"), "a status is no change");
        assert_eq!(last_other(&changes[..1], None).unwrap(), None);
    }
}
