//! The issuer URL: what an `iss` may look like, so that every verifier finds the keys below it.

use std::fmt;
use std::str::FromStr;

/// An issuer identifier (RFC 8414, section 2): a URL that verifiers compare byte by byte, so it is kept as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerUrl {
    text: String,
    path_at: usize,
}

impl IssuerUrl {
    /// The URL, as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its path: empty, or `/…` without a slash at the end. Letters, digits, `-`, `.`, `_`, `~` and `/` alone, so it
    /// can be a route.
    pub fn path(&self) -> &str {
        &self.text[self.path_at..]
    }
}

impl fmt::Display for IssuerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

// The schema of a ledger entry bounds `issuer`; a longer one would be refused by the API server at each issue.
const ISSUER_LENGTH: usize = 512;

impl FromStr for IssuerUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let rest = rest.ok_or("must start with https:// (or http:// for trying it out)")?;
        if text.len() > ISSUER_LENGTH {
            return Err("must be at most 512 characters long");
        }
        if text.contains(['?', '#']) {
            return Err("must not have a query or a fragment; remove '?' or '#' and what follows");
        }
        if text.ends_with('/') {
            return Err("must not end with a slash; remove it (verifiers compare the issuer byte by byte)");
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let valid = authority.parse::<http::uri::Authority>().is_ok_and(|authority| !authority.host().is_empty());
        if !valid || authority.contains('@') {
            return Err("must name a host, without user or password, for example https://va.example.com");
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let segment = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(plain);
        if !path.split('/').skip(1).all(segment) {
            return Err(
                "may have a path of letters, digits, '-', '.', '_' and '~' only, without empty or dot segments",
            );
        }
        Ok(Self { path_at: text.len() - path.len(), text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuer_urls_are_kept_exactly_or_refused() {
        for (url, path) in [
            ("https://va.example.com", ""),
            ("http://127.0.0.1:8080", ""),
            ("https://[::1]:8443/a", "/a"),
            ("https://Example.com/tenants/a.b~c", "/tenants/a.b~c"),
        ] {
            let issuer: IssuerUrl = url.parse().unwrap();
            assert_eq!((issuer.as_str(), issuer.path()), (url, path));
        }
        let long = format!("https://va.example.com/{}", "a".repeat(512));
        for url in [
            "",
            "va.example.com",
            "https://",
            "https:///a",
            "https://:80",
            "https://a b",
            "https://va.example.com/",
            "https://va.example.com/a/",
            "https://va.example.com/a//b",
            "https://va.example.com/a/../b",
            "https://va.example.com/{a}",
            "https://va.example.com/*a",
            "https://va.example.com/:a",
            "https://va.example.com/%41",
            "https://va.example.com?a",
            "https://va.example.com#a",
            "https://u:p@va.example.com",
            &long,
        ] {
            assert!(url.parse::<IssuerUrl>().is_err(), "{url}");
        }
    }
}
