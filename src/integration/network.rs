//! Where the calls of an integration may go. A tenant chooses the URL, so it is never followed to the operator's own machine or to the
//! cloud's metadata service: not as a literal, not through DNS, not by a redirect.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Url};

use super::{ErrorKind, ProviderError};

/// What calls may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// `--allow-local-endpoints`: loopback, link-local and metadata addresses too, and plain http. For tests.
    pub allow_local: bool,
    /// Plain http is allowed, elsewhere too (`allowInsecure` of a channel).
    pub allow_http: bool,
    /// How long a call may take.
    pub timeout: Duration,
}

impl Network {
    /// A URL that a tenant chose, if it may be followed.
    pub fn endpoint(&self, url: &str) -> Result<Url, ProviderError> {
        let invalid =
            |message: &str| ProviderError::new(ErrorKind::Invalid, "InvalidEndpoint", format!("{url}: {message}"));
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
        if parsed.scheme() != "https" && !(self.allow_http && parsed.scheme() == "http") {
            return Err(invalid("must begin with https://"));
        }
        if literal.is_some_and(is_local) {
            return Err(invalid("is a loopback, link-local or metadata address, which integrations may not use"));
        }
        Ok(parsed)
    }

    /// A client that trusts these certificates (PEM) alone, or else the machine's.
    pub fn client(&self, ca_bundle: Option<&str>) -> Result<Client, ProviderError> {
        let mut builder = Client::builder().redirect(Policy::none()).timeout(self.timeout).no_proxy();
        if !self.allow_local {
            builder = builder.dns_resolver(Arc::new(Elsewhere)).https_only(!self.allow_http);
        }
        let invalid = |error: reqwest::Error| {
            ProviderError::new(ErrorKind::Invalid, "InvalidCaBundle", format!("the caBundle cannot be used: {error}"))
        };
        if let Some(pem) = ca_bundle {
            let certificates = Certificate::from_pem_bundle(pem.as_bytes()).map_err(invalid)?;
            builder = builder.tls_certs_only(certificates);
        }
        builder.build().map_err(invalid)
    }
}

/// Resolves names by the system, and hides addresses that integrations may not use.
struct Elsewhere;

impl Resolve for Elsewhere {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move { Ok(Box::new(resolve(name.as_str()).await?.into_iter()) as Addrs) })
    }
}

/// The addresses of a name, by the system, without those that integrations may not use.
pub async fn resolve(name: &str) -> Result<Vec<SocketAddr>, Box<dyn Error + Send + Sync>> {
    let found = tokio::net::lookup_host((name, 0)).await?;
    Ok(allowed(name, found.collect())?)
}

fn allowed(name: &str, mut found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, ProviderError> {
    if found.is_empty() {
        return Err(ProviderError::new(ErrorKind::Unavailable, "Unreachable", format!("{name} has no address")));
    }
    found.retain(|address| !is_local(address.ip()));
    if found.is_empty() {
        let message =
            format!("{name} leads to loopback, link-local or metadata addresses, which integrations may not use");
        return Err(ProviderError::new(ErrorKind::Invalid, "InvalidEndpoint", message));
    }
    Ok(found)
}

/// What we found wrong with a name or an address ourselves, if that is why a request failed.
pub fn refusal(error: &(dyn Error + 'static)) -> Option<ProviderError> {
    let mut cause = Some(error);
    while let Some(this) = cause {
        if let Some(refusal) = this.downcast_ref::<ProviderError>() {
            return Some(refusal.clone());
        }
        cause = this.source();
    }
    None
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
    let [first, second, third, _, _, _, seventh, eighth] = ip.segments();
    // Metadata services on unique local addresses: those of AWS (fd00:ec2::254, and fd00:ec2::23 for pods), and Google's.
    let metadata = (first, second) == (0xfd00, 0xec2) || (first, second) == (0xfd20, 0xce);
    // IPv4 inside: compatible (::/96), NAT64 (64:ff9b::/96) and 6to4 (2002::/16).
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_local_v4(Ipv4Addr::new(a, b, c, d))
    };
    let compatible = ip.segments()[..6] == [0; 6] && embedded(seventh, eighth);
    let nat64 = (first, second) == (0x64, 0xff9b) && embedded(seventh, eighth);
    let six_to_four = first == 0x2002 && embedded(second, third);
    ip.is_loopback()
        || ip.is_unspecified()
        || ip.is_multicast()
        || ip.is_unicast_link_local()
        || metadata
        || compatible
        || nat64
        || six_to_four
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_and_metadata_addresses_are_hidden_in_every_form() {
        for local in [
            "127.0.0.1",
            "0.0.0.0",
            "169.254.169.254",
            "168.63.129.16",
            "100.100.100.200",
            "224.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
        ] {
            assert!(is_local(local.parse().unwrap()), "{local}");
        }
        for other in ["10.0.0.1", "192.168.1.1", "100.64.0.1", "8.8.8.8", "fd12::1", "2001:db8::1", "64:ff9b::808:808"]
        {
            assert!(!is_local(other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn a_name_without_an_address_may_get_one_and_one_that_leads_home_is_refused() {
        let kind = |found: &[&str]| {
            let found = found.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 0)).collect();
            allowed("in.example.com", found).map(|found| found.len()).map_err(|error| error.kind)
        };
        assert_eq!(kind(&[]), Err(ErrorKind::Unavailable));
        assert_eq!(kind(&["127.0.0.1", "::1"]), Err(ErrorKind::Invalid));
        assert_eq!(kind(&["127.0.0.1", "10.0.0.1"]), Ok(1));
    }

    #[test]
    fn endpoints_are_https_and_elsewhere_unless_tests_say_so() {
        let network = |allow_local| Network { allow_local, allow_http: false, timeout: Duration::from_secs(1) };
        for url in ["http://vault.example.com", "https://127.0.0.1:8200", "https://[::1]", "ftp://vault", "not a url"] {
            assert_eq!(network(false).endpoint(url).unwrap_err().reason, "InvalidEndpoint", "{url}");
        }
        assert!(network(false).endpoint("https://vault.example.com:8200").is_ok());
        assert!(network(true).endpoint("http://127.0.0.1:8200").is_ok());
        let plain = Network { allow_http: true, ..network(false) };
        assert!(plain.endpoint("http://hooks.example.com").is_ok());
        for url in ["http://127.0.0.1", "http://169.254.169.254", "ftp://hooks.example.com"] {
            assert!(plain.endpoint(url).is_err(), "{url}");
        }
    }
}
