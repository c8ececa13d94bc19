use serde_json::{Value, json};

use super::*;

/// A file with one issuer, `change`d.
fn file(change: impl FnOnce(&mut Value)) -> Value {
    let mut file = json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AuthenticationConfiguration",
        "jwt": [{
            "issuer": {"url": "https://issuer", "audiences": ["api"]},
            "claimMappings": {"username": {"claim": "sub", "prefix": ""}},
        }],
    });
    change(&mut file);
    file
}

fn outcome(file: &Value) -> String {
    let read = read(file.to_string().as_bytes(), &["https://own"]);
    read.map_or_else(|why| why, |found| format!("{} issuers", found.issuers.len()))
}

fn with(pointer: &str, value: Value) -> Value {
    file(|file| {
        let (owner, field) = pointer.rsplit_once('/').expect("a pointer");
        file.pointer_mut(owner).expect("there")[field] = value;
    })
}

#[test]
fn files_are_judged_as_upstream_judges_them() {
    let issuer = |field: &str, value: Value| with(&format!("/jwt/0/issuer/{field}"), value);
    let mapping = |field: &str, value: Value| with(&format!("/jwt/0/claimMappings/{field}"), value);
    let rules = |value: Value| with("/jwt/0/claimValidationRules", value);
    let users = |value: Value| with("/jwt/0/userValidationRules", value);
    let extra = |key: &str| mapping("extra", json!([{"key": key, "valueExpression": "claims.a"}]));
    for (file, expect) in [
        (file(|_| {}), "1 issuers"),
        (with("/jwt", json!([])), "0 issuers"),
        (with("/jwt", Value::Null), "0 issuers"),
        (with("/kind", json!("Other")), "no kind \"Other\" is registered for version \"apiserver.config.k8s.io/v1\""),
        (with("/apiVersion", json!("v1")), "no kind \"AuthenticationConfiguration\" is registered for version \"v1\""),
        (with("/metadata", json!({})), "strict decoding error: unknown field \"metadata\""),
        (issuer("urls", json!("x")), "strict decoding error: unknown field \"jwt[0].issuer.urls\""),
        (with("/jwt/0/issuer", json!(1)), "invalid type: integer `1`"),
        (
            file(|file| file["jwt"] = vec![file["jwt"][0].clone(); 65].into()),
            "jwt: Too many: 65: must have at most 64 items",
        ),
        (
            file(|file| file["jwt"] = vec![file["jwt"][0].clone(); 2].into()),
            "jwt[1].issuer.url: Duplicate value: \"https://issuer\"",
        ),
        // Issuers.
        (issuer("url", json!("")), "jwt[0].issuer.url: Required value"),
        (issuer("url", json!("http://x")), "jwt[0].issuer.url: Invalid value: \"http://x\": URL scheme must be https"),
        (issuer("url", json!("https://a@x")), "URL must not contain a username or password"),
        (issuer("url", json!("https://x?a")), "URL must not contain a query"),
        (issuer("url", json!("https://x#a")), "URL must not contain a fragment"),
        (issuer("url", json!(":x")), "jwt[0].issuer.url: Invalid value: \":x\": parse \":x\": missing protocol scheme"),
        (issuer("url", json!("https://own")), "URL must not overlap with disallowed issuers: [https://own]"),
        (issuer("discoveryURL", json!("https://issuer/")), "discoveryURL must be different from URL"),
        (issuer("discoveryURL", json!("https://own/x")), "1 issuers"),
        (
            issuer("audiences", json!([])),
            "jwt[0].issuer.audiences: Required value: at least one jwt[0].issuer.audiences is required",
        ),
        (issuer("audiences", json!(["a", ""])), "jwt[0].issuer.audiences[1]: Required value"),
        (issuer("audiences", json!(["a", "b"])), "audienceMatchPolicy must be MatchAny for multiple audiences"),
        (
            issuer("audienceMatchPolicy", json!("All")),
            "jwt[0].issuer.audienceMatchPolicy: Invalid value: \"All\": audienceMatchPolicy must be empty or MatchAny for \
             single audience",
        ),
        (
            issuer("certificateAuthority", json!("x")),
            "jwt[0].issuer.certificateAuthority: Invalid value: \"<omitted>\": data does not contain any valid RSA or ECDSA \
             certificates",
        ),
        (issuer("egressSelectorType", json!("cluster")), "egress selector is not supported when"),
        // Rules.
        (rules(json!([{"claim": "a"}, {"expression": "claims.a == 'b'"}])), "1 issuers"),
        (rules(json!([{}])), "jwt[0].claimValidationRules[0]: Required value: claim or expression is required"),
        (rules(json!([{"claim": "a", "expression": "true"}])), "claim and expression can't both be set"),
        (rules(json!([{"claim": "a"}, {"claim": "a"}])), "claimValidationRules[1].claim: Duplicate value: \"a\""),
        (
            rules(json!([{"claim": "a", "message": "m"}])),
            "message: Invalid value: \"m\": may not be specified when claim is set",
        ),
        (rules(json!([{"expression": "true", "requiredValue": "m"}])), "may not be specified when expression is set"),
        (rules(json!([{"expression": "claims.a"}])), "expression: Invalid value: \"claims.a\": must evaluate to bool"),
        (
            rules(json!([{"expression": "user.username == 'a'"}])),
            "compilation failed: ERROR: <input>:1:1: undeclared reference to 'user' (in container '')",
        ),
        (users(json!([{"expression": "user.groups.size() < 3"}])), "1 issuers"),
        (users(json!([{}])), "jwt[0].userValidationRules[0].expression: Required value"),
        (users(json!([{"expression": "user.unknown == 'a'"}])), "ERROR: <input>:1:5: undefined field 'unknown'"),
        // Mappings.
        (mapping("username", json!({})), "claimMappings.username: Required value: claim or expression is required"),
        (
            mapping("username", json!({"claim": "a"})),
            "claimMappings.username.prefix: Required value: prefix is required when",
        ),
        (
            mapping("username", json!({"claim": "a", "expression": "claims.a"})),
            "claim and expression can't both be set",
        ),
        (
            mapping("groups", json!({"expression": "claims.a", "prefix": "x"})),
            "claimMappings.groups.prefix: Invalid value: \"x\": may not be specified when expression is set",
        ),
        (
            mapping("uid", json!({"claim": "a", "expression": "claims.a"})),
            "claimMappings.uid: Invalid value: \"\": claim and",
        ),
        (
            mapping("username", json!({"expression": "claims."})),
            "claimMappings.username.expression: Invalid value: \"claims.\"",
        ),
        (extra("example.org/a"), "1 issuers"),
        (extra(""), "claimMappings.extra[0].key: Required value"),
        (extra("a"), "must be a domain-prefixed path (such as \"acme.io/foo\")"),
        (extra("example.org/A"), "must be lowercase"),
        (extra("a.k8s.io/x"), "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use"),
        (extra("notk8s.io/x"), "1 issuers"),
        (mapping("extra", json!([{"key": "example.org/a"}])), "extra[0].valueExpression: Required value"),
        // Who is named by mail.
        (
            mapping("username", json!({"expression": "claims.email"})),
            "jwt[0].claimMappings.username.expression: Invalid value: \"claims.email\": claims.email_verified must be used",
        ),
        (
            mapping("username", json!({"expression": "claims.?email.orValue('a')"})),
            "claims.email_verified must be used",
        ),
        (mapping("username", json!({"expression": "claims['email']"})), "1 issuers"),
        (mapping("username", json!({"expression": "claims.email_verified ? claims.email : 'x'"})), "1 issuers"),
        (
            file(|file| {
                file["jwt"][0]["claimMappings"]["username"] = json!({"expression": "claims.email"});
                file["jwt"][0]["claimValidationRules"] =
                    json!([{"expression": "claims.?email_verified.orValue(true) == true"}]);
            }),
            "1 issuers",
        ),
        (
            with("/anonymous", json!({"enabled": false, "conditions": [{"path": "/a"}]})),
            "anonymous.conditions: Invalid value: [{\"Path\":\"/a\"}]: enabled should be set to true when conditions are defined",
        ),
        (with("/anonymous", json!({"enabled": true, "conditions": [{"path": "/a"}]})), "1 issuers"),
    ] {
        let found = outcome(&file);
        assert!(found.contains(expect), "{file}: {found}");
        assert!(!found.contains('\n'), "{found}");
    }
}

