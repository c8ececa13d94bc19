//! What only upstream's Go source says of a struct: tags and markers of its fields. Its type files have one field per
//! line and no nested structs; what looks different stops the reader.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::PathBuf,
    process::Command,
};

use serde_json::Value;

/// The modules that are read. Others (`time`) are known by their names alone.
const MODULES: [&str; 4] =
    ["k8s.io/api", "k8s.io/apimachinery", "k8s.io/apiextensions-apiserver", "k8s.io/kube-aggregator"];

/// `(listType, map)` of `+listType=map`, in order.
pub type Markers = Vec<(String, String)>;

/// A field.
#[derive(Clone)]
pub struct Field {
    /// Name in JSON; empty if the fields of its struct stand in its parent's JSON.
    pub json: String,
    /// `omitempty`, `omitzero`.
    pub options: Vec<String>,
    /// Its number in protobuf.
    pub number: Option<u64>,
    /// Its Go type as it is written.
    pub ty: String,
    /// `patchStrategy`, `patchMergeKey` and the like.
    pub tags: BTreeMap<String, String>,
    pub markers: Markers,
}

/// A type declaration.
enum Declaration {
    Struct { fields: Vec<Field>, markers: Markers },
    Other(String),
}

/// What a Go type is, as far as JSON cares.
#[derive(PartialEq, Eq)]
pub enum Shape {
    Pointer,
    /// A list or a map.
    Collection,
    Scalar,
    /// By full name.
    Struct(String),
}

#[derive(Default)]
struct Package {
    declarations: HashMap<String, Declaration>,
    /// Full names by the names under which they are imported.
    imports: HashMap<String, String>,
}

/// The packages of one release, read when asked for.
pub struct Source {
    release: &'static str,
    folders: HashMap<&'static str, PathBuf>,
    packages: HashMap<String, Package>,
}

impl Source {
    pub fn new(release: &'static str) -> Self {
        Self { release, folders: HashMap::new(), packages: HashMap::new() }
    }

    /// The fields of the struct called `name` (`io.k8s.api.core.v1.Pod`) and its own markers.
    pub fn get(&mut self, name: &str) -> Option<(Vec<Field>, Markers)> {
        match self.declaration(name)? {
            Declaration::Struct { fields, markers } => Some((fields.clone(), markers.clone())),
            Declaration::Other(_) => None,
        }
    }

    /// What a type is that is written in the package of `owner`.
    pub fn shape(&mut self, owner: &str, ty: &str) -> Shape {
        if ty.starts_with('*') {
            return Shape::Pointer;
        }
        if ty.starts_with("[]") || ty.starts_with("map[") {
            return Shape::Collection;
        }
        if ["string", "bool", "int32", "int64", "float64"].contains(&ty) {
            return Shape::Scalar;
        }
        let name = self.full_name(owner, ty);
        match self.declaration(&name).unwrap_or_else(|| panic!("{owner}: {ty} is not known")) {
            Declaration::Struct { .. } => Shape::Struct(name),
            Declaration::Other(other) => {
                let other = other.clone();
                self.shape(&name, &other)
            }
        }
    }

    /// The full name of a struct that is written in the package of `owner`.
    fn full_name(&mut self, owner: &str, ty: &str) -> String {
        let package = package_of(owner);
        match ty.split_once('.') {
            None => format!("{package}.{ty}"),
            Some((import, ty)) => {
                let imports = &self.package(package).imports;
                let import = imports.get(import).unwrap_or_else(|| panic!("{owner}: {import} is not imported"));
                format!("{import}.{ty}")
            }
        }
    }

    fn declaration(&mut self, name: &str) -> Option<&Declaration> {
        let package = self.package(package_of(name));
        package.declarations.get(name.rsplit('.').next()?)
    }

    fn package(&mut self, name: &str) -> &Package {
        if !self.packages.contains_key(name) {
            let package = self.read(name);
            self.packages.insert(name.to_owned(), package);
        }
        &self.packages[name]
    }

    fn read(&mut self, name: &str) -> Package {
        let mut package = Package::default();
        let Some((module, inner)) =
            MODULES.into_iter().find_map(|module| Some((module, name.strip_prefix(&format!("{}.", full(module)))?)))
        else {
            return package;
        };
        let release = self.release;
        let folder = self.folders.entry(module).or_insert_with(|| download(module, release));
        let folder = folder.join(inner.replace('.', "/"));
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for file in files {
            let path = file.expect("a folder can be read").path();
            let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let generated = file.starts_with("zz_") || file.starts_with("generated");
            if file.ends_with(".go") && !file.ends_with("_test.go") && !generated {
                let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                parse(&text, &mut package);
            }
        }
        package
    }
}

