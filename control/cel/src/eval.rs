//! Evaluation, and what it costs.
//!
//! Invariants
//! - What upstream charges is charged, for parts that fail too; once the budget is used up, nothing more is evaluated.
//! - `&&`, `||` and comprehensions go on after an error; nothing goes on after the budget's end.

use std::sync::Arc;

use crate::cost::{self, Cost};
use crate::equal::equal;
use crate::functions::operators;
use crate::plan::{By, CallNode, Chain, FoldNode, Node, Plan, Root, Run, Step};
use crate::program::Activation;
use crate::value::{EvalError, Key, Map, NO_OVERLOAD, OwnMap, Pairs, Res, Text, Value, fail, failure};

pub(crate) fn evaluate<'a>(plan: &'a Plan, activation: &Activation<'a>, budget: u64) -> (Res<'a>, u64) {
    let missing = |name: &str| Err(failure(format!("no such attribute(s): {name}")));
    let variables =
        plan.variables.iter().map(|(_, name)| activation.get(name).cloned().unwrap_or_else(|| missing(name))).collect();
    let slots = std::iter::repeat_with(|| Slot::Empty).take(plan.slots).collect();
    let mut run = Evaluation { variables, slots, cost: 0, budget };
    let result = run.node(&plan.root);
    (result, run.cost)
}

/// A value that a comprehension keeps.
enum Slot<'a> {
    Empty,
    /// Is worked out where it is first looked at.
    Lazy(&'a Node),
    Done(Res<'a>),
}

struct Evaluation<'a> {
    variables: Vec<Res<'a>>,
    slots: Vec<Slot<'a>>,
    cost: u64,
    budget: u64,
}

