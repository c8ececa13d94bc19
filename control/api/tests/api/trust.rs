//! Users by tokens of others, and webhooks that say what may be done: over real TLS on loopback.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use futures::FutureExt as _;
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use kontiki_api::clock::System;
use kontiki_api::issuers::{Issuers, Pace};
use kontiki_api::{Api, Outbound, User};
use kontiki_kinds::authentication::{self, Webhook};
use kontiki_kinds::authorize::{BuiltIn, Surroundings as Files};
use kontiki_kinds::backends::Services;
use kontiki_machinery::authentication::{Anonymous, Issuer, Tokens};
use kontiki_machinery::outcall::{Caller, Credentials, Place, Target};
use rcgen::KeyPair;
use serde_json::{Value, json};

use crate::common::{World, admin, ask_of};
use crate::webhooks::server::{Loopback, Reply, Server};

const PACE: Pace =
    Pace { retry: Duration::from_millis(200), fresh: Duration::from_secs(300), patience: Duration::from_millis(500) };

/// What an identity provider answers, by path.
#[derive(Clone, Default)]
struct Answers {
    discovery: Arc<Mutex<Option<Reply>>>,
    keys: Arc<Mutex<Option<Reply>>>,
    asked: Arc<AtomicUsize>,
}

/// An identity provider, and the keys that it signs with.
struct Provider {
    server: Server,
    answers: Answers,
    url: String,
}

impl Provider {
    async fn new() -> Self {
        let answers = Answers::default();
        let given = answers.clone();
        let server = Server::new(move |path, _| {
            let given = given.clone();
            async move {
                let of = match path.as_str() {
                    "/.well-known/openid-configuration" => &given.discovery,
                    "/keys" => {
                        given.asked.fetch_add(1, Ordering::Relaxed);
                        &given.keys
                    }
                    _ => return Reply::Plain(404, "nothing"),
                };
                of.lock().unwrap().clone().unwrap_or(Reply::Plain(500, "not now"))
            }
            .boxed()
        })
        .await;
        let url = format!("https://{}", server.address);
        let provider = Self { server, answers, url };
        provider.discovers(json!({"issuer": provider.url, "jwks_uri": format!("{}/keys", provider.url)}));
        provider
    }

    fn discovers(&self, document: Value) {
        *self.answers.discovery.lock().unwrap() = Some(Reply::Review(document));
    }

    fn publishes(&self, keys: &[(&str, &KeyPair)]) {
        let keys: Vec<Value> = keys.iter().map(|(id, key)| public(id, key)).collect();
        *self.answers.keys.lock().unwrap() = Some(Reply::Review(json!({ "keys": keys })));
    }

    fn asked(&self) -> usize {
        self.answers.asked.swap(0, Ordering::Relaxed)
    }

    /// As a file says it, for the audience `api`; `more`: other fields of it.
    fn entry(&self, more: Value) -> Value {
        let ca = String::from_utf8(STANDARD.decode(&self.server.ca).unwrap()).unwrap();
        let mut entry = json!({
            "issuer": {"url": self.url, "audiences": ["api"], "certificateAuthority": ca},
            "claimMappings": {
                "username": {"expression": "'oidc:' + claims.sub"},
                "groups": {"claim": "groups", "prefix": "oidc:"},
            },
        });
        for (field, value) in more.as_object().unwrap() {
            entry[field] = value.clone();
        }
        entry
    }
}

/// A public key of P-256 as a member of a set.
fn public(id: &str, key: &KeyPair) -> Value {
    let point = key.public_key_raw();
    let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..65]));
    json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": id, "x": x, "y": y})
}

fn issuers(entries: &[Value]) -> Vec<Issuer> {
    let file = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": entries,
    });
    authentication::read(file.to_string().as_bytes(), &[]).unwrap().issuers
}

fn signed(key: &KeyPair, id: Option<&str>, claims: &Value) -> String {
    let header = Header { alg: Algorithm::ES256, kid: id.map(str::to_owned), ..Header::default() };
    let key = EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).unwrap();
    jsonwebtoken::encode(&header, claims, &key).unwrap()
}