#[test]
fn yaml_is_read_strictly() {
    let head = "apiVersion: apiserver.config.k8s.io/v1beta1\nkind: AuthenticationConfiguration\n";
    for (text, expect) in [
        ("", "empty config data"),
        ("jwt: []\n", "Object 'Kind' is missing"),
        ("- a\n", "couldn't get version/kind"),
        (&format!("{head}jwt: [] # none\nanonymous: {{enabled: true}}\n"), "0 issuers"),
        (&format!("{head}jwt: []\njwt: []\n"), "strict decoding error: yaml: unmarshal errors:"),
        (&format!("{head}jwt: [\n"), "yaml"),
    ] {
        let found = read(text.as_bytes(), &[]);
        let found = found.map_or_else(|why| why, |found| format!("{} issuers", found.issuers.len()));
        assert!(found.contains(expect) && !found.contains('\n'), "{text}: {found}");
    }
    let read = read(format!("{head}anonymous: {{enabled: true, conditions: [{{path: /livez}}]}}\n").as_bytes(), &[]);
    let anonymous = read.expect("a good file").anonymous.expect("it says so");
    assert!(anonymous.admits("/livez") && !anonymous.admits("/livez/") && !anonymous.admits("/api"));
}

/// The user of `claims` by the issuer whose other fields are `jwt`: name, uid, groups, extra.
fn user(jwt: &Value, claims: &Value) -> String {
    let file = file(|file| {
        for (field, value) in jwt.as_object().expect("fields") {
            file["jwt"][0][field] = value.clone();
        }
    });
    let read = read(file.to_string().as_bytes(), &[]).expect("a good file");
    match read.issuers[0].claims.user(claims) {
        Ok(user) => format!("{} {:?} {:?} {:?}", user.name, user.uid, user.groups, user.extra),
        Err(why) => why,
    }
}

