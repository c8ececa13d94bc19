//! Expressions that mean harm: an error or a spent budget, never a crash, and soon.

#![allow(clippy::unwrap_used)] // a test may panic

use std::time::{Duration, Instant};

use kontiki_cel::{Activation, Env, EvalError, PER_CALL_LIMIT, Schema, Type, Unbounded, Value, declare, re2};
use serde_json::json;

fn env() -> Env {
    Env::new(37).variable("object", Type::Dyn)
}

fn refused(text: &str) -> String {
    env().compile(text).unwrap_err().to_string()
}

#[test]
fn nesting_has_an_end() {
    for (open, close) in
        [("(", ")"), ("[", "]"), ("!(", ")"), ("{1: ", "}"), ("size(", ")"), ("-(", ")"), ("f(x)[", "]")]
    {
        let text = format!("{}1{}", open.repeat(40_000 / open.len()), close.repeat(40_000 / open.len()));
        assert!(!refused(&text).is_empty(), "{open}");
    }
    for link in [".a", "[0]", ".size()", " + 1", " == 1", " ? 1 : 1", " || true"] {
        let text = format!("object{}", link.repeat(90_000 / link.len()));
        let _ = env().compile(&text);
    }
    let deepest = format!("{}1{}", "(".repeat(240), ")".repeat(240));
    assert!(env().compile(&deepest).is_ok());
}

#[test]
fn copies_of_copies_have_an_end() {
    let text = format!("optional.of(1){}", ".optMap(x, x)".repeat(100));
    assert!(refused(&text).contains("nodes"));
}

#[test]
fn length_has_an_end() {
    let text = format!("'{}'", "a".repeat(100_001));
    assert!(refused(&text).contains("expression code point size exceeds limit: size: 100003, limit 100000"));
}

#[test]
fn comprehensions_stop_with_the_budget() {
    let ten = "[0,1,2,3,4,5,6,7,8,9]";
    let mut text = "true".to_owned();
    for depth in 0..12 {
        text = format!("{ten}.all(x{depth}, {text})");
    }
    let program = env().compile(&text).unwrap();
    assert!(program.estimate(&Unbounded).max > PER_CALL_LIMIT);
    let start = Instant::now();
    let (result, cost) = program.evaluate(&Activation::new(), PER_CALL_LIMIT);
    assert_eq!(result.err(), Some(EvalError::Budget));
    assert!(cost > PER_CALL_LIMIT && start.elapsed() < Duration::from_secs(5));
}

#[test]
fn texts_that_grow_are_paid_for() {
    let mut text = "'aaaaaaaaaa'".to_owned();
    for _ in 0..20 {
        text = format!("[{text}].map(s, s + s + s + s + s + s + s + s + s + s)[0]");
    }
    let program = env().compile(&text).unwrap();
    let (result, _) = program.evaluate(&Activation::new(), PER_CALL_LIMIT);
    assert_eq!(result.err(), Some(EvalError::Budget));
}

#[test]
fn patterns_are_linear() {
    let start = Instant::now();
    let object = json!("a".repeat(100_000));
    let program = env().compile("object.matches('^(a+)+$') && !object.matches('(a*)*b')").unwrap();
    let activation = Activation::new().json("object", &object, None);
    let (result, _) = program.evaluate(&activation, u64::MAX);
    assert_eq!(result.unwrap().as_bool(), Some(true));
    assert!(start.elapsed() < Duration::from_secs(5));
    for pattern in ["((a{100}){100}){100}", "a{1001}", "(", "[", "\\", "(?<", "[a-", "(?i", "\\x{", "[[:"] {
        assert!(re2::compile(pattern).is_err(), "{pattern}");
    }
    assert!(re2::compile(&"(".repeat(100_000)).is_err());
}

#[test]
fn noise_does_not_crash() {
    let alphabet = [
        "(", ")", "[", "]", "{", "}", ".", "?", ":", ",", "'", "\"", "\\", "a", "1", "0x", "-", "!", "in", "`", "é",
        " ", "\n", "+", "&&", "||", "r'", "b\"", "true", "@", "has(", ".map(x,",
    ];
    let mut seed = 42u64;
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..12 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text += alphabet[(seed >> 33) as usize % alphabet.len()];
        }
        if let Ok(program) = env().compile(&text) {
            let _ = program.evaluate(&Activation::new(), 10_000);
            let _ = program.estimate(&Unbounded);
        }
        let _ = re2::compile(&text);
    }
}

#[test]
fn schemas_read_what_is_touched() {
    let schema = Schema::from_openapi(&json!({"type": "object", "properties": {
        "n": {"type": "integer"},
        "t": {"type": "string", "format": "date-time"},
        "namespace": {"type": "string"},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "keyed": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items":
            {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}},
        "either": {"x-kubernetes-int-or-string": true},
        "maybe": {"type": "string", "nullable": true}}}));
    let declared = declare(&schema, "selfType", false).unwrap();
    let env = Env::new(36).declared("self", &declared);
    let object = json!({"n": 1.0, "t": "2024-01-01T10:00:00+02:00", "namespace": "x", "set": ["a", "b"],
        "keyed": [{"k": "a", "v": 1}, {"k": "b", "v": 2}], "either": "25%", "maybe": null});
    for (text, answer) in [
        ("self.namespace == 'x'", "true"),
        ("self.__namespace__ == 'x'", "true"),
        ("self.t.getHours() == 8", "true"),
        ("self.set == ['b', 'a']", "true"),
        ("['b', 'a'] == self.set", "false"),
        ("(self.set + ['b', 'c']).size() == 3", "true"),
        ("self.keyed == [self.keyed[1], self.keyed[0]]", "true"),
        ("self.keyed.map(x, x) == [self.keyed[1], self.keyed[0]]", "false"),
        ("type(self.either) == string ? self.either.endsWith('%') : self.either > 0", "true"),
        ("has(self.maybe)", "false"),
        ("self.?maybe.hasValue()", "false"),
        ("self.n > 0", "invalid data, expected int, got float64"),
        ("self.nope", "compilation failed: ERROR: <input>:1:5: undefined field 'nope'\n | self.nope\n | ....^"),
        (
            "self.maybe == null",
            "compilation failed: ERROR: <input>:1:12: found no matching overload for '_==_' applied to '(string, null)'\n | self.maybe == null\n | ...........^",
        ),
    ] {
        let got = match env.compile(text) {
            Err(error) => error.to_string(),
            Ok(program) => {
                let activation = Activation::new().json("self", &object, Some(&schema));
                match program.evaluate(&activation, PER_CALL_LIMIT).0 {
                    Ok(Value::Bool(value)) => value.to_string(),
                    Ok(other) => other.type_name().to_string(),
                    Err(error) => error.to_string(),
                }
            }
        };
        assert_eq!(got, answer, "{text}");
    }
}
