//! Configuration files with flags laid over them: every key of a file is also a flag.
//!
//! A table of keys makes both the flags and the values; the result is checked by the owner's own
//! type, so a wrong value is reported in the same words wherever it came from.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Arg, ArgAction, ArgMatches};
use serde_yaml_ng::{Mapping, Value};

/// How the text of a flag becomes a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    Text,
    Number,
    /// `true` or `false`; the flag alone means `true`.
    Switch,
    /// Repeated or separated by commas.
    List,
    /// `name=value`, repeated or separated by commas.
    Map,
    /// Anything, written as YAML.
    Yaml,
}

/// One key. A dot separates the key of a nested mapping from its parent's.
pub struct Key {
    pub path: &'static str,
    pub shape: Shape,
    pub help: &'static str,
}

/// A kind of configuration file.
pub struct Keys {
    pub default_file: &'static str,
    pub keys: &'static [Key],
}

impl Key {
    /// `a.b_c` is `--a-b-c`. clap keeps names for as long as the program runs.
    fn flag(&self) -> &'static str {
        self.path.replace(['.', '_'], "-").leak()
    }

    fn arg(&self) -> Arg {
        let arg = Arg::new(self.path).long(self.flag()).help(self.help);
        match self.shape {
            Shape::Switch => arg.value_name("BOOL").num_args(0..=1).default_missing_value("true").require_equals(true),
            Shape::List | Shape::Map => arg
                .value_name(if self.shape == Shape::Map { "NAME=VALUE" } else { "VALUE" })
                .action(ArgAction::Append)
                .value_delimiter(','),
            Shape::Number => arg.value_name("NUMBER"),
            Shape::Yaml => arg.value_name("YAML"),
            Shape::Text => arg.value_name("VALUE"),
        }
    }

    fn value(&self, texts: Vec<&String>) -> Result<Value> {
        let one = || texts.first().map(|t| t.as_str()).unwrap_or_default();
        let parsed = |what: &str| {
            serde_yaml_ng::from_str::<Value>(one())
                .with_context(|| format!("--{}: {:?} is not {what}", self.flag(), one()))
        };
        Ok(match self.shape {
            Shape::Text => Value::String(one().to_owned()),
            Shape::Number | Shape::Switch | Shape::Yaml => parsed("YAML")?,
            Shape::List => texts.into_iter().map(|t| Value::String(t.clone())).collect::<Vec<_>>().into(),
            Shape::Map => {
                let mut map = Mapping::new();
                for text in texts {
                    let Some((name, value)) = text.split_once('=') else {
                        bail!("--{}: {text:?} is not NAME=VALUE", self.flag());
                    };
                    map.insert(name.into(), value.into());
                }
                map.into()
            }
        })
    }
}

impl Keys {
    /// For [`clap::Command::mut_subcommand`].
    pub fn flags(&'static self) -> impl FnOnce(clap::Command) -> clap::Command {
        move |command| {
            let file =
                Arg::new("config").long("config").value_name("FILE").value_parser(clap::value_parser!(PathBuf)).help(
                    format!("Configuration file; flags go before it [default: {}, if it exists]", self.default_file),
                );
            command.arg(file).args(self.keys.iter().map(Key::arg))
        }
    }

    /// The file with the flags laid over it.
    pub fn read<T: serde::de::DeserializeOwned>(&self, flags: &ArgMatches) -> Result<T> {
        let (file, mut value) = self.file(flags.get_one::<PathBuf>("config"))?;
        for key in self.keys {
            if let Some(texts) = flags.get_many::<String>(key.path) {
                put(&mut value, key.path, key.value(texts.collect())?)?;
            }
        }
        let place = file.map_or_else(|| "the flags".to_owned(), |file| file.display().to_string());
        // As text, for only then do errors name the key. The line would be of this text, not the file's.
        let text = serde_yaml_ng::to_string(&value).context("plain data")?;
        serde_yaml_ng::from_str(&text).map_err(|error| {
            let said = error.to_string();
            let said = said.split(" at line ").next().unwrap_or(&said);
            anyhow::anyhow!("configuration ({place}): {said}")
        })
    }

    fn file(&self, given: Option<&PathBuf>) -> Result<(Option<PathBuf>, Value)> {
        let default = Path::new(self.default_file);
        let path = match given {
            Some(path) => path.clone(),
            None if default.exists() => default.to_owned(),
            None => return Ok((None, Mapping::new().into())),
        };
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let value = match serde_yaml_ng::from_str(&text).with_context(|| format!("{}", path.display()))? {
            Value::Null => Mapping::new().into(),
            value @ Value::Mapping(_) => value,
            _ => bail!("{}: the file must be a mapping of keys to values", path.display()),
        };
        Ok((Some(path), value))
    }
}

fn put(root: &mut Value, path: &str, value: Value) -> Result<()> {
    let mut place = root;
    for part in path.split('.') {
        if place.is_null() {
            *place = Mapping::new().into();
        }
        let Some(map) = place.as_mapping_mut() else { bail!("{path}: the file has something else there") };
        place = map.entry(part.into()).or_insert(Value::Null);
    }
    *place = value;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    static KEYS: Keys = Keys {
        default_file: "/nonexistent/kontiki.yaml",
        keys: &[
            Key { path: "name", shape: Shape::Text, help: "" },
            Key { path: "api_port", shape: Shape::Number, help: "" },
            Key { path: "egress", shape: Shape::Switch, help: "" },
            Key { path: "join.servers", shape: Shape::List, help: "" },
            Key { path: "node_labels", shape: Shape::Map, help: "" },
            Key { path: "registries", shape: Shape::Yaml, help: "" },
        ],
    };

    fn read(args: &[&str]) -> Result<Value> {
        let command = KEYS.flags()(clap::Command::new("x").no_binary_name(true));
        KEYS.read(&command.try_get_matches_from(args)?)
    }

    #[test]
    fn flags_become_values() {
        for (args, expect) in [
            (vec![], "{}"),
            (vec!["--name", "123"], "{name: '123'}"),
            (vec!["--api-port", "7"], "{api_port: 7}"),
            (vec!["--egress=false"], "{egress: false}"),
            (vec!["--egress"], "{egress: true}"),
            (vec!["--join-servers", "a:1,b:2", "--join-servers", "c:3"], "{join: {servers: ['a:1', 'b:2', 'c:3']}}"),
            (vec!["--node-labels", "disk=ssd"], "{node_labels: {disk: ssd}}"),
            (
                vec!["--registries", "{mirrors: {docker.io: {endpoint: [x]}}}"],
                "{registries: {mirrors: {docker.io: {endpoint: [x]}}}}",
            ),
        ] {
            let expect: Value = serde_yaml_ng::from_str(expect).unwrap();
            assert_eq!(read(&args).unwrap(), expect, "{args:?}");
        }
        let typed = || -> Result<std::collections::BTreeMap<String, u16>> {
            let command = KEYS.flags()(clap::Command::new("x").no_binary_name(true));
            KEYS.read(&command.try_get_matches_from(["--api-port", "70000"])?)
        };
        assert!(typed().unwrap_err().to_string().contains("api_port: invalid"), "{:?}", typed());
        assert!(read(&["--node-labels", "x"]).unwrap_err().to_string().contains("not NAME=VALUE"));
    }
}
