//! Who may do what: roles and bindings, requests under another's name, reviews.

use crate::common::{World, admin};
use kontiki_api::User;
use serde_json::{Value, json};

const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/a/roles";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/a/rolebindings";
const CLUSTER_ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
const CLUSTER_BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
const MAPS: &str = "/api/v1/namespaces/a/configmaps";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1";

fn role(name: &str, rules: &Value) -> Value {
    json!({"metadata": {"name": name}, "rules": rules})
}

fn rule(verbs: &[&str], group: &str, resources: &[&str]) -> Value {
    json!({"verbs": verbs, "apiGroups": [group], "resources": resources})
}

fn binding(name: &str, (kind, role): (&str, &str), user: &str) -> Value {
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role});
    json!({"metadata": {"name": name}, "roleRef": role, "subjects": [{"kind": "User", "name": user}]})
}

/// Lets `user` do what `rules` say in the namespace `a`.
async fn grant(world: &World, user: &str, rules: Value) {
    world.post(ROLES, role(&format!("of-{user}"), &rules)).await;
    world.post(BINDINGS, binding(&format!("of-{user}"), ("Role", &format!("of-{user}")), user)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_in_without_being_let_in() {
    let world = World::with_permissions().await;
    world.post("/api/v1/namespaces/a/secrets", json!({"metadata": {"name": "s"}})).await;
    world.post("/api/v1/namespaces/a/secrets", json!({"metadata": {"name": "other"}})).await;
    let mine = json!({"metadata": {"name": "mine"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}],
                      "volumes": [{"name": "v", "secret": {"secretName": "s"}}]}});
    world.post("/api/v1/namespaces/a/pods", mine).await;
    let node = || Some(User::new("system:node:n1", &["system:nodes", "system:authenticated"]));
    let account =
        || Some(User::new("system:serviceaccount:a:default", &["system:serviceaccounts", "system:authenticated"]));
    for (user, path, code) in [
        (None, "/livez", 200),
        (None, "/version", 200),
        (None, "/api", 403),
        (None, "/api/v1/namespaces", 403),
        (None, "/metrics", 403),
        (account(), "/apis", 200),
        (account(), "/openapi/v3", 200),
        (account(), "/api/v1/namespaces/a/pods", 403),
        (account(), "/metrics", 403),
        (node(), "/api/v1/namespaces/a/secrets/s", 200),
        (node(), "/api/v1/namespaces/a/secrets/other", 403),
        (node(), "/api/v1/namespaces/a/secrets", 403),
        (node(), "/api/v1/pods?fieldSelector=spec.nodeName=n1", 200),
        (node(), "/api/v1/pods", 403),
    ] {
        let name = user.as_ref().map_or("nobody", |u| u.name.as_str()).to_owned();
        let (got, body) = world.ask_as(user, "GET", path, "", String::new()).await;
        assert_eq!(got, code, "{name} GET {path}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_in_upstreams_words() {
    let world = World::with_permissions().await;
    world.post(BINDINGS, binding("lost", ("Role", "gone"), "ann")).await;
    for (user, method, path, expect) in [
        (
            "bob",
            "GET",
            MAPS.to_owned(),
            "configmaps is forbidden: User \"bob\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"a\"",
        ),
        (
            "bob",
            "GET",
            format!("{MAPS}?watch=1"),
            "configmaps is forbidden: User \"bob\" cannot watch resource \"configmaps\" in API group \"\" in the namespace \"a\"",
        ),
        (
            "bob",
            "GET",
            "/api/v1/namespaces/a".into(),
            "namespaces \"a\" is forbidden: User \"bob\" cannot get resource \"namespaces\" in API group \"\" in the namespace \"a\"",
        ),
        (
            "bob",
            "GET",
            "/apis/none.example.com/v1/foos".into(),
            "foos.none.example.com is forbidden: User \"bob\" cannot list resource \"foos\" in API group \"none.example.com\" at the cluster scope",
        ),
        (
            "bob",
            "GET",
            "/apis/authentication.k8s.io/v1/tokenreviews".into(),
            "tokenreviews.authentication.k8s.io is forbidden: User \"bob\" cannot list resource \"tokenreviews\" in API group \"authentication.k8s.io\" at the cluster scope",
        ),
        (
            "bob",
            "PATCH",
            "/apis/apps/v1/namespaces/a/deployments/x/scale".into(),
            "deployments.apps \"x\" is forbidden: User \"bob\" cannot patch resource \"deployments/scale\" in API group \"apps\" in the namespace \"a\"",
        ),
        ("bob", "GET", "/metrics".into(), "forbidden: User \"bob\" cannot get path \"/metrics\""),
        (
            "ann",
            "GET",
            MAPS.to_owned(),
            "configmaps is forbidden: User \"ann\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"a\": RBAC: role.rbac.authorization.k8s.io \"gone\" not found",
        ),
    ] {
        let (code, status) = world.ask_by(user, method, &path, Value::Null).await;
        assert_eq!((code, status["message"].as_str()), (403, Some(expect)), "{user} {method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_granted_holds_at_once_and_no_longer_than_it_is() {
    let world = World::with_permissions().await;
    for round in 0..20 {
        grant(&world, "ann", json!([rule(&["list"], "", &["configmaps"]), rule(&["get"], "", &["namespaces"])])).await;
        assert_eq!(world.ask_by("ann", "GET", MAPS, Value::Null).await.0, 200, "round {round}");
        assert_eq!(world.ask_by("ann", "GET", "/api/v1/namespaces/a", Value::Null).await.0, 200, "its own namespace");
        assert_eq!(world.ask_by("ann", "GET", "/api/v1/configmaps", Value::Null).await.0, 403, "not beyond it");
        for path in [format!("{ROLES}/of-ann"), format!("{BINDINGS}/of-ann")] {
            assert_eq!(world.ask("DELETE", &path, Value::Null).await.0, 200);
        }
        world.api.cache().wait_for(world.store.snapshot().revision()).await;
        assert_eq!(world.ask_by("ann", "GET", MAPS, Value::Null).await.0, 403, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gives_away_what_they_do_not_have() {
    let world = World::with_permissions().await;
    let rbac = "rbac.authorization.k8s.io";
    let makes = rule(&["create", "update", "patch"], rbac, &["roles", "rolebindings"]);
    grant(&world, "eve", json!([makes, rule(&["get"], "", &["configmaps"])])).await;
    let held = "is attempting to grant RBAC permissions not currently held:\n";
    let who = "user \"eve\" (groups=[\"system:authenticated\"])";
    let secrets = json!([rule(&["get", "list"], "", &["secrets"])]);
    let (code, status) = world.ask_by("eve", "POST", ROLES, role("more", &secrets)).await;
    let expect = format!(
        "roles.{rbac} \"more\" is forbidden: {who} {held}{{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\"]}}"
    );
    assert_eq!((code, status["message"].as_str()), (403, Some(expect.as_str())));
    let (code, status) =
        world.ask_by("eve", "POST", BINDINGS, binding("c", ("ClusterRole", "cluster-admin"), "eve")).await;
    let expect = format!(
        "rolebindings.{rbac} \"c\" is forbidden: {who} {held}{{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}}\n{{NonResourceURLs:[\"*\"], Verbs:[\"*\"]}}"
    );
    assert_eq!((code, status["message"].as_str()), (403, Some(expect.as_str())));
    let (code, status) = world.ask_by("eve", "POST", BINDINGS, binding("c", ("Role", "nothing"), "eve")).await;
    assert_eq!(
        (code, status["message"].as_str()),
        (404, Some("roles.rbac.authorization.k8s.io \"nothing\" not found"))
    );

    // What she holds she may give, and nothing of a role that holds more: not even a label.
    let own = json!([rule(&["get"], "", &["configmaps"])]);
    assert_eq!(world.ask_by("eve", "POST", ROLES, role("own", &own)).await.0, 201);
    world.post(ROLES, role("more", &secrets)).await;
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(world.ask_by("eve", "PATCH", &format!("{ROLES}/own"), label.clone()).await.0, 200);
    assert_eq!(world.ask_by("eve", "PATCH", &format!("{ROLES}/more"), label.clone()).await.0, 403);
    let finalizer = json!({"metadata": {"finalizers": ["example.com/x"]}});
    assert_eq!(world.ask_by("eve", "PATCH", &format!("{ROLES}/more"), finalizer).await.0, 200, "garbage collection's");

    // `escalate` and `bind` allow it by name.
    let on = |verb: &str, plural: &str, name: &str| json!({"verbs": [verb], "apiGroups": [rbac], "resources": [plural], "resourceNames": [name]});
    let more = json!([makes, on("escalate", "roles", "more"), on("bind", "clusterroles", "cluster-admin")]);
    let (code, _) = world.merge(&format!("{ROLES}/of-eve"), json!({"rules": more})).await;
    assert_eq!(code, 200);
    world.api.cache().wait_for(world.store.snapshot().revision()).await;
    assert_eq!(
        world.ask_by("eve", "PATCH", &format!("{ROLES}/more"), json!({"metadata": {"labels": {"c": "d"}}})).await.0,
        200
    );
    let (code, status) =
        world.ask_by("eve", "POST", BINDINGS, binding("c", ("ClusterRole", "cluster-admin"), "eve")).await;
    assert_eq!(code, 201, "{status}");
    world.api.cache().wait_for(world.store.snapshot().revision()).await;
    assert_eq!(world.ask_by("eve", "POST", ROLES, role("other", &secrets)).await.0, 201, "she is an administrator now");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_administrators_may_gather_whatever_there_is() {
    let world = World::with_permissions().await;
    let rules = json!([rule(&["create"], "rbac.authorization.k8s.io", &["clusterroles"])]);
    world.post(CLUSTER_ROLES, role("maker", &rules)).await;
    world.post(CLUSTER_BINDINGS, binding("maker", ("ClusterRole", "maker"), "eve")).await;
    let gather = json!({"metadata": {"name": "all"}, "rules": [],
                        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
    let (code, status) = world.ask_by("eve", "POST", CLUSTER_ROLES, gather.clone()).await;
    let expect = "clusterroles.rbac.authorization.k8s.io \"all\" is forbidden: must have cluster-admin privileges to use an aggregationRule";
    assert_eq!((code, status["message"].as_str()), (403, Some(expect)));
    world.post(CLUSTER_ROLES, gather).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_nothing_that_counts_is_anonymous_and_a_bad_token_is_nobodys() {
    let world = World::with_permissions().await;
    for (authorization, open, closed) in [
        ("", 200, 403),
        ("Basic YTpi", 200, 403),
        ("nonsense", 200, 403),
        ("Bearer ", 200, 403),
        ("Bearer nonsense", 401, 401),
    ] {
        for (path, expect) in [("/version", open), ("/api", closed)] {
            let request = http::Request::get(path).header("authorization", authorization);
            let response = world.api.answer(None, request.body(axum::body::Body::empty()).unwrap()).await;
            assert_eq!(response.status().as_u16(), expect, "{authorization:?} {path}");
        }
    }
}

/// A request of `user` with headers `impersonate-<name>: <value>`.
async fn as_another(world: &World, user: User, headers: &[(&str, &str)], path: &str) -> (u16, Value) {
    use http_body_util::BodyExt;
    let mut request = http::Request::get(path);
    for (name, value) in headers {
        request = request.header(format!("impersonate-{name}"), *value);
    }
    let response = world.api.answer(Some(user), request.body(axum::body::Body::empty()).unwrap()).await;
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&body).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_else_is_who_may_be_that() {
    let world = World::with_permissions().await;
    grant(&world, "ann", json!([rule(&["list"], "", &["configmaps"])])).await;
    let verbs = json!([
        {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"], "resourceNames": ["ann"]},
        {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["groups"], "resourceNames": ["g"]},
        {"verbs": ["impersonate"], "apiGroups": ["authentication.k8s.io"], "resources": ["userextras/scope"]},
    ]);
    world.post(CLUSTER_ROLES, role("old", &verbs)).await;
    world.post(CLUSTER_BINDINGS, binding("old", ("ClusterRole", "old"), "old")).await;
    let verbs = json!([
        {"verbs": ["impersonate-on:user-info:list"], "apiGroups": [""], "resources": ["configmaps"]},
        {"verbs": ["impersonate:user-info"], "apiGroups": ["authentication.k8s.io"], "resources": ["users"]},
    ]);
    world.post(CLUSTER_ROLES, role("new", &verbs)).await;
    world.post(CLUSTER_BINDINGS, binding("new", ("ClusterRole", "new"), "new")).await;
    let user = |name: &str| User::new(name, &["system:authenticated"]);
    let on = "configmaps is forbidden: User \"NAME\" cannot impersonate-on:user-info:list resource \"configmaps\" in API group \"\" in the namespace \"a\"";
    let on = |name: &str| on.replace("NAME", name);
    for (who, headers, path, code, message) in [
        ("old", &[("user", "ann")][..], MAPS, 200, String::new()),
        ("old", &[("user", "ann"), ("group", "g"), ("extra-scope", "x")], MAPS, 200, String::new()),
        ("old", &[("user", "bob")], MAPS, 403, on("old")),
        ("old", &[("user", "ann"), ("group", "h")], MAPS, 403, on("old")),
        ("old", &[("group", "g")], MAPS, 400, String::new()),
        ("new", &[("user", "ann")], MAPS, 200, String::new()),
        (
            "new",
            &[("user", "ann")],
            "/api/v1/nodes",
            403,
            on("new").replace("configmaps", "nodes").replace("in the namespace \"a\"", "at the cluster scope"),
        ),
        ("plain", &[("user", "ann")], MAPS, 403, on("plain")),
        (
            "plain",
            &[("user", "ann")],
            "/metrics",
            403,
            "forbidden: User \"plain\" cannot impersonate-on:user-info:get path \"/metrics\"".into(),
        ),
    ] {
        let (got, body) = as_another(&world, user(who), headers, path).await;
        assert_eq!(got, code, "{who} {headers:?} {path}: {body}");
        if !message.is_empty() {
            assert_eq!(body["message"], message, "{who} {headers:?}");
        }
    }
    let (code, _) = as_another(&world, admin(), &[("user", "x"), ("group", "system:masters")], MAPS).await;
    assert_eq!(code, 200, "an administrator may be one under another name");
    let (code, body) =
        as_another(&world, admin(), &[("user", "system:serviceaccount:a:default")], "/api/v1/nodes").await;
    let expect = "nodes is forbidden: User \"system:serviceaccount:a:default\" cannot list resource \"nodes\" in API group \"\" at the cluster scope";
    assert_eq!((code, body["message"].as_str()), (403, Some(expect)));
}

#[tokio::test(flavor = "multi_thread")]
async fn reviews_agree_with_what_happens() {
    let world = World::with_permissions().await;
    let named = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["p"]});
    grant(&world, "ann", json!([named])).await;
    let of = |attributes: Value| json!({"spec": {"user": "ann", "resourceAttributes": attributes}});
    let base = |more: Value| {
        let mut attributes = json!({"verb": "get", "resource": "pods", "namespace": "a", "name": "p"});
        more.as_object().unwrap().iter().for_each(|(key, value)| attributes[key] = value.clone());
        of(attributes)
    };
    let by = "RBAC: allowed by RoleBinding \"of-ann/a\" of Role \"of-ann\" to User \"ann\"";
    for (review, expect) in [
        (base(json!({})), json!({"allowed": true, "reason": by})),
        (base(json!({"name": "q"})), json!({"allowed": false})),
        (base(json!({"verb": "list"})), json!({"allowed": false})),
        (base(json!({"subresource": "log"})), json!({"allowed": false})),
        (
            json!({"spec": {"user": "nobody", "groups": ["system:authenticated"], "nonResourceAttributes": {"path": "/version", "verb": "get"}}}),
            json!({"allowed": true, "reason": "RBAC: allowed by ClusterRoleBinding \"system:discovery\" of ClusterRole \"system:discovery\" to Group \"system:authenticated\""}),
        ),
        (
            json!({"spec": {"user": "nobody", "nonResourceAttributes": {"path": "/healthz", "verb": "get"}}}),
            json!({"allowed": false}),
        ),
        (
            json!({"spec": {"user": "x", "groups": ["system:masters"], "resourceAttributes": {"verb": "get", "resource": "pods"}}}),
            json!({"allowed": true}),
        ),
        (
            json!({"spec": {"user": "system:node:n", "groups": ["system:nodes"], "resourceAttributes": {"verb": "list", "resource": "pods",
                   "fieldSelector": {"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n"]}]}}}}),
            json!({"allowed": true}),
        ),
        (
            json!({"spec": {"user": "system:node:n", "groups": ["system:nodes"], "resourceAttributes": {"verb": "list", "resource": "pods"}}}),
            json!({"allowed": false, "reason": "can only list/watch pods with spec.nodeName field selector"}),
        ),
    ] {
        let answer = world.post(&format!("{REVIEWS}/subjectaccessreviews"), review.clone()).await;
        assert_eq!(answer["status"], expect, "{review}");
    }
    let refused = json!({"spec": {"user": "x", "resourceAttributes": {"resource": "pods", "fieldSelector": {}}}});
    let (code, status) = world.ask("POST", &format!("{REVIEWS}/subjectaccessreviews"), refused).await;
    let expect = ".authorization.k8s.io \"\" is invalid: spec.resourceAttributes.fieldSelector.requirements: Required value: \
                  when spec.resourceAttributes.fieldSelector is specified, requirements or rawSelector is required";
    assert_eq!((code, status["message"].as_str()), (422, Some(expect)));
    let (code, rules) = world
        .ask_by("ann", "POST", &format!("{REVIEWS}/selfsubjectrulesreviews"), json!({"spec": {"namespace": "a"}}))
        .await;
    assert_eq!((code, &rules["status"]["incomplete"]), (201, &json!(false)), "{rules}");
    let listed = rules["status"]["resourceRules"].as_array().unwrap();
    assert!(
        listed.contains(&json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["p"]}))
    );
    let paths = rules["status"]["nonResourceRules"].to_string();
    assert!(paths.contains("/healthz") && paths.contains("/openapi/*"), "{paths}");
    let (code, _) = world
        .ask_by(
            "ann",
            "POST",
            &format!("{REVIEWS}/selfsubjectaccessreviews"),
            json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}),
        )
        .await;
    assert_eq!(code, 201, "anybody may ask about themselves");
    let (code, _) = world.ask_by("ann", "POST", &format!("{REVIEWS}/subjectaccessreviews"), base(json!({}))).await;
    assert_eq!(code, 403, "but not about others");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_front_proxy_asks_for_others_and_nobody_else_does() {
    use http_body_util::BodyExt;
    let world = World::with_permissions().await;
    let whoami = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    for (name, group, header, expect) in [
        (
            "front-proxy",
            "kontiki:servers",
            Some("ann"),
            json!({"username": "ann", "uid": "7", "groups": ["g", "system:authenticated"], "extra": {"a/b": ["c"]}}),
        ),
        (
            "front-proxy",
            "kontiki:servers",
            None,
            json!({"username": "front-proxy", "groups": ["kontiki:servers", "system:authenticated"]}),
        ),
        (
            "front-proxy",
            "others",
            Some("ann"),
            json!({"username": "front-proxy", "groups": ["others", "system:authenticated"]}),
        ),
        (
            "somebody",
            "kontiki:servers",
            Some("ann"),
            json!({"username": "somebody", "groups": ["kontiki:servers", "system:authenticated"]}),
        ),
    ] {
        let mut request = http::Request::post(whoami).header("content-type", "application/json");
        if let Some(user) = header {
            let headers = [
                ("x-remote-user", user),
                ("x-remote-group", "g"),
                ("x-remote-uid", "7"),
                ("x-remote-extra-a%2fb", "c"),
            ];
            request = headers.into_iter().fold(request, |request, (name, value)| request.header(name, value));
        }
        let peer = User::new(name, &[group, "system:authenticated"]);
        let response = world.api.answer(Some(peer), request.body("{}".into()).unwrap()).await;
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["status"]["userInfo"], expect, "{name} {group} {header:?}: {body}");
    }
}

fn claims(token: &str) -> Value {
    use base64::Engine;
    let body = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(body).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_says_what_it_is_bound_to() {
    let world = World::with_permissions().await;
    let node = world.post("/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
    let pod = world.post("/api/v1/namespaces/a/pods", pod).await;
    let path = "/api/v1/namespaces/a/serviceaccounts/default/token";
    let bound = |kind: &str, name: &str| json!({"kind": kind, "apiVersion": "v1", "name": name});
    let ask = |seconds: i64, reference: Value| {
        let spec = json!({"expirationSeconds": seconds, "boundObjectRef": reference});
        world.post(path, json!({"spec": spec}))
    };
    let (pod_uid, node_uid) = (&pod["metadata"]["uid"], &node["metadata"]["uid"]);
    for (seconds, reference, lives, expect) in [
        (3600, Value::Null, 3600, json!({})),
        (3607, Value::Null, 3607, json!({})),
        (
            3607,
            bound("Pod", "p"),
            31_536_000,
            json!({"pod": {"name": "p", "uid": pod_uid}, "node": {"name": "n1", "uid": node_uid}}),
        ),
        (3600, bound("Node", "n1"), 3600, json!({"node": {"name": "n1", "uid": node_uid}})),
    ] {
        let answer = ask(seconds, reference.clone()).await;
        let token = answer["status"]["token"].as_str().unwrap();
        let claims = claims(token);
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), lives, "{reference}");
        let own = &claims["kubernetes.io"];
        let warn = (lives != seconds).then(|| claims["iat"].as_i64().unwrap() + seconds);
        assert_eq!(own["warnafter"].as_i64(), warn, "{reference}");
        for field in ["pod", "node"] {
            assert_eq!(own[field], expect[field], "{reference} {field}");
        }
        let review = json!({"spec": {"token": token}});
        let user = world.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await["status"]["user"].clone();
        let extra = |key: &str| user["extra"][format!("authentication.kubernetes.io/{key}")][0].clone();
        assert_eq!(
            (extra("node-name"), extra("pod-uid")),
            (expect["node"]["name"].clone(), expect["pod"]["uid"].clone())
        );
    }
    let bound_to_node = ask(3600, bound("Node", "n1")).await["status"]["token"].clone();
    assert_eq!(world.ask("DELETE", "/api/v1/nodes/n1", Value::Null).await.0, 200);
    let review = json!({"spec": {"token": bound_to_node}});
    let answer = world.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    assert_eq!(answer["status"]["authenticated"], Value::Null, "its node is gone: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_checks_tokens_finds_the_key() {
    let world = World::with_permissions().await;
    let account =
        || Some(User::new("system:serviceaccount:a:default", &["system:serviceaccounts", "system:authenticated"]));
    let (code, about) = world.ask_as(account(), "GET", "/.well-known/openid-configuration", "", String::new()).await;
    assert_eq!((code, &about["issuer"]), (200, &json!("https://kubernetes.default.svc")));
    assert_eq!(about["jwks_uri"], "https://kubernetes.default.svc/openid/v1/jwks");
    let (code, keys) = world.ask_as(account(), "GET", "/openid/v1/jwks", "", String::new()).await;
    assert_eq!(code, 200, "{keys}");
    let (token, _) = world.api.issue_token("a", "default", None, &[], 600).await.unwrap();
    let keys: jsonwebtoken::jwk::JwkSet = serde_json::from_value(keys).unwrap();
    let head = jsonwebtoken::decode_header(&token).unwrap();
    let key = jsonwebtoken::DecodingKey::from_jwk(keys.find(&head.kid.unwrap()).unwrap()).unwrap();
    let mut rules = jsonwebtoken::Validation::new(head.alg);
    rules.set_audience(&["https://kubernetes.default.svc"]);
    let checked = jsonwebtoken::decode::<Value>(&token, &key, &rules).unwrap();
    assert_eq!(checked.claims["sub"], "system:serviceaccount:a:default");
    assert_eq!(world.ask_by("ann", "GET", "/openid/v1/jwks", Value::Null).await.0, 403, "for service accounts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_asks_for_tokens_of_its_own_pods_only() {
    let world = World::with_permissions().await;
    let pod = |name: &str, node: &str| json!({"metadata": {"name": name}, "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}});
    let mine = world.post("/api/v1/namespaces/a/pods", pod("mine", "n1")).await;
    let other = world.post("/api/v1/namespaces/a/pods", pod("other", "n2")).await;
    let node = || Some(User::new("system:node:n1", &["system:nodes", "system:authenticated"]));
    let path = "/api/v1/namespaces/a/serviceaccounts/default/token";
    let reference = |pod: &Value| {
        let (name, uid) = (&pod["metadata"]["name"], &pod["metadata"]["uid"]);
        json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid}}})
    };
    for (body, expect) in [
        (reference(&mine), ""),
        (json!({"spec": {}}), "node requested token not bound to a pod"),
        (reference(&other), "node requested token bound to a pod scheduled on a different node"),
    ] {
        let (code, answer) = world.ask_as(node(), "POST", path, "application/json", body.to_string()).await;
        assert_eq!(code, if expect.is_empty() { 201 } else { 403 }, "{body}: {answer}");
        assert!(answer["message"].as_str().unwrap_or_default().ends_with(expect), "{answer}");
    }
    let label = json!({"metadata": {"labels": {"x.kubernetes.io/a": "b"}}}).to_string();
    world.post("/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
    let media = "application/merge-patch+json";
    let (code, answer) = world.ask_as(node(), "PATCH", "/api/v1/nodes/n1", media, label).await;
    let expect = "nodes \"n1\" is forbidden: is not allowed to modify labels: x.kubernetes.io/a";
    assert_eq!((code, answer["message"].as_str()), (403, Some(expect)));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_names_an_owner_may_delete_and_hold_it() {
    let world = World::with_permissions().await;
    let api = world.beside(|config| {
        let step = kontiki_kinds::admission::OwnerReferencesPermissionEnforcement;
        config.admission.push(kontiki_machinery::admission::Member::Pure(std::sync::Arc::new(step)));
    });
    grant(&world, "ann", json!([rule(&["create", "patch", "get"], "", &["configmaps"])])).await;
    let owner = world.post(MAPS, json!({"metadata": {"name": "owner"}})).await;
    let owned = |blocks: bool| {
        let uid = &owner["metadata"]["uid"];
        let reference =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid, "blockOwnerDeletion": blocks});
        json!({"ownerReferences": [reference]})
    };
    let ask = |method: &'static str, path: String, metadata: Value| {
        let api = api.clone();
        async move {
            let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
            let user = User::new("ann", &["system:authenticated"]);
            crate::common::ask_of(&api, Some(user), (method, &path, media), json!({"metadata": metadata}).to_string())
                .await
        }
    };
    let named = |name: &str, mut metadata: Value| {
        metadata["name"] = name.into();
        metadata
    };
    assert_eq!(ask("POST", MAPS.into(), named("x", owned(false))).await.0, 201, "who makes it may name an owner");
    let (code, answer) = ask("POST", MAPS.into(), named("y", owned(true))).await;
    assert!(code == 403 && answer.to_string().contains("a resource you can't set finalizers on"), "{answer}");
    world.post(MAPS, json!({"metadata": {"name": "z"}})).await;
    let (code, answer) = ask("PATCH", format!("{MAPS}/z"), owned(false)).await;
    assert!(code == 403 && answer.to_string().contains("a resource you can't delete"), "{answer}");
    let more = json!([
        rule(&["create", "patch", "get", "delete"], "", &["configmaps"]),
        rule(&["update"], "", &["configmaps/finalizers"])
    ]);
    assert_eq!(world.merge(&format!("{ROLES}/of-ann"), json!({"rules": more})).await.0, 200);
    api.cache().wait_for(world.store.snapshot().revision()).await;
    assert_eq!(ask("PATCH", format!("{MAPS}/z"), owned(true)).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_look_opens_no_stream() {
    let world = World::with_permissions().await;
    let exec = "/api/v1/namespaces/a/pods/p/exec?command=ls";
    // A WebSocket begins with a GET: what it makes is asked for besides.
    for (user, verbs, expect) in [("ann", &["get"][..], 403), ("bob", &["get", "create"], 404)] {
        grant(&world, user, json!([rule(verbs, "", &["pods/exec"])])).await;
        let (code, answer) = world.ask_by(user, "GET", exec, Value::Null).await;
        assert_eq!(code, expect, "{answer}");
    }
}
