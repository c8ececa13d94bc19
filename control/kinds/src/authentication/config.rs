//! What the file may say.

use serde::Deserialize;

use crate::options::Shape::{self, Fields, List, Plain};

pub(super) const KIND: &str = "AuthenticationConfiguration";

const PREFIXED: Shape = Fields(&[("claim", Plain), ("prefix", Plain), ("expression", Plain)]);

pub(super) const SHAPE: Shape = Fields(&[
    (
        "jwt",
        List(&Fields(&[
            (
                "issuer",
                Fields(&[
                    ("url", Plain),
                    ("discoveryURL", Plain),
                    ("certificateAuthority", Plain),
                    ("audiences", Plain),
                    ("audienceMatchPolicy", Plain),
                    ("egressSelectorType", Plain),
                ]),
            ),
            (
                "claimValidationRules",
                List(&Fields(&[("claim", Plain), ("requiredValue", Plain), ("expression", Plain), ("message", Plain)])),
            ),
            (
                "claimMappings",
                Fields(&[
                    ("username", PREFIXED),
                    ("groups", PREFIXED),
                    ("uid", Fields(&[("claim", Plain), ("expression", Plain)])),
                    ("extra", List(&Fields(&[("key", Plain), ("valueExpression", Plain)]))),
                ]),
            ),
            ("userValidationRules", List(&Fields(&[("expression", Plain), ("message", Plain)]))),
        ])),
    ),
    ("anonymous", Fields(&[("enabled", Plain), ("conditions", List(&Fields(&[("path", Plain)])))])),
]);

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct File {
    pub jwt: Vec<Jwt>,
    pub anonymous: Option<Anonymous>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Anonymous {
    pub enabled: bool,
    pub conditions: Vec<Condition>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Condition {
    pub path: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Jwt {
    pub issuer: Issuer,
    pub claim_validation_rules: Vec<ClaimRule>,
    pub claim_mappings: Mappings,
    pub user_validation_rules: Vec<UserRule>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Issuer {
    pub url: String,
    #[serde(rename = "discoveryURL")]
    pub discovery_url: String,
    pub certificate_authority: String,
    pub audiences: Vec<String>,
    pub audience_match_policy: String,
    pub egress_selector_type: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ClaimRule {
    pub claim: String,
    pub required_value: String,
    pub expression: String,
    pub message: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Mappings {
    pub username: Mapping,
    pub groups: Mapping,
    pub uid: Mapping,
    pub extra: Vec<Extra>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Mapping {
    pub claim: String,
    pub prefix: Option<String>,
    pub expression: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Extra {
    pub key: String,
    pub value_expression: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct UserRule {
    pub expression: String,
    pub message: String,
}
