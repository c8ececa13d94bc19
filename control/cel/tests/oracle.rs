//! Answers of upstream's CEL (`libraries/cel.jsonl` and `regex.jsonl` of the recorded answers, and `upstream.jsonl` here):
//! what it answers, we answer, with the same type and cost, but for what [`ON_PURPOSE`] names.

#![allow(clippy::unwrap_used)] // a test may panic

#[allow(dead_code)]
#[path = "../../../chaos-tests/src/ratchet.rs"]
mod ratchet;

use std::path::PathBuf;

use kontiki_cel::{Activation, Env, Extension, PER_CALL_LIMIT, Schema, Text, Type, Unbounded, Value, declare, re2};
use serde_json::Value as Json;

/// Where we differ for good.
const ON_PURPOSE: &[(&str, &str)] = &[
    ("x5", "1.37 takes quoted fields, which these answers of 1.36 refuse"),
    ("l32", "1.37's cel-go counts 16"),
    ("G527", "Kubernetes' expressions have no protobuf messages: none is made here"),
];

fn here() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo test runs this"))
}

/// The recorded libraries; `None` where there are none.
fn recorded() -> Option<PathBuf> {
    let dir = ratchet::recorded(&here().join("../..")).unwrap_or_else(|missing| panic!("{missing}"));
    dir.map(|dir| dir.join("libraries"))
}

fn lines(file: &std::path::Path) -> Vec<Json> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    text.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn env() -> Env {
    ["object", "oldObject", "params"].into_iter().fold(Env::new(36), |env, name| env.variable(name, Type::Dyn))
}

fn go_float(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    value.to_string()
}

/// A value as the recorded answers spell it.
fn shown(value: &Value<'_>) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => format!("uint({value})"),
        Value::Double(value) => format!("double({})", go_float(*value)),
        Value::String(text) => quoted(text),
        Value::Bytes(bytes) => format!("bytes({})", String::from_utf8_lossy(bytes)),
        Value::Duration(nanos) => {
            let env = Env::new(36).variable("d", Type::Duration);
            let program = env.compile("string(d)").unwrap();
            let (text, _) = program.evaluate(&Activation::new().with("d", Value::Duration(*nanos)), PER_CALL_LIMIT);
            let seconds: f64 = text.unwrap().as_str().unwrap().trim_end_matches('s').parse().unwrap();
            format!("duration({})", go_duration(seconds))
        }
        Value::Timestamp(time) => {
            let env = Env::new(36).variable("t", Type::Timestamp);
            let program = env.compile("string(t)").unwrap();
            let (text, _) = program.evaluate(&Activation::new().with("t", Value::Timestamp(*time)), PER_CALL_LIMIT);
            format!("timestamp({})", text.unwrap().as_str().unwrap())
        }
        Value::List(list) => {
            let items: Vec<String> = (0..list.len()).map(|at| shown(&list.get(at).unwrap().unwrap())).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(map) => {
            let mut pairs: Vec<String> = map
                .keys()
                .into_iter()
                .map(|key| format!("{}: {}", shown(&key), shown(&map.get(&key).unwrap().unwrap())))
                .collect();
            pairs.sort();
            format!("{{{}}}", pairs.join(", "))
        }
        Value::Optional(Some(inner)) => format!("optional({})", shown(inner)),
        Value::Optional(None) => "optional.none()".to_owned(),
        Value::Type(name) => format!("type({name})"),
        Value::Extension(Extension::Ip(ip)) => format!("net.IP({ip})"),
        Value::Extension(Extension::Cidr(cidr)) => format!("net.CIDR({cidr})"),
        other => other.type_name().to_string(),
    }
}

fn quoted(text: &Text<'_>) -> String {
    serde_json::to_string(&**text).unwrap()
}

