//! Who may approve and sign requests for certificates: whoever may `approve` or `sign` the `signers` resource of that
//! name. And nobody becomes an administrator by a certificate that a signer gives to anybody.

use jiff::{SignedDuration, Timestamp};
use kontiki_machinery::{
    Bad, FieldError,
    access::Question,
    admission::{Lookup, Need, Operation, Request, Step},
};
use kontiki_model::GroupResource;
use serde_json::Value;

use crate::{
    Status,
    rows::{
        certificates::{self, signers, x509},
        value::{get, text},
    },
};

const GROUP: &str = "certificates.k8s.io";
const REQUESTS: GroupResource<'static> = GroupResource { group: GROUP, resource: "certificatesigningrequests" };
const POD_REQUESTS: GroupResource<'static> = GroupResource { group: GROUP, resource: "podcertificaterequests" };

/// Whether this is an update of a subresource.
fn updates(request: &Request<'_>, resource: GroupResource<'_>, sub: &str) -> bool {
    request.operation == Operation::Update
        && request.def.group_resource() == resource
        && request.sub.is_some_and(|written| written == sub)
}

/// The permission to do something in the name of the signer of the object as it was.
fn need(request: &Request<'_>, verb: &str, refusal: impl FnOnce(&str) -> Status) -> Need {
    let signer = request.old.map_or("", |old| text(get(old, "spec"), "signerName"));
    let domain = signer.split('/').next().unwrap_or_default();
    let question = |name: String| Question {
        verb: verb.to_owned(),
        group: GROUP.to_owned(),
        resource: "signers".to_owned(),
        name,
        ..Question::default()
    };
    Need { any_of: vec![question(signer.to_owned()), question(format!("{domain}/*"))], refusal: refusal(signer) }
}

pub(super) struct CertificateApproval;

impl Step for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn needs(&self, request: &Request<'_>, object: &Value) -> Vec<Need> {
        if !updates(request, REQUESTS, "approval") {
            return Vec::new();
        }
        let refusal = |signer: &str| {
            request.forbid(object, format!("user not permitted to approve requests with signerName \"{signer}\""))
        };
        vec![need(request, "approve", refusal)]
    }
}

pub(super) struct CertificateSigning;

/// How far the beginning of a pod's certificate may be from the present.
const SKEW: SignedDuration = SignedDuration::from_mins(5);

impl Step for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn needs(&self, request: &Request<'_>, object: &Value) -> Vec<Need> {
        let changed = |field: &str| {
            let old = request.old.map_or(&Value::Null, |old| get(get(old, "status"), field));
            get(get(object, "status"), field) != old
        };
        if updates(request, REQUESTS, "status") && (changed("certificate") || changed("conditions")) {
            let refusal = |signer: &str| {
                request.forbid(object, format!("user not permitted to sign requests with signerName \"{signer}\""))
            };
            return vec![need(request, "sign", refusal)];
        }
        // Upstream's kind asks this itself.
        let whole = request.old.map_or(&Value::Null, |old| get(old, "status"));
        if updates(request, POD_REQUESTS, "status") && get(object, "status") != whole {
            let user = &request.user.name;
            let refusal = |signer: &str| {
                let why = format!("User \"{user}\" is not permitted to \"sign\" for signer \"{signer}\"");
                invalid(request, object, FieldError::forbidden("spec.signerName", why))
            };
            return vec![need(request, "sign", refusal)];
        }
        Vec::new()
    }

    fn validate(&self, request: &Request<'_>, object: &Value, cluster: &mut dyn Lookup) -> Result<(), Status> {
        if !updates(request, POD_REQUESTS, "status") {
            return Ok(());
        }
        let (status, before) =
            (get(object, "status"), request.old.map_or("", |old| text(get(old, "status"), "notBefore")));
        let begins = text(status, "notBefore");
        if begins.is_empty() || begins == before || is_near(begins, cluster.now()) {
            return Ok(());
        }
        let why = "must be set to within 5 minutes of kube-apiserver's current time";
        Err(invalid(request, object, FieldError::invalid("status.notBefore", Bad::from(begins), why)))
    }
}

