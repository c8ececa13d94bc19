//! Places in a schema that JSON paths of fields name (`.spec['a.b'].c`). Upstream: `ValidFieldPath` of
//! apiextensions-apiserver's `schema/cel/validation.go`.

use serde_json::Value;

/// One step of a path.
enum Step {
    Name(String),
    Quoted(String),
}

/// The schema at a path, and the path as findings show it. `brackets`: whether `['…']` may be written.
///
/// # Errors
/// There is none.
pub(crate) fn follow<'a>(root: &'a Value, path: &str, brackets: bool) -> Result<(String, &'a Value), String> {
    let (mut schema, mut shown, mut rest) = (root, String::new(), path);
    while !rest.is_empty() {
        let (step, after) = next(rest, brackets)?;
        let (Step::Name(name) | Step::Quoted(name)) = &step;
        let properties = &schema["properties"];
        let named = properties.is_object();
        schema = if named { &properties[name.as_str()] } else { &schema["additionalProperties"] };
        if !schema.is_object() {
            return Err("does not refer to a valid field".to_owned());
        }
        match (named, shown.is_empty()) {
            (true, true) => shown.push_str(name),
            (true, false) => shown += &format!(".{name}"),
            (false, _) => shown += &format!("[{name}]"),
        }
        rest = after;
    }
    Ok((shown, schema))
}

fn next(rest: &str, brackets: bool) -> Result<(Step, &str), String> {
    let end = || "unexpected end of JSON path".to_owned();
    if let Some(rest) = rest.strip_prefix('.') {
        let (name, after) = rest.split_at(rest.find(['.', '[', ']']).unwrap_or(rest.len()));
        return if name.is_empty() { Err(end()) } else { Ok((Step::Name(name.to_owned()), after)) };
    }
    let Some(inner) = rest.strip_prefix('[') else {
        return Err(format!("expected [ or . but got: {}", rest.split(['.', '[', ']']).next().unwrap_or_default()));
    };
    if !brackets {
        return Err("array notation is not allowed".to_owned());
    }
    let Some(text) = inner.strip_prefix('\'') else {
        let got = inner.split(['.', '[', ']']).next().unwrap_or_default();
        return Err(format!("expected single quoted string but got {got}"));
    };
    let (name, after) = quoted(text).ok_or_else(end)??;
    match after.strip_prefix(']') {
        Some(after) => Ok((Step::Quoted(name), after)),
        None => Err(end()),
    }
}

/// What stands before the closing quote, and what comes after that; `None`: nothing closes.
fn quoted(text: &str) -> Option<Result<(String, &str), String>> {
    let (mut name, mut chars) = (String::new(), text.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' => return Some(Ok((name, &text[at + 1..]))),
            '\\' => match unescaped(chars.next()?.1) {
                Ok(c) => name.push(c),
                Err(c) => return Some(Err(format!("invalid string literal: invalid escape char \\{c}"))),
            },
            c => name.push(c),
        }
    }
    None
}

fn unescaped(c: char) -> Result<char, char> {
    Ok(match c {
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        '\'' | '\\' => c,
        other => return Err(other),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_to_schemas() {
        let schema = json!({"properties": {
            "a": {"properties": {"b.c": {"type": "string"}}},
            "m": {"additionalProperties": {"type": "integer"}},
        }});
        for (path, brackets, expect) in [
            (".a", true, Ok("a")),
            (".a['b.c']", true, Ok("a.b.c")),
            (".m.x", true, Ok("m[x]")),
            (".m['it\\'s']", true, Ok("m[it's]")),
            (".m['x']", false, Err("array notation is not allowed")),
            (".m[x]", true, Err("expected single quoted string but got x")),
            (".m['x", true, Err("unexpected end of JSON path")),
            (".m['\\x']", true, Err("invalid string literal: invalid escape char \\x")),
            (".b", true, Err("does not refer to a valid field")),
            (".a.", true, Err("unexpected end of JSON path")),
            ("a", true, Err("expected [ or . but got: a")),
        ] {
            let found = follow(&schema, path, brackets).map(|(shown, _)| shown);
            assert_eq!(found.as_deref(), expect.map_err(str::to_owned).as_ref().map(|it| *it), "{path}");
        }
    }
}
