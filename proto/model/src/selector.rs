//! Label selectors, in the string form of the API's query parameters and in the object form of
//! specs. Grammar: <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/>.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as LabelSelectorSpec;

/// All requirements must hold. Empty selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    /// The requirements, joined by "and".
    pub requirements: Vec<Requirement>,
}

/// One `key operator values` term.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// How the label is judged.
    pub operator: Operator,
}

/// What a requirement asks of a label's value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    /// Present with one of these values.
    In(Vec<String>),
    /// Absent, or present with none of these values.
    NotIn(Vec<String>),
    /// Present.
    Exists,
    /// Absent.
    DoesNotExist,
    /// Present, an integer, and greater.
    Gt(i64),
    /// Present, an integer, and less.
    Lt(i64),
}

impl Requirement {
    /// Whether `value` (`None`: no such label) meets the requirement.
    #[must_use]
    pub fn matches(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.operator {
            Operator::In(values) => value.is_some_and(|v| values.iter().any(|x| x == v)),
            Operator::NotIn(values) => value.is_none_or(|v| values.iter().all(|x| x != v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt(bound) => number().is_some_and(|n| n > *bound),
            Operator::Lt(bound) => number().is_some_and(|n| n < *bound),
        }
    }
}

/// Why a selector could not be read. The text completes "unable to parse requirement: …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(pub String);

impl Selector {
    /// Whether there are no requirements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Judges a label set given as a lookup.
    pub fn matches_with<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|r| r.matches(get(&r.key)))
    }

    /// Judges a label map.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_with(|key| labels.get(key).map(String::as_str))
    }

    /// From a plain `key: value` map (Service selectors, `nodeSelector`).
    #[must_use]
    pub fn from_map(map: &BTreeMap<String, String>) -> Self {
        let requirements = map
            .iter()
            .map(|(key, value)| Requirement { key: key.clone(), operator: Operator::In(vec![value.clone()]) })
            .collect();
        Self { requirements }
    }

    /// From a spec's `LabelSelector`. `None` where an expression's operator is unknown or its
    /// values do not fit it; validation refuses such objects before they are stored.
    #[must_use]
    pub fn from_spec(spec: &LabelSelectorSpec) -> Option<Self> {
        let mut out = spec.match_labels.as_ref().map(Self::from_map).unwrap_or_default();
        for expression in spec.match_expressions.iter().flatten() {
            let values = expression.values.clone().unwrap_or_default();
            let operator = match (expression.operator.as_str(), values.is_empty()) {
                ("In", false) => Operator::In(values),
                ("NotIn", false) => Operator::NotIn(values),
                ("Exists", true) => Operator::Exists,
                ("DoesNotExist", true) => Operator::DoesNotExist,
                _ => return None,
            };
            out.requirements.push(Requirement { key: expression.key.clone(), operator });
        }
        Some(out)
    }

    /// Reads the query-parameter form: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1,m<2`.
    ///
    /// # Errors
    /// Names the first thing that could not be read. Key and value syntax (lengths, characters)
    /// is the caller's to check.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        Self::parse_with(text, |_| Ok(()))
    }

    /// The same, where each requirement has to pass `check` before what follows it is looked at.
    ///
    /// # Errors
    /// As [`Self::parse`], and what `check` says.
    pub fn parse_with(text: &str, check: impl Fn(&Requirement) -> Result<(), String>) -> Result<Self, ParseError> {
        let mut parser = Parser { tokens: lex(text)?, at: 0 };
        let mut requirements = Vec::new();
        while parser.peek().is_some() {
            let requirement = parser.requirement()?;
            check(&requirement).map_err(ParseError)?;
            requirements.push(requirement);
            match parser.next() {
                None => break,
                Some(Token::Comma) if parser.peek().is_some() => {}
                Some(Token::Comma) => return Err(ParseError("found '', expected: identifier after ','".into())),
                Some(other) => {
                    return Err(ParseError(format!("found '{}', expected: ',' or 'end of string'", other.text())));
                }
            }
        }
        Ok(Self { requirements })
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Comma,
    Open,
    Close,
    Bang,
    Equals,
    NotEquals,
    Gt,
    Lt,
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Word(word) => word,
            Self::Comma => ",",
            Self::Open => "(",
            Self::Close => ")",
            Self::Bang => "!",
            Self::Equals => "=",
            Self::NotEquals => "!=",
            Self::Gt => ">",
            Self::Lt => "<",
        }
    }
}