fn now() -> i64 {
    Timestamp::now().as_second()
}

impl Provider {
    fn token(&self, key: &KeyPair, id: &str, change: Value) -> String {
        let mut claims = json!({"iss": self.url, "aud": "api", "sub": "ann", "exp": now() + 60, "groups": ["g"]});
        for (claim, value) in change.as_object().unwrap() {
            claims[claim] = value.clone();
        }
        signed(key, Some(id).filter(|id| !id.is_empty()), &claims)
    }
}

/// Whose token it is, or why nobody's.
async fn whose(api: &Api, token: &str) -> String {
    let review = json!({"spec": {"token": token}}).to_string();
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let (code, answer) = ask_of(api, Some(admin()), ("POST", path, "application/json"), review).await;
    assert_eq!(code, 201, "{answer}");
    let status = &answer["status"];
    match status["authenticated"] == true {
        true => format!("{} {}", status["user"]["username"].as_str().unwrap(), status["user"]["groups"]),
        false => status["error"].as_str().unwrap_or_default().to_owned(),
    }
}

/// A request with a token, or with nothing: code and message.
async fn shown(api: &Api, token: Option<&str>, path: &str) -> (u16, String) {
    let mut request = http::Request::get(path);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let response = api.answer(None, request.body(Body::empty()).unwrap()).await;
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    (code, answer["message"].as_str().unwrap_or_default().to_owned())
}

fn with_tokens(world: &World, tokens: Arc<dyn Tokens>) -> Api {
    world.beside(|config| config.tokens.push(tokens))
}

