//! What stands between operands, and before them.

use super::{Halt, Parsed, Parser, STARTS, call, set};
use crate::ast::{Expr, Id, Kind, operator};
use crate::lex::Token;

impl Parser<'_, '_, '_> {
    pub(super) fn or(&mut self) -> Parsed<Expr> {
        self.chain(Token::Or, operator::OR, Self::and)
    }

    fn and(&mut self) -> Parsed<Expr> {
        self.chain(Token::And, operator::AND, Self::relation)
    }

    /// Terms with the same operator between them.
    fn chain(
        &mut self,
        between: Token,
        function: &'static str,
        term: impl Fn(&mut Self) -> Parsed<Expr>,
    ) -> Parsed<Expr> {
        let (mut terms, mut ids) = (vec![term(self)?], Vec::new());
        let mut height = self.height;
        while self.token() == between {
            ids.push(self.here());
            terms.push(term(self)?);
            height = height.max(self.height);
        }
        self.height = height;
        Ok(balanced(function, terms, &ids))
    }

    fn relation(&mut self) -> Parsed<Expr> {
        let mut left = self.calc(0)?;
        while let Some(function) = relation(self.token()) {
            let height = self.height;
            let id = self.here();
            let right = self.calc(0)?;
            self.over(height)?;
            left = call(id, function, vec![left, right]);
        }
        Ok(left)
    }

    /// `tightness`: 0 for sums, 1 for products.
    fn calc(&mut self, tightness: u8) -> Parsed<Expr> {
        let mut left = self.unary()?;
        while let Some((function, binds)) = calculation(self.token()).filter(|(_, binds)| *binds >= tightness) {
            let height = self.height;
            let id = self.here();
            let right = self.calc(binds + 1)?;
            self.over(height)?;
            left = call(id, function, vec![left, right]);
        }
        Ok(left)
    }

    fn unary(&mut self) -> Parsed<Expr> {
        if !self.begins(&[]) {
            return Ok(self.missing());
        }
        let number = matches!(self.ahead(1), Token::Int | Token::Float);
        let function = match self.token() {
            Token::Not => operator::NOT,
            Token::Minus if !number => operator::NEGATE,
            _ => return self.member(),
        };
        let sign = self.token();
        let place = self.spot().start;
        let mut odd = false;
        while self.token() == sign {
            self.take();
            odd = !odd;
        }
        let id = self.places.add(place);
        if !STARTS.contains(&self.token()) {
            self.no_operand(sign);
            return Err(Halt);
        }
        let operand = self.member()?;
        Ok(if odd { call(id, function, vec![operand]) } else { operand })
    }

    /// Nothing that a sign could stand before.
    fn no_operand(&mut self, sign: Token) {
        let here = self.spot();
        let (shown, set) = (self.shown(here), set(&STARTS));
        if sign == Token::Not {
            return self.syntax(here, &format!("extraneous input {shown} expecting {set}"));
        }
        let read = if here.token == Token::End { String::new() } else { self.text(here) };
        self.syntax(here, &format!("no viable alternative at input '-{read}'"));
        self.recovering = false;
        self.syntax(here, &format!("mismatched input {shown} expecting {set}"));
    }
}

/// Terms as a tree that is no deeper than need be.
fn balanced(function: &str, terms: Vec<Expr>, ids: &[Id]) -> Expr {
    fn tree(function: &str, terms: &mut [Option<Expr>], ids: &[Id]) -> Option<Expr> {
        let Some(last) = ids.len().checked_sub(1) else { return terms.first_mut()?.take() };
        let middle = ids.len() / 2;
        let (left, right) = terms.split_at_mut(middle + 1);
        let left = tree(function, left, &ids[..middle])?;
        let right = tree(function, right, if middle == last { &[] } else { &ids[middle + 1..] })?;
        Some(call(ids[middle], function, vec![left, right]))
    }
    let mut terms: Vec<Option<Expr>> = terms.into_iter().map(Some).collect();
    tree(function, &mut terms, ids).unwrap_or(Expr { id: 0, kind: Kind::Missing })
}

fn relation(token: Token) -> Option<&'static str> {
    Some(match token {
        Token::Less => "_<_",
        Token::LessEquals => "_<=_",
        Token::Greater => "_>_",
        Token::GreaterEquals => "_>=_",
        Token::Equals => operator::EQUALS,
        Token::NotEquals => operator::NOT_EQUALS,
        Token::In => "@in",
        _ => return None,
    })
}

fn calculation(token: Token) -> Option<(&'static str, u8)> {
    Some(match token {
        Token::Star => ("_*_", 1),
        Token::Slash => ("_/_", 1),
        Token::Percent => ("_%_", 1),
        Token::Plus => (operator::ADD, 0),
        Token::Minus => ("_-_", 0),
        _ => return None,
    })
}
