//! `Accept` and `Content-Type`: in which form an answer goes out and a body came in.

use kontiki_machinery::Status;

pub(crate) const JSON: &str = "application/json";
pub(crate) const YAML: &str = "application/yaml";
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const OBJECT_TYPES: &[&str] = &[JSON, YAML, PROTOBUF];
const STREAM_TYPES: &[&str] = &["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];

/// The text format of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Media {
    Json,
    Yaml,
}

/// What of an object goes out. The texts are the version of `meta.k8s.io` asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Shape {
    Full,
    Table(String),
    Partial(String),
    PartialList(String),
}

/// The form of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Form {
    pub media: Media,
    pub shape: Shape,
    pub pretty: bool,
}

impl Form {
    pub const PLAIN: Form = Form { media: Media::Json, shape: Shape::Full, pretty: false };
}

/// One clause of an `Accept` header.
#[derive(Debug)]
pub(crate) struct Clause {
    pub media: String,
    params: Vec<(String, String)>,
    quality: f32,
}

impl Clause {
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn matches(&self, media: &str) -> bool {
        self.media == "*/*"
            || self.media == media
            || self.media.strip_suffix("/*").is_some_and(|kind| media.split('/').next() == Some(kind))
    }
}

/// The clauses of `header`, best first.
pub(crate) fn clauses(header: Option<&str>) -> Vec<Clause> {
    let text = header.filter(|h| !h.trim().is_empty()).unwrap_or("*/*");
    let mut clauses: Vec<Clause> = text.split(',').filter_map(clause).collect();
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    clauses
}

fn clause(text: &str) -> Option<Clause> {
    let mut parts = text.split(';').map(str::trim);
    let media = parts.next().filter(|m| !m.is_empty())?.to_ascii_lowercase();
    let mut clause = Clause { media, params: Vec::new(), quality: 1.0 };
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let (key, value) = (key.trim(), value.trim().trim_matches('"'));
        if key == "q" {
            clause.quality = value.parse().ok().filter(|q: &f32| q.is_finite()).unwrap_or(1.0);
        } else {
            clause.params.push((key.to_owned(), value.to_owned()));
        }
    }
    Some(clause)
}

/// 406 where no clause names a type we have.
fn unknown_types(types: &[&str]) -> Status {
    let text = format!("406: Not Acceptable\n\nAvailable representations: {}", types.join(", "));
    Status::failure(406, "NotAcceptable", text).with_details(Default::default())
}

/// The form for an object or a list.
pub(crate) fn object_form(accept: Option<&str>) -> Result<Form, Status> {
    let clauses = clauses(accept);
    if !clauses.iter().any(|c| OBJECT_TYPES.iter().any(|t| c.matches(t))) {
        return Err(unknown_types(OBJECT_TYPES));
    }
    clauses.iter().find_map(form_of).ok_or_else(|| Status::not_acceptable(OBJECT_TYPES))
}

/// The form for the objects in a watch. YAML has no framing, so it is refused.
pub(crate) fn watch_form(accept: Option<&str>) -> Result<Form, Status> {
    let clauses = clauses(accept);
    let all: Vec<&str> = OBJECT_TYPES.iter().chain(STREAM_TYPES).copied().collect();
    if !clauses.iter().any(|c| OBJECT_TYPES.iter().any(|t| c.matches(t))) {
        return Err(unknown_types(&all));
    }
    let found = clauses.iter().find_map(|c| form_of(c).filter(|form| form.media == Media::Json));
    found.ok_or_else(|| Status::not_acceptable(STREAM_TYPES))
}

fn form_of(clause: &Clause) -> Option<Form> {
    let media = if clause.matches(JSON) {
        Media::Json
    } else if clause.matches(YAML) {
        Media::Yaml
    } else {
        return None;
    };
    let shape = match clause.param("as") {
        None => Shape::Full,
        Some(name) => {
            let version = clause.param("v").filter(|v| matches!(*v, "v1" | "v1beta1"))?.to_owned();
            if clause.param("g") != Some("meta.k8s.io") {
                return None;
            }
            match name {
                "Table" => Shape::Table(version),
                "PartialObjectMetadata" => Shape::Partial(version),
                "PartialObjectMetadataList" => Shape::PartialList(version),
                _ => return None,
            }
        }
    };
    let pretty = clause.param("pretty").is_some_and(|v| v == "1" || v == "true");
    Some(Form { media, shape, pretty })
}

/// In which format errors go out: never itself an error.
pub(crate) fn error_media(accept: Option<&str>) -> Media {
    clauses(accept).iter().find_map(|c| form_of(c).map(|form| form.media)).unwrap_or(Media::Json)
}

/// The format of a request body by its `Content-Type`.
pub(crate) fn body_media(content_type: Option<&str>) -> Result<Media, Status> {
    let text = content_type.unwrap_or_default();
    let media = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media.as_str() {
        "" | JSON => Ok(Media::Json),
        YAML => Ok(Media::Yaml),
        _ => Err(Status::unsupported_media_type(OBJECT_TYPES)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_clause_that_we_have_wins() {
        let table = || Shape::Table("v1".into());
        for (accept, media, shape) in [
            (None, Media::Json, Shape::Full),
            (Some("*/*"), Media::Json, Shape::Full),
            (Some("text/html,*/*;q=0.1"), Media::Json, Shape::Full),
            (Some("application/yaml;q=0.5,application/json"), Media::Json, Shape::Full),
            (Some("application/vnd.kubernetes.protobuf,application/json"), Media::Json, Shape::Full),
            (Some("application/json;as=Table;v=v1;g=meta.k8s.io,application/json"), Media::Json, table()),
            (Some("application/json;as=Frob;v=v1;g=meta.k8s.io,application/yaml"), Media::Yaml, Shape::Full),
        ] {
            let form = object_form(accept).expect("acceptable");
            assert_eq!((form.media, form.shape), (media, shape), "{accept:?}");
        }
        for accept in
            ["text/html", "/", "application/json;as=Table;v=v2;g=meta.k8s.io", "application/vnd.kubernetes.protobuf"]
        {
            assert_eq!(object_form(Some(accept)).map_err(|s| s.code), Err(406), "{accept}");
        }
        assert!(watch_form(Some("application/yaml")).is_err());
    }
}
