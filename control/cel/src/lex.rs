//! Tokens. Where two rules fit, the longer wins, as in upstream's generated lexer.

use crate::source::Issues;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Token {
    End,
    Equals,
    NotEquals,
    In,
    Less,
    LessEquals,
    GreaterEquals,
    Greater,
    And,
    Or,
    OpenBracket,
    CloseBracket,
    OpenBrace,
    CloseBrace,
    Open,
    Close,
    Dot,
    Comma,
    Minus,
    Not,
    Question,
    Colon,
    Plus,
    Star,
    Slash,
    Percent,
    True,
    False,
    Null,
    Float,
    Int,
    Uint,
    String,
    Bytes,
    Ident,
    EscapedIdent,
}

impl Token {
    /// As upstream's syntax errors call it.
    pub(crate) fn name(self) -> &'static str {
        const NAMES: [&str; 36] = [
            "<EOF>",
            "'=='",
            "'!='",
            "'in'",
            "'<'",
            "'<='",
            "'>='",
            "'>'",
            "'&&'",
            "'||'",
            "'['",
            "']'",
            "'{'",
            "'}'",
            "'('",
            "')'",
            "'.'",
            "','",
            "'-'",
            "'!'",
            "'?'",
            "':'",
            "'+'",
            "'*'",
            "'/'",
            "'%'",
            "'true'",
            "'false'",
            "'null'",
            "NUM_FLOAT",
            "NUM_INT",
            "NUM_UINT",
            "STRING",
            "BYTES",
            "IDENTIFIER",
            "ESC_IDENTIFIER",
        ];
        NAMES[self as usize]
    }
}

/// A token and where it lies, in code points.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot {
    pub(crate) token: Token,
    pub(crate) start: u32,
    pub(crate) end: u32,
}

pub(crate) fn lex(chars: &[char], issues: &mut Issues<'_>) -> Vec<Spot> {
    let mut lexer = Lexer { chars, at: 0 };
    let mut spots = Vec::with_capacity(chars.len() / 3 + 1);
    let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    loop {
        lexer.skip();
        let start = lexer.at;
        if start >= chars.len() {
            spots.push(Spot { token: Token::End, start: place(start), end: place(start) });
            return spots;
        }
        match lexer.next() {
            Ok(token) => spots.push(Spot { token, start: place(start), end: place(lexer.at) }),
            Err(failed) => {
                // What was read, and the character that did not fit, are gone.
                lexer.at = (failed + 1).min(chars.len());
                let text: String = chars[start..lexer.at].iter().collect();
                let text = text.replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t");
                issues.report(place(start), format!("Syntax error: token recognition error at: '{text}'"));
            }
        }
    }
}

