//! Where a path really is: two TokenStores may lead to the same secret, and one that was edited to another. Pure.

use crate::api::TokenStoreSpec;
use crate::fingerprint::fingerprint;

/// A fingerprint of the server and of the secret there: 16 hexadecimal digits. Credentials do not count, but for the AWS
/// account of a role.
pub(super) fn place(spec: &TokenStoreSpec, name: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    let text = |text: &Option<String>| text.as_deref().unwrap_or_default().trim_end_matches('/').to_lowercase();
    let account =
        |role: &Option<String>| role.as_deref().and_then(|arn| arn.split(':').nth(4)).unwrap_or_default().to_owned();
    if let Some(vault) = &spec.hashicorp_vault {
        let mount = vault.mount.as_deref().unwrap_or("secret").trim_matches('/').to_owned();
        let address = Some(vault.address.clone());
        parts.extend(["vault".into(), text(&address), vault.namespace.clone().unwrap_or_default(), mount]);
    }
    if let Some(aws) = &spec.aws_secrets_manager {
        parts.extend(["secretsmanager".into(), aws.region.clone(), text(&aws.endpoint), account(&aws.role_arn)]);
    }
    if let Some(aws) = &spec.aws_parameter_store {
        parts.extend(["ssm".into(), aws.region.clone(), text(&aws.endpoint), account(&aws.role_arn)]);
    }
    if let Some(google) = &spec.google_secret_manager {
        parts.extend(["google".into(), google.project_id.clone(), text(&google.endpoint)]);
    }
    if let Some(azure) = &spec.azure_key_vault {
        parts.extend(["azure".into(), text(&Some(azure.vault_url.clone()))]);
    }
    parts.push(name.to_owned());
    fingerprint(&parts.iter().map(String::as_str).collect::<Vec<_>>(), 16)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(spec: Value, name: &str) -> String {
        place(&serde_json::from_value(spec).unwrap(), name)
    }

    #[test]
    fn server_and_name_make_a_place_and_credentials_do_not() {
        let vault = |address: &str, mount: Value, token: &str| {
            let auth = json!({"tokenRef": {"name": token, "key": "token"}});
            json!({"hashicorpVault": {"address": address, "mount": mount, "auth": auth}})
        };
        let one = of(vault("https://v", json!(null), "a"), "x");
        assert_eq!(one.len(), 16);
        assert_eq!(one, of(vault("https://V/", json!("secret"), "b"), "x"));
        for other in [
            of(vault("https://w", json!(null), "a"), "x"),
            of(vault("https://v", json!("kv2"), "a"), "x"),
            of(vault("https://v", json!(null), "a"), "y"),
            of(json!({"awsSecretsManager": {"region": "eu-1"}}), "x"),
        ] {
            assert_ne!(one, other);
        }
        let role = |account: &str| {
            let role = format!("arn:aws:iam::{account}:role/writer");
            of(json!({"awsSecretsManager": {"region": "eu-1", "roleArn": role}}), "x")
        };
        assert_ne!(role("111111111111"), role("222222222222"));
    }
}
