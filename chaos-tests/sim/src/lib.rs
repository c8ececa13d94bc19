//! The store on virtual time, with a simulated network and disk.