fn is_near(moment: &str, now: Timestamp) -> bool {
    moment.parse::<Timestamp>().is_ok_and(|moment| moment.duration_since(now).abs() < SKEW)
}

fn invalid(request: &Request<'_>, object: &Value, error: FieldError) -> Status {
    Status::invalid(&request.def.group, &request.def.kind, text(get(object, "metadata"), "name"), &[error])
}

pub(super) struct CertificateSubjectRestriction;

/// Groups of administrators, and of the masters themselves.
const GREAT: [&str; 2] = ["system:masters", "kontiki:servers"];

impl Step for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn validate(&self, request: &Request<'_>, object: &Value, _cluster: &mut dyn Lookup) -> Result<(), Status> {
        let spec = get(object, "spec");
        if !request.creates() || !request.is(REQUESTS) || text(spec, "signerName") != signers::API_CLIENT {
            return Ok(());
        }
        let der = x509::request_block(&certificates::bytes(spec, "request"));
        let subject = der.and_then(|der| Ok(x509::Subject::of(&x509::request(&der)?)));
        let subject = subject.map_err(|why| request.forbid(object, format!("failed to parse CSR: {why}")))?;
        if let Some(group) = subject.organizations.iter().find(|group| GREAT.contains(&group.as_str())) {
            let signer = signers::API_CLIENT;
            let why = format!("use of {signer} signer with {group} group is not allowed");
            return Err(request.forbid(object, why));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use kontiki_machinery::access::User;
    use serde_json::json;

    use super::*;
    use crate::{ResourceDef, rows};

    fn row(plural: &str) -> ResourceDef {
        rows::certificates::defs().into_iter().find(|def| def.plural == plural).expect("a row")
    }

    fn asked(def: &ResourceDef, sub: Option<&str>, object: &Value, step: &dyn Step) -> Vec<String> {
        let old = json!({"metadata": {"name": "a"}, "spec": {"signerName": "example.com/s"}, "status": {}});
        let user = User::new("u", &[]);
        let request = Request {
            operation: Operation::Update,
            user: &user,
            def,
            sub,
            namespace: None,
            name: "",
            old: Some(&old),
            dry_run: false,
        };
        let needs = step.needs(&request, object);
        needs.into_iter().flat_map(|need| need.any_of).map(|asked| format!("{} {}", asked.verb, asked.name)).collect()
    }

    #[test]
    fn signers_decide_by_the_name_that_a_request_had() {
        let (requests, pods) = (row("certificatesigningrequests"), row("podcertificaterequests"));
        let object = |status: Value| json!({"spec": {"signerName": "other.com/t"}, "status": status});
        let both = |verb: &str| vec![format!("{verb} example.com/s"), format!("{verb} example.com/*")];
        for (what, def, sub, status, step, expect) in [
            ("approves", &requests, Some("approval"), json!({}), &CertificateApproval as &dyn Step, both("approve")),
            ("labels", &requests, None, json!({}), &CertificateApproval, vec![]),
            ("signs", &requests, Some("status"), json!({"certificate": "AAEC"}), &CertificateSigning, both("sign")),
            ("same", &requests, Some("status"), json!({}), &CertificateSigning, vec![]),
            ("a pod's", &pods, Some("status"), json!({"conditions": []}), &CertificateSigning, both("sign")),
        ] {
            assert_eq!(asked(def, sub, &object(status), step), expect, "{what}");
        }
    }

    #[test]
    fn certificates_begin_now() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        for (moment, near) in
            [("2026-01-01T00:04:59Z", true), ("2025-12-31T23:54:00Z", false), ("2026-01-01T00:05:00Z", false)]
        {
            assert_eq!(is_near(moment, now), near, "{moment}");
        }
    }
}
