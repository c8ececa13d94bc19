//! What a server's configuration says of its API: optional steps of admission, and how much is done at once.

use std::path::PathBuf;

use kontiki_api::fairness::Limits;
use kontiki_kinds::admission::{event_rate_limit, pod_security};
use serde::{Deserialize, Serialize};

/// The `api` part of the configuration. All servers of a cluster should say the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiOptions {
    /// Every image is pulled anew (`AlwaysPullImages`).
    pub always_pull_images: bool,
    /// Services may have no new external addresses (`DenyServiceExternalIPs`).
    pub deny_service_external_ips: bool,
    /// Pods tolerate the taints of the extended resources that they ask for (`ExtendedResourceToleration`).
    pub extended_resource_toleration: bool,
    /// Who blocks an owner's deletion may set its finalizers (`OwnerReferencesPermissionEnforcement`).
    pub owner_references_permission_enforcement: bool,
    /// How many events are taken (`EventRateLimit`); none: all.
    pub event_rate_limits: Vec<EventRateLimit>,
    /// What namespaces without labels are held to, and who is not.
    pub pod_security: PodSecurity,
    /// Requests at once that only read.
    pub max_requests_inflight: u32,
    /// Requests at once that write.
    pub max_mutating_requests_inflight: u32,
    /// How likely a request ends its HTTP/2 connection, 0 to 0.02, so that clients spread over the servers.
    pub goaway_chance: f64,
    /// Bytes that bodies of requests may take while they are worked on, all together.
    pub bytes_in_flight: usize,
    /// File that says whose tokens are believed (`AuthenticationConfiguration`); followed while the server runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication_config: Option<PathBuf>,
    /// Kubeconfig file of a webhook that is shown tokens that nobody else knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    /// Version of the reviews that it is sent: `v1` or `v1beta1`.
    pub authentication_token_webhook_version: String,
    /// Seconds for which its answers hold.
    pub authentication_token_webhook_cache_ttl: u64,
    /// File that says who decides what may be done (`AuthorizationConfiguration`); followed while the server runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization_config: Option<PathBuf>,
    /// CA of proxies that ask for others; none unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Common names in their certificates; none: any.
    pub requestheader_allowed_names: Vec<String>,
    /// Headers that name the user.
    pub requestheader_username_headers: Vec<String>,
    /// Headers that name its id.
    pub requestheader_uid_headers: Vec<String>,
    /// Headers that name its groups.
    pub requestheader_group_headers: Vec<String>,
    /// What headers with other things about it begin with.
    pub requestheader_extra_headers_prefix: Vec<String>,
}

impl Default for ApiOptions {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            always_pull_images: false,
            deny_service_external_ips: false,
            extended_resource_toleration: false,
            owner_references_permission_enforcement: false,
            event_rate_limits: Vec::new(),
            pod_security: PodSecurity::default(),
            max_requests_inflight: limits.max_requests_inflight,
            max_mutating_requests_inflight: limits.max_mutating_requests_inflight,
            goaway_chance: limits.goaway_chance,
            bytes_in_flight: limits.bytes_in_flight,
            authentication_config: None,
            authentication_token_webhook_config_file: None,
            authentication_token_webhook_version: "v1".to_owned(),
            authentication_token_webhook_cache_ttl: 120,
            authorization_config: None,
            requestheader_client_ca_file: None,
            requestheader_allowed_names: Vec::new(),
            requestheader_username_headers: vec!["X-Remote-User".to_owned()],
            requestheader_uid_headers: vec!["X-Remote-Uid".to_owned()],
            requestheader_group_headers: vec!["X-Remote-Group".to_owned()],
            requestheader_extra_headers_prefix: vec!["X-Remote-Extra-".to_owned()],
        }
    }
}

/// One limit on events.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventRateLimit {
    /// `Server`, `Namespace`, `User` or `SourceAndObject`.
    pub r#type: EventsOf,
    /// Events a second.
    pub qps: u32,
    /// Events at once.
    pub burst: u32,
    /// Namespaces, users … that are remembered; 0: 4096.
    #[serde(default)]
    pub cache_size: usize,
}

/// Whose events are counted together.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum EventsOf {
    /// Everybody's.
    Server,
    /// Those of a namespace.
    Namespace,
    /// Those of a user.
    User,
    /// Those of one reporter about one object.
    SourceAndObject,
}

/// Defaults and exemptions of Pod Security. A level is `LEVEL` or `LEVEL:VERSION`, e.g. `baseline:v1.30`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PodSecurity {
    /// What is refused where a namespace says nothing.
    pub enforce: Option<String>,
    /// What is noted there.
    pub audit: Option<String>,
    /// What clients are warned of there.
    pub warn: Option<String>,
    /// Users that may make any pod.
    pub exempt_usernames: Vec<String>,
    /// Namespaces in which any pod may be made.
    pub exempt_namespaces: Vec<String>,
    /// RuntimeClasses whose pods may do anything.
    pub exempt_runtime_classes: Vec<String>,
}

