//! From text to a tree. The grammar is upstream's; errors are worded as its generated parser words them: a token too
//! many is skipped, one that is missing is assumed, anything else ends the parse.

mod literals;
mod operands;
mod operators;

use crate::ast::{Call, Expr, Id, Kind, operator};
use crate::lex::{Spot, Token, lex};
use crate::source::Issues;

/// Nesting of one rule of the grammar.
const MAX_DEPTH: usize = 250;
const MAX_LENGTH: usize = 100_000;

/// What an expression may begin with.
const STARTS: [Token; 15] = [
    Token::OpenBracket,
    Token::OpenBrace,
    Token::Open,
    Token::Dot,
    Token::Minus,
    Token::Not,
    Token::True,
    Token::False,
    Token::Null,
    Token::Float,
    Token::Int,
    Token::Uint,
    Token::String,
    Token::Bytes,
    Token::Ident,
];

/// The parse cannot go on; why has been reported.
pub(crate) struct Halt;
type Parsed<T> = Result<T, Halt>;

/// A tree, and where each of its nodes is, in code points.
pub(crate) struct Tree {
    pub(crate) root: Expr,
    pub(crate) places: Vec<u32>,
}

/// Reads an expression; `None` if it is none, which has been reported.
pub(crate) fn parse(text: &str, minor: u8, issues: &mut Issues<'_>) -> Option<Tree> {
    let chars: Vec<char> = text.chars().collect();
    if chars.len() > MAX_LENGTH {
        issues.report_nowhere(format!(
            "expression code point size exceeds limit: size: {}, limit {MAX_LENGTH}",
            chars.len()
        ));
        return None;
    }
    let spots = lex(&chars, issues);
    let mut parser = Parser {
        chars: &chars,
        spots,
        at: 0,
        places: Places::default(),
        issues,
        minor,
        depth: 0,
        height: 0,
        recovering: false,
    };
    let root = parser.start().ok()?;
    let places = parser.places.0;
    issues.is_empty().then_some(Tree { root, places })
}

/// Places of nodes by their numbers.
#[derive(Default)]
pub(crate) struct Places(Vec<u32>);

impl Places {
    pub(crate) fn add(&mut self, place: u32) -> Id {
        self.0.push(place);
        u32::try_from(self.0.len() - 1).unwrap_or(u32::MAX)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn of(&self, id: Id) -> u32 {
        self.0.get(id as usize).copied().unwrap_or(0)
    }
}

pub(crate) struct Parser<'c, 'i, 's> {
    chars: &'c [char],
    spots: Vec<Spot>,
    at: usize,
    pub(crate) places: Places,
    pub(crate) issues: &'i mut Issues<'s>,
    pub(crate) minor: u8,
    /// Expressions around this place.
    depth: usize,
    /// Operators and selections on the longest way through what was read last.
    height: usize,
    /// An error was reported, and no token has fitted since.
    recovering: bool,
}

