//! Large documents that are made once: OpenAPI.

use std::sync::OnceLock;

use bytes::Bytes;
use kontiki_kinds::openapi;
use serde_json::Value;

/// OpenAPI documents as bytes, made when first asked for.
#[derive(Default)]
pub(crate) struct Documents {
    v2: OnceLock<Bytes>,
    index: OnceLock<Bytes>,
}

fn bytes(value: &Value) -> Bytes {
    serde_json::to_vec(value).expect("a Value is JSON").into()
}

impl Documents {
    /// `version` is the server's; it does not change while it runs.
    pub fn openapi_v2(&self, version: &str) -> Bytes {
        self.v2.get_or_init(|| bytes(&openapi::v2(version))).clone()
    }

    pub fn openapi_v3_index(&self) -> Bytes {
        self.index.get_or_init(|| bytes(&openapi::v3_index())).clone()
    }

    /// The document at `path` (`api/v1`, `apis/apps/v1`).
    pub fn openapi_v3(path: &str) -> Option<Bytes> {
        openapi::v3_text(path).map(|text| Bytes::from_static(text.as_bytes()))
    }
}