impl<'a> Evaluation<'a> {
    fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.budget { Err(EvalError::Budget) } else { Ok(()) }
    }

    fn node(&mut self, node: &'a Node) -> Res<'a> {
        match node {
            Node::Const(value) => Ok(value.lend()),
            Node::Chain(chain) => self.chain(chain),
            Node::Call(call) => self.call(call),
            Node::And(sides) => self.logical(sides, false),
            Node::Or(sides) => self.logical(sides, true),
            Node::Equal { sides, negated } => self.equal(sides, *negated),
            Node::Member { value, of } => {
                let value = self.node(value)?;
                Ok(Value::Bool(Key::of(&value).is_some_and(|key| of.contains(&key))))
            }
            Node::NotStrictlyFalse(inner) => {
                let value = self.node(inner);
                self.charge(1)?;
                Ok(Value::Bool(!matches!(value, Ok(Value::Bool(false)))))
            }
            Node::Otherwise { sides, unwrap } => match self.node(&sides[0])? {
                Value::Optional(Some(inner)) if *unwrap => Ok((*inner).clone()),
                Value::Optional(None) => self.node(&sides[1]),
                some @ Value::Optional(_) => Ok(some),
                _ => Err(NO_OVERLOAD),
            },
            Node::List { items } => self.list(items),
            Node::Map { entries } => self.map(entries),
            Node::Struct { name, fields } => self.structure(name, fields),
            Node::Fold(fold) => self.fold(fold),
            Node::Append { slot, item, list_cost } => self.append(*slot, item, *list_cost),
            Node::Insert { slot, args } => self.insert(*slot, args),
            Node::Matches { sides, pattern } => {
                let sides = [self.node(&sides[0]), self.node(&sides[1])];
                let result = match &sides {
                    [Err(error), _] | [_, Err(error)] => Err(error.clone()),
                    [Ok(Value::String(text)), Ok(_)] => Ok(Value::Bool(pattern.is_match(text))),
                    _ => Err(NO_OVERLOAD),
                };
                self.paid(Cost::Pattern, sides, result)
            }
        }
    }

    /// The result of a call, for which is paid.
    fn paid<const N: usize>(&mut self, cost: Cost, args: [Res<'a>; N], result: Res<'a>) -> Res<'a> {
        let args = args.map(|arg| arg.unwrap_or(Value::Null));
        let null = Value::Null;
        let cost = cost.charge(&args, result.as_ref().unwrap_or(&null));
        if !spent(&result) {
            self.charge(cost)?;
        }
        result
    }

    fn logical(&mut self, sides: &'a [Node; 2], ends: bool) -> Res<'a> {
        let mut failed = None;
        for side in sides {
            match self.node(side) {
                Ok(Value::Bool(value)) if value == ends => return Ok(Value::Bool(ends)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => failed = failed.or(Some(NO_OVERLOAD)),
                Err(EvalError::Budget) => return Err(EvalError::Budget),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(Value::Bool(!ends)), Err)
    }

    fn equal(&mut self, sides: &'a [Node; 2], negated: bool) -> Res<'a> {
        let [left, right] = [self.node(&sides[0]), self.node(&sides[1])];
        let answer = match (&left, &right) {
            (Err(error), _) | (_, Err(error)) => Err(error.clone()),
            // What cannot be compared is not equal.
            (Ok(left), Ok(right)) if negated => Ok(!equal(left, right).unwrap_or(false)),
            (Ok(left), Ok(right)) => equal(left, right),
        };
        let extension = matches!(left, Ok(Value::Extension(_))) && !negated;
        let cost = if extension { Cost::Fixed(1) } else { Cost::Smaller };
        self.paid(cost, [left, right], answer.map(Value::Bool))
    }

    fn chain(&mut self, chain: &'a Chain) -> Res<'a> {
        let value = self.steps(chain);
        if !chain.test && !matches!(chain.root, Root::Conditional(_)) && !spent(&value) {
            self.charge(1)?;
        }
        value
    }

    fn slot(&mut self, at: usize) -> Res<'a> {
        if let Some(Slot::Lazy(node)) = self.slots.get(at) {
            let value = self.node(node);
            self.slots[at] = Slot::Done(value);
        }
        match self.slots.get(at) {
            Some(Slot::Done(value)) => value.clone(),
            _ => Err(fail("no such attribute(s)")),
        }
    }

    fn root(&mut self, root: &'a Root) -> Res<'a> {
        match root {
            Root::Variable(at) => self.variables[*at].clone(),
            Root::Slot(at) => self.slot(*at),
            Root::Node(node) => self.node(node),
            Root::Conditional(parts) => {
                let (condition, yes, no) = &**parts;
                match self.node(condition)? {
                    Value::Bool(true) => self.steps(yes),
                    Value::Bool(false) => self.steps(no),
                    _ => Err(NO_OVERLOAD),
                }
            }
        }
    }

    /// The value at the end of a chain, its own cost left out.
    fn steps(&mut self, chain: &'a Chain) -> Res<'a> {
        let mut value = self.root(&chain.root)?;
        if chain.steps.is_empty() {
            return Ok(value);
        }
        let mut optional = false;
        if let Value::Optional(inner) = value {
            match inner {
                None => return Ok(if chain.test { Value::Bool(false) } else { Value::Optional(None) }),
                Some(inner) => value = (*inner).clone(),
            }
            optional = true;
        }
        let last = chain.steps.len() - 1;
        for (at, step) in chain.steps.iter().enumerate() {
            optional = optional || step.optional;
            if chain.test && at == last {
                return self.test(&value, step, optional);
            }
            match self.step(value, step, optional)? {
                Some(next) => value = next,
                None => return Ok(Value::Optional(None)),
            }
        }
        Ok(if optional { value.some() } else { value })
    }

    fn test(&mut self, value: &Value<'a>, step: &'a Step, optional: bool) -> Res<'a> {
        let By::Field(name) = &step.by else { return Err(NO_OVERLOAD) };
        let found = match look_up(value, &Value::String(Text::Lent(name))) {
            Ok(found) => Ok(found.is_ok()),
            Err(error) => Err(error),
        };
        if !optional || matches!(found, Ok(true)) {
            self.charge(1)?;
        }
        found.map(Value::Bool)
    }

    /// One step; `None` where an optional one leads nowhere.
    fn step(&mut self, value: Value<'a>, step: &'a Step, optional: bool) -> Result<Option<Value<'a>>, EvalError> {
        let found = match &step.by {
            By::Field(name) => field(&value, name),
            By::Const(key) => look_up(&value, key),
            By::Chain(chain) => self.steps(chain).and_then(|key| look_up(&value, &key)),
            By::Node(node) => self.node(node).and_then(|key| look_up(&value, &key)),
        };
        if spent(&found) {
            return Err(EvalError::Budget);
        }
        let present = matches!(found, Ok(Ok(_)));
        if !optional || present {
            self.charge(1)?;
        }
        match found? {
            Ok(value) => Ok(Some(value)),
            Err(_) if optional => Ok(None),
            Err(missing) => Err(missing),
        }
    }

    fn call(&mut self, call: &'a CallNode) -> Res<'a> {
        // Upstream evaluates all of one or two arguments, of more it stops at the first that fails.
        let eager = call.args.len() <= 2 && !matches!(call.run, Run::Any { .. });
        let mut args = Vec::with_capacity(call.args.len());
        let mut failed = None;
        for arg in &call.args {
            match self.node(arg) {
                Ok(value) => args.push(value),
                Err(EvalError::Budget) => return Err(EvalError::Budget),
                Err(error) if eager => {
                    args.push(Value::Null);
                    failed = failed.or(Some(error));
                }
                Err(error) => return Err(error),
            }
        }
        let result = match failed {
            Some(error) => Err(error),
            None => run(call, &args),
        };
        let cost = call.cost.charge(&args, result.as_ref().unwrap_or(&Value::Null));
        self.charge(cost)?;
        result
    }

    fn list(&mut self, items: &'a [(Node, bool)]) -> Res<'a> {
        let built = self.items(items);
        self.built(cost::LIST, built.map(Value::list))
    }

    fn built(&mut self, cost: u64, value: Res<'a>) -> Res<'a> {
        if !spent(&value) {
            self.charge(cost)?;
        }
        value
    }

    fn items(&mut self, items: &'a [(Node, bool)]) -> Result<Vec<Value<'a>>, EvalError> {
        let mut values = Vec::with_capacity(items.len());
        for (item, optional) in items {
            match self.node(item)? {
                value if !optional => values.push(value),
                Value::Optional(inner) => values.extend(inner.map(|inner| (*inner).clone())),
                other => {
                    let shown = crate::show::plain(&other);
                    let why = format!("cannot initialize optional list element from non-optional value {shown}");
                    return Err(failure(why));
                }
            }
        }
        Ok(values)
    }

    fn map(&mut self, entries: &'a [(Node, Node, bool)]) -> Res<'a> {
        let built = self.entries(entries);
        self.built(cost::MAP, built.map(|map| Value::Map(Map::own(map))))
    }

    fn entries(&mut self, entries: &'a [(Node, Node, bool)]) -> Result<OwnMap<'a>, EvalError> {
        let mut map = OwnMap::default();
        for (key, value, optional) in entries {
            let (key, value) = (self.node(key)?, self.node(value)?);
            if let Some(value) = entry(&crate::show::plain(&key), value, *optional)? {
                map.set(key, value)?;
            }
        }
        Ok(map)
    }

    fn structure(&mut self, name: &Arc<str>, fields: &'a [(Arc<str>, Node, bool)]) -> Res<'a> {
        let built = self.fields(fields);
        self.built(cost::STRUCT, built.map(|map| Value::Map(Map::own(map.of_type(name.clone())))))
    }

    fn fields(&mut self, fields: &'a [(Arc<str>, Node, bool)]) -> Result<OwnMap<'a>, EvalError> {
        let mut map = OwnMap::default();
        for (name, value, optional) in fields {
            let value = self.node(value)?;
            if let Some(value) = entry(name, value, *optional)? {
                map.set(Value::String(Text::Lent(name)), value)?;
            }
        }
        Ok(map)
    }

    fn fold(&mut self, fold: &'a FoldNode) -> Res<'a> {
        let range = self.node(&fold.range)?;
        self.slots[fold.accu] = Slot::Lazy(&fold.init);
        match (&range, fold.var2) {
            (Value::List(list), None) => {
                for item in list.iter() {
                    if !self.turn(fold, item, None)? {
                        break;
                    }
                }
            }
            (Value::List(list), Some(_)) => {
                for (at, item) in list.iter().enumerate() {
                    let at = Value::Int(i64::try_from(at).unwrap_or(i64::MAX));
                    if !self.turn(fold, Ok(at), Some(item))? {
                        break;
                    }
                }
            }
            (Value::Map(map), two) => {
                for key in map.keys() {
                    let value = two.map(|_| map.get(&key).unwrap_or(Err(NO_OVERLOAD)));
                    if !self.turn(fold, Ok(key), value)? {
                        break;
                    }
                }
            }
            (other, _) => {
                let shown = go_type(other);
                return Err(failure(match fold.var2 {
                    Some(_) => format!("unsupported comprehension range type: {shown}"),
                    None => format!("got '{shown}', expected iterable type"),
                }));
            }
        }
        let result = self.node(&fold.result);
        self.slots[fold.accu] = Slot::Empty;
        result
    }

    /// One turn of a comprehension; whether there may be another.
    fn turn(&mut self, fold: &'a FoldNode, first: Res<'a>, second: Option<Res<'a>>) -> Result<bool, EvalError> {
        self.slots[fold.var] = Slot::Done(first);
        if let (Some(at), Some(second)) = (fold.var2, second) {
            self.slots[at] = Slot::Done(second);
        }
        match self.node(&fold.condition) {
            Ok(Value::Bool(false)) => return Ok(false),
            Err(EvalError::Budget) => return Err(EvalError::Budget),
            _ => {}
        }
        let next = self.node(&fold.step);
        if spent(&next) {
            return Err(EvalError::Budget);
        }
        self.slots[fold.accu] = Slot::Done(next);
        Ok(true)
    }

    /// Takes what has been collected out of its slot, so that it is changed in place.
    fn collected(&mut self, slot: usize) -> Res<'a> {
        let value = match std::mem::replace(&mut self.slots[slot], Slot::Empty) {
            Slot::Lazy(node) => self.node(node),
            Slot::Done(value) => value,
            Slot::Empty => Err(fail("no such attribute(s)")),
        };
        self.charge(1)?;
        value
    }

    fn append(&mut self, slot: usize, item: &'a Node, list_cost: u64) -> Res<'a> {
        let list = self.collected(slot);
        let item = self.node(item);
        if spent(&list) || spent(&item) {
            return Err(EvalError::Budget);
        }
        self.charge(list_cost + 1)?;
        match list? {
            Value::List(mut list) => {
                list.append(item?)?;
                Ok(Value::List(list))
            }
            _ => Err(NO_OVERLOAD),
        }
    }

    fn insert(&mut self, slot: usize, args: &'a [Node]) -> Res<'a> {
        let map = self.collected(slot);
        let eager = args.len() == 1;
        if !eager || spent(&map) {
            map.as_ref().map_err(Clone::clone)?;
        }
        let mut values = Vec::with_capacity(args.len());
        let mut failed = None;
        for arg in args {
            match self.node(arg) {
                Ok(value) => values.push(value),
                Err(error) if eager && error != EvalError::Budget => failed = Some(error),
                Err(error) => return Err(error),
            }
        }
        self.charge(1)?;
        let Value::Map(Map(Pairs::Own(mut map))) = map? else { return Err(NO_OVERLOAD) };
        if let Some(error) = failed {
            return Err(error);
        }
        operators::insert(Arc::make_mut(&mut map), &values)?;
        Ok(Value::Map(Map(Pairs::Own(map))))
    }
}

/// Whether the budget is used up.
fn spent<T>(result: &Result<T, EvalError>) -> bool {
    matches!(result, Err(EvalError::Budget))
}

/// What upstream calls the type that it keeps a value in.
fn go_type(value: &Value<'_>) -> &'static str {
    match value {
        Value::Null => "types.Null",
        Value::Bool(_) => "types.Bool",
        Value::Int(_) => "types.Int",
        Value::Uint(_) => "types.Uint",
        Value::Double(_) => "types.Double",
        Value::String(_) => "types.String",
        Value::Bytes(_) => "types.Bytes",
        Value::Duration(_) => "types.Duration",
        Value::Timestamp(_) => "types.Timestamp",
        Value::Type(_) => "*types.Type",
        Value::Optional(_) => "*types.Optional",
        _ => "object",
    }
}

/// What an entry that may be optional adds.
fn entry<'a>(name: &str, value: Value<'a>, optional: bool) -> Result<Option<Value<'a>>, EvalError> {
    match value {
        value if !optional => Ok(Some(value)),
        Value::Optional(inner) => Ok(inner.map(|inner| (*inner).clone())),
        other => {
            let shown = crate::show::plain(&other);
            Err(failure(format!("cannot initialize optional entry '{name}' from non-optional value {shown}")))
        }
    }
}

/// Runs a call with its arguments.
pub(crate) fn run<'a>(call: &CallNode, args: &[Value<'a>]) -> Res<'a> {
    let fits = |wanted: &[crate::types::Type]| {
        wanted.len() == args.len() && args.iter().zip(wanted).all(|(arg, wanted)| arg.fits(wanted))
    };
    match &call.run {
        Run::Known(run) => return run(args),
        Run::Guarded(overload) if fits(&overload.args) => return (overload.run)(args),
        Run::Guarded(_) => {}
        Run::Any { minor } => {
            if let Some(overload) = call.function.declared(*minor).find(|overload| fits(&overload.args)) {
                return (overload.run)(args);
            }
        }
    }
    let types: Vec<_> = args.iter().map(Value::type_name).collect();
    Err(failure(format!("no such overload: {}({})", call.function.name, types.join(", "))))
}

type Found<'a> = Result<Res<'a>, EvalError>;

/// A field of a value: the inner error says that there is none.
fn field<'a>(value: &Value<'a>, name: &str) -> Found<'a> {
    let missing = || Ok(Err(failure(format!("no such key: {name}"))));
    match value {
        Value::Map(map) => map.field(name).map_or_else(missing, |found| found.map(Ok)),
        Value::Lazy(fields) => fields.field(name).map_or_else(missing, |found| found.map(Ok)),
        Value::List(_) => Err(fail("unsupported index type 'string' in list")),
        _ => missing(),
    }
}

/// What a key leads to: the inner error says that it leads nowhere.
fn look_up<'a>(value: &Value<'a>, key: &Value<'_>) -> Found<'a> {
    let missing = || Ok(Err(failure(format!("no such key: {}", crate::show::plain(key)))));
    match value {
        Value::Map(map) => map.get(key).map_or_else(missing, |found| found.map(Ok)),
        Value::List(list) => {
            let at = place(key)?;
            let found = usize::try_from(at).ok().and_then(|at| list.get(at));
            let beyond = || Ok(Err(failure(format!("index out of bounds: {}", crate::show::plain(key)))));
            found.map_or_else(beyond, |found| found.map(Ok))
        }
        Value::Lazy(_) => match key {
            Value::String(name) => field(value, name),
            _ => missing(),
        },
        _ => missing(),
    }
}

/// A place in a list.
fn place(key: &Value<'_>) -> Result<i64, EvalError> {
    let unsupported = || failure(format!("unsupported index value {} in list", crate::show::plain(key)));
    match key {
        Value::Int(at) => Ok(*at),
        Value::Uint(at) => i64::try_from(*at).map_err(|_| unsupported()),
        Value::Double(at) if at.fract() == 0.0 && at.abs() < 9e15 => Ok(*at as i64),
        Value::Double(_) => Err(unsupported()),
        other => Err(failure(format!("unsupported index type '{}' in list", other.type_name()))),
    }
}
