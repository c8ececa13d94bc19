//! What string and bytes literals stand for.

/// The bytes of a literal, which the lexer has accepted, quotes and `r` included, `b` left out.
///
/// # Errors
/// Upstream's sentence: an escape sequence that stands for nothing.
pub(crate) fn unescape(literal: &str, bytes: bool) -> Result<Vec<u8>, String> {
    let (raw, rest) = match literal.strip_prefix(['r', 'R']) {
        Some(rest) => (true, rest),
        None => (false, literal),
    };
    let triple = rest.len() >= 6 && (rest.starts_with("'''") || rest.starts_with("\"\"\""));
    let quotes = if triple { 3 } else { 1 };
    let body = rest.get(quotes..rest.len() - quotes).ok_or("unable to unescape string")?;
    if raw || !body.contains('\\') {
        return Ok(body.as_bytes().to_vec());
    }
    let mut out = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c == '\\' {
            rest = escape(rest, bytes, &mut out)?;
        } else {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    Ok(out)
}

fn escape<'t>(text: &'t str, bytes: bool, out: &mut Vec<u8>) -> Result<&'t str, String> {
    let unable = || "unable to unescape string".to_owned();
    let c = text.chars().next().ok_or("unable to unescape string, found '\\' as last character")?;
    let after = &text[c.len_utf8()..];
    let simple = match c {
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 11,
        '\\' | '\'' | '"' | '`' | '?' => c as u8,
        'x' | 'X' => return number(after, 2, 16, bytes, out),
        'u' if !bytes => return number(after, 4, 16, bytes, out),
        'U' if !bytes => return number(after, 8, 16, bytes, out),
        '0'..='3' => return number(text, 3, 8, bytes, out),
        _ => return Err(unable()),
    };
    out.push(simple);
    Ok(after)
}

fn number<'t>(text: &'t str, digits: usize, base: u32, bytes: bool, out: &mut Vec<u8>) -> Result<&'t str, String> {
    let value = text.get(..digits).and_then(|digits| u32::from_str_radix(digits, base).ok());
    let value = value.ok_or("unable to unescape string")?;
    if bytes {
        out.push(u8::try_from(value).unwrap_or(u8::MAX));
    } else {
        let c = char::from_u32(value).ok_or("invalid unicode code point")?;
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Ok(&text[digits..])
}