#[test]
fn users_are_made_of_claims() {
    let named = |claim: &str, prefix: &str| json!({"claimMappings": {"username": {"claim": claim, "prefix": prefix}}});
    let groups =
        |groups: Value| json!({"claimMappings": {"username": {"claim": "sub", "prefix": ""}, "groups": groups}});
    let by_claim = groups(json!({"claim": "roles", "prefix": "p:"}));
    let required = json!({"claimValidationRules": [{"claim": "hd", "requiredValue": "x"}]});
    for (jwt, claims, expect) in [
        (
            named("sub", "p:"),
            json!({"sub": "ann", "jti": "7"}),
            "p:ann \"\" [] {\"authentication.kubernetes.io/credential-id\": [\"JTI=7\"]}",
        ),
        (named("sub", ""), json!({"sub": "system:masters"}), "system:masters \"\" [] {}"),
        (named("sub", ""), json!({}), "oidc: parse username claims \"sub\": claim not present"),
        (
            named("sub", ""),
            json!({"sub": 1}),
            "oidc: parse username claims \"sub\": json: cannot unmarshal number into Go value of type string",
        ),
        (named("sub", ""), json!({"sub": ""}), "oidc: empty username is not allowed"),
        (named("email", ""), json!({"email": "a@b"}), "a@b \"\" [] {}"),
        (named("email", ""), json!({"email": "a@b", "email_verified": true}), "a@b \"\" [] {}"),
        (named("email", ""), json!({"email": "a@b", "email_verified": false}), "oidc: email not verified"),
        (
            named("email", ""),
            json!({"email": "a@b", "email_verified": "true"}),
            "oidc: parse 'email_verified' claim: json:",
        ),
        (by_claim.clone(), json!({"sub": "a", "roles": ["x", "y"]}), "a \"\" [\"p:x\", \"p:y\"] {}"),
        (by_claim.clone(), json!({"sub": "a", "roles": "x"}), "a \"\" [\"p:x\"] {}"),
        (by_claim.clone(), json!({"sub": "a"}), "a \"\" [] {}"),
        (
            by_claim,
            json!({"sub": "a", "roles": [1]}),
            "oidc: parse groups claim \"roles\": json: cannot unmarshal array",
        ),
        (required.clone(), json!({"sub": "a", "hd": "x"}), "a \"\" [] {}"),
        (required.clone(), json!({"sub": "a"}), "oidc: required claim hd not present in ID token"),
        (required, json!({"sub": "a", "hd": "y"}), "oidc: required claim hd value does not match. Got = y, want = x"),
        // By expressions.
        (
            groups(json!({"expression": "claims.roles.split(',')"})),
            json!({"sub": "a", "roles": "x,,y"}),
            "[\"x\", \"y\"]",
        ),
        (groups(json!({"expression": "claims.roles"})), json!({"sub": "a", "roles": ["x", ""]}), "a \"\" [\"x\"] {}"),
        (groups(json!({"expression": "claims.roles"})), json!({"sub": "a", "roles": null}), "a \"\" [] {}"),
        (
            groups(json!({"expression": "claims.roles"})),
            json!({"sub": "a", "roles": [1]}),
            "oidc: error evaluating group claim expression: expression must return a string or a list of strings",
        ),
        (
            groups(json!({"expression": "claims.roles"})),
            json!({"sub": "a"}),
            "oidc: error evaluating group claim expression: expression 'claims.roles' resulted in error: no such key: roles",
        ),
        (
            groups(json!({"expression": "claims.a__dot__b.c__slash__d"})),
            json!({"sub": "a", "a.b": {"c/d": "x"}}),
            "a \"\" [\"x\"] {}",
        ),
        (groups(json!({"expression": "string(claims.n + 0.5)"})), json!({"sub": "a", "n": 1}), "a \"\" [\"1.5\"] {}"),
        (
            json!({"claimMappings": {"username": {"expression": "'p:' + claims.sub"}}}),
            json!({"sub": "ann"}),
            "p:ann \"\" [] {}",
        ),
        (
            json!({"claimMappings": {"username": {"expression": "claims.sub"}}}),
            json!({"sub": ""}),
            "oidc: empty username via CEL expression is not allowed",
        ),
        (
            json!({"claimMappings": {"username": {"expression": "claims.sub"}}}),
            json!({"sub": ["a"]}),
            "oidc: error evaluating username claim expression: username claim expression must return a string",
        ),
        (
            json!({"claimMappings": {
                "username": {"claim": "sub", "prefix": ""},
                "uid": {"expression": "claims.id"},
                "extra": [
                    {"key": "example.org/a", "valueExpression": "claims.a"},
                    {"key": "example.org/b", "valueExpression": "''"},
                ],
            }}),
            json!({"sub": "ann", "id": "u1", "a": ["x", "y"]}),
            "ann \"u1\" [] {\"example.org/a\": [\"x\", \"y\"]}",
        ),
    ] {
        let found = user(&jwt, &claims);
        assert!(found.contains(expect), "{jwt} {claims}: {found}");
    }
}

