//! The etcd API judged by other people's clients, and by etcd itself.