struct Lexer<'c> {
    chars: &'c [char],
    at: usize,
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> usize {
        let start = self.at;
        while self.peek(0).is_some_and(&belongs) {
            self.at += 1;
        }
        self.at - start
    }

    fn skip(&mut self) {
        loop {
            let spaces = self.take_while(|c| matches!(c, '\t' | ' ' | '\r' | '\n' | '\u{c}'));
            if self.peek(0) == Some('/') && self.peek(1) == Some('/') {
                self.take_while(|c| c != '\n');
            } else if spaces == 0 {
                return;
            }
        }
    }

    /// The next token; an error is the place of the character that ended all hope.
    fn next(&mut self) -> Result<Token, usize> {
        let c = self.chars[self.at];
        match c {
            '0'..='9' => Ok(self.number()),
            '.' if self.peek(1).is_some_and(|c| c.is_ascii_digit()) => Ok(self.number()),
            '"' | '\'' => self.string(0, false).map(|()| Token::String),
            '`' => self.escaped(),
            'a'..='z' | 'A'..='Z' | '_' => self.word(),
            _ => self.symbol(c),
        }
    }

    fn symbol(&mut self, c: char) -> Result<Token, usize> {
        let (token, length) = match (c, self.peek(1)) {
            ('=', Some('=')) => (Token::Equals, 2),
            ('!', Some('=')) => (Token::NotEquals, 2),
            ('<', Some('=')) => (Token::LessEquals, 2),
            ('>', Some('=')) => (Token::GreaterEquals, 2),
            ('&', Some('&')) => (Token::And, 2),
            ('|', Some('|')) => (Token::Or, 2),
            ('=' | '&' | '|', _) => return Err(self.at + 1),
            ('!', _) => (Token::Not, 1),
            ('<', _) => (Token::Less, 1),
            ('>', _) => (Token::Greater, 1),
            ('[', _) => (Token::OpenBracket, 1),
            (']', _) => (Token::CloseBracket, 1),
            ('{', _) => (Token::OpenBrace, 1),
            ('}', _) => (Token::CloseBrace, 1),
            ('(', _) => (Token::Open, 1),
            (')', _) => (Token::Close, 1),
            ('.', _) => (Token::Dot, 1),
            (',', _) => (Token::Comma, 1),
            ('-', _) => (Token::Minus, 1),
            ('?', _) => (Token::Question, 1),
            (':', _) => (Token::Colon, 1),
            ('+', _) => (Token::Plus, 1),
            ('*', _) => (Token::Star, 1),
            ('/', _) => (Token::Slash, 1),
            ('%', _) => (Token::Percent, 1),
            _ => return Err(self.at),
        };
        self.at += length;
        Ok(token)
    }

    fn number(&mut self) -> Token {
        if self.peek(0) == Some('0') && self.peek(1) == Some('x') && self.peek(2).is_some_and(|c| c.is_ascii_hexdigit())
        {
            self.at += 2;
            self.take_while(|c| c.is_ascii_hexdigit());
            return self.maybe_unsigned();
        }
        self.take_while(|c| c.is_ascii_digit());
        let fraction = self.peek(0) == Some('.') && self.peek(1).is_some_and(|c| c.is_ascii_digit());
        if fraction {
            self.at += 1;
            self.take_while(|c| c.is_ascii_digit());
        }
        if self.exponent() || fraction { Token::Float } else { self.maybe_unsigned() }
    }

    fn exponent(&mut self) -> bool {
        if !matches!(self.peek(0), Some('e' | 'E')) {
            return false;
        }
        let sign = usize::from(matches!(self.peek(1), Some('+' | '-')));
        let digits = self.peek(1 + sign).is_some_and(|c| c.is_ascii_digit());
        if digits {
            self.at += 1 + sign;
            self.take_while(|c| c.is_ascii_digit());
        }
        digits
    }

    fn maybe_unsigned(&mut self) -> Token {
        let unsigned = matches!(self.peek(0), Some('u' | 'U'));
        self.at += usize::from(unsigned);
        if unsigned { Token::Uint } else { Token::Int }
    }

    fn word(&mut self) -> Result<Token, usize> {
        if let Some((prefix, raw, token)) = self.literal_prefix()
            && self.string(prefix, raw).is_ok()
        {
            return Ok(token);
        }
        let start = self.at;
        self.take_while(|c| c.is_ascii_alphanumeric() || c == '_');
        Ok(match &self.chars[start..self.at] {
            ['i', 'n'] => Token::In,
            ['t', 'r', 'u', 'e'] => Token::True,
            ['f', 'a', 'l', 's', 'e'] => Token::False,
            ['n', 'u', 'l', 'l'] => Token::Null,
            _ => Token::Ident,
        })
    }

    /// `(length of the prefix, raw, token)` where a quote follows `r`, `b` or `br`.
    fn literal_prefix(&self) -> Option<(usize, bool, Token)> {
        let quote = |ahead| matches!(self.peek(ahead), Some('"' | '\''));
        match (self.peek(0)?, self.peek(1)?) {
            ('r' | 'R', _) if quote(1) => Some((1, true, Token::String)),
            ('b' | 'B', _) if quote(1) => Some((1, false, Token::Bytes)),
            ('b' | 'B', 'r' | 'R') if quote(2) => Some((2, true, Token::Bytes)),
            _ => None,
        }
    }

    /// Reads a literal whose quote is `prefix` ahead. Stays where it is on an error.
    fn string(&mut self, prefix: usize, raw: bool) -> Result<(), usize> {
        let quote = self.chars[self.at + prefix];
        let open = self.at + prefix;
        let triple = self.chars.get(open + 1) == Some(&quote) && self.chars.get(open + 2) == Some(&quote);
        if triple && let Ok(end) = self.body(open + 3, quote, raw, true) {
            self.at = end;
            return Ok(());
        }
        // Not closed: two quotes are an empty literal all the same.
        let end = self.body(open + 1, quote, raw, false)?;
        self.at = end;
        Ok(())
    }

    fn body(&self, mut at: usize, quote: char, raw: bool, triple: bool) -> Result<usize, usize> {
        loop {
            let c = *self.chars.get(at).ok_or(at)?;
            if c == quote && !triple {
                return Ok(at + 1);
            }
            if c == quote && self.chars.get(at + 1) == Some(&quote) && self.chars.get(at + 2) == Some(&quote) {
                return Ok(at + 3);
            }
            at = match c {
                '\n' | '\r' if !triple => return Err(at),
                '\\' if !raw => self.escape(at + 1)?,
                _ => at + 1,
            };
        }
    }

    /// What follows a backslash; where it ends.
    fn escape(&self, at: usize) -> Result<usize, usize> {
        let digits = |from: usize, count: usize, belongs: fn(char) -> bool| {
            let wrong = (from..from + count).find(|at| !self.chars.get(*at).copied().is_some_and(belongs));
            wrong.map_or(Ok(from + count), Err)
        };
        let hex = |c: char| c.is_ascii_hexdigit();
        match self.chars.get(at) {
            Some('a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '"' | '\'' | '\\' | '?' | '`') => Ok(at + 1),
            Some('x' | 'X') => digits(at + 1, 2, hex),
            Some('u') => digits(at + 1, 4, hex),
            Some('U') => digits(at + 1, 8, hex),
            Some('0'..='3') => digits(at + 1, 2, |c| ('0'..='7').contains(&c)),
            _ => Err(at),
        }
    }

    fn escaped(&mut self) -> Result<Token, usize> {
        let belongs = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/' | ' ');
        let mut at = self.at + 1;
        while self.chars.get(at).copied().is_some_and(belongs) {
            at += 1;
        }
        if self.chars.get(at) != Some(&'`') || at == self.at + 1 {
            return Err(at);
        }
        self.at = at + 1;
        Ok(Token::EscapedIdent)
    }
}