impl ApiOptions {
    /// How much is done at once.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            max_requests_inflight: self.max_requests_inflight,
            max_mutating_requests_inflight: self.max_mutating_requests_inflight,
            goaway_chance: self.goaway_chance,
            bytes_in_flight: self.bytes_in_flight,
        }
    }

    /// What the steps of admission depend on, where `seconds` is how long pods stay on a node that does not answer.
    ///
    /// # Errors
    /// The first value that cannot be used, and why.
    pub fn admission(&self, seconds: i64) -> Result<kontiki_kinds::admission::Settings, String> {
        if !(0.0..=0.02).contains(&self.goaway_chance) {
            return Err(format!("api.goaway_chance: {} is not between 0 and 0.02", self.goaway_chance));
        }
        if self.bytes_in_flight < 16 << 20 {
            return Err(format!("api.bytes_in_flight: {} is less than a few bodies take", self.bytes_in_flight));
        }
        if self.max_requests_inflight == 0 || self.max_mutating_requests_inflight == 0 {
            return Err("api.max_requests_inflight and api.max_mutating_requests_inflight must be above 0".to_owned());
        }
        let version = self.authentication_token_webhook_version.as_str();
        if !matches!(version, "v1" | "v1beta1") {
            return Err(format!("api.authentication_token_webhook_version: {version:?} is neither v1 nor v1beta1"));
        }
        Ok(kontiki_kinds::admission::Settings {
            default_toleration_seconds: seconds,
            pod_security: self.pod_security.settings()?,
            always_pull_images: self.always_pull_images,
            deny_service_external_ips: self.deny_service_external_ips,
            extended_resource_toleration: self.extended_resource_toleration,
            owner_references: self.owner_references_permission_enforcement,
            event_rate_limits: self.event_rate_limits.iter().map(EventRateLimit::limit).collect(),
        })
    }
}

impl EventRateLimit {
    fn limit(&self) -> event_rate_limit::Limit {
        let per = match self.r#type {
            EventsOf::Server => event_rate_limit::Per::Server,
            EventsOf::Namespace => event_rate_limit::Per::Namespace,
            EventsOf::User => event_rate_limit::Per::User,
            EventsOf::SourceAndObject => event_rate_limit::Per::SourceAndObject,
        };
        event_rate_limit::Limit { per, qps: self.qps, burst: self.burst, cache_size: self.cache_size }
    }
}

impl PodSecurity {
    fn settings(&self) -> Result<pod_security::Settings, String> {
        let level = |name: &str, text: &Option<String>| match text {
            None => Ok(pod_security::LevelVersion::default()),
            Some(text) => pod_security::LevelVersion::parse(text)
                .ok_or_else(|| format!("api.pod_security.{name}: {text:?} is not a level such as \"baseline:latest\"")),
        };
        Ok(pod_security::Settings {
            defaults: pod_security::Policy {
                enforce: level("enforce", &self.enforce)?,
                audit: level("audit", &self.audit)?,
                warn: level("warn", &self.warn)?,
            },
            usernames: self.exempt_usernames.clone(),
            namespaces: self.exempt_namespaces.clone(),
            runtime_classes: self.exempt_runtime_classes.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let read = |text: &str| serde_yaml_ng::from_str::<ApiOptions>(text).map_err(|error| error.to_string());
        for (text, expect) in [
            ("always_pull_images: true", ""),
            ("event_rate_limits: [{type: User, qps: 5, burst: 10}]", ""),
            ("pod_security: {enforce: 'baseline:v1.30', exempt_namespaces: [kube-system]}", ""),
            ("pod_security: {warn: odd}", "api.pod_security.warn: \"odd\" is not a level"),
            ("goaway_chance: 0.5", "api.goaway_chance: 0.5 is not between"),
            ("bytes_in_flight: 1000", "api.bytes_in_flight: 1000 is less"),
            ("max_requests_inflight: 0", "api.max_requests_inflight and"),
            ("authentication_config: /etc/kontiki/authentication.yaml", ""),
            ("authentication_token_webhook_version: v2", "api.authentication_token_webhook_version: \"v2\" is neither"),
            ("sometimes_pull_images: true", "unknown field"),
        ] {
            let found = read(text).and_then(|options| options.admission(300).map(|_| ()));
            match found {
                Ok(()) => assert_eq!(expect, "", "{text}"),
                Err(why) => assert!(!expect.is_empty() && why.contains(expect), "{text}: {why}"),
            }
        }
    }
}
