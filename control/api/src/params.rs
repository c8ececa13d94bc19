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

    /// `fieldManager` is accepted and checked, and not used yet.
    pub fn check_field_manager(&self, options: &str) -> Result<(), Status> {
        const MAX: usize = 128;
        let Some(manager) = self.get("fieldManager") else { return Ok(()) };
        let mut errors = Vec::new();
        if manager.len() > MAX {
            errors.push(FieldError::too_long("fieldManager", MAX));
        }
        if manager.chars().any(|c| !is_printable(c)) {
            errors.push(FieldError::invalid("fieldManager", manager, "should only contain printable characters"));
        }
        if errors.is_empty() { Ok(()) } else { Err(options_error(options, &errors)) }
    }
}

fn is_printable(c: char) -> bool {
    !c.is_control() && (c == ' ' || !c.is_whitespace())
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
