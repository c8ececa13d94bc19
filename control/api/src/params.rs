//! Query parameters, with upstream's wording for what is wrong with them.

use kontiki_machinery::FieldError;

use crate::Status;

/// The parameters of one request, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Params(Vec<(String, String)>);

/// What to do about fields that a type does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// The longest name of a manager, in bytes.
const MAX_NAME: usize = 128;

/// Whether a name may hold `c`: what Go takes for printable.
fn is_printable(c: char) -> bool {
    !c.is_control() && (c == ' ' || !c.is_whitespace())
}

/// The manager that a client is which does not name one: the beginning of its user agent.
pub(crate) fn of_agent(agent: &str) -> String {
    let mut out = String::new();
    for c in agent.split('/').next().unwrap_or_default().chars().filter(|c| is_printable(*c)) {
        if out.len() + c.len_utf8() > MAX_NAME {
            break;
        }
        out.push(c);
    }
    out
}

impl Params {
    pub fn parse(query: Option<&str>) -> Self {
        Self(form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect())
    }

    /// The first value of `name`; `None` if missing or empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.raw(name).filter(|value| !value.is_empty())
    }

    /// The first value of `name`, empty ones included.
    pub fn raw(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All values of `name`.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A flag: present, and neither `false` nor `0`.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.raw(name).map(|value| !(value.eq_ignore_ascii_case("false") || value == "0"))
    }

    pub fn int(&self, name: &str) -> Result<Option<i64>, Status> {
        let Some(text) = self.get(name) else { return Ok(None) };
        text.parse()
            .map(Some)
            .map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing \"{text}\": invalid syntax")))
    }

    /// Whether `dryRun=All` is set. `options` names the options type for the error.
    pub fn dry_run(&self, options: &str) -> Result<bool, Status> {
        let values: Vec<&str> = self.all("dryRun").collect();
        check_dry_run(&values, options)
    }

    pub fn field_validation(&self, options: &str) -> Result<FieldValidation, Status> {
        match self.raw("fieldValidation").unwrap_or_default() {
            "Ignore" => Ok(FieldValidation::Ignore),
            "Warn" | "" => Ok(FieldValidation::Warn),
            "Strict" => Ok(FieldValidation::Strict),
            other => Err(options_error(
                options,
                &[FieldError::not_supported("fieldValidation", other, &["", "Ignore", "Strict", "Warn"])],
            )),
        }
    }

    /// Checks `fieldManager`, if it is there.
    pub fn check_field_manager(&self, options: &str) -> Result<(), Status> {
        refuse(options, self.field_manager_errors())
    }

    /// The same for a patch, which may force nothing.
    pub fn check_patch(&self, options: &str) -> Result<(), Status> {
        let forced =
            self.raw("force").map(|_| FieldError::forbidden("force", "may not be specified for non-apply patch"));
        refuse(options, forced.into_iter().chain(self.field_manager_errors()).collect())
    }

    /// The same for an apply, which names who applies. Whether it takes what others own.
    pub fn check_apply(&self, options: &str) -> Result<bool, Status> {
        let mut errors = self.field_manager_errors();
        if self.get("fieldManager").is_none() {
            errors.push(FieldError::required("fieldManager", "is required for apply patch"));
        }
        refuse(options, errors)?;
        Ok(self.flag("force").unwrap_or(false))
    }

    fn field_manager_errors(&self) -> Vec<FieldError> {
        let Some(manager) = self.get("fieldManager") else { return Vec::new() };
        let mut errors = Vec::new();
        if manager.len() > MAX_NAME {
            errors.push(FieldError::too_long("fieldManager", MAX_NAME));
        }
        let unprintable = manager.char_indices().filter(|(_, c)| !is_printable(*c));
        errors.extend(unprintable.map(|(at, c)| {
            let detail = format!("invalid character U+{:04X} (at position {at})", u32::from(c));
            FieldError::invalid("fieldManager", manager, detail)
        }));
        errors
    }
}

fn refuse(options: &str, errors: Vec<FieldError>) -> Result<(), Status> {
    if errors.is_empty() { Ok(()) } else { Err(options_error(options, &errors)) }
}

pub(crate) fn check_dry_run(values: &[&str], options: &str) -> Result<bool, Status> {
    if values.iter().any(|value| *value != "All") {
        let bad = serde_json::Value::from(values.to_vec());
        return Err(options_error(options, &[FieldError::not_supported("dryRun", bad, &["All"])]));
    }
    Ok(!values.is_empty())
}

/// 422 about an options type such as `ListOptions`.
pub(crate) fn options_error(options: &str, errors: &[FieldError]) -> Status {
    Status::invalid("meta.k8s.io", options, "", errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managers_are_the_beginning_of_user_agents() {
        for (agent, manager) in [
            ("kubectl/v1.37 (linux/amd64) kubernetes/abc", "kubectl"),
            ("oracle", "oracle"),
            ("a b\u{7}c", "a bc"),
            ("", ""),
            ("/x", ""),
        ] {
            assert_eq!(of_agent(agent), manager);
        }
        assert_eq!(of_agent(&"\u{e9}".repeat(100)).len(), MAX_NAME);
    }
}