#[test]
fn tokens_and_users_have_to_meet_rules() {
    let rules = json!({
        "claimValidationRules": [
            {"expression": "claims.exp - claims.nbf <= 86400.0", "message": "too long"},
            {"expression": "claims.hd == 'x'", "message": "not from here"},
        ],
        "userValidationRules": [{"expression": "!user.username.startsWith('system:')", "message": "reserved"}],
    });
    for (claims, expect) in [
        (json!({"sub": "ann", "exp": 100, "nbf": 1, "hd": "x"}), "ann \"\" [] {}"),
        (
            json!({"sub": "ann", "exp": 100_000, "nbf": 1, "hd": "x"}),
            "oidc: error evaluating claim validation expression: validation expression 'claims.exp - claims.nbf <= 86400.0' \
             failed: too long",
        ),
        (json!({"sub": "ann", "exp": 1, "nbf": 1, "hd": "y"}), "'claims.hd == 'x'' failed: not from here"),
        (json!({"sub": "ann", "exp": 1, "nbf": 1}), "expression 'claims.hd == 'x'' resulted in error: no such key: hd"),
        (
            json!({"sub": "system:admin", "exp": 1, "nbf": 1, "hd": "x"}),
            "oidc: error evaluating user info validation rule: validation expression '!user.username.startsWith('system:')' \
             failed: reserved",
        ),
    ] {
        let found = user(&rules, &claims);
        assert!(found.contains(expect), "{claims}: {found}");
    }
}
