//! Budgets of what may be disrupted.

pub mod disruption;
