//! Copies of the whole state, and the ways out when members are lost for good.

pub(crate) mod backup;
pub(crate) mod restore;
pub(crate) mod survivor;
