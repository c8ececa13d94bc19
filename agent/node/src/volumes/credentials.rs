//! What a pod's volumes hold that is given for a time: kept between the passes over them.

use super::{certificates::Certificates, tokens::Tokens};

/// The credentials of one pod.
#[derive(Default)]
pub(crate) struct Credentials {
    pub(super) tokens: Tokens,
    pub(super) certificates: Certificates,
}
