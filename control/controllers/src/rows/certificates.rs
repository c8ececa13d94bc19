//! CertificateSigningRequests: three controllers that look at the same thing.

use std::marker::PhantomData;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kontiki_api::{Api, x509};
use kontiki_cache::Informer;
use kontiki_plan::Plan;
use kontiki_plan::certificates::{Asked, approve, clean, sign};
use kontiki_plan::key::Name;

use crate::controller::{Context, Controller, Inputs, NoFailure};

/// What one of the three does.
pub(crate) trait Duty: Send + Sync + 'static {
    const NAME: &'static str;

    fn plan(view: &View, now: Timestamp) -> Plan;
}

pub(crate) struct Approving;

impl Duty for Approving {
    const NAME: &'static str = "certificatesigningrequest-approving";

    fn plan(view: &View, _: Timestamp) -> Plan {
        approve::plan(&view.csr, view.asked().as_ref())
    }
}

pub(crate) struct Signing;

impl Duty for Signing {
    const NAME: &'static str = "certificatesigningrequest-signing";

    fn plan(view: &View, _: Timestamp) -> Plan {
        sign::plan(&view.csr, view.asked().as_ref())
    }
}

pub(crate) struct Cleaning;

impl Duty for Cleaning {
    const NAME: &'static str = "certificatesigningrequest-cleaner";

    fn plan(view: &View, now: Timestamp) -> Plan {
        clean::plan(&view.csr, view.expires(), now)
    }
}

pub(crate) struct Certificates<D> {
    requests: Informer<CertificateSigningRequest>,
    duty: PhantomData<fn() -> D>,
}

/// A request.
pub(crate) struct View {
    csr: Arc<CertificateSigningRequest>,
}

impl View {
    /// What its bytes ask for; `None` if they cannot be read.
    fn asked(&self) -> Option<Asked> {
        let der = x509::request_block(&self.csr.spec.request.0).ok()?;
        let subject = x509::Subject::of(&x509::request(&der).ok()?);
        Some(Asked {
            common_name: subject.common_name,
            organizations: subject.organizations,
            dns: subject.dns.len(),
            emails: subject.emails,
            ips: subject.ips,
            uris: subject.uris,
        })
    }

    /// When the certificate that was issued for it expires.
    fn expires(&self) -> Option<Timestamp> {
        let pem = self.csr.status.as_ref()?.certificate.as_ref()?;
        let block = x509::blocks(&pem.0).into_iter().next()?;
        let seconds = x509::certificate(&block.bytes)?.validity().not_after.timestamp();
        Timestamp::from_second(seconds).ok()
    }
}

impl<D: Duty> Controller for Certificates<D> {
    const NAME: &'static str = D::NAME;
    const WORKERS: usize = 2;
    type Key = Name;
    type View = View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        Self { requests: api.cache().get(), duty: PhantomData }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on_own(&self.requests);
    }

    fn view(&self, key: &Name, _: &Context<'_, NoFailure>) -> Option<View> {
        Some(View { csr: self.requests.get(None, key.as_str())? })
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        D::plan(view, now)
    }
}
