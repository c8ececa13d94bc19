//! Objects of a collection by the values that something tells of them.

use std::collections::HashMap;
use std::sync::Arc;

use kontiki_machinery::ResourceDef;
use roaring::RoaringBitmap;

use crate::object::Object;

/// What an index goes by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Path {
    /// A label.
    Label(Box<str>),
    /// A field as the kind of an API group shows it.
    Field { group: Box<str>, path: Box<str> },
    /// What a view tells, under a name.
    Named(&'static str),
}

impl Path {
    pub fn label(key: &str) -> Self {
        Self::Label(key.into())
    }

    pub fn field(def: &ResourceDef, path: &str) -> Self {
        Self::Field { group: def.group.as_ref().into(), path: path.into() }
    }
}

/// Tells the values under which an object is found.
pub(crate) type Extract = Arc<dyn Fn(&Object) -> Vec<String> + Send + Sync>;

/// How selectors find objects by a path: what the facts say of it.
pub(crate) fn by_facts(def: &Arc<ResourceDef>, path: &Path) -> Extract {
    let def = Arc::clone(def);
    match path.clone() {
        Path::Label(key) => Arc::new(move |object| {
            object.facts(&def).and_then(|facts| facts.label(&key).map(str::to_owned)).into_iter().collect()
        }),
        Path::Field { path, .. } => {
            Arc::new(move |object| object.facts(&def).map(|facts| facts.field(&path).to_owned()).into_iter().collect())
        }
        Path::Named(_) => Arc::new(|_| Vec::new()),
    }
}

/// Numbers of objects by value.
pub(crate) struct Index {
    pub extract: Extract,
    numbers: HashMap<Box<str>, RoaringBitmap>,
}

impl Index {
    pub fn new(extract: Extract) -> Self {
        Self { extract, numbers: HashMap::new() }
    }

    pub fn add(&mut self, number: u32, values: &[String]) {
        for value in values {
            match self.numbers.get_mut(value.as_str()) {
                Some(numbers) => drop(numbers.insert(number)),
                None => drop(self.numbers.insert(value.as_str().into(), RoaringBitmap::from([number]))),
            }
        }
    }

    pub fn remove(&mut self, number: u32, values: &[String]) {
        for value in values {
            let Some(numbers) = self.numbers.get_mut(value.as_str()) else { continue };
            numbers.remove(number);
            if numbers.is_empty() {
                self.numbers.remove(value.as_str());
            }
        }
    }

    /// The numbers under a value, in the order in which the objects came.
    pub fn get(&self, value: &str) -> impl Iterator<Item = u32> + '_ {
        self.numbers.get(value).into_iter().flatten()
    }

    /// How many there are under a value.
    pub fn count(&self, value: &str) -> u64 {
        self.numbers.get(value).map_or(0, RoaringBitmap::len)
    }
}
