//! Values of Kubernetes' own types.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use kontiki_model::amount::Amount;

use super::authz;
use super::named::Format;
use super::semver::Semver;
use super::url::Url;
use crate::value::{EvalError, NO_OVERLOAD};

/// A range of addresses as it was given: its address may have bits beyond the prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cidr {
    pub address: IpAddr,
    pub bits: u8,
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// A quantity, and the power of ten of upstream's inner number; `None` where upstream keeps a long decimal.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    pub amount: Amount,
    pub scale: Option<i32>,
}

/// A value of one of Kubernetes' types.
#[derive(Clone)]
pub enum Extension {
    Url(Arc<Url>),
    Ip(IpAddr),
    Cidr(Cidr),
    Quantity(Quantity),
    Semver(Arc<Semver>),
    Format(&'static Format),
    Authorizer(authz::Subject),
    PathCheck(Arc<authz::PathCheck>),
    GroupCheck(Arc<authz::GroupCheck>),
    ResourceCheck(Arc<authz::ResourceCheck>),
    Decision(Arc<authz::Decision>),
}

impl Extension {
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Url(_) => "kubernetes.URL",
            Self::Ip(_) => "net.IP",
            Self::Cidr(_) => "net.CIDR",
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Semver(_) => "kubernetes.Semver",
            Self::Format(_) => "kubernetes.NamedFormat",
            Self::Authorizer(_) => "kubernetes.authorization.Authorizer",
            Self::PathCheck(_) => "kubernetes.authorization.PathCheck",
            Self::GroupCheck(_) => "kubernetes.authorization.GroupCheck",
            Self::ResourceCheck(_) => "kubernetes.authorization.ResourceCheck",
            Self::Decision(_) => "kubernetes.authorization.Decision",
        }
    }

    /// What `size()` answers: bytes of an address, or of a prefix.
    pub(crate) fn length(&self) -> Option<i64> {
        Some(match self {
            Self::Ip(IpAddr::V4(_)) => 4,
            Self::Ip(IpAddr::V6(_)) => 16,
            Self::Cidr(cidr) => i64::from(cidr.bits.div_ceil(8)),
            _ => return None,
        })
    }

    pub(crate) fn size(&self) -> u64 {
        self.length().map_or(1, i64::unsigned_abs)
    }

    /// # Errors
    /// They are not of one type, or of one that does not compare.
    pub(crate) fn same(&self, other: &Self) -> Result<bool, EvalError> {
        Ok(match (self, other) {
            (Self::Url(a), Self::Url(b)) => a.text == b.text,
            (Self::Ip(a), Self::Ip(b)) => a == b,
            (Self::Cidr(a), Self::Cidr(b)) => a == b,
            (Self::Quantity(a), Self::Quantity(b)) => a.amount == b.amount,
            (Self::Semver(a), Self::Semver(b)) => a.order(b).is_eq(),
            (Self::Format(a), Self::Format(b)) => a.title == b.title,
            _ => return Err(NO_OVERLOAD),
        })
    }
}