/// Where the Go command keeps a module, which it fetches first if need be.
fn download(module: &str, release: &str) -> PathBuf {
    let output = Command::new("go").args(["mod", "download", "-json", &format!("{module}@{release}")]).output();
    let output = output.unwrap_or_else(|error| panic!("facts come from Go modules: go: {error}"));
    let answer: Value = serde_json::from_slice(&output.stdout).expect("go prints JSON");
    answer["Dir"].as_str().unwrap_or_else(|| panic!("{module}@{release}: {answer}")).into()
}

/// `k8s.io/api/core/v1` is `io.k8s.api.core.v1`.
fn full(path: &str) -> String {
    path.replacen("k8s.io", "io.k8s", 1).replace('/', ".")
}

fn package_of(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(package, _)| package)
}

fn parse(text: &str, package: &mut Package) {
    let mut lines = text.lines();
    let mut comments = Vec::new();
    while let Some(line) = lines.next() {
        let trimmed = line.trim();
        if let Some(comment) = trimmed.strip_prefix("//") {
            comments.push(comment.trim());
            continue;
        }
        if let Some((alias, path)) = import(trimmed) {
            package.imports.insert(alias, full(path));
        } else if let Some((name, ty)) = line.strip_prefix("type ").and_then(|rest| rest.split_once(' ')) {
            let declaration = match ty {
                "struct {" => Declaration::Struct { markers: markers(&comments), fields: fields(&mut lines) },
                "struct{}" => Declaration::Struct { markers: markers(&comments), fields: Vec::new() },
                other => Declaration::Other(other.to_owned()),
            };
            package.declarations.insert(name.to_owned(), declaration);
        }
        comments.clear();
    }
}

/// `metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"`, alone or after `import`.
fn import(line: &str) -> Option<(String, &str)> {
    let (alias, path) = line.strip_suffix('"')?.split_once('"')?;
    let alias = alias.strip_prefix("import").unwrap_or(alias).trim();
    let last = path.rsplit('/').next()?;
    path.starts_with("k8s.io/").then(|| (if alias.is_empty() { last } else { alias }.to_owned(), path))
}

/// The fields of a struct, up to its end.
fn fields<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Vec<Field> {
    let (mut fields, mut comments) = (Vec::new(), Vec::new());
    for line in lines.take_while(|line| !line.starts_with('}')) {
        let line = line.trim();
        if let Some(comment) = line.strip_prefix("//") {
            comments.push(comment.trim());
        } else if !line.is_empty() {
            fields.extend(field(line, &comments));
            comments.clear();
        }
    }
    fields
}

/// ``Name Type `json:"name,omitempty" protobuf:"bytes,1,opt,name=name"` ``. What has no place in JSON is none.
fn field(line: &str, comments: &[&str]) -> Option<Field> {
    let (declaration, tags) = line.split_once('`')?;
    let mut tags = tags_of(tags.split('`').next().unwrap_or_default());
    let json = tags.remove("json").filter(|json| json != "-")?;
    let mut options = json.split(',').map(str::to_owned);
    let json = options.next().unwrap_or_default();
    let number = tags.remove("protobuf").and_then(|tag| tag.split(',').nth(1)?.parse().ok());
    let ty = declaration.split_whitespace().last()?.to_owned();
    Some(Field { json, options: options.collect(), number, ty, tags, markers: markers(comments) })
}

/// `a:"x" b:"y"`
fn tags_of(mut text: &str) -> BTreeMap<String, String> {
    let mut tags = BTreeMap::new();
    while let Some((key, rest)) = text.split_once(":\"") {
        let Some((value, rest)) = rest.split_once('"') else { break };
        tags.insert(key.trim().to_owned(), value.to_owned());
        text = rest;
    }
    tags
}

/// `+listType=map` and `+k8s:listType=map` alike.
fn markers(comments: &[&str]) -> Markers {
    let marker = |comment: &&str| {
        let (key, value) = comment.strip_prefix('+')?.split_once('=')?;
        Some((key.strip_prefix("k8s:").unwrap_or(key).to_owned(), value.trim_matches('"').to_owned()))
    };
    comments.iter().filter_map(marker).collect()
}