fn go_duration(seconds: f64) -> String {
    let (sign, rest) = if seconds < 0.0 { ("-", -seconds) } else { ("", seconds) };
    if rest == 0.0 {
        return "0s".to_owned();
    }
    if rest < 1.0 {
        return format!("{sign}{}ms", rest * 1000.0);
    }
    let (hours, minutes) = ((rest / 3600.0).floor(), (rest / 60.0).floor() % 60.0);
    let seconds = rest - (rest / 60.0).floor() * 60.0;
    match (hours > 0.0, minutes > 0.0) {
        (true, _) => format!("{sign}{hours}h{minutes}m{seconds}s"),
        (false, true) => format!("{sign}{minutes}m{seconds}s"),
        (false, false) => format!("{sign}{seconds}s"),
    }
}

/// `(answer, cost, type, estimate)`
fn answer(expr: &str, variables: &Json) -> (String, Option<u64>, Option<String>, Option<Json>) {
    let program = match env().compile(expr) {
        Ok(program) => program,
        Err(error) => return (format!("COMPILE {}", error.to_string().replace('\n', " ⏎ ")), None, None, None),
    };
    let mut activation = Activation::new();
    for name in ["object", "oldObject", "params"] {
        activation = activation.json(name, &variables[name], None);
    }
    let (result, cost) = program.evaluate(&activation, PER_CALL_LIMIT);
    let text = match result {
        Ok(value) => shown(&value),
        Err(error) => format!("ERR {error}"),
    };
    let estimate = program.estimate(&Unbounded);
    let estimate = serde_json::json!([estimate.min.to_string(), estimate.max.to_string()]);
    (text, Some(cost), Some(program.result_type().full()), Some(estimate))
}

