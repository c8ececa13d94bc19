//! From a checked tree to one that is evaluated: names become places, constants values, calls functions.
//!
//! Invariants
//! - A chain of selections is one node, which costs one and one for each step taken, as upstream counts it.
//! - Literals and conversions of literals are worked out here; their evaluation costs nothing.

use std::sync::Arc;

use crate::ast::{ACCUMULATOR, Call, Expr, Field, Fold, Kind, Literal, Select, operator};
use crate::check::{Checked, Reference};
use crate::cost::{self, Cost};
use crate::env::Env;
use crate::functions::re2::{self, Pattern};
use crate::functions::table::{Func, Function, Overload};
use crate::types::Type;
use crate::value::{EvalError, Key, Map, OwnMap, Text, Value};

pub(crate) struct Plan {
    pub(crate) root: Node,
    /// How many values comprehensions keep at once.
    pub(crate) slots: usize,
    /// Variables that are looked at, by their places in [`Root::Variable`].
    pub(crate) variables: Vec<(usize, Arc<str>)>,
}

pub(crate) enum Node {
    Const(Value<'static>),
    Chain(Box<Chain>),
    Call(Box<CallNode>),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    Equal {
        sides: Box<[Node; 2]>,
        negated: bool,
    },
    /// Whether a value is one of some constants.
    Member {
        value: Box<Node>,
        of: std::collections::HashSet<Key>,
    },
    NotStrictlyFalse(Box<Node>),
    /// `or` and `orValue` of optionals.
    Otherwise {
        sides: Box<[Node; 2]>,
        unwrap: bool,
    },
    List {
        items: Vec<(Node, bool)>,
    },
    Map {
        entries: Vec<(Node, Node, bool)>,
    },
    Struct {
        /// Of its type.
        name: Arc<str>,
        fields: Vec<(Arc<str>, Node, bool)>,
    },
    Fold(Box<FoldNode>),
    /// `@result + [item]`
    Append {
        slot: usize,
        item: Box<Node>,
        list_cost: u64,
    },
    /// `cel.@mapInsert(@result, …)`
    Insert {
        slot: usize,
        args: Vec<Node>,
    },
    Matches {
        sides: Box<[Node; 2]>,
        pattern: Pattern,
    },
}

/// A value and the steps taken from it.
pub(crate) struct Chain {
    pub(crate) root: Root,
    pub(crate) steps: Vec<Step>,
    /// The last step is only a test of presence.
    pub(crate) test: bool,
}

pub(crate) enum Root {
    Variable(usize),
    Slot(usize),
    Node(Node),
    Conditional(Box<(Node, Chain, Chain)>),
}

pub(crate) struct Step {
    pub(crate) by: By,
    pub(crate) optional: bool,
}

pub(crate) enum By {
    Field(Arc<str>),
    Const(Value<'static>),
    /// What is read costs nothing but its own steps.
    Chain(Chain),
    Node(Node),
}

pub(crate) struct CallNode {
    pub(crate) function: &'static Function,
    pub(crate) run: Run,
    pub(crate) args: Vec<Node>,
    pub(crate) cost: Cost,
}

pub(crate) enum Run {
    Known(Func),
    /// What is given is held against what is declared.
    Guarded(&'static Overload),
    /// By what is given.
    Any {
        minor: u8,
    },
}

pub(crate) struct FoldNode {
    pub(crate) range: Node,
    pub(crate) init: Node,
    pub(crate) condition: Node,
    pub(crate) step: Node,
    pub(crate) result: Node,
    pub(crate) accu: usize,
    pub(crate) var: usize,
    pub(crate) var2: Option<usize>,
}

/// A literal's value.
pub(crate) fn literal(literal: &Literal) -> Value<'static> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(value) => Value::Bool(*value),
        Literal::Int(value) => Value::Int(*value),
        Literal::Uint(value) => Value::Uint(*value),
        Literal::Double(value) => Value::Double(*value),
        Literal::String(text) => Value::String(Text::Own(text.clone())),
        Literal::Bytes(bytes) => Value::Bytes(bytes.clone()),
    }
}

/// Plans an expression.
///
/// # Errors
/// A conversion of a constant, or a constant pattern, that fails: upstream's sentence.
pub(crate) fn plan(env: &Env, checked: &Checked) -> Result<Plan, String> {
    let mut planner = Planner { env, checked, scopes: Vec::new(), slots: 0, variables: Vec::new() };
    let root = planner.node(&checked.root)?;
    Ok(Plan { root, slots: planner.slots, variables: planner.variables })
}

struct Planner<'p> {
    env: &'p Env,
    checked: &'p Checked,
    /// Names of comprehensions, by the places of their values.
    scopes: Vec<Arc<str>>,
    slots: usize,
    variables: Vec<(usize, Arc<str>)>,
}

