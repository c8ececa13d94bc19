//! Whether the file makes sense. Upstream: `k8s.io/apiserver/pkg/apis/apiserver/validation`.

use std::collections::HashSet;

use kontiki_machinery::x509;
use serde_json::{Value, json};

use super::config::{ClaimRule, Extra, File, Issuer, Jwt, Mapping, Mappings, UserRule};
use super::mapping::{Mapper, Source};
use crate::{
    FieldError, Path,
    expressions::credentials::{About, Compiled},
    meta::regex_rule,
    rows::vocab::{self, Errors},
};

const MOST: usize = 64;
const MATCH_ANY: &str = "MatchAny";
const BOTH: &str = "claim and expression can't both be set";
/// What a claim that names a user by mail has to go with.
const EMAIL: &str = "claims.email_verified must be used in claimMappings.username.expression or \
                     claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is \
                     used in claimMappings.username.expression";

/// How users are made of the claims of each issuer's tokens.
///
/// # Errors
/// All that is wrong with the file.
pub(super) fn check(file: &File, disallowed: &[&str]) -> Result<Vec<Mapper>, Errors> {
    let (root, mut errs) = (Path::new("jwt"), Errors::new());
    if file.jwt.len() > MOST {
        return Err(vec![FieldError::too_many(&root, file.jwt.len(), MOST)]);
    }
    let (mut issuers, mut discoveries, mut mappers) = (HashSet::new(), HashSet::new(), Vec::new());
    for (i, jwt) in file.jwt.iter().enumerate() {
        let path = root.index(i);
        mappers.push(authenticator(&mut errs, &path, jwt, disallowed));
        let (url, discovery) = (&jwt.issuer.url, &jwt.issuer.discovery_url);
        if !issuers.insert(url) {
            errs.push(FieldError::duplicate(path.child("issuer").child("url"), url.as_str()));
        }
        if !discovery.is_empty() && !discoveries.insert(discovery) {
            errs.push(FieldError::duplicate(path.child("issuer").child("discoveryURL"), discovery.as_str()));
        }
    }
    if let Some(anonymous) = file.anonymous.as_ref().filter(|it| !it.enabled && !it.conditions.is_empty()) {
        let conditions: Vec<Value> = anonymous.conditions.iter().map(|it| json!({"Path": it.path})).collect();
        let why = "enabled should be set to true when conditions are defined";
        errs.push(FieldError::invalid("anonymous.conditions", Value::Array(conditions), why));
    }
    if errs.is_empty() { Ok(mappers) } else { Err(errs) }
}

fn authenticator(errs: &mut Errors, path: &Path, jwt: &Jwt, disallowed: &[&str]) -> Mapper {
    issuer(errs, &path.child("issuer"), &jwt.issuer, disallowed);
    let mut mapper = Mapper::default();
    claim_rules(errs, &path.child("claimValidationRules"), &jwt.claim_validation_rules, &mut mapper);
    mappings(errs, &path.child("claimMappings"), &jwt.claim_mappings, &mut mapper);
    user_rules(errs, &path.child("userValidationRules"), &jwt.user_validation_rules, &mut mapper);
    mapper
}