fn hold(cases: &[Json], variables: &Json) {
    let mut wrong = Vec::new();
    for case in cases {
        let (id, expr) = (case["id"].as_str().unwrap(), case["expr"].as_str().unwrap());
        let (text, cost, ty, estimate) = answer(expr, variables);
        let equal = case["upstream"] == text
            && case["cost"].as_u64().is_none_or(|wanted| cost == Some(wanted))
            && case["type"].as_str().is_none_or(|wanted| ty.as_deref() == Some(wanted))
            && (case["estimate"].is_null() || estimate.as_ref() == Some(&case["estimate"]));
        let known = ON_PURPOSE.iter().any(|(at, _)| *at == id);
        if equal && known {
            wrong.push(format!("{id} is equal: take it out of what differs on purpose"));
        } else if !equal && !known {
            wrong.push(format!(
                "{id} {expr}\n  upstream {} cost {} type {} estimate {}\n  we       {text} cost {cost:?} type {ty:?} {estimate:?}",
                case["upstream"].as_str().unwrap(),
                case["cost"],
                case["type"],
                case["estimate"]
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn expressions_of_the_recorded_answers() {
    let Some(dir) = recorded() else { return };
    let variables = serde_json::from_str(&std::fs::read_to_string(dir.join("cel-variables.json")).unwrap()).unwrap();
    hold(&lines(&dir.join("cel.jsonl")), &variables);
}

#[test]
fn expressions_asked_of_upstream() {
    let file = std::env::var_os("KONTIKI_CEL_CASES").map_or(here().join("tests/upstream.jsonl"), PathBuf::from);
    let mut cases = lines(&file);
    let variables = cases.remove(0);
    hold(&cases, &variables);
}

#[test]
fn patterns() {
    let Some(dir) = recorded() else { return };
    let mut wrong = Vec::new();
    for case in lines(&dir.join("regex.jsonl")) {
        let (pattern, text) = (case["in"].as_str().unwrap(), case["text"].as_str().unwrap());
        let got = match re2::compile(pattern) {
            Err(error) => format!("ERR {error}"),
            Ok(pattern) => {
                let found: Vec<String> = pattern.find_iter(text).map(|found| format!("{:?}", found.as_str())).collect();
                let found = found.join(" ").replace("\\u{7}", "\\a").replace("\\0", "\\x00").replace("\\u{8}", "\\b");
                format!("{} [{found}]", pattern.is_match(text))
            }
        };
        if case["upstream"] != got {
            wrong.push(format!("{} {pattern:?}\n  upstream {}\n  we       {got}", case["id"], case["upstream"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a rule of a custom resource's `spec` says, in upstream's words as far as they are the rule's.
fn verdict(case: &Json) -> Option<String> {
    let schema = &case["schema"]["properties"]["spec"];
    let rules = schema["x-kubernetes-validations"].as_array()?;
    let spec = Schema::from_openapi(schema);
    let declared = declare(&spec, "selfType", false)?;
    let stored: Json = serde_json::from_str(case["stored"].as_str()?).ok()?;
    let env = Env::new(36).declared("self", &declared).declared("oldSelf", &declared);
    let mut activation = Activation::new().json("self", &stored["spec"], Some(&spec));
    if !case["old"]["spec"].is_null() {
        activation = activation.json("oldSelf", &case["old"]["spec"], Some(&spec));
    }
    for rule in rules {
        let text = rule["rule"].as_str()?;
        let program = match env.compile(text) {
            Ok(program) => program,
            Err(error) => return Some(format!("\"object\": rule compile error: {error}")),
        };
        if program.uses("oldSelf") && case["old"].is_null() {
            continue;
        }
        match program.evaluate(&activation, PER_CALL_LIMIT).0 {
            Ok(Value::Bool(true)) => {}
            Ok(_) => return Some(said(rule, text, &env, &activation)),
            Err(error) => return Some(format!("\"object\": {error} evaluating rule: {text}")),
        }
    }
    Some("valid".to_owned())
}

/// The message of a rule that was broken.
fn said(rule: &Json, text: &str, env: &Env, activation: &Activation<'_>) -> String {
    let program = rule["messageExpression"].as_str().and_then(|message| env.compile(message).ok());
    let message = program.as_ref().and_then(|program| program.evaluate(activation, PER_CALL_LIMIT).0.ok());
    let message = message.as_ref().and_then(Value::as_str).map(str::trim).filter(|said| !said.is_empty());
    let otherwise = || rule["message"].as_str().map_or(format!("failed rule: {text}"), str::to_owned);
    message.map_or_else(otherwise, str::to_owned)
}

/// Rules whose verdict is not the rule's alone, and why.
const NOT_OF_RULES: &[(&str, &str)] = &[
    ("I3", "the caller has words of its own for it"),
    ("W3", "the caller skips rules without text"),
    ("D14", "the caller validates the object before"),
    ("W9", STORED),
    ("F1", STORED),
    ("F4", STORED),
    ("F5", STORED),
    ("F6", STORED),
    ("RH_in", "after `.in` upstream's parser goes on, and finds more to say"),
];

const STORED: &str = "what is recorded as stored no longer says that it was 1.0";

#[test]
fn rules_of_custom_resources() {
    let Some(dir) = recorded() else { return };
    let (mut wrong, mut asked) = (Vec::new(), 0);
    for case in lines(&dir.join("crd.jsonl")) {
        let (id, upstream) = (case["id"].as_str().unwrap(), case["upstream"].as_str().unwrap());
        let Some(got) = verdict(&case).filter(|_| !NOT_OF_RULES.iter().any(|(known, _)| *known == id)) else {
            continue;
        };
        let wanted = upstream.strip_prefix("spec: Invalid value: ").unwrap_or(upstream);
        // The type's name has a number that changes from time to time.
        let mut wanted = wanted.to_owned();
        for (at, _) in wanted.clone().rmatch_indices("selfType") {
            let digits = wanted[at + 8..].chars().take_while(char::is_ascii_digit).count();
            wanted.replace_range(at + 8..at + 8 + digits, "");
        }
        asked += 1;
        let got = got.replace('\n', " ⏎ ");
        if wanted != got {
            wrong.push(format!(
                "{id} {}\n  upstream {wanted}\n  we       {got}",
                case["schema"]["properties"]["spec"]["x-kubernetes-validations"]
            ));
        }
    }
    assert!(asked > 150, "only {asked} rules were found");
    assert!(wrong.is_empty(), "{} of {asked} differ:\n{}", wrong.len(), wrong.join("\n"));
}
