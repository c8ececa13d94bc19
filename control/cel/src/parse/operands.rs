//! Operands: names, calls, selections, lists, maps, structures.

use std::sync::Arc;

use super::{Halt, Parsed, Parser, STARTS, call, set};
use crate::ast::{Entry, Expr, Field, Kind, Literal, Select, operator};
use crate::escape::reserved;
use crate::lex::{Spot, Token};
use crate::macros;

impl Parser<'_, '_, '_> {
    pub(super) fn member(&mut self) -> Parsed<Expr> {
        let start = self.spot().start;
        let mut operand = self.primary()?;
        loop {
            let height = self.height;
            self.height = 0;
            operand = match self.token() {
                Token::Dot => self.select(operand, start)?,
                Token::OpenBracket => self.index(operand)?,
                _ => {
                    self.height = height;
                    return Ok(operand);
                }
            };
            self.over(height)?;
        }
    }

    fn select(&mut self, operand: Expr, start: u32) -> Parsed<Expr> {
        let dot = self.take();
        let optional = self.taken(Token::Question);
        let name = self.spot();
        if !matches!(name.token, Token::Ident | Token::EscapedIdent) {
            self.no_name(dot, optional);
            if !matches!(name.token, Token::True | Token::False | Token::Null) {
                return Err(Halt);
            }
            self.at += 1;
            return Ok(Expr { id: self.places.add(start), kind: Kind::Missing });
        }
        self.take();
        if name.token == Token::Ident && !optional && self.token() == Token::Open {
            return self.method(operand, name);
        }
        let field: Arc<str> = self.field_name(name).into();
        if optional {
            let id = self.places.add(dot.start);
            let field = Expr { id: self.places.add(name.start), kind: Kind::Literal(Literal::String(field)) };
            return Ok(call(id, operator::OPT_SELECT, vec![operand, field]));
        }
        let id = self.places.add(dot.start);
        Ok(Expr { id, kind: Kind::Select(Box::new(Select { operand, field, test: false })) })
    }

    fn no_name(&mut self, dot: Spot, optional: bool) {
        let here = self.spot();
        if optional {
            let shown = self.shown(here);
            self.syntax(here, &format!("mismatched input {shown} expecting {{IDENTIFIER, ESC_IDENTIFIER}}"));
            return self.issues.report(here.start, "unsupported ident kind".to_owned());
        }
        if matches!(here.token, Token::True | Token::False | Token::Null) {
            let shown = self.shown(here);
            return self.syntax(here, &format!("mismatched input {shown} expecting IDENTIFIER"));
        }
        let read: String = self.chars[dot.start as usize..here.end as usize].iter().collect();
        self.syntax(here, &format!("no viable alternative at input '{}'", read.trim_end()));
    }

    fn field_name(&self, spot: Spot) -> String {
        let text = self.text(spot);
        if spot.token == Token::EscapedIdent { text.trim_matches('`').to_owned() } else { text }
    }

    fn method(&mut self, target: Expr, name: Spot) -> Parsed<Expr> {
        let function = self.text(name);
        let place = self.spot().start;
        let args = self.arguments()?;
        Ok(macros::expand(self, place, &function, Some(target), args))
    }

    fn arguments(&mut self) -> Parsed<Vec<Expr>> {
        self.take();
        let (mut args, mut height) = (Vec::new(), 0);
        self.height = 0;
        if self.taken(Token::Close) {
            return Ok(args);
        }
        if !self.begins(&[Token::Close]) {
            return Err(Halt);
        }
        loop {
            args.push(self.expr()?);
            height = height.max(self.height);
            if !self.taken(Token::Comma) {
                break;
            }
        }
        self.height = height;
        self.close(Token::Close, &[Token::Close])?;
        Ok(args)
    }

    fn index(&mut self, operand: Expr) -> Parsed<Expr> {
        let id = self.here();
        let function = if self.taken(Token::Question) { operator::OPT_INDEX } else { operator::INDEX };
        let index = self.expr()?;
        self.close(Token::CloseBracket, &[Token::CloseBracket])?;
        Ok(call(id, function, vec![operand, index]))
    }

    fn primary(&mut self) -> Parsed<Expr> {
        if !self.begins(&[]) {
            return Ok(self.missing());
        }
        match self.token() {
            Token::Open => self.nested(),
            Token::OpenBracket => self.list(),
            Token::OpenBrace => self.map(),
            Token::Ident | Token::Dot => self.name(),
            _ => self.literal(),
        }
    }

    fn nested(&mut self) -> Parsed<Expr> {
        self.take();
        let inner = self.expr()?;
        self.close(Token::Close, &[Token::Close])?;
        Ok(inner)
    }

    fn list(&mut self) -> Parsed<Expr> {
        let id = self.here();
        let (mut items, mut optional, mut height) = (Vec::new(), Vec::new(), 0);
        if !matches!(self.token(), Token::CloseBracket | Token::Comma) {
            if !self.begins(&[Token::CloseBracket, Token::Comma, Token::Question]) {
                return Err(Halt);
            }
            loop {
                optional.push(self.taken(Token::Question));
                items.push(self.expr()?);
                height = height.max(self.height);
                if !self.more() {
                    break;
                }
            }
        }
        self.end_of(Token::CloseBracket)?;
        self.height = height;
        Ok(Expr { id, kind: Kind::List { items, optional } })
    }

    /// Takes a comma that another element follows.
    fn more(&mut self) -> bool {
        let next = self.ahead(1);
        let element = STARTS.contains(&next) || matches!(next, Token::Question | Token::EscapedIdent);
        self.token() == Token::Comma && element && self.taken(Token::Comma)
    }

    /// The end of a list or map, with or without a comma.
    fn end_of(&mut self, close: Token) -> Parsed<()> {
        if self.taken(Token::Comma) {
            // A second comma may follow only what is itself an element.
            let inner = self.depth > 1;
            let follow = |token| token == Token::End || inner && !STARTS.contains(&token);
            return self.expect(close, &[close], &follow).map(|_| ());
        }
        let mut expecting = [close, Token::Comma];
        expecting.sort_unstable();
        // With a comma to come, nothing is assumed.
        self.expect(close, &expecting, &|_| false).map(|_| ())
    }

    fn map(&mut self) -> Parsed<Expr> {
        let id = self.here();
        let (mut entries, mut height) = (Vec::new(), 0);
        if !matches!(self.token(), Token::CloseBrace | Token::Comma) {
            if !self.begins(&[Token::CloseBrace, Token::Comma, Token::Question]) {
                return Err(Halt);
            }
            loop {
                let optional = self.taken(Token::Question);
                let key = self.expr()?;
                self.expect(Token::Colon, &[Token::Colon], &|token| STARTS.contains(&token))?;
                height = height.max(self.height);
                let value = self.expr()?;
                height = height.max(self.height);
                entries.push(Entry { key, value, optional });
                if !self.more() {
                    break;
                }
            }
        }
        self.end_of(Token::CloseBrace)?;
        self.height = height;
        Ok(Expr { id, kind: Kind::Map(entries) })
    }

    fn name(&mut self) -> Parsed<Expr> {
        self.height = 0;
        let first = self.spot();
        let dotted = self.taken(Token::Dot);
        let prefix = if dotted { "." } else { "" };
        if self.is_struct() {
            return self.structure(prefix);
        }
        let spot = self.spot();
        if spot.token != Token::Ident {
            self.no_name(first, false);
            return Err(Halt);
        }
        self.take();
        let name = self.text(spot);
        if reserved(&name) {
            self.issues.report(first.start, format!("reserved identifier: {name}"));
            if self.token() == Token::Open {
                self.arguments()?;
            }
            return Ok(Expr { id: self.places.add(first.start), kind: Kind::Missing });
        }
        let name = format!("{prefix}{name}");
        if self.token() == Token::Open {
            let place = self.spot().start;
            let args = self.arguments()?;
            return Ok(macros::expand(self, place, &name, None, args));
        }
        Ok(Expr { id: self.places.add(spot.start), kind: Kind::Ident(name.into()) })
    }

    /// Whether `a.b.C {` follows.
    fn is_struct(&self) -> bool {
        let mut ahead = 0;
        while self.ahead(ahead) == Token::Ident {
            match self.ahead(ahead + 1) {
                Token::OpenBrace => return true,
                Token::Dot => ahead += 2,
                _ => return false,
            }
        }
        false
    }

    fn structure(&mut self, prefix: &str) -> Parsed<Expr> {
        let mut name = prefix.to_owned();
        while self.token() != Token::OpenBrace {
            let spot = self.take();
            name += &self.text(spot);
        }
        let id = self.here();
        let (mut fields, mut height) = (Vec::new(), 0);
        while !matches!(self.token(), Token::CloseBrace | Token::Comma) {
            fields.push(self.field()?);
            height = height.max(self.height);
            if !self.more() {
                break;
            }
        }
        self.end_of(Token::CloseBrace)?;
        self.height = height;
        Ok(Expr { id, kind: Kind::Struct { name: name.into(), fields } })
    }

    fn field(&mut self) -> Parsed<Field> {
        let optional = self.taken(Token::Question);
        let spot = self.spot();
        if !matches!(spot.token, Token::Ident | Token::EscapedIdent) {
            let expecting = [Token::CloseBrace, Token::Comma, Token::Question, Token::Ident, Token::EscapedIdent];
            let shown = self.shown(spot);
            self.syntax(spot, &format!("mismatched input {shown} expecting {}", set(&expecting)));
            return Err(Halt);
        }
        self.take();
        let name = self.field_name(spot).into();
        let colon = self.expect(Token::Colon, &[Token::Colon], &|token| STARTS.contains(&token))?;
        let id = self.places.add(colon.start);
        Ok(Field { id, name, value: self.expr()?, optional })
    }
}