impl Parser<'_, '_, '_> {
    fn spot(&self) -> Spot {
        self.spots[self.at]
    }

    fn token(&self) -> Token {
        self.spot().token
    }

    fn ahead(&self, count: usize) -> Token {
        self.spots.get(self.at + count).map_or(Token::End, |spot| spot.token)
    }

    fn take(&mut self) -> Spot {
        self.recovering = false;
        let spot = self.spot();
        self.at = (self.at + 1).min(self.spots.len() - 1);
        spot
    }

    fn taken(&mut self, token: Token) -> bool {
        let found = self.token() == token;
        if found {
            self.take();
        }
        found
    }

    fn text(&self, spot: Spot) -> String {
        self.chars[spot.start as usize..spot.end as usize].iter().collect()
    }

    fn shown(&self, spot: Spot) -> String {
        if spot.token == Token::End {
            return "'<EOF>'".to_owned();
        }
        let text = self.text(spot).replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t");
        format!("'{text}'")
    }

    fn syntax(&mut self, at: Spot, message: &str) {
        if std::mem::replace(&mut self.recovering, true) {
            return;
        }
        self.issues.report(at.start, format!("Syntax error: {message}"));
    }

    fn too_deep(&mut self, message: String) -> Halt {
        self.issues.report_nowhere(message);
        Halt
    }

    /// An operator or selection over what is `left` high and what was read last.
    fn over(&mut self, left: usize) -> Parsed<()> {
        self.height = 1 + self.height.max(left);
        if self.height <= MAX_DEPTH { Ok(()) } else { Err(self.too_deep("max recursion depth exceeded".to_owned())) }
    }

    /// Takes `wanted`, which `follow` may follow.
    fn expect(&mut self, wanted: Token, expecting: &[Token], follow: &dyn Fn(Token) -> bool) -> Parsed<Spot> {
        let here = self.spot();
        if here.token == wanted {
            return Ok(self.take());
        }
        let (shown, set) = (self.shown(here), set(expecting));
        if here.token != Token::End && expecting.contains(&self.ahead(1)) {
            self.syntax(here, &format!("extraneous input {shown} expecting {set}"));
            self.take();
            return Ok(self.take());
        }
        if follow(here.token) {
            self.syntax(here, &format!("missing {} at {shown}", wanted.name()));
            return Ok(here);
        }
        self.syntax(here, &format!("mismatched input {shown} expecting {set}"));
        Err(Halt)
    }

    fn close(&mut self, wanted: Token, expecting: &[Token]) -> Parsed<Spot> {
        self.expect(wanted, expecting, &|token| {
            !STARTS.contains(&token) && token != Token::EscapedIdent
                || matches!(token, Token::Dot | Token::OpenBracket | Token::Minus)
        })
    }

    /// Whether an expression begins here. If none does, that is reported, and what follows is skipped up to where it
    /// would have ended.
    fn begins(&mut self, more: &[Token]) -> bool {
        let good = |token: Token| STARTS.contains(&token) || more.contains(&token);
        let here = self.spot();
        if good(here.token) {
            return true;
        }
        let mut expecting: Vec<Token> = STARTS.iter().chain(more).copied().collect();
        expecting.sort_unstable();
        let (shown, set) = (self.shown(here), set(&expecting));
        if here.token != Token::End && good(self.ahead(1)) {
            self.syntax(here, &format!("extraneous input {shown} expecting {set}"));
            self.take();
            return true;
        }
        self.syntax(here, &format!("mismatched input {shown} expecting {set}"));
        while STARTS.contains(&self.token()) || matches!(self.token(), Token::EscapedIdent | Token::Not) {
            self.at += 1;
        }
        false
    }

    fn missing(&mut self) -> Expr {
        self.height = 0;
        let place = self.spot().start;
        Expr { id: self.places.add(place), kind: Kind::Missing }
    }

    fn start(&mut self) -> Parsed<Expr> {
        let root = self.expr()?;
        self.expect(Token::End, &[Token::End], &|_| false)?;
        Ok(root)
    }

    fn expr(&mut self) -> Parsed<Expr> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.too_deep(format!("expression recursion limit exceeded: {MAX_DEPTH}")));
        }
        let condition = self.or()?;
        let expr = if self.token() == Token::Question {
            let id = self.here();
            let first = self.height;
            let yes = self.or()?;
            let first = first.max(self.height);
            self.expect(Token::Colon, &[Token::Colon], &|token| STARTS.contains(&token))?;
            let no = self.expr()?;
            self.over(first)?;
            call(id, operator::CONDITIONAL, vec![condition, yes, no])
        } else {
            condition
        };
        self.depth -= 1;
        Ok(expr)
    }

    /// The number of a node at this token, which is taken.
    fn here(&mut self) -> Id {
        let place = self.take().start;
        self.places.add(place)
    }
}

fn set(tokens: &[Token]) -> String {
    match tokens {
        [one] => one.name().to_owned(),
        many => format!("{{{}}}", many.iter().map(|token| token.name()).collect::<Vec<_>>().join(", ")),
    }
}

pub(crate) fn call(id: Id, function: &str, args: Vec<Expr>) -> Expr {
    Expr { id, kind: Kind::Call(Box::new(Call { function: function.into(), target: None, args })) }
}
