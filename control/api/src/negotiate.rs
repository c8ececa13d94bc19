//! `Accept` and `Content-Type`: in which form an answer goes out and a body came in. Upstream's rules:
//! `endpoints/handlers/negotiation` and the library behind it (`goautoneg`).

use kontiki_machinery::Status;

pub(crate) const JSON: &str = "application/json";
pub(crate) const YAML: &str = "application/yaml";
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
pub(crate) const CBOR: &str = "application/cbor";
/// What errors list. CBOR is taken and served without being named, as upstream has it behind a gate.
const OBJECT_TYPES: &[&str] = &[JSON, YAML, PROTOBUF];
const STREAM_TYPES: &[&str] = &["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];

/// The format of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Media {
    Json,
    Yaml,
    Protobuf,
    Cbor,
}

/// In the order in which a wildcard finds them.
const MEDIA: [Media; 4] = [Media::Json, Media::Yaml, Media::Protobuf, Media::Cbor];

impl Media {
    /// As a content type says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => JSON,
            Self::Yaml => YAML,
            Self::Protobuf => PROTOBUF,
            Self::Cbor => CBOR,
        }
    }

    /// The content type of a watch; `None`: it has no framing.
    pub fn stream_name(self) -> Option<&'static str> {
        match self {
            Self::Json => Some(JSON),
            Self::Yaml => None,
            Self::Protobuf => Some(STREAM_TYPES[1]),
            Self::Cbor => Some("application/cbor-seq"),
        }
    }
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

/// What an endpoint can show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Offer {
    /// Objects with a protobuf form, which have other shapes too.
    Objects,
    /// Objects without a protobuf form of their own.
    Untyped,
    /// Documents and answers to questions, in one shape.
    Documents,
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

    pub fn matches(&self, media: &str) -> bool {
        self.media == "*/*"
            || self.media == media
            || self.media.strip_suffix("/*").is_some_and(|kind| media.split('/').next() == Some(kind))
    }

    /// Upstream's order: what is preferred, or names more. It is none for clauses that are both; see [`clauses`].
    fn before(&self, other: &Self) -> bool {
        let (own, others) = (self.media.split_once('/'), other.media.split_once('/'));
        let any = |part: Option<&str>| part == Some("*");
        let (kind, sub) =
            (|m: Option<(&str, &str)>| any(m.map(|m| m.0)), |m: Option<(&str, &str)>| any(m.map(|m| m.1)));
        self.quality > other.quality || (!kind(own) && kind(others)) || (!sub(own) && sub(others))
    }
}

/// The clauses of `header`, best first. Sorted by insertion, as upstream's few are: its order is not one for every
/// header.
pub(crate) fn clauses(header: Option<&str>) -> Vec<Clause> {
    let text = header.filter(|h| !h.trim().is_empty()).unwrap_or("*/*");
    let mut clauses: Vec<Clause> = text.split(',').filter_map(clause).collect();
    for end in 1..clauses.len() {
        let mut at = end;
        while at > 0 && clauses[at].before(&clauses[at - 1]) {
            clauses.swap(at, at - 1);
            at -= 1;
        }
    }
    clauses
}

