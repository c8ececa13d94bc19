//! Literals, and what they stand for.

use super::{Halt, Parsed, Parser};
use crate::ast::{Expr, Kind, Literal};
use crate::lex::Token;
use crate::unescape::unescape;

impl Parser<'_, '_, '_> {
    pub(super) fn literal(&mut self) -> Parsed<Expr> {
        self.height = 0;
        let first = self.spot();
        let negative = self.taken(Token::Minus);
        let spot = self.take();
        let text = self.text(spot);
        let signed = if negative { format!("-{text}") } else { text.clone() };
        let literal = match spot.token {
            Token::True => Ok(Literal::Bool(true)),
            Token::False => Ok(Literal::Bool(false)),
            Token::Null => Ok(Literal::Null),
            Token::Int => int(&text, negative).map(Literal::Int).ok_or("invalid int literal".to_owned()),
            Token::Uint => uint(&text).map(Literal::Uint).ok_or("invalid uint literal".to_owned()),
            Token::Float => double(&signed).map(Literal::Double).ok_or("invalid double literal".to_owned()),
            Token::String => unescape(&text, false).and_then(|bytes| {
                let text = String::from_utf8(bytes).map_err(|_| "unable to unescape string")?;
                Ok(Literal::String(text.into()))
            }),
            Token::Bytes => unescape(&text[1..], true).map(|bytes| Literal::Bytes(bytes.into())),
            _ => {
                let shown = self.shown(spot);
                self.syntax(spot, &format!("no viable alternative at input {shown}"));
                return Err(Halt);
            }
        };
        let id = self.places.add(first.start);
        let kind = match literal {
            Ok(literal) => Kind::Literal(literal),
            Err(message) => {
                self.issues.report(first.start, message);
                Kind::Missing
            }
        };
        Ok(Expr { id, kind })
    }
}

fn int(text: &str, negative: bool) -> Option<i64> {
    let magnitude = match text.strip_prefix("0x") {
        Some(hex) => i128::from(u64::from_str_radix(hex, 16).ok()?),
        None => i128::from(text.parse::<u64>().ok()?),
    };
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

fn uint(text: &str) -> Option<u64> {
    let digits = text.strip_suffix(['u', 'U'])?;
    match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => digits.parse().ok(),
    }
}

fn double(text: &str) -> Option<f64> {
    text.parse().ok().filter(|value: &f64| value.is_finite())
}
