//! Which provider a TokenStore names, and whether it asks for the operator's own credentials.

use crate::api::TokenStoreSpec;

/// The providers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provider {
    /// HashiCorp Vault, OpenBao.
    HashicorpVault,
    /// AWS Secrets Manager.
    AwsSecretsManager,
    /// AWS Systems Manager Parameter Store.
    AwsParameterStore,
    /// Google Secret Manager.
    GoogleSecretManager,
    /// Azure Key Vault.
    AzureKeyVault,
}

impl Provider {
    /// The one that the spec names; `None`: none.
    pub fn of(spec: &TokenStoreSpec) -> Option<Self> {
        let named = [
            (spec.hashicorp_vault.is_some(), Self::HashicorpVault),
            (spec.aws_secrets_manager.is_some(), Self::AwsSecretsManager),
            (spec.aws_parameter_store.is_some(), Self::AwsParameterStore),
            (spec.google_secret_manager.is_some(), Self::GoogleSecretManager),
            (spec.azure_key_vault.is_some(), Self::AzureKeyVault),
        ];
        named.into_iter().find_map(|(there, provider)| there.then_some(provider))
    }

    /// As the spec's field is called: in the status, in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HashicorpVault => "hashicorpVault",
            Self::AwsSecretsManager => "awsSecretsManager",
            Self::AwsParameterStore => "awsParameterStore",
            Self::GoogleSecretManager => "googleSecretManager",
            Self::AzureKeyVault => "azureKeyVault",
        }
    }
}

/// Whether the store would be opened with the operator's own credentials.
pub(super) fn is_ambient(spec: &TokenStoreSpec) -> bool {
    spec.aws_secrets_manager.as_ref().is_some_and(|aws| aws.auth.is_none())
        || spec.aws_parameter_store.as_ref().is_some_and(|aws| aws.auth.is_none())
        || spec.google_secret_manager.as_ref().is_some_and(|google| google.auth.is_none())
        || spec.azure_key_vault.as_ref().is_some_and(|azure| azure.auth.is_none())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_provider_is_called_as_its_field() {
        for (field, provider) in [
            ("hashicorpVault", json!({"address": "https://vault", "auth": {"tokenRef": {"name": "a", "key": "b"}}})),
            ("awsSecretsManager", json!({"region": "eu-central-1"})),
            ("awsParameterStore", json!({"region": "eu-central-1"})),
            ("googleSecretManager", json!({"projectId": "some-project"})),
            ("azureKeyVault", json!({"vaultUrl": "https://tokens.vault.azure.net"})),
        ] {
            let spec: TokenStoreSpec = serde_json::from_value(json!({ field: provider })).unwrap();
            assert_eq!(Provider::of(&spec).map(Provider::as_str), Some(field));
        }
        assert_eq!(Provider::of(&TokenStoreSpec::default()), None);
    }

    #[test]
    fn a_cloud_without_auth_asks_for_the_operators_own_credentials() {
        for (field, mut provider) in [
            ("awsSecretsManager", json!({"region": "eu-central-1"})),
            ("awsParameterStore", json!({"region": "eu-central-1"})),
            ("googleSecretManager", json!({"projectId": "some-project"})),
            ("azureKeyVault", json!({"vaultUrl": "https://tokens.vault.azure.net"})),
        ] {
            let ambient = |provider| is_ambient(&serde_json::from_value(json!({ field: provider })).unwrap());
            assert!(ambient(provider.clone()), "{field}");
            provider["auth"] = json!({"serviceAccountRef": {"name": "a"}});
            assert!(!ambient(provider), "{field}");
        }
        assert!(!is_ambient(&TokenStoreSpec::default()));
    }
}
