//! What sources say outside of their tests: paths and string literals, those in macros' arguments too.
//!
//! Names are read, not resolved: `use x as y` of a watched name is to be watched for itself.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{Delimiter, Group, Ident, TokenStream, TokenTree};

/// What one source says.
#[derive(Default)]
pub struct Said {
    /// Paths by their segments. That of a field or method that is taken from something begins with a dot.
    pub paths: BTreeSet<Vec<String>>,
    /// New names of what is used: `use old as new` has the path of the old one.
    pub renamed: BTreeSet<Vec<String>>,
    pub strings: BTreeSet<String>,
    /// String literals that stand together in parentheses, or are all the arguments of a call.
    pub tuples: BTreeSet<Vec<String>>,
    /// Modules in files of their own that only tests have.
    test_modules: Vec<String>,
}

/// All sources below a directory, tests left out, by their path from `root`.
pub fn read(root: &Path, dir: &str) -> Vec<(String, Said)> {
    let mut files = Vec::new();
    find(&root.join(dir), &mut files);
    files.sort();
    let said = |file: &PathBuf| Said::of(&fs::read_to_string(file).expect("a readable source"));
    let read: Vec<(PathBuf, Said)> = files.into_iter().map(|file| (file.clone(), said(&file))).collect();
    let tests: BTreeSet<PathBuf> = read.iter().flat_map(|(file, said)| said.tests_beside(file)).collect();
    let product =
        read.into_iter().filter(|(file, _)| !file.ancestors().any(|part| tests.contains(&part.with_extension(""))));
    let name = |file: &Path| file.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
    product.map(|(file, said)| (name(&file), said)).collect()
}

fn find(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())).flatten() {
        let path = entry.path();
        if path.is_dir() {
            find(&path, out);
        } else if path.extension().is_some_and(|end| end == "rs") {
            out.push(path);
        }
    }
}

impl Said {
    pub fn of(text: &str) -> Self {
        let mut said = Self::default();
        said.walk(text.parse().expect("sources parse"), &[], false);
        said
    }

    /// Where the modules lie that only tests have, without `.rs`.
    fn tests_beside(&self, file: &Path) -> Vec<PathBuf> {
        let stem = file.file_stem().unwrap_or_default();
        let root = ["mod", "lib", "main"].iter().any(|name| stem == *name);
        let dir = if root { file.with_file_name("") } else { file.with_extension("") };
        self.test_modules.iter().map(|name| dir.join(name)).collect()
    }

    fn walk(&mut self, tokens: TokenStream, before: &[String], mut using: bool) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            at += 1;
            match token {
                TokenTree::Punct(sign) if sign.as_char() == '#' && is_attribute(&tokens[at..]) => {
                    let inner = usize::from(is(tokens.get(at), '!'));
                    let tests = inner == 0 && tests_only(&tokens[at]);
                    at += inner + 1;
                    if tests {
                        at += self.skip_item(&tokens[at..]);
                    }
                }
                TokenTree::Punct(sign) => using &= sign.as_char() != ';',
                TokenTree::Group(group) => {
                    self.tuples.extend(tuple(group));
                    self.walk(group.stream(), if using { before } else { &[] }, using);
                }
                TokenTree::Literal(literal) => self.strings.extend(string(&literal.to_string())),
                TokenTree::Ident(word) if *word == "use" => using = true,
                TokenTree::Ident(word) => {
                    let dot = at >= 2 && is(tokens.get(at - 2), '.') && !(at >= 3 && is(tokens.get(at - 3), '.'));
                    at += self.path(word, dot, &tokens[at..], before, using);
                }
            }
        }
    }

    /// Reads a path that begins with `first`; how many more tokens it has.
    fn path(&mut self, first: &Ident, dot: bool, rest: &[TokenTree], before: &[String], using: bool) -> usize {
        let mut path = before.to_vec();
        path.push(if dot { format!(".{first}") } else { first.to_string() });
        let mut at = 0;
        while is(rest.get(at), ':') && is(rest.get(at + 1), ':') {
            match rest.get(at + 2) {
                Some(TokenTree::Ident(word)) => path.push(word.to_string()),
                Some(TokenTree::Group(group)) if using && group.delimiter() == Delimiter::Brace => {
                    self.paths.insert(path.clone());
                    self.walk(group.stream(), &path, true);
                    return at + 3;
                }
                _ => break,
            }
            at += 3;
        }
        if using && matches!(rest.get(at), Some(TokenTree::Ident(word)) if *word == "as") {
            self.renamed.insert(path.clone());
            at += 2;
        }
        self.paths.insert(path);
        at
    }

    /// Skips what an attribute belongs to; how many tokens that is.
    fn skip_item(&mut self, rest: &[TokenTree]) -> usize {
        let ends = |token: &TokenTree| match token {
            TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
            other => is(Some(other), ';'),
        };
        let length = rest.iter().position(ends).map_or(rest.len(), |at| at + 1);
        let words = rest[..length].windows(3).filter_map(|three| match three {
            [TokenTree::Ident(word), TokenTree::Ident(name), end] if *word == "mod" && is(Some(end), ';') => {
                Some(name.to_string())
            }
            _ => None,
        });
        self.test_modules.extend(words);
        length
    }
}