type Planned<T = Node> = Result<T, String>;

impl Planner<'_> {
    fn node(&mut self, expr: &Expr) -> Planned {
        match &expr.kind {
            Kind::Missing => Err("unsupported expr".to_owned()),
            Kind::Literal(of) => Ok(Node::Const(literal(of))),
            Kind::Ident(name) => Ok(self.ident(expr, name)),
            Kind::Select(select) => self.select(expr, select),
            Kind::Call(call) => self.call(expr, call),
            Kind::List { items, optional } => self.list(items, optional),
            Kind::Map(entries) => {
                let mut planned = Vec::with_capacity(entries.len());
                for entry in entries {
                    planned.push((self.node(&entry.key)?, self.node(&entry.value)?, entry.optional));
                }
                Ok(constant_map(&planned).map_or(Node::Map { entries: planned }, Node::Const))
            }
            Kind::Struct { name, fields } => self.structure(name, fields),
            Kind::Fold(fold) => self.fold(fold),
        }
    }

    fn chain(root: Root) -> Node {
        Node::Chain(Box::new(Chain { root, steps: Vec::new(), test: false }))
    }

    fn ident(&mut self, expr: &Expr, name: &str) -> Node {
        match self.checked.reference(expr) {
            Some(Reference::Type(name)) => Node::Const(Value::Type(name.clone())),
            Some(Reference::Variable(at)) => Self::chain(self.variable(*at)),
            _ => Self::chain(Root::Slot(self.slot(name))),
        }
    }

    fn variable(&mut self, at: usize) -> Root {
        let known = self.variables.iter().position(|(known, _)| *known == at);
        Root::Variable(known.unwrap_or_else(|| {
            self.variables.push((at, self.env.variables[at].0.clone()));
            self.variables.len() - 1
        }))
    }

    fn slot(&self, name: &str) -> usize {
        self.scopes.iter().rposition(|known| **known == *name).unwrap_or(0)
    }

    /// The chain that a node is, or one that begins with it.
    fn as_chain(node: Node) -> Chain {
        match node {
            Node::Chain(chain) => *chain,
            node => Chain { root: Root::Node(node), steps: Vec::new(), test: false },
        }
    }

    fn select(&mut self, expr: &Expr, select: &Select) -> Planned {
        match self.checked.reference(expr) {
            Some(Reference::Type(name)) => return Ok(Node::Const(Value::Type(name.clone()))),
            Some(Reference::Variable(at)) => return Ok(Self::chain(self.variable(*at))),
            _ => {}
        }
        let mut chain = Self::extended(self.node(&select.operand)?);
        chain.steps.push(Step { by: By::Field(select.field.clone()), optional: false });
        chain.test = select.test;
        Ok(Node::Chain(Box::new(chain)))
    }

    /// A chain to which a step may be added: one that is a test is a value by itself.
    fn extended(node: Node) -> Chain {
        match node {
            Node::Chain(chain) if chain.test => {
                Chain { root: Root::Node(Node::Chain(chain)), steps: Vec::new(), test: false }
            }
            node => Self::as_chain(node),
        }
    }

    fn index(&mut self, call: &Call, optional: bool) -> Planned {
        let [operand, index] = call.args.as_slice() else { return Err("unsupported expr".to_owned()) };
        let mut chain = Self::extended(self.node(operand)?);
        let by = match self.node(index)? {
            Node::Const(Value::String(Text::Own(name))) => By::Field(name),
            Node::Const(value) => By::Const(value),
            Node::Chain(chain) if !chain.test => By::Chain(*chain),
            node => By::Node(node),
        };
        chain.steps.push(Step { by, optional });
        Ok(Node::Chain(Box::new(chain)))
    }

    fn pair(&mut self, call: &Call) -> Planned<Box<[Node; 2]>> {
        let mut sides = call.target.iter().chain(&call.args);
        let (Some(left), Some(right)) = (sides.next(), sides.next()) else {
            return Err("unsupported expr".to_owned());
        };
        Ok(Box::new([self.node(left)?, self.node(right)?]))
    }

    fn call(&mut self, expr: &Expr, call: &Call) -> Planned {
        match &*call.function {
            operator::AND => return self.pair(call).map(Node::And),
            operator::OR => return self.pair(call).map(Node::Or),
            operator::EQUALS => return Ok(Node::Equal { sides: self.pair(call)?, negated: false }),
            operator::NOT_EQUALS => return Ok(Node::Equal { sides: self.pair(call)?, negated: true }),
            operator::CONDITIONAL => return self.conditional(call),
            operator::INDEX => return self.index(call, false),
            operator::OPT_INDEX | operator::OPT_SELECT => return self.index(call, true),
            operator::NOT_STRICTLY_FALSE => {
                return Ok(Node::NotStrictlyFalse(Box::new(self.node(&call.args[0])?)));
            }
            "or" if call.target.is_some() => return Ok(Node::Otherwise { sides: self.pair(call)?, unwrap: false }),
            "orValue" if call.target.is_some() => return Ok(Node::Otherwise { sides: self.pair(call)?, unwrap: true }),
            operator::ADD => {
                if let Some(append) = self.append(call)? {
                    return Ok(append);
                }
            }
            operator::MAP_INSERT => return self.insert(call),
            _ => {}
        }
        self.function(expr, call)
    }

    fn conditional(&mut self, call: &Call) -> Planned {
        let [condition, yes, no] = call.args.as_slice() else { return Err("unsupported expr".to_owned()) };
        let condition = self.node(condition)?;
        let (yes, no) = (Self::extended(self.node(yes)?), Self::extended(self.node(no)?));
        Ok(Self::chain(Root::Conditional(Box::new((condition, yes, no)))))
    }

    fn is_accumulator(expr: &Expr) -> bool {
        matches!(&expr.kind, Kind::Ident(name) if **name == *ACCUMULATOR)
    }

    fn append(&mut self, call: &Call) -> Planned<Option<Node>> {
        let [accu, list] = call.args.as_slice() else { return Ok(None) };
        let Kind::List { items, optional } = &list.kind else { return Ok(None) };
        let ([item], [false], true) = (items.as_slice(), optional.as_slice(), Self::is_accumulator(accu)) else {
            return Ok(None);
        };
        let item = self.node(item)?;
        let list_cost = if matches!(item, Node::Const(_)) { 0 } else { cost::LIST };
        Ok(Some(Node::Append { slot: self.slot(ACCUMULATOR), item: Box::new(item), list_cost }))
    }

    fn insert(&mut self, call: &Call) -> Planned {
        let args: Planned<Vec<Node>> = call.args[1..].iter().map(|arg| self.node(arg)).collect();
        Ok(Node::Insert { slot: self.slot(ACCUMULATOR), args: args? })
    }

    fn function(&mut self, expr: &Expr, call: &Call) -> Planned {
        let Some(Reference::Call { function, overloads, qualified }) = self.checked.reference(expr) else {
            return Err(format!("no such overload: {}", call.function));
        };
        let target = call.target.as_ref().filter(|_| !qualified);
        let given: Vec<&Expr> = target.into_iter().chain(&call.args).collect();
        let args: Planned<Vec<Node>> = given.iter().map(|arg| self.node(arg)).collect();
        let args = args?;
        let id = if let [one] = overloads.as_slice() { one.id } else { "" };
        if id == "in_list"
            && let Some(member) = member(&args)
        {
            return Ok(member(args));
        }
        let dynamic = given.iter().any(|arg| is_dynamic(self.checked.of(arg)));
        let run = match overloads.as_slice() {
            [one] if function.shared || !dynamic => Run::Known(one.run),
            [one] => Run::Guarded(one),
            [first, ..] if function.shared => Run::Known(first.run),
            _ => Run::Any { minor: self.env.minor },
        };
        if let Some(pattern) = constant_pattern(function.name, &args)? {
            let mut args = args.into_iter();
            if let (Some(text), Some(of)) = (args.next(), args.next()) {
                return Ok(Node::Matches { sides: Box::new([text, of]), pattern });
            }
            return Err("unsupported expr".to_owned());
        }
        let node = CallNode { function, run, args, cost: Cost::of(function.name, id) };
        fold_conversion(node)
    }

    fn list(&mut self, items: &[Expr], optional: &[bool]) -> Planned {
        let mut planned = Vec::with_capacity(items.len());
        for (item, optional) in items.iter().zip(optional) {
            planned.push((self.node(item)?, *optional));
        }
        let constant = |(node, optional): &(Node, bool)| match node {
            Node::Const(value) if !optional => Some(value.clone()),
            _ => None,
        };
        let values: Option<Vec<Value<'static>>> = planned.iter().map(constant).collect();
        Ok(values.map_or(Node::List { items: planned }, |values| Node::Const(Value::list(values))))
    }

    fn structure(&mut self, name: &str, fields: &[Field]) -> Planned {
        let mut planned = Vec::with_capacity(fields.len());
        for field in fields {
            planned.push((field.name.clone(), self.node(&field.value)?, field.optional));
        }
        Ok(Node::Struct { name: name.strip_prefix('.').unwrap_or(name).into(), fields: planned })
    }

    fn fold(&mut self, fold: &Fold) -> Planned {
        let (init, range) = (self.node(&fold.init)?, self.node(&fold.range)?);
        let accu = self.scopes.len();
        self.scopes.push(fold.accu.clone());
        self.scopes.push(fold.var.clone());
        let var2 = fold.var2.as_ref().map(|var2| {
            self.scopes.push(var2.clone());
            accu + 2
        });
        self.slots = self.slots.max(self.scopes.len());
        let (condition, step) = (self.node(&fold.condition)?, self.node(&fold.step)?);
        self.scopes.truncate(accu + 1);
        let result = self.node(&fold.result)?;
        self.scopes.truncate(accu);
        let fold = FoldNode { range, init, condition, step, result, accu, var: accu + 1, var2 };
        Ok(Node::Fold(Box::new(fold)))
    }
}

