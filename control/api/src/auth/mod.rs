//! Who asks (authentication) and whether they may (authorization).

pub(crate) mod access;
pub(crate) mod identity;
pub(crate) mod impersonate;
pub(crate) mod info;
pub(crate) mod keys;
pub(crate) mod review;
pub(crate) mod tokens;
