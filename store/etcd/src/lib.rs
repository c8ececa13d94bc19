//! etcd's v3 API over the store.