/// Whether anything may come where the type says what.
fn is_dynamic(ty: &Type) -> bool {
    match ty {
        Type::Dyn | Type::Error | Type::Param(_) | Type::Null => true,
        other => other.parameters().into_iter().any(is_dynamic),
    }
}

fn constant_map(entries: &[(Node, Node, bool)]) -> Option<Value<'static>> {
    let mut map = OwnMap::default();
    for entry in entries {
        let (Node::Const(key), Node::Const(value), false) = entry else { return None };
        map.set(key.clone(), value.clone()).ok()?;
    }
    Some(Value::Map(Map::own(map)))
}

type Build = fn(Vec<Node>) -> Node;

/// How to make a test of membership in constants, where one will do.
fn member(args: &[Node]) -> Option<Build> {
    let [_, Node::Const(Value::List(list))] = args else { return None };
    if list.is_empty() {
        return Some(|_| Node::Const(Value::Bool(false)));
    }
    let simple = |value: Result<Value<'static>, EvalError>| {
        value.is_ok_and(|value| !matches!(value, Value::Bytes(_)) && Key::of(&value).is_some())
    };
    list.iter().all(simple).then_some(|args| {
        let mut args = args.into_iter();
        let (Some(value), Some(Node::Const(Value::List(list)))) = (args.next(), args.next()) else {
            return Node::Const(Value::Bool(false));
        };
        let of = list.iter().filter_map(|value| Key::of(&value.ok()?)).collect();
        Node::Member { value: Box::new(value), of }
    })
}

fn constant_pattern(function: &str, args: &[Node]) -> Planned<Option<Pattern>> {
    let Some(Node::Const(Value::String(pattern))) = args.get(1) else { return Ok(None) };
    match function {
        "matches" => re2::compile(pattern).map(Some),
        // The pattern is compiled again when it runs, but a wrong one is refused here.
        "find" | "findAll" => re2::compile(pattern).map(|_| None),
        _ => Ok(None),
    }
}

/// Runs a conversion of a constant.
fn fold_conversion(node: CallNode) -> Planned {
    const CONVERSIONS: [&str; 10] =
        ["bool", "bytes", "double", "duration", "dyn", "int", "string", "timestamp", "type", "uint"];
    let [Node::Const(value)] = node.args.as_slice() else { return Ok(Node::Call(Box::new(node))) };
    if !CONVERSIONS.contains(&node.function.name) {
        return Ok(Node::Call(Box::new(node)));
    }
    let args = [value.clone()];
    crate::eval::run(&node, &args).map(Node::Const).map_err(|error| error.to_string())
}
