//! Faults on real store processes, and checkers of what clients saw.
