//! Budgets of what may be disrupted, and what is told of policies of admission.

pub mod disruption;
pub mod type_checking;
