//! Where a store's calls may go. A tenant chooses the URL, so it is never followed to the operator's own machine or to the
//! cloud's metadata service: not as a literal, not through DNS, not by a redirect.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Url};

use super::{ErrorKind, StoreError};

/// What calls may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// `--allow-local-endpoints`: loopback, link-local and metadata addresses too, and plain http. For tests.
    pub allow_local: bool,
    /// How long a call may take.
    pub timeout: Duration,
}

impl Network {
    /// A URL that a tenant chose, if it may be followed.
    pub fn endpoint(&self, url: &str) -> Result<Url, StoreError> {
        let invalid =
            |message: &str| StoreError::new(ErrorKind::Invalid, "InvalidEndpoint", format!("{url}: {message}"));
        let parsed = Url::parse(url).map_err(|error| invalid(&error.to_string()))?;
        let literal = match parsed.host() {
            Some(url::Host::Ipv4(ip)) => Some(IpAddr::V4(ip)),
            Some(url::Host::Ipv6(ip)) => Some(IpAddr::V6(ip)),
            Some(url::Host::Domain(_)) => None,
            None => return Err(invalid("has no host")),
        };
        if self.allow_local {
            return Ok(parsed);
        }
        if parsed.scheme() != "https" {
            return Err(invalid("must begin with https://"));
        }
        if literal.is_some_and(is_local) {
            return Err(invalid("is a loopback, link-local or metadata address, which stores may not use"));
        }
        Ok(parsed)
    }

    /// A client that trusts these certificates (PEM) alone, or else the machine's.
    pub fn client(&self, ca_bundle: Option<&str>) -> Result<Client, StoreError> {
        let mut builder = Client::builder().redirect(Policy::none()).timeout(self.timeout).no_proxy();
        if !self.allow_local {
            builder = builder.dns_resolver(Arc::new(Elsewhere)).https_only(true);
        }
        let invalid = |error: reqwest::Error| {
            StoreError::new(ErrorKind::Invalid, "InvalidCaBundle", format!("the caBundle cannot be used: {error}"))
        };
        if let Some(pem) = ca_bundle {
            let certificates = Certificate::from_pem_bundle(pem.as_bytes()).map_err(invalid)?;
            builder = builder.tls_certs_only(certificates);
        }
        builder.build().map_err(invalid)
    }
}

/// Resolves names by the system, and hides addresses that stores may not use.
struct Elsewhere;

impl Resolve for Elsewhere {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move { Ok(Box::new(resolve(name.as_str()).await?.into_iter()) as Addrs) })
    }
}

/// The addresses of a name, by the system, without those that stores may not use.
pub(super) async fn resolve(name: &str) -> Result<Vec<SocketAddr>, Box<dyn Error + Send + Sync>> {
    let found = tokio::net::lookup_host((name, 0)).await?;
    let allowed: Vec<SocketAddr> = found.filter(|address| !is_local(address.ip())).collect();
    if allowed.is_empty() {
        let message = format!("{name} leads to loopback, link-local or metadata addresses, which stores may not use");
        return Err(StoreError::new(ErrorKind::Invalid, "InvalidEndpoint", message).into());
    }
    Ok(allowed)
}

/// Loopback, link-local (the metadata services of AWS, Azure and Google among them), unspecified, multicast, and the
/// metadata addresses that are not link-local.
pub fn is_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_local_v4(ip),
        IpAddr::V6(ip) => ip.to_ipv4_mapped().map_or_else(|| is_local_v6(ip), is_local_v4),
    }
}

fn is_local_v4(ip: Ipv4Addr) -> bool {
    // 168.63.129.16: Azure's host agent. 100.100.100.200: Alibaba Cloud's metadata.
    let metadata = [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200)];
    ip.is_loopback()
        || ip.is_link_local()
        || ip.is_unspecified()
        || ip.is_multicast()
        || ip.is_broadcast()
        || ip.octets()[0] == 0
        || metadata.contains(&ip)
}

fn is_local_v6(ip: Ipv6Addr) -> bool {
    // AWS' metadata service over IPv6 is a unique local address.
    let metadata = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local() || ip == metadata
}