fn issuer(errs: &mut Errors, path: &Path, issuer: &Issuer, disallowed: &[&str]) {
    let (at, discovery) = (path.child("url"), &issuer.discovery_url);
    if issuer.url.is_empty() {
        errs.push(FieldError::required(&at, ""));
    } else {
        url(errs, &at, &issuer.url, disallowed);
    }
    if !discovery.is_empty() {
        let at = path.child("discoveryURL");
        if !issuer.url.is_empty() && issuer.url.trim_end_matches('/') == discovery.trim_end_matches('/') {
            errs.push(FieldError::invalid(&at, discovery.as_str(), "discoveryURL must be different from URL"));
        }
        url(errs, &at, discovery, &[]);
    }
    audiences(errs, path, issuer);
    let authority = &issuer.certificate_authority;
    if !authority.is_empty() && !certificates(authority) {
        let why = "data does not contain any valid RSA or ECDSA certificates";
        errs.push(FieldError::invalid(path.child("certificateAuthority"), "<omitted>", why));
    }
    let (at, egress) = (path.child("egressSelectorType"), issuer.egress_selector_type.as_str());
    if !egress.is_empty() {
        let why = "egress selector is not supported when StructuredAuthenticationConfigurationEgressSelector feature \
                   gate is disabled";
        errs.push(FieldError::invalid(&at, egress, why));
        if !matches!(egress, "controlplane" | "cluster") {
            errs.push(FieldError::invalid(&at, egress, "egress selector must be either controlplane or cluster"));
        }
    }
}

fn certificates(pem: &str) -> bool {
    let blocks = x509::blocks(pem.as_bytes());
    blocks.iter().any(|block| block.label == "CERTIFICATE" && x509::certificate(&block.bytes).is_some())
}

fn url(errs: &mut Errors, path: &Path, text: &str, disallowed: &[&str]) {
    let mut wrong = |why: String| errs.push(FieldError::invalid(path, text, why));
    if disallowed.contains(&text) {
        let mut known = disallowed.to_vec();
        known.sort_unstable();
        wrong(format!("URL must not overlap with disallowed issuers: [{}]", known.join(" ")));
    }
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(why) => return wrong(format!("parse {}: {why}", crate::field_error::quote(text))),
    };
    if url.scheme != "https" {
        wrong("URL scheme must be https".to_owned());
    }
    if url.user {
        wrong("URL must not contain a username or password".to_owned());
    }
    if !url.query.is_empty() {
        wrong("URL must not contain a query".to_owned());
    }
    if !url.fragment.is_empty() {
        wrong("URL must not contain a fragment".to_owned());
    }
}

/// What is looked at of a URL.
struct Url<'a> {
    scheme: String,
    user: bool,
    query: &'a str,
    fragment: &'a str,
}

impl<'a> Url<'a> {
    /// Takes a URL apart as Go's `url.Parse` does.
    fn parse(text: &'a str) -> Result<Self, String> {
        if text.bytes().any(|c| c < 0x20 || c == 0x7f) {
            return Err("net/url: invalid control character in URL".to_owned());
        }
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (scheme, rest) = scheme(rest)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let authority = rest.strip_prefix("//").map(|rest| rest.split('/').next().unwrap_or_default());
        let user = authority.is_some_and(|authority| authority.contains('@'));
        let host = authority.map(|authority| authority.rsplit('@').next().unwrap_or_default()).unwrap_or_default();
        if host.starts_with('[') && !host.contains(']') {
            return Err("missing ']' in host".to_owned());
        }
        if let Some(bad) = host.chars().find(|c| " <>\"\\^`{|}".contains(*c)) {
            return Err(format!("invalid character \"{}\" in host name", bad.escape_default()));
        }
        let port = host.rsplit_once(']').map_or(host, |(_, rest)| rest).split_once(':').map(|(_, port)| port);
        if let Some(port) = port.filter(|port| !port.bytes().all(|c| c.is_ascii_digit())) {
            return Err(format!("invalid port {} after host", crate::field_error::quote(&format!(":{port}"))));
        }
        Ok(Self { scheme, user, query, fragment })
    }
}

/// The scheme in small letters, and what comes after it.
fn scheme(text: &str) -> Result<(String, &str), String> {
    for (at, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            ':' => return Ok((text[..at].to_ascii_lowercase(), &text[at + 1..])),
            _ => break,
        }
    }
    let first = text.split('/').next().unwrap_or_default();
    if first.contains(':') {
        return Err("first path segment in URL cannot contain colon".to_owned());
    }
    Ok((String::new(), text))
}

