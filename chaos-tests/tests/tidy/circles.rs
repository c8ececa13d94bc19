//! Which modules of a crate use which, read from its sources.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use syn::{
    Attribute, ItemMod, UseTree,
    visit::{self, Visit},
};

type Module = Vec<String>;

/// The modules below a crate's `src` and what each uses outside of tests. What a name of the crate's root stands for
/// is looked up there; the root itself, which names everything, is left out.
pub fn uses(src: &Path) -> BTreeMap<Module, BTreeSet<Module>> {
    let mut sources = BTreeMap::new();
    read(src, &mut Vec::new(), &mut sources);
    let root = sources.remove(&Module::new()).unwrap_or_default();
    let shown: BTreeMap<String, Module> =
        paths(&root).into_iter().filter_map(|path| Some((path.last()?.clone(), path))).collect();
    let known: BTreeSet<Module> = sources.keys().cloned().collect();
    let of = |module: &Module, text: &str| {
        let found = paths(text).into_iter().filter_map(|path| absolute(module, path));
        let found = found.filter_map(|path| owner(&known, &path).or_else(|| owner(&known, shown.get(path.first()?)?)));
        found.filter(|used| used != module).collect()
    };
    sources.iter().map(|(module, text)| (module.clone(), of(module, text))).collect()
}

/// Modules that use each other, directly or through others: one list for each knot.
pub fn knots(uses: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<Vec<String>> {
    let reached = |start: &Module| {
        let (mut seen, mut todo) = (BTreeSet::new(), vec![start.clone()]);
        while let Some(module) = todo.pop() {
            todo.extend(uses.get(&module).into_iter().flatten().filter(|used| seen.insert((*used).clone())).cloned());
        }
        seen
    };
    let all: BTreeMap<&Module, BTreeSet<Module>> = uses.keys().map(|module| (module, reached(module))).collect();
    let knot = |module: &Module| {
        let members = all.iter().filter(|(other, seen)| all[module].contains(**other) && seen.contains(module));
        members.map(|(other, _)| other.join("::")).collect::<Vec<_>>()
    };
    let knots: BTreeSet<Vec<String>> = uses.keys().map(knot).filter(|knot| !knot.is_empty()).collect();
    knots.into_iter().collect()
}

fn read(dir: &Path, module: &mut Module, sources: &mut BTreeMap<Module, String>) {
    for entry in fs::read_dir(dir).expect("a readable directory").flatten() {
        let path = entry.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let inner = !path.is_dir() && (name == "mod" || name == "lib");
        if !inner {
            module.push(name);
        }
        if path.is_dir() {
            read(&path, module, sources);
        } else if path.extension().is_some_and(|end| end == "rs") {
            sources.insert(module.clone(), fs::read_to_string(&path).expect("a readable source"));
        }
        if !inner {
            module.pop();
        }
    }
}

/// All paths in a source that begin with `crate`, `super` or `self`, and what its root re-exports.
fn paths(text: &str) -> Vec<Vec<String>> {
    let mut paths = Paths::default();
    paths.visit_file(&syn::parse_file(text).expect("sources parse"));
    paths.0
}

#[derive(Default)]
struct Paths(Vec<Vec<String>>);

impl Paths {
    fn tree(&mut self, mut before: Vec<String>, tree: &UseTree) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.tree(before, &path.tree);
            }
            UseTree::Name(name) if name.ident == "self" => self.0.push(before),
            UseTree::Name(name) => self.0.push([before, vec![name.ident.to_string()]].concat()),
            UseTree::Rename(name) => self.0.push([before, vec![name.ident.to_string()]].concat()),
            UseTree::Glob(_) => self.0.push(before),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(before.clone(), tree)),
        }
    }
}

fn tests_only(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Ident>().is_ok_and(|cfg| cfg == "test")
    })
}

impl<'a> Visit<'a> for Paths {
    fn visit_item_mod(&mut self, item: &'a ItemMod) {
        // Nested modules would need their own place to look paths up from; only tests have any.
        if !tests_only(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        if !tests_only(&item.attrs) {
            self.tree(Vec::new(), &item.tree);
        }
    }

    /// Who may see an item is no use of it.
    fn visit_visibility(&mut self, _: &'a syn::Visibility) {}

    fn visit_path(&mut self, path: &'a syn::Path) {
        self.0.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }
}

/// A path from the crate's root; `None` if it is one into another crate.
fn absolute(module: &Module, path: Vec<String>) -> Option<Vec<String>> {
    let ups = path.iter().take_while(|part| *part == "super").count();
    match path.first()?.as_str() {
        "crate" => Some(path[1..].to_vec()),
        "self" => Some([module.clone(), path[1..].to_vec()].concat()),
        "super" => Some([module[..module.len().checked_sub(ups)?].to_vec(), path[ups..].to_vec()].concat()),
        _ => None,
    }
}

/// The module that a path lies in.
fn owner(known: &BTreeSet<Module>, path: &[String]) -> Option<Module> {
    (1..=path.len()).rev().map(|length| path[..length].to_vec()).find(|prefix| known.contains(prefix))
}