fn lex(text: &str) -> Result<Vec<Token>, ParseError> {
    let mut tokens = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let token = match c {
            c if c.is_whitespace() => continue,
            ',' => Token::Comma,
            '(' => Token::Open,
            ')' => Token::Close,
            '>' => Token::Gt,
            '<' => Token::Lt,
            '=' => {
                rest.next_if_eq(&'=');
                Token::Equals
            }
            '!' if rest.next_if_eq(&'=').is_some() => Token::NotEquals,
            '!' => Token::Bang,
            c => {
                let mut word = String::from(c);
                while let Some(c) = rest.next_if(|c| !c.is_whitespace() && !",()=!<>".contains(*c)) {
                    word.push(c);
                }
                Token::Word(word)
            }
        };
        tokens.push(token);
    }
    Ok(tokens)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn word(&mut self, wanted: &str) -> Result<String, ParseError> {
        match self.next() {
            Some(Token::Word(word)) => Ok(word),
            other => Err(ParseError(format!("found '{}', expected: {wanted}", other.as_ref().map_or("", Token::text)))),
        }
    }

    /// A value may be empty: `a=` and `a in (,b)` are legal.
    fn value(&mut self) -> String {
        match self.peek() {
            Some(Token::Word(word)) => {
                let word = word.clone();
                self.at += 1;
                word
            }
            _ => String::new(),
        }
    }

    /// The value after `=` or `!=`: a word, or nothing before the next requirement.
    fn exact_value(&mut self) -> Result<String, ParseError> {
        match self.peek() {
            None | Some(Token::Comma) => Ok(String::new()),
            Some(_) => self.word("identifier"),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, ParseError> {
        if self.next() != Some(Token::Open) {
            return Err(ParseError("found no '(' after the set operator".into()));
        }
        let mut values = vec![self.value()];
        loop {
            match self.next() {
                Some(Token::Comma) => values.push(self.value()),
                Some(Token::Close) => break,
                other => {
                    let found = other.as_ref().map_or("", Token::text);
                    return Err(ParseError(format!("found '{found}', expected: ',' or ')'")));
                }
            }
        }
        values.sort();
        values.dedup();
        Ok(values)
    }

    fn number(&mut self) -> Result<i64, ParseError> {
        let word = self.word("an integer")?;
        word.parse()
            .map_err(|_| ParseError(format!("for 'Gt', 'Lt' operators, the value must be an integer, got '{word}'")))
    }

    fn requirement(&mut self) -> Result<Requirement, ParseError> {
        if self.peek() == Some(&Token::Bang) {
            self.at += 1;
            return Ok(Requirement { key: self.word("identifier")?, operator: Operator::DoesNotExist });
        }
        let key = self.word("!, identifier, or 'end of string'")?;
        let operator = match self.peek().cloned() {
            None | Some(Token::Comma) => Operator::Exists,
            Some(found) => {
                self.at += 1;
                match found {
                    Token::Equals => Operator::In(vec![self.exact_value()?]),
                    Token::NotEquals => Operator::NotIn(vec![self.exact_value()?]),
                    Token::Gt => Operator::Gt(self.number()?),
                    Token::Lt => Operator::Lt(self.number()?),
                    Token::Word(word) if word == "in" => Operator::In(self.values()?),
                    Token::Word(word) if word == "notin" => Operator::NotIn(self.values()?),
                    other => {
                        let wanted = "in, notin, =, ==, !=, gt, lt";
                        return Err(ParseError(format!("found '{}', expected: {wanted}", other.text())));
                    }
                }
            }
        };
        Ok(Requirement { key, operator })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selects_as_kubectl_users_expect() {
        let labels: BTreeMap<String, String> =
            [("app", "web"), ("tier", "2"), ("empty", "")].map(|(k, v)| (k.into(), v.into())).into();
        for (text, expect) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=2", true),
            ("app!=web", false),
            ("gone!=x", true),
            ("app in (a, web)", true),
            ("app notin (web)", false),
            ("gone notin (web)", true),
            ("app", true),
            ("!app", false),
            ("!gone", true),
            ("empty=", true),
            ("tier>1", true),
            ("tier<2", false),
        ] {
            assert_eq!(Selector::parse(text).map(|s| s.matches(&labels)), Ok(expect), "{text}");
        }
        for text in ["a=b,", "=", "a in b", "a in (b", "a b", "a>x", ",a", "a in (b) c"] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
    }
}
