//! The headers that a channel adds to each event. Their values are credentials.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::api::WebhookHeader;
use crate::integration::{ErrorKind, Identity, ProviderError};

/// What describes the event and what belongs to the connection (RFC 9110, section 7.6.1) is not the channel's.
const RESERVED: [&str; 11] = [
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Those of Standard Webhooks, now and later.
const RESERVED_PREFIX: &str = "webhook-";

/// Names from the specification, values from Secrets.
pub(super) async fn read(headers: &[WebhookHeader], identity: &dyn Identity) -> Result<HeaderMap, ProviderError> {
    let mut read = HeaderMap::new();
    for header in headers {
        let name = name(&header.name)?;
        let text = identity.secret(&header.value_ref).await?;
        let value = Some(text.expose()).filter(|text| text.is_ascii()).map(HeaderValue::from_str);
        let mut value = value.and_then(Result::ok).ok_or_else(|| unfit(&name))?;
        value.set_sensitive(true);
        if read.insert(&name, value).is_some() {
            return Err(invalid(name.as_str(), "is there twice; names do not differ by case"));
        }
    }
    Ok(read)
}

fn name(text: &str) -> Result<HeaderName, ProviderError> {
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| invalid(text, "is no name of a header"))?;
    if RESERVED.contains(&name.as_str()) || name.as_str().starts_with(RESERVED_PREFIX) {
        return Err(invalid(text, "is set by the operator itself; remove it"));
    }
    Ok(name)
}

fn invalid(name: &str, why: &str) -> ProviderError {
    ProviderError::new(ErrorKind::Invalid, "InvalidHeader", format!("{name} in spec.webhook.headers {why}"))
}

fn unfit(name: &HeaderName) -> ProviderError {
    let message = format!(
        "the Secret of {name} in spec.webhook.headers has line ends or other characters that no header may have; write \
         the value as one line of ASCII"
    );
    ProviderError::new(ErrorKind::Denied, "InvalidHeaderValue", message)
}