fn clause(text: &str) -> Option<Clause> {
    let mut parts = text.split(';').map(str::trim);
    let media = match parts.next().filter(|m| !m.is_empty())?.to_ascii_lowercase() {
        any if any == "*" => "*/*".to_owned(),
        media => media,
    };
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

/// Whether a clause names any of what `offer` has.
fn named(clauses: &[Clause]) -> bool {
    clauses.iter().any(|c| MEDIA.iter().any(|media| c.matches(media.name())))
}

/// The form for an object, a list or a document.
pub(crate) fn object_form(accept: Option<&str>, offer: Offer) -> Result<Form, Status> {
    let clauses = clauses(accept);
    if !named(&clauses) {
        return Err(unknown_types(OBJECT_TYPES));
    }
    find(&clauses, offer, false).ok_or_else(|| Status::not_acceptable(OBJECT_TYPES))
}

/// The form for the objects in a watch. YAML has no framing, so it is refused, whatever stands behind it.
pub(crate) fn watch_form(accept: Option<&str>, offer: Offer) -> Result<Form, Status> {
    let clauses = clauses(accept);
    if !named(&clauses) && !clauses.iter().any(|clause| clause.media == "application/cbor-seq") {
        let all: Vec<&str> = OBJECT_TYPES.iter().chain(STREAM_TYPES).copied().collect();
        return Err(unknown_types(&all));
    }
    let found = find(&clauses, offer, true).filter(|form| form.media.stream_name().is_some());
    found.ok_or_else(|| Status::not_acceptable(STREAM_TYPES))
}

/// The form for a document that is JSON and nothing else.
pub(crate) fn json_only(accept: Option<&str>) -> Result<Form, Status> {
    if clauses(accept).iter().any(|clause| clause.matches(JSON)) {
        return Ok(Form::PLAIN);
    }
    Err(unknown_types(&[JSON]))
}

fn find(clauses: &[Clause], offer: Offer, watch: bool) -> Option<Form> {
    clauses.iter().find_map(|clause| MEDIA.iter().find_map(|media| form_of(clause, *media, offer, watch)))
}

fn form_of(clause: &Clause, media: Media, offer: Offer, watch: bool) -> Option<Form> {
    let sequence = watch && media == Media::Cbor && clause.media == "application/cbor-seq";
    if !clause.matches(media.name()) && !sequence {
        return None;
    }
    let streams = clause.param("stream").is_none_or(|kind| kind.is_empty() || kind == "watch" && media != Media::Yaml);
    let shape = shape_of(clause)?;
    let shown = match &shape {
        Shape::Full => media != Media::Protobuf || offer != Offer::Untyped,
        Shape::Table(_) => offer != Offer::Documents && matches!(media, Media::Json | Media::Yaml),
        Shape::Partial(_) | Shape::PartialList(_) => offer != Offer::Documents,
    };
    let pretty = clause.param("pretty") == Some("1");
    (streams && shown).then_some(Form { media, shape, pretty })
}

/// `None`: another shape is asked for than there is.
fn shape_of(clause: &Clause) -> Option<Shape> {
    let asked = ["as", "g", "v"].map(|name| clause.param(name));
    let [Some(kind), Some("meta.k8s.io"), Some(version @ ("v1" | "v1beta1"))] = asked else {
        return (asked == [None; 3]).then_some(Shape::Full);
    };
    match kind {
        "Table" => Some(Shape::Table(version.to_owned())),
        "PartialObjectMetadata" => Some(Shape::Partial(version.to_owned())),
        "PartialObjectMetadataList" => Some(Shape::PartialList(version.to_owned())),
        _ => None,
    }
}

/// In which format errors go out: never itself an error.
pub(crate) fn error_media(accept: Option<&str>) -> Media {
    let clauses = clauses(accept);
    let found = clauses.iter().find_map(|clause| MEDIA.into_iter().find(|media| clause.matches(media.name())));
    found.unwrap_or(Media::Json)
}

/// The format of a request body by its `Content-Type`.
pub(crate) fn body_media(content_type: Option<&str>) -> Result<Media, Status> {
    let text = content_type.unwrap_or_default();
    let media = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let known = MEDIA.into_iter().find(|known| known.name() == media || media.is_empty());
    known.ok_or_else(|| Status::unsupported_media_type(OBJECT_TYPES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_clause_that_we_have_wins() {
        let table = || Shape::Table("v1".into());
        let partial = || Shape::Partial("v1".into());
        for (accept, media, shape) in [
            (None, Media::Json, Shape::Full),
            (Some("*/*"), Media::Json, Shape::Full),
            (Some("*"), Media::Json, Shape::Full),
            (Some("text/html,*/*;q=0.1"), Media::Json, Shape::Full),
            (Some("application/yaml;q=0.5,application/json"), Media::Json, Shape::Full),
            (Some("*/*,application/yaml;q=0.1"), Media::Yaml, Shape::Full),
            (Some("application/vnd.kubernetes.protobuf,application/json"), Media::Protobuf, Shape::Full),
            (Some("application/json,application/vnd.kubernetes.protobuf"), Media::Json, Shape::Full),
            (Some("application/vnd.kubernetes.protobuf"), Media::Protobuf, Shape::Full),
            (Some("application/cbor"), Media::Cbor, Shape::Full),
            (Some("application/json;as=Table;v=v1;g=meta.k8s.io,application/json"), Media::Json, table()),
            (Some("application/json;as=Frob;v=v1;g=meta.k8s.io,application/yaml"), Media::Yaml, Shape::Full),
            (
                Some("application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1,application/json"),
                Media::Json,
                Shape::Full,
            ),
            (
                Some("application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"),
                Media::Protobuf,
                partial(),
            ),
        ] {
            let form = object_form(accept, Offer::Objects).expect("acceptable");
            assert_eq!((form.media, form.shape), (media, shape), "{accept:?}");
        }
        for accept in ["text/html", "/", "application/json;as=Table;v=v2;g=meta.k8s.io", "application/json;stream=x"] {
            assert_eq!(object_form(Some(accept), Offer::Objects).map_err(|s| s.code), Err(406), "{accept}");
        }
    }

    #[test]
    fn an_endpoint_shows_what_it_has() {
        let form = |accept, offer| object_form(Some(accept), offer).map(|form| form.media).map_err(|s| s.code);
        assert_eq!(form("application/vnd.kubernetes.protobuf", Offer::Untyped), Err(406));
        assert_eq!(form("application/vnd.kubernetes.protobuf,*/*;q=0.1", Offer::Untyped), Ok(Media::Json));
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        assert_eq!(form(metadata, Offer::Untyped), Ok(Media::Protobuf));
        assert_eq!(form(metadata, Offer::Documents), Err(406));
        assert!(json_only(Some("application/vnd.kubernetes.protobuf")).is_err() && json_only(None).is_ok());
    }

    #[test]
    fn watches_are_framed() {
        for (accept, media) in [
            ("application/vnd.kubernetes.protobuf;stream=watch", Ok(Media::Protobuf)),
            ("application/json;stream=watch", Ok(Media::Json)),
            ("application/cbor-seq", Ok(Media::Cbor)),
            ("application/cbor", Ok(Media::Cbor)),
            ("application/yaml", Err(406)),
            ("application/yaml,application/json", Err(406)),
        ] {
            let form = watch_form(Some(accept), Offer::Objects);
            assert_eq!(form.map(|form| form.media).map_err(|status| status.code), media, "{accept}");
        }
    }

    #[test]
    fn bodies_name_their_format() {
        for (content_type, media) in [
            (None, Ok(Media::Json)),
            (Some("application/json; charset=utf-8"), Ok(Media::Json)),
            (Some("application/yaml"), Ok(Media::Yaml)),
            (Some("application/vnd.kubernetes.protobuf"), Ok(Media::Protobuf)),
            (Some("application/cbor"), Ok(Media::Cbor)),
            (Some("text/plain"), Err(415)),
        ] {
            assert_eq!(body_media(content_type).map_err(|status| status.code), media, "{content_type:?}");
        }
    }
}