fn audiences(errs: &mut Errors, path: &Path, issuer: &Issuer) {
    let (at, policy) = (path.child("audiences"), issuer.audience_match_policy.as_str());
    if issuer.audiences.is_empty() {
        return errs.push(FieldError::required(&at, format!("at least one {at} is required")));
    }
    let mut seen = HashSet::new();
    for (i, audience) in issuer.audiences.iter().enumerate() {
        let at = at.index(i);
        if audience.is_empty() {
            errs.push(FieldError::required(&at, ""));
        }
        if !seen.insert(audience) {
            errs.push(FieldError::duplicate(&at, audience.as_str()));
        }
    }
    let at = path.child("audienceMatchPolicy");
    if issuer.audiences.len() > 1 && policy != MATCH_ANY {
        errs.push(FieldError::invalid(&at, policy, "audienceMatchPolicy must be MatchAny for multiple audiences"));
    }
    if issuer.audiences.len() == 1 && !matches!(policy, "" | MATCH_ANY) {
        let why = "audienceMatchPolicy must be empty or MatchAny for single audience";
        errs.push(FieldError::invalid(&at, policy, why));
    }
}

/// An expression at `path`; what is wrong with it is noted.
fn compiled(errs: &mut Errors, path: &Path, text: &str, made: Result<Compiled, String>) -> Option<Compiled> {
    made.map_err(|why| errs.push(FieldError::invalid(path, text, why))).ok()
}

fn claim_rules(errs: &mut Errors, path: &Path, rules: &[ClaimRule], mapper: &mut Mapper) {
    let (mut claims, mut expressions) = (HashSet::new(), HashSet::new());
    for (i, rule) in rules.iter().enumerate() {
        let path = path.index(i);
        match (rule.claim.as_str(), rule.expression.as_str()) {
            ("", "") => errs.push(FieldError::required(&path, "claim or expression is required")),
            (claim, "") => {
                if !rule.message.is_empty() {
                    let why = "may not be specified when claim is set";
                    errs.push(FieldError::invalid(path.child("message"), rule.message.as_str(), why));
                }
                if !claims.insert(claim) {
                    errs.push(FieldError::duplicate(path.child("claim"), claim));
                }
                mapper.required.push((claim.to_owned(), rule.required_value.clone()));
            }
            ("", expression) => {
                let at = path.child("expression");
                if !rule.required_value.is_empty() {
                    let why = "may not be specified when expression is set";
                    errs.push(FieldError::invalid(path.child("requiredValue"), rule.required_value.as_str(), why));
                }
                if !expressions.insert(expression) {
                    errs.push(FieldError::duplicate(at, expression));
                    continue;
                }
                let made = compiled(errs, &at, expression, About::Claims.condition(expression));
                mapper.claim_rules.extend(made.map(|made| (made, rule.message.clone())));
            }
            (claim, _) => errs.push(FieldError::invalid(&path, claim, BOTH)),
        }
    }
}

/// Where something of a user comes from.
fn source(errs: &mut Errors, path: &Path, mapping: &Mapping) -> Source {
    match (mapping.claim.as_str(), mapping.expression.as_str()) {
        ("", "") => Source::Nothing,
        (claim, "") => Source::Claim { name: claim.to_owned(), prefix: mapping.prefix.clone().unwrap_or_default() },
        ("", expression) => {
            let at = path.child("expression");
            let made = compiled(errs, &at, expression, About::Claims.value(expression));
            made.map_or(Source::Nothing, |made| Source::Expression(Box::new(made)))
        }
        _ => {
            errs.push(FieldError::invalid(path, "", BOTH));
            Source::Nothing
        }
    }
}

