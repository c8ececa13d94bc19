//! Expressions (CEL) that objects hold: which variables they have, what they must return, what they may cost.
//!
//! ```text
//! paths         places that a rule of a schema names
//!    │
//! rules         x-kubernetes-validations of one schema (KEP-2876)
//! admission     match conditions, validations and what else policies and webhooks have (KEP-3488, KEP-3716)
//! credentials   claims of tokens, users made of them, conditions of authorizers (KEP-3331, KEP-3221)
//! ```
//!
//! Invariants
//! - An expression is compiled once for each version of the object that holds it, never for a request.
//! - What is new may use what the version before this one knew, so that it can still be read after a way back; what is
//!   stored is read as it was written.

pub(crate) mod admission;
pub(crate) mod credentials;
pub(crate) mod paths;
pub(crate) mod rules;

use kontiki_cel::CURRENT;

/// Whether an expression is stored already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Age {
    New,
    Stored,
}

impl Age {
    /// The version whose libraries it may use.
    pub fn minor(self) -> u8 {
        match self {
            Self::New => CURRENT - 1,
            Self::Stored => CURRENT,
        }
    }
}