const ANN: &str = "oidc:ann [\"oidc:g\",\"system:authenticated\"]";
const UNSIGNED: &str = "oidc: verify token: failed to verify signature: failed to verify id token signature";

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_an_issuer_are_believed_if_they_are_good() {
    let world = World::new().await;
    let (provider, key, other) = (Provider::new().await, KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    provider.publishes(&[("a", &key)]);
    let api = with_tokens(&world, Issuers::new(issuers(&[provider.entry(json!({}))]), PACE).unwrap());
    let good = provider.token(&key, "a", json!({}));
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let payload = good.split('.').nth(1).unwrap();
    // The public key as a secret.
    let confused = {
        let head = part(json!({"alg": "HS256", "kid": "a"}));
        let secret = EncodingKey::from_secret(key.public_key_raw());
        let signed = format!("{head}.{payload}");
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &secret, Algorithm::HS256).unwrap();
        format!("{signed}.{signature}")
    };
    for (token, expect) in [
        (good.clone(), ANN),
        (provider.token(&key, "", json!({})), ANN),
        (provider.token(&key, "a", json!({"aud": ["x", "api"]})), ANN),
        (
            provider.token(&key, "a", json!({"aud": "x"})),
            "oidc: verify token: oidc: expected audience \"api\" got [\"x\"]",
        ),
        (
            provider.token(&key, "a", json!({"exp": now() - 5})),
            "oidc: verify token: oidc: token is expired (Token Expiry: ",
        ),
        (provider.token(&key, "a", json!({"nbf": now() + 3600})), "before the nbf (not before) time"),
        (provider.token(&key, "a", json!({"iss": "https://x"})), "invalid bearer token"),
        (provider.token(&key, "a", json!({"sub": 1})), "oidc: error evaluating username claim expression"),
        (provider.token(&other, "a", json!({})), UNSIGNED),
        (provider.token(&other, "", json!({})), UNSIGNED),
        (format!("{}.{payload}.", part(json!({"alg": "none"}))), "signed with unsupported algorithm"),
        (confused, "signed with unsupported algorithm"),
        (format!("{}.{payload}.{}", part(json!({"alg": "RS256"})), "AAAA"), UNSIGNED),
        (good[..good.len() - 4].to_owned(), UNSIGNED),
        (format!("{good}.x"), "invalid bearer token"),
        ("x".repeat(50_000), "invalid bearer token"),
    ] {
        let found = whose(&api, &token).await;
        assert!(found.contains(expect), "{}: {found}", &token[..token.len().min(60)]);
    }
    let (code, message) = shown(&api, Some(&good), "/api/v1/namespaces").await;
    assert_eq!((code, message.contains("User \"oidc:ann\" cannot list")), (403, true), "{message}");
    assert_eq!(shown(&api, Some(&provider.token(&other, "a", json!({}))), "/api/v1/namespaces").await.0, 401);
    assert_eq!(shown(&api, Some(&"x.".repeat(50_000)), "/api/v1/namespaces").await.0, 401);
    let vast = provider.token(&key, "a", json!({"more": "x".repeat(60_000)}));
    assert_eq!(shown(&api, Some(&vast), "/api/v1/namespaces").await.0, 401);
    // A ServiceAccount's token asks nobody.
    provider.asked();
    let path = "/api/v1/namespaces/a/serviceaccounts/default/token";
    let spec = json!({"spec": {}}).to_string();
    let (_, made) = ask_of(&api, Some(admin()), ("POST", path, "application/json"), spec).await;
    let own = made["status"]["token"].as_str().unwrap();
    let found = whose(&api, own).await;
    assert!(found.starts_with("system:serviceaccount:a:default "), "{found}");
    assert_eq!(provider.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_keys_are_fetched_and_no_more_often_than_the_pace_says() {
    let world = World::new().await;
    let (provider, first, second) = (Provider::new().await, KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    provider.publishes(&[("a", &first)]);
    let api = with_tokens(&world, Issuers::new(issuers(&[provider.entry(json!({}))]), PACE).unwrap());
    assert_eq!(whose(&api, &provider.token(&first, "a", json!({}))).await, ANN);
    let token = provider.token(&second, "b", json!({}));
    assert_eq!(whose(&api, &token).await, UNSIGNED);
    tokio::time::sleep(PACE.retry).await;
    provider.asked();
    // Many keys that nobody has.
    let began = Instant::now();
    let many = (0..200).map(|at| provider.token(&second, &format!("k{at}"), json!({}))).collect::<Vec<_>>();
    let found = futures::future::join_all(many.iter().map(|token| whose(&api, token))).await;
    assert!(found.iter().all(|found| found == UNSIGNED), "{found:?}");
    let most = 2 + began.elapsed().as_millis() / PACE.retry.as_millis();
    let asked = provider.asked();
    assert!((1..=most as usize).contains(&asked), "asked {asked} times in {:?}", began.elapsed());
    // Rotated: the new one is there, the old one is gone.
    provider.publishes(&[("b", &second)]);
    tokio::time::sleep(PACE.retry).await;
    assert_eq!(whose(&api, &token).await, ANN);
    assert_eq!(whose(&api, &provider.token(&first, "a", json!({}))).await, UNSIGNED);
}

#[tokio::test(flavor = "multi_thread")]
async fn issuers_are_several_and_are_replaced_as_a_whole() {
    let world = World::new().await;
    let (one, two) = (Provider::new().await, Provider::new().await);
    let key = KeyPair::generate().unwrap();
    one.publishes(&[("a", &key)]);
    two.publishes(&[("a", &key)]);
    let prefix = |prefix: &str| json!({"claimMappings": {"username": {"claim": "sub", "prefix": prefix}}});
    let entries = [one.entry(prefix("1:")), two.entry(prefix("2:"))];
    let believed = Issuers::new(issuers(&entries), PACE).unwrap();
    let api = with_tokens(&world, believed.clone());
    let (first, second) = (one.token(&key, "a", json!({})), two.token(&key, "a", json!({})));
    assert!(whose(&api, &first).await.starts_with("1:ann "));
    assert!(whose(&api, &second).await.starts_with("2:ann "));
    // Another set, whose keys are there.
    believed.replace(issuers(&[two.entry(prefix("3:"))]), Duration::from_secs(2)).await.unwrap();
    assert!(whose(&api, &second).await.starts_with("3:ann "));
    assert!(whose(&api, &first).await.contains("invalid bearer token"));
    // One whose keys are not: what was before goes on.
    *one.answers.keys.lock().unwrap() = None;
    let why = believed.replace(issuers(&entries), Duration::from_millis(300)).await.unwrap_err();
    assert!(why.contains("500 Internal Server Error"), "{why}");
    assert!(whose(&api, &second).await.starts_with("3:ann "));
    assert!(whose(&api, &first).await.contains("invalid bearer token"));
    one.publishes(&[("a", &key)]);
    believed.replace(issuers(&entries), Duration::from_secs(2)).await.unwrap();
    assert!(whose(&api, &first).await.starts_with("1:ann "));
    believed.replace(Vec::new(), Duration::ZERO).await.unwrap();
    assert!(whose(&api, &first).await.contains("invalid bearer token"));
}

#[tokio::test(flavor = "multi_thread")]
async fn issuers_that_misbehave_are_not_waited_for() {
    let world = World::new().await;
    let key = KeyPair::generate().unwrap();
    let other = json!({"issuer": "https://other", "jwks_uri": "https://other/keys"});
    for (discovery, keys, expect) in [
        (Some(Reply::Review(other)), None, "oidc: issuer did not match the issuer returned by provider"),
        (Some(Reply::Review(json!([]))), None, "oidc: issuer did not match"),
        (Some(Reply::Plain(200, "<html>")), None, "oidc: failed to decode provider discovery object"),
        (Some(Reply::Plain(302, "elsewhere")), None, "302 Found"),
        (Some(Reply::Nothing), None, "context deadline exceeded"),
        (Some(Reply::Endless), None, "the answer is longer than 1048576 bytes"),
        (None, Some(Reply::Endless), "the answer is longer than 1048576 bytes"),
        (None, Some(Reply::Half), "unexpected EOF"),
        (None, Some(Reply::Review(json!({"keys": [{"kty": "oct", "k": "AQAB"}]}))), "no keys for signatures"),
    ] {
        let provider = Provider::new().await;
        provider.publishes(&[("a", &key)]);
        if discovery.is_some() {
            *provider.answers.discovery.lock().unwrap() = discovery;
        }
        if keys.is_some() {
            *provider.answers.keys.lock().unwrap() = keys;
        }
        let api = with_tokens(&world, Issuers::new(issuers(&[provider.entry(json!({}))]), PACE).unwrap());
        let began = Instant::now();
        let found = whose(&api, &provider.token(&key, "a", json!({}))).await;
        assert!(
            found.starts_with("oidc: authenticator not initialized") && found.contains(expect),
            "{expect}: {found}"
        );
        assert!(began.elapsed() < Duration::from_secs(5), "{expect}");
    }
    // A key set on plain HTTP, and a server that nobody trusts.
    let provider = Provider::new().await;
    provider.discovers(json!({"issuer": provider.url, "jwks_uri": "http://127.0.0.1:1/keys"}));
    let mut distrusted = provider.entry(json!({}));
    let stranger = Server::new(|_, _| async { Reply::Nothing }.boxed()).await;
    distrusted["issuer"]["certificateAuthority"] =
        String::from_utf8(STANDARD.decode(&stranger.ca).unwrap()).unwrap().into();
    for (entry, expect) in [
        (provider.entry(json!({})), "unsupported protocol scheme"),
        (distrusted, "certificate signed by unknown authority"),
    ] {
        let api = with_tokens(&world, Issuers::new(issuers(&[entry]), PACE).unwrap());
        let found = whose(&api, &provider.token(&key, "a", json!({}))).await;
        assert!(found.contains(expect), "{expect}: {found}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_nothing_is_let_in_where_the_file_says() {
    let world = World::new().await;
    let conditions = Anonymous { enabled: true, paths: vec!["/livez".into()] };
    let some = world.beside(|config| config.anonymous = conditions);
    let none = world.beside(|config| config.anonymous = Anonymous { enabled: false, paths: Vec::new() });
    for (api, path, expect) in [
        (&world.api, "/api/v1/namespaces", 403),
        (&some, "/api/v1/namespaces", 401),
        (&some, "/livez/", 401),
        (&none, "/livez", 401),
    ] {
        assert_eq!(shown(api, None, path).await.0, expect, "{path}");
    }
    assert_ne!(shown(&some, None, "/livez").await.0, 401);
}

fn caller(world: &World) -> Arc<dyn Caller> {
    Outbound::new(world.store.clone(), Arc::new(Loopback), Arc::new(Services), Arc::new(System), None)
}

fn target(server: &Server, path: &str) -> Target {
    let credentials = Credentials { authorization: "Bearer secret".into(), ..Credentials::default() };
    let ca_bundle = STANDARD.decode(&server.ca).unwrap();
    Target { place: Place::Url(format!("https://{}{path}", server.address)), ca_bundle, credentials }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_shown_tokens_that_nobody_else_knows() {
    let world = World::new().await;
    let server = Server::new(|_, review| {
        async move {
            let status = match review["spec"]["token"].as_str() {
                Some("ann") => json!({"authenticated": true, "user": {"username": "ann", "groups": ["g"]}}),
                Some("odd") => json!({"authenticated": false, "error": "it is odd"}),
                Some("broken") => return Reply::Plain(500, "oh"),
                _ => json!({"authenticated": false}),
            };
            Reply::Review(json!({"kind": "TokenReview", "status": status}))
        }
        .boxed()
    })
    .await;
    let webhook = Webhook::new(caller(&world), target(&server, "/t"), "v1", Duration::from_secs(60));
    let api = with_tokens(&world, Arc::new(webhook));
    for (token, expect, asked) in [
        ("ann", "ann [\"g\",\"system:authenticated\"]", 1),
        ("ann", "ann [\"g\",\"system:authenticated\"]", 0),
        ("nobody", "invalid bearer token", 1),
        ("nobody", "invalid bearer token", 0),
        ("odd", "it is odd", 1),
        ("broken", "an error on the server (\"oh\") has prevented the request from succeeding", 1),
        ("broken", "an error on the server", 1),
    ] {
        let found = whose(&api, token).await;
        assert!(found.contains(expect), "{token}: {found}");
        let taken = server.take();
        assert_eq!(taken.len(), asked, "{token}");
        for (path, review) in taken {
            assert_eq!((path.as_str(), &review["spec"]["token"]), ("/t?timeout=10s", &json!(token)));
            assert_eq!(review["spec"]["audiences"], json!(["https://kubernetes.default.svc"]));
        }
    }
    let (code, message) = shown(&api, Some("ann"), "/api/v1/namespaces").await;
    assert_eq!((code, message.contains("User \"ann\" cannot list")), (403, true), "{message}");
    assert_eq!(server.take().len(), 0);
}

/// A chain of a webhook, with these other fields, and RBAC.
fn chain(world: &World, server: &Server, fields: &str) -> Result<kontiki_kinds::authorize::Chain, String> {
    let file = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n\
         - {{type: Webhook, name: outside, webhook: {{subjectAccessReviewVersion: v1, \
           connectionInfo: {{type: KubeConfigFile, kubeConfigFile: /k}}, {fields}}}}}\n- {{type: RBAC, name: rbac}}\n"
    );
    let files = Files { caller: caller(world), look: &|_| Ok(()), target: &|_| Ok(target(server, "/a")) };
    BuiltIn::default().configured(file.as_bytes(), None, &files)
}

async fn judge(_: String, review: Value) -> Reply {
    let status = match review["spec"]["user"].as_str().unwrap_or_default() {
        "friend" => json!({"allowed": true}),
        "foe" => json!({"allowed": false, "denied": true, "reason": "not you"}),
        "broken" => return Reply::Plain(500, "oh"),
        "odd" => return Reply::Plain(200, "odd"),
        "silent" => return Reply::Nothing,
        _ => json!({"allowed": false, "reason": "no opinion"}),
    };
    Reply::Review(json!({"kind": "SubjectAccessReview", "status": status}))
}

async fn lists(api: &Api, user: &str, path: &str) -> (u16, String) {
    let somebody = User::new(user, &["system:authenticated"]);
    let (code, answer) = ask_of(api, Some(somebody), ("GET", path, "application/json"), String::new()).await;
    (code, answer["message"].as_str().unwrap_or_default().to_owned())
}

const MAPS: &str = "/api/v1/namespaces/a/configmaps";

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_says_what_may_be_done() {
    let world = World::new().await;
    let server = Server::new(|path, review| judge(path, review).boxed()).await;
    for (policy, broken) in [("NoOpinion", "no opinion"), ("Deny", "deny")] {
        let fields = format!("timeout: 300ms, failurePolicy: {policy}");
        let members = chain(&world, &server, &fields).unwrap().members;
        let api = world.beside(|config| config.authorizers = members);
        let everybody = json!({"kind": "ClusterRole", "apiGroup": "rbac.authorization.k8s.io", "name": "all"});
        if policy == "NoOpinion" {
            let rules = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]);
            let role = json!({"metadata": {"name": "all"}, "rules": rules});
            world.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await;
            let subjects: Vec<Value> = ["foe", "broken", "odd", "silent"]
                .iter()
                .map(|name| json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": name}))
                .collect();
            let binding = json!({"metadata": {"name": "all"}, "roleRef": everybody, "subjects": subjects});
            world.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
        }
        // What is allowed by RBAC is denied by the webhook alone, or by its failure.
        let failed = if broken == "deny" { 403 } else { 200 };
        for (user, code, reason) in [
            ("friend", 200, ""),
            ("foe", 403, "in the namespace \"a\": not you"),
            ("other", 403, "no opinion"),
            ("broken", failed, ""),
            ("odd", failed, ""),
            ("silent", failed, ""),
        ] {
            let found = lists(&api, user, MAPS).await;
            assert_eq!(found.0, code, "{policy} {user}: {}", found.1);
            assert!(found.1.contains(reason), "{policy} {user}: {}", found.1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_asked_once_and_only_what_its_conditions_want() {
    let world = World::new().await;
    let server = Server::new(|path, review| judge(path, review).boxed()).await;
    let fields = "timeout: 3s, failurePolicy: Deny, unauthorizedTTL: 1ms, \
                  matchConditionSubjectAccessReviewVersion: v1, matchConditions: [\
                  {expression: 'has(request.resourceAttributes)'}, \
                  {expression: \"request.resourceAttributes.namespace == 'a'\"}]";
    let built = chain(&world, &server, fields).unwrap();
    assert_eq!(built.types, BTreeSet::from(["RBAC"]));
    let api = world.beside(|config| config.authorizers = built.members);
    for (user, path, code, asked) in [
        ("friend", MAPS, 200, 1),
        ("friend", MAPS, 200, 0),
        ("friend", "/api/v1/namespaces/a/configmaps?labelSelector=a%3Db&fieldSelector=metadata.name%3Dx", 200, 1),
        ("friend", "/api/v1/namespaces/b/configmaps", 403, 0),
        ("friend", "/metrics", 403, 0),
        ("other", MAPS, 403, 1),
    ] {
        assert_eq!(lists(&api, user, path).await.0, code, "{user} {path}");
        let taken = server.take();
        // A no is asked about again where what is known may be old.
        assert!(taken.len() == asked || code == 403 && asked > 0 && taken.len() == 2, "{user} {path}: {taken:?}");
        if path.contains("labelSelector") {
            let expect = json!({
                "verb": "list", "version": "v1", "resource": "configmaps", "namespace": "a", "name": "x",
                "fieldSelector": {"requirements": [{"key": "metadata.name", "operator": "In", "values": ["x"]}]},
                "labelSelector": {"requirements": [{"key": "a", "operator": "In", "values": ["b"]}]},
            });
            assert_eq!(taken[0].1["spec"]["resourceAttributes"], expect);
            assert_eq!(taken[0].0, "/a?timeout=3s");
        }
    }
    // Masters need nobody.
    let (code, _) = ask_of(&api, Some(admin()), ("GET", MAPS, "application/json"), String::new()).await;
    assert_eq!((code, server.take().len()), (200, 0));
    // Another chain, while the API runs.
    api.replace_authorizers(BuiltIn::default().chain());
    assert_eq!(lists(&api, "friend", MAPS).await.0, 403);
    assert_eq!(server.take().len(), 0);
}
