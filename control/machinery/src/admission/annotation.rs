//! What admission tells the audit log.

/// Something that the audit log says of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotation {
    /// Its key.
    pub key: AnnotationKey,
    /// What it says.
    pub value: String,
}

/// Where an annotation stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnnotationKey {
    /// Under this key.
    Plain(String),
    /// At this place of a round of mutating admission, of which there are up to two.
    OfRound(&'static str, usize),
}

impl AnnotationKey {
    /// The key in a round, the first of which is 0.
    #[must_use]
    pub fn in_round(&self, round: u8) -> String {
        match self {
            Self::Plain(key) => key.clone(),
            Self::OfRound(prefix, at) => format!("{prefix}round_{round}_index_{at}"),
        }
    }
}