fn is(token: Option<&TokenTree>, sign: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == sign)
}

fn is_attribute(rest: &[TokenTree]) -> bool {
    let group = |token: Option<&TokenTree>| matches!(token, Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Bracket);
    group(rest.first()) || is(rest.first(), '!') && group(rest.get(1))
}

/// `[cfg(test)]`, `[test]`, `[cfg(all(test, ..))]`: not `any`, which the product may have too.
fn tests_only(attribute: &TokenTree) -> bool {
    let text: String = attribute.to_string().split_whitespace().collect();
    text == "[test]" || text == "[cfg(test)]" || text.starts_with("[cfg(all(test,")
}

/// The strings of a group that holds nothing else.
fn tuple(group: &Group) -> Option<Vec<String>> {
    let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
    let text = |token: &TokenTree| match token {
        TokenTree::Literal(literal) => string(&literal.to_string()),
        _ => None,
    };
    let commas = tokens.iter().skip(1).step_by(2).all(|token| is(Some(token), ','));
    let all = tokens.iter().step_by(2).map(text).collect::<Option<Vec<String>>>();
    all.filter(|texts| group.delimiter() == Delimiter::Parenthesis && commas && texts.len() > 1)
}

/// The text of a string literal, be it one of bytes or a raw one.
fn string(literal: &str) -> Option<String> {
    match syn::parse_str(literal).ok()? {
        syn::Lit::Str(text) => Some(text.value()),
        syn::Lit::ByteStr(bytes) => String::from_utf8(bytes.value()).ok(),
        syn::Lit::CStr(text) => text.value().into_string().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        Said::of(text).paths.into_iter().map(|path| path.join("::")).collect()
    }

    #[test]
    fn paths_are_read_wherever_they_stand() {
        let cases = [
            (
                "use std::time::{Instant, x::{Y, Z as W}};",
                vec!["std::time", "std::time::Instant", "std::time::x", "std::time::x::Y", "std::time::x::Z"],
            ),
            ("const A: () = ::std::env::var;", vec!["A", "const", "std::env::var"]),
            ("m!(a; b(c::d(), { e::f }))", vec!["a", "b", "c::d", "e::f", "m"]),
            ("x.y::<Z>().w", vec![".w", ".y", "Z", "x"]),
            ("0..n", vec!["n"]),
        ];
        for (text, expected) in cases {
            assert_eq!(paths(text), expected, "{text}");
        }
        assert_eq!(Said::of("use a::B as C;").renamed, BTreeSet::from([vec!["a".to_owned(), "B".to_owned()]]));
    }

    #[test]
    fn tests_comments_and_attributes_are_left_out() {
        let text = "//! a::b\n/// c::d\n#![allow(e::f)]\n#[cfg(test)]\n#[path = \"x\"]\nmod tests { g::h!(); }\n\
                    #[cfg(test)]\nuse i::j;\n#[test]\nfn k() { l::m }\n#[cfg(any(test, o))]\nn::p!();";
        assert_eq!(paths(text), ["n::p"]);
    }

    #[test]
    fn strings_are_read_without_their_quotes() {
        let said = Said::of(
            "f(\"a\", r#\"b\"#, b\"c\"); g('d', 5, json!({\"e\": [\"f\"]})); S { x: (\"g\", \"h\",), y: i(\"j\") }",
        );
        let strings: Vec<_> = said.strings.iter().map(String::as_str).collect();
        assert_eq!(strings, ["a", "b", "c", "e", "f", "g", "h", "j"]);
        let tuples: Vec<_> = said.tuples.iter().map(|tuple| tuple.join(" ")).collect();
        assert_eq!(tuples, ["a b c", "g h"]);
    }

    #[test]
    fn files_of_test_modules_are_known() {
        let said = Said::of("#[cfg(test)]\npub(crate) mod testing;\nmod product;\n#[cfg(test)]\nmod inline {}");
        assert_eq!(said.tests_beside(Path::new("/x/lib.rs")), [Path::new("/x/testing")]);
        assert_eq!(said.tests_beside(Path::new("/x/y.rs")), [Path::new("/x/y/testing")]);
    }
}
