//! The plugins, under upstream's names: one file each, and the list that says in which order they
//! are asked.

mod default_preemption;
mod image_locality;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_balanced_allocation;
mod node_resources_fit;
mod node_unschedulable;
mod normalize;
mod selector_spread;
mod taint_toleration;
mod utilization;

use super::framework::Plugins;

/// All of them. Filters: the cheapest first.
pub static DEFAULT: Plugins = &[
    &node_unschedulable::PLUGIN,
    &node_name::PLUGIN,
    &taint_toleration::PLUGIN,
    &node_affinity::PLUGIN,
    &node_ports::PLUGIN,
    &node_resources_fit::PLUGIN,
    &node_resources_balanced_allocation::PLUGIN,
    &selector_spread::PLUGIN,
    &image_locality::PLUGIN,
    &default_preemption::PLUGIN,
];