/// As [`source`], of what may have a prefix.
fn prefixed(errs: &mut Errors, path: &Path, mapping: &Mapping) -> Source {
    let at = path.child("prefix");
    match (mapping.claim.is_empty(), mapping.expression.is_empty(), &mapping.prefix) {
        (true, false, Some(prefix)) => {
            errs.push(FieldError::invalid(at, prefix.as_str(), "may not be specified when expression is set"));
        }
        (false, true, None) => {
            let why = "prefix is required when claim is set. It can be set to an empty string to disable prefixing";
            errs.push(FieldError::required(at, why));
        }
        _ => {}
    }
    source(errs, path, mapping)
}

fn mappings(errs: &mut Errors, path: &Path, mappings: &Mappings, mapper: &mut Mapper) {
    let at = path.child("username");
    if mappings.username.claim.is_empty() && mappings.username.expression.is_empty() {
        errs.push(FieldError::required(&at, "claim or expression is required"));
    }
    mapper.username = prefixed(errs, &at, &mappings.username);
    mapper.groups = prefixed(errs, &path.child("groups"), &mappings.groups);
    mapper.uid = source(errs, &path.child("uid"), &mappings.uid);
    let mut seen = HashSet::new();
    for (i, extra) in mappings.extra.iter().enumerate() {
        let path = path.child("extra").index(i);
        extra_key(errs, &path.child("key"), &extra.key);
        if !seen.insert(&extra.key) {
            errs.push(FieldError::duplicate(path.child("key"), extra.key.as_str()));
            continue;
        }
        mapper.extra.extend(extra_value(errs, &path.child("valueExpression"), extra));
    }
    let verified = |made: &Compiled| made.names_claim("email_verified");
    if let Source::Expression(username) = &mapper.username
        && username.names_claim("email")
        && !verified(username)
        && !mapper.extra.iter().any(|(_, made)| verified(made))
        && !mapper.claim_rules.iter().any(|(made, _)| verified(made))
    {
        let at = path.child("username").child("expression");
        errs.push(FieldError::invalid(at, mappings.username.expression.as_str(), EMAIL));
    }
}

fn extra_value(errs: &mut Errors, path: &Path, extra: &Extra) -> Option<(String, Compiled)> {
    let expression = extra.value_expression.as_str();
    if expression.is_empty() {
        errs.push(FieldError::required(path, ""));
        return None;
    }
    let made = compiled(errs, path, expression, About::Claims.value(expression));
    made.map(|made| (extra.key.clone(), made))
}

/// Characters of a path in a URL, as upstream shows them.
const PATH: &str = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+";

fn extra_key(errs: &mut Errors, path: &Path, key: &str) {
    match key.split_once('/') {
        _ if key.is_empty() => errs.push(FieldError::required(path, "")),
        Some((host, rest)) if !host.is_empty() && !rest.is_empty() => {
            vocab::subdomain(errs, path, host);
            let good = |c: u8| c.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&c);
            if !rest.bytes().all(good) {
                errs.push(FieldError::invalid(path, rest, regex_rule("Invalid path", PATH, &[])));
            }
        }
        _ => {
            let why = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errs.push(FieldError::invalid(path, key, why));
        }
    }
    if key != key.to_lowercase() {
        errs.push(FieldError::invalid(path, key, "must be lowercase"));
    }
    let host = key.split_once('/').map_or("", |(host, _)| host);
    let below = |domain: &str| host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    if below("kubernetes.io") || below("k8s.io") {
        let why = "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use";
        errs.push(FieldError::invalid(path, key, why));
    }
}

fn user_rules(errs: &mut Errors, path: &Path, rules: &[UserRule], mapper: &mut Mapper) {
    let mut seen = HashSet::new();
    for (i, rule) in rules.iter().enumerate() {
        let (at, expression) = (path.index(i).child("expression"), rule.expression.as_str());
        if expression.is_empty() {
            errs.push(FieldError::required(at, ""));
        } else if !seen.insert(expression) {
            errs.push(FieldError::duplicate(at, expression));
        } else {
            let made = compiled(errs, &at, expression, About::User.condition(expression));
            mapper.user_rules.extend(made.map(|made| (made, rule.message.clone())));
        }
    }
}
