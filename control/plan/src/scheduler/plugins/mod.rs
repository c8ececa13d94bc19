//! The plugins, under upstream's names: one file each, and the list that says in which order they
//! are asked.

mod default_preemption;
mod domains;
mod dynamic_resources;
mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_balanced_allocation;
mod node_resources_fit;
mod node_unschedulable;
mod node_volume_limits;
mod normalize;
mod pod_topology_spread;
mod taint_toleration;
mod utilization;
mod volume_binding;
mod volume_restrictions;
mod volume_zone;

use super::framework::Plugins;

/// All of them, in upstream's order.
pub static DEFAULT: Plugins = &[
    &node_unschedulable::PLUGIN,
    &node_name::PLUGIN,
    &taint_toleration::PLUGIN,
    &node_affinity::PLUGIN,
    &node_ports::PLUGIN,
    &node_resources_fit::PLUGIN,
    &volume_restrictions::PLUGIN,
    &node_volume_limits::PLUGIN,
    &volume_binding::PLUGIN,
    &volume_zone::PLUGIN,
    &pod_topology_spread::PLUGIN,
    &inter_pod_affinity::PLUGIN,
    &node_resources_balanced_allocation::PLUGIN,
    &image_locality::PLUGIN,
    &dynamic_resources::PLUGIN,
    &default_preemption::PLUGIN,
];
