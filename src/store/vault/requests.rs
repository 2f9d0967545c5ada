//! The requests that vaultrs does not have, and what a mount must be.

use std::collections::BTreeMap;

use rustify::Endpoint;
use rustify::enums::{RequestMethod, RequestType, ResponseType};
use rustify::errors::ClientError;
use serde::Deserialize;
use serde_json::json;

use super::super::{ErrorKind, Mark, ProviderError};
use super::transport::MOUNT_NOT_FOUND;

/// Adds the mark to a secret's custom metadata, other keys kept. Nothing is created where nothing is.
pub(super) struct SetMark {
    path: String,
    pairs: BTreeMap<&'static str, String>,
}

impl SetMark {
    pub(super) fn new(mount: &str, name: &str, mark: &Mark) -> Self {
        Self { path: format!("{mount}/metadata/{name}"), pairs: mark.pairs().into() }
    }
}

impl Endpoint for SetMark {
    type Response = serde_json::Value;
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        self.path.clone()
    }

    fn method(&self) -> RequestMethod {
        RequestMethod::PATCH
    }

    fn body(&self) -> Result<Option<Vec<u8>>, ClientError> {
        Ok(Some(json!({"custom_metadata": self.pairs}).to_string().into_bytes()))
    }
}

/// What is mounted somewhere. Vault answers whoever may do anything there, whatever else the policy says.
pub(super) struct ReadMount {
    pub(super) mount: String,
}

/// What is mounted.
#[derive(Debug, Deserialize)]
pub(super) struct Mount {
    #[serde(rename = "type")]
    kind: String,
    options: Option<BTreeMap<String, String>>,
}

impl Endpoint for ReadMount {
    type Response = Mount;
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        format!("sys/internal/ui/mounts/{}", self.mount)
    }

    fn method(&self) -> RequestMethod {
        RequestMethod::GET
    }
}

/// Refuses all but a KV engine of version 2.
pub(super) fn is_kv2(name: &str, mount: &Mount) -> Result<(), ProviderError> {
    let version = mount.options.as_ref().and_then(|options| options.get("version")).map(String::as_str);
    let found = match (mount.kind.as_str(), version) {
        ("kv", Some("2")) => return Ok(()),
        ("kv" | "generic", _) => "a KV engine of version 1".to_owned(),
        (kind, _) => format!("an engine of type {kind}"),
    };
    let message = format!("{name} is {found}: spec.hashicorpVault.mount must name a KV engine of version 2");
    Err(ProviderError::new(ErrorKind::Invalid, "WrongEngine", message))
}

/// Vault does not tell the two apart.
pub(super) fn no_mount(name: &str) -> ProviderError {
    let message = format!(
        "nothing is mounted at {name}, or the policy grants nothing there: see spec.hashicorpVault.mount and the policy"
    );
    ProviderError::new(ErrorKind::NotFound, MOUNT_NOT_FOUND, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_kv_engine_of_version_2_will_do() {
        let check = |mount| {
            let mount: Mount = serde_json::from_value(mount).unwrap();
            is_kv2("secret", &mount).map_err(|error| error.message)
        };
        assert_eq!(check(json!({"type": "kv", "options": {"version": "2"}})), Ok(()));
        let cases = [
            (json!({"type": "kv", "options": {"version": "1"}}), "secret is a KV engine of version 1"),
            (json!({"type": "kv", "options": null}), "secret is a KV engine of version 1"),
            (json!({"type": "pki", "options": {}}), "secret is an engine of type pki"),
        ];
        for (mount, expected) in cases {
            let message = check(mount).unwrap_err();
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
