//! What a client is told besides the object: warnings, also of what is refused; pages about the server; packed answers.

use axum::body::Body;
use http_body_util::BodyExt;
use kontiki_api::{Api, User};
use kontiki_kinds::policies;
use serde_json::{Value, json};

use crate::common::{World, admin};
use crate::steps::{Log, Says, Waits, waits};

const MAPS: &str = "/api/v1/namespaces/a/configmaps";
const SECRETS: &str = "/api/v1/namespaces/a/secrets";
const REGISTRATION: &str = "/apis/admissionregistration.k8s.io/v1";

/// An answer, with what it says beside its body.
pub struct Told {
    pub code: u16,
    pub media: String,
    pub warnings: Vec<String>,
    pub text: String,
}

impl Told {
    pub fn body(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|why| panic!("{why}: {}", self.text))
    }
}

/// One request of an administrator. A PATCH is a merge.
pub async fn tell(api: &Api, method: &str, path: &str, body: Value) -> Told {
    let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = http::Request::builder().method(method).uri(path).header("content-type", media);
    let response = api.answer(Some(admin()), request.body(Body::from(body)).unwrap()).await;
    let text = |value: &http::HeaderValue| value.to_str().unwrap().to_owned();
    let (code, headers) = (response.status().as_u16(), response.headers().clone());
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    Told {
        code,
        media: headers.get("content-type").map(text).unwrap_or_default(),
        warnings: headers.get_all("warning").iter().map(text).collect(),
        text: String::from_utf8_lossy(&bytes).into_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_refused_is_warned_all_the_same() {
    let world = World::new().await;
    let tls =
        json!({"metadata": {"name": "t"}, "type": "kubernetes.io/tls", "stringData": {"tls.crt": "", "tls.key": ""}});
    let warning = ["299 - \"tls: failed to find any PEM data in certificate input\""];
    for code in [201, 409] {
        let told = tell(&world.api, "POST", SECRETS, tls.clone()).await;
        assert_eq!((told.code, &told.warnings[..]), (code, &warning.map(str::to_owned)[..]), "{}", told.text);
    }
    world.post(MAPS, json!({"metadata": {"name": "m"}, "data": {"a": "1"}, "immutable": true})).await;
    let told = tell(&world.api, "PATCH", &format!("{MAPS}/m"), json!({"data": {"a": "2"}, "odd": 1})).await;
    assert_eq!((told.code, &told.warnings[..]), (422, &["299 - \"unknown field \\\"odd\\\"\"".to_owned()][..]));
    // Steps that wait: all are heard, whoever refuses.
    let log = Log::default();
    let named = |name: &str, says| waits(Waits { name: name.into(), log: log.clone(), says, ..Waits::default() });
    let api = world.beside(|config| config.admission = vec![named("R", Says::Refuses), named("W", Says::Warns)]);
    let told = tell(&api, "POST", MAPS, json!({"metadata": {"name": "n"}})).await;
    assert_eq!((told.code, &told.warnings[..]), (400, &["299 - \"0: W\"", "299 - \"1: W\""].map(str::to_owned)[..]));
    assert_eq!(told.body()["message"], "step R says no");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_binding_of_a_policy_denies_and_another_warns() {
    let world = World::new().await;
    let api = world.beside(|config| config.admission.push(policies::member(&config.registry)));
    let rule = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]});
    let policy = json!({"metadata": {"name": "p"}, "spec": {
        "matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": "object.metadata.name != 'bad'", "message": "a bad name"}]}});
    let made = tell(&api, "POST", &format!("{REGISTRATION}/validatingadmissionpolicies"), policy).await;
    assert_eq!(made.code, 201, "{}", made.text);
    for action in ["Deny", "Warn"] {
        let binding = json!({"metadata": {"name": action.to_lowercase()},
            "spec": {"policyName": "p", "validationActions": [action]}});
        let made = tell(&api, "POST", &format!("{REGISTRATION}/validatingadmissionpolicybindings"), binding).await;
        assert_eq!(made.code, 201, "{}", made.text);
    }
    api.cache().wait_for(api.store().snapshot().revision()).await;
    let told = tell(&api, "POST", MAPS, json!({"metadata": {"name": "bad"}})).await;
    assert_eq!((told.code, told.warnings.len()), (422, 1), "{}", told.text);
    assert!(told.warnings[0].contains("with binding 'warn': a bad name"), "{:?}", told.warnings);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_written_status_is_warned_of() {
    let world = World::new().await;
    let services = "/api/v1/namespaces/a/services";
    world
        .post(services, json!({"metadata": {"name": "s"}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}))
        .await;
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "2001:DB8::1"}]}}});
    let told = tell(&world.api, "PATCH", &format!("{services}/s/status"), status).await;
    let warning = "299 - \"status.loadBalancer.ingress[0]: IPv6 address \\\"2001:DB8::1\\\" should be in RFC 5952 canonical format (\\\"2001:db8::1\\\")\"";
    assert_eq!((told.code, &told.warnings[..]), (200, &[warning.to_owned()][..]), "{}", told.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_range_needs_no_name() {
    let world = World::new().await;
    let ranges = "/api/v1/namespaces/a/limitranges";
    let made = world.post(ranges, json!({"spec": {"limits": []}})).await;
    let name = made["metadata"]["name"].as_str().unwrap();
    assert_eq!(name.len(), 36, "{made}");
    assert_eq!(world.get(&format!("{ranges}/{name}")).await.0, 200);
    let stem = world.post(ranges, json!({"metadata": {"generateName": "r-"}, "spec": {"limits": []}})).await;
    assert_eq!(stem["metadata"]["name"].as_str().map(str::len), Some(7));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_tell_those_who_watch_over_the_server() {
    let world = World::with_permissions().await;
    let api = world.beside(|config| config.flags = [("api_port".to_owned(), "6443".to_owned())].into());
    let ask = |path: &'static str, accept: Option<&'static str>, user: User| {
        let request = http::Request::get(path);
        let request = accept.map_or(http::Request::get(path), |accept| request.header("accept", accept));
        let api = &api;
        async move {
            let response = api.answer(Some(user), request.body(Body::empty()).unwrap()).await;
            let (code, headers) = (response.status().as_u16(), response.headers().clone());
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            (code, headers, String::from_utf8_lossy(&bytes).into_owned())
        }
    };
    let watcher = || User::new("watcher", &["system:monitoring", "system:authenticated"]);
    for path in ["/statusz", "/flagz"] {
        assert_eq!(ask(path, None, User::new("other", &["system:authenticated"])).await.0, 403, "{path}");
    }
    let (code, headers, text) = ask("/statusz", None, watcher()).await;
    assert_eq!((code, &headers["content-type"]), (200, &"text/plain; charset=utf-8".parse().unwrap()));
    assert!(text.starts_with("\napiserver statusz\nWarning: "), "{text}");
    assert!(text.contains("\nBinary version: 1.37.0\n") && text.contains("\nPaths: /flagz "), "{text}");
    let (_, _, text) = ask("/flagz", Some("*/*"), watcher()).await;
    assert!(text.starts_with("\napiserver flagz\n") && text.ends_with("\napi_port=6443\n"), "{text}");
    let beta = "application/json;g=config.k8s.io;v=v1beta1;as=Flagz";
    let (code, headers, text) = ask("/flagz", Some(beta), watcher()).await;
    let expect = json!({"apiVersion": "config.k8s.io/v1beta1", "kind": "Flagz", "metadata": {"name": "apiserver"},
        "flags": {"api_port": "6443"}});
    assert_eq!((code, serde_json::from_str::<Value>(&text).unwrap()), (200, expect));
    assert_eq!((headers["content-type"].to_str().unwrap(), headers.get("warning")), (beta, None));
    let old = "application/json;g=config.k8s.io;v=v1alpha1;as=Statusz";
    let (code, headers, text) = ask("/statusz", Some(old), watcher()).await;
    let said: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &said["emulationVersion"], headers.contains_key("warning")), (200, &json!("1.37"), true));
    let (code, _, text) = ask("/statusz", Some("application/json"), watcher()).await;
    assert_eq!(code, 406);
    assert!(text.contains("accepted: application/json, application/yaml, text/plain"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_health_paths_found_is_counted() {
    let world = World::new().await;
    for path in ["/livez", "/livez", "/readyz?exclude=etcd"] {
        assert_eq!(tell(&world.api, "GET", path, Value::Null).await.code, 200, "{path}");
    }
    let text = tell(&world.api, "GET", "/metrics/slis", Value::Null).await.text;
    for line in [
        "kubernetes_healthcheck{name=\"etcd\",type=\"livez\"} 1",
        "kubernetes_healthchecks_total{name=\"etcd\",status=\"success\",type=\"livez\"} 2",
        "kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"readyz\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    assert!(!text.contains("name=\"etcd\",status=\"success\",type=\"readyz\""), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_has_an_id_and_is_kept_by_nobody() {
    let world = World::new().await;
    for (path, given) in
        [("/livez", None), ("/nothing", Some("i-1")), ("/api/v1/namespaces/a", None), ("/version", None)]
    {
        let request = http::Request::get(path);
        let request = given.map_or(http::Request::get(path), |id| request.header("audit-id", id));
        let response = world.api.answer(Some(admin()), request.body(Body::empty()).unwrap()).await;
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("cache-control"), "no-cache, private", "{path}");
        match given {
            Some(given) => assert_eq!(header("audit-id"), given),
            None => assert_eq!(header("audit-id").len(), 36, "{path}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_has_no_name() {
    const GROUP: &str = "/apis/authorization.k8s.io/v1";
    let world = World::new().await;
    let question = |name: &str| json!({"metadata": {"name": name}, "spec": {"user": "u", "nonResourceAttributes": {"path": "/", "verb": "get"}}});
    let told =
        tell(&world.api, "POST", &format!("{GROUP}/subjectaccessreviews?fieldManager=oracle"), question("x")).await;
    let message = told.body()["message"].as_str().unwrap().to_owned();
    let expect = ".authorization.k8s.io \"\" is invalid: metadata: Invalid value: {\"name\":\"x\",\"managedFields\":[{\
        \"manager\":\"oracle\",\"operation\":\"Update\",\"apiVersion\":\"authorization.k8s.io/v1\",\"time\":\"";
    assert!(told.code == 422 && message.starts_with(expect), "{message}");
    let fields = "\"fieldsType\":\"FieldsV1\",\"fieldsV1\":{\"f:spec\":{\"f:nonResourceAttributes\":{\".\":{},\
        \"f:path\":{},\"f:verb\":{}},\"f:user\":{}}}}]}: must be empty";
    assert!(message.ends_with(fields), "{message}");
    let local = format!("{GROUP}/namespaces/a/localsubjectaccessreviews");
    let told = tell(&world.api, "POST", &local, question("x")).await;
    assert!(told.code == 422 && told.text.contains("must be empty except for namespace"), "{}", told.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_large_is_packed_for_who_can_unpack_it() {
    let world = World::new().await;
    world.post(MAPS, json!({"metadata": {"name": "small"}, "data": {"a": "b"}})).await;
    world.post(MAPS, json!({"metadata": {"name": "large"}, "data": {"a": "b".repeat(140_000)}})).await;
    let watch =
        format!("{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=1");
    for (path, accepts, packed) in [
        (format!("{MAPS}/large"), "gzip", true),
        (MAPS.to_owned(), "deflate, gzip", true),
        (format!("{MAPS}/large"), "identity", false),
        (format!("{MAPS}/small"), "gzip", false),
        // A watch goes out as it comes, however much there is at its beginning.
        (watch, "gzip", false),
    ] {
        for media in ["application/json", "application/vnd.kubernetes.protobuf"] {
            let request = http::Request::get(&path).header("accept-encoding", accepts).header("accept", media);
            let response = world.api.answer(Some(admin()), request.body(Body::empty()).unwrap()).await;
            assert_eq!(response.status(), 200, "{path}");
            assert_eq!(response.headers().contains_key("content-encoding"), packed, "{path} {accepts} {media}");
            assert_eq!(response.headers().get("vary").is_some(), packed, "{path} {accepts} {media}");
        }
    }
}
