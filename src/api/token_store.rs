//! `TokenStore`: where else tokens go, and with whose credentials.
//!
//! `///` comments on fields are what users read in `kubectl explain`; notes for ourselves are `//`.

// The derives repeat each struct inside a function of their own.
#![allow(unreachable_pub)]

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::core::CustomResourceExt;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A secret store that accounts may name in spec.secretStores: exactly one provider.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "virtualaccounts.dev",
    version = "v1alpha1",
    kind = "TokenStore",
    doc = "A secret store that virtual accounts deliver their tokens to. Short name: ts.",
    plural = "tokenstores",
    shortname = "ts",
    category = "all",
    namespaced,
    status = "TokenStoreStatus",
    derive = "PartialEq",
    printcolumn(name = "Provider", type_ = "string", json_path = ".status.provider"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(ONE_PROVIDER).message("name exactly one provider"))]
#[x_kube(validation = Rule::new("!has(self.allowedNamespaces) || self.allowedNamespaces.from == 'Same' || has(self.pathPrefix)").message("a store that other namespaces may use needs pathPrefix, for example /{namespace}/"))]
pub struct TokenStoreSpec {
    /// Which namespaces' accounts may use the store. Default: its own alone. A store for others needs pathPrefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_namespaces: Option<AllowedNamespaces>,

    /// What each account's secretPath must start with. May contain `{namespace}`, which stands for the account's own:
    /// `/{namespace}/`. Starts and ends with a slash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    #[x_kube(validation = Rule::new("self.matches('^/(([A-Za-z0-9_-]|[{]namespace[}])+/)*$')").message("must start and end with '/' and have letters, digits, '-', '_', '/' and {namespace} only, for example /{namespace}/"))]
    pub path_prefix: Option<String>,

    /// Whose secrets may be taken over, at most 16: the ids of former clusters (`virtualaccounts-cluster` in their marks), or
    /// `unmarked` for secrets that were made by hand. Anything else at a path is left alone, and the account says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 64)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub take_over_from: Option<Vec<String>>,

    /// HashiCorp Vault, or OpenBao: a KV version 2 secrets engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hashicorp_vault: Option<HashicorpVault>,

    /// AWS Secrets Manager.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws_secrets_manager: Option<AwsSecretsManager>,

    /// AWS Systems Manager Parameter Store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws_parameter_store: Option<AwsParameterStore>,

    /// Google Secret Manager.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub google_secret_manager: Option<GoogleSecretManager>,

    /// Azure Key Vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure_key_vault: Option<AzureKeyVault>,
}

const ONE_PROVIDER: &str = "[has(self.hashicorpVault), has(self.awsSecretsManager), has(self.awsParameterStore), \
    has(self.googleSecretManager), has(self.azureKeyVault)].filter(there, there).size() == 1";

/// Which namespaces may use an object.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("(self.from == 'Selector') == has(self.selector)").message("selector goes with from: Selector, and only with it"))]
pub struct AllowedNamespaces {
    /// Same: the object's own. All: every namespace. Selector: those whose labels match.
    pub from: AllowedFrom,
    /// Labels of the namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// Which namespaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AllowedFrom {
    /// The object's own.
    #[default]
    Same,
    /// Every namespace.
    All,
    /// Those whose labels match.
    Selector,
}

/// A key of a Secret in the object's own namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct SecretKeyRef {
    /// The Secret's name. It is in the same namespace as the object that names it.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in its `data`.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A ServiceAccount in the object's own namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct ServiceAccountRef {
    /// Its name. The operator asks the API server for tokens of it (TokenRequest), which it must be allowed to.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// HashiCorp Vault, or OpenBao: a KV version 2 secrets engine. A secret gets the keys `token`, `jti` and `expires-at`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HashicorpVault {
    /// The server, for example `https://vault.vault.svc:8200`.
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^https?://[^/?#@]+/?$"))]
    pub address: String,
    /// Its namespace (Vault Enterprise and OpenBao). Default: the root namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub namespace: Option<String>,
    /// Where the secrets engine is mounted. Default: `secret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub mount: Option<String>,
    /// The certificates (PEM) to trust. Default: the operator's own list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<SecretKeyRef>,
    /// How the operator logs in.
    pub auth: VaultAuth,
}

/// How the operator logs in to Vault: exactly one way.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.kubernetes), has(self.appRole), has(self.tokenRef)].filter(there, there).size() == 1").message("name exactly one of kubernetes, appRole and tokenRef"))]
pub struct VaultAuth {
    /// With a ServiceAccount's token (Vault's auth method `kubernetes`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<VaultKubernetes>,
    /// With a role id and a secret id (Vault's auth method `approle`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_role: Option<VaultAppRole>,
    /// With a Vault token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_ref: Option<SecretKeyRef>,
}

/// Vault's auth method `kubernetes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VaultKubernetes {
    /// Where the method is mounted. Default: `kubernetes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub mount_path: Option<String>,
    /// The role to log in as.
    #[schemars(length(min = 1, max = 256))]
    pub role: String,
    /// Whose token logs in.
    pub service_account_ref: ServiceAccountRef,
    /// The audience of that token; the role must name the same. Default: `vault`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub audience: Option<String>,
}

/// Vault's auth method `approle`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VaultAppRole {
    /// Where the method is mounted. Default: `approle`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub mount_path: Option<String>,
    /// The role's id.
    #[schemars(length(min = 1, max = 256))]
    pub role_id: String,
    /// The secret id.
    pub secret_id_ref: SecretKeyRef,
}

/// AWS Secrets Manager. The secret's value is the token.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(WEB_IDENTITY_ROLE).message("roleArn is needed with auth.serviceAccountRef"))]
pub struct AwsSecretsManager {
    /// The region, for example `eu-central-1`.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[a-z0-9-]+$"))]
    pub region: String,
    /// Another endpoint than AWS' own for the region, for example that of a VPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^https?://[^/?#@]+/?$"))]
    pub endpoint: Option<String>,
    /// Another endpoint than AWS' own for the Security Token Service, where a role is assumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^https?://[^/?#@]+/?$"))]
    pub sts_endpoint: Option<String>,
    /// The KMS key that encrypts new secrets: id, ARN or alias. Default: the account's `aws/secretsmanager`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub kms_key_id: Option<String>,
    /// The role to assume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 20, max = 2048), regex(pattern = r"^arn:"))]
    pub role_arn: Option<String>,
    /// Days in which a deleted secret can be restored, 7 to 30; 0: it is deleted at once. Default: 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 30))]
    #[x_kube(validation = Rule::new("self == 0 || self >= 7").message("must be 0 or 7 to 30"))]
    pub recovery_window_days: Option<i32>,
    /// Whose credentials are used. Default: the operator's own (IRSA, Pod Identity), in the operator's namespace only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<AwsAuth>,
}

const WEB_IDENTITY_ROLE: &str = "!has(self.auth) || !has(self.auth.serviceAccountRef) || has(self.roleArn)";

/// AWS Systems Manager Parameter Store. The parameter is a SecureString and its value is the token. Older versions cannot be
/// disabled there.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(WEB_IDENTITY_ROLE).message("roleArn is needed with auth.serviceAccountRef"))]
pub struct AwsParameterStore {
    /// The region, for example `eu-central-1`.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[a-z0-9-]+$"))]
    pub region: String,
    /// Another endpoint than AWS' own for the region, for example that of a VPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^https?://[^/?#@]+/?$"))]
    pub endpoint: Option<String>,
    /// Another endpoint than AWS' own for the Security Token Service, where a role is assumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^https?://[^/?#@]+/?$"))]
    pub sts_endpoint: Option<String>,
    /// The KMS key that encrypts what is written: id, ARN or alias. Default: the account's `aws/ssm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub kms_key_id: Option<String>,
    /// The role to assume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 20, max = 2048), regex(pattern = r"^arn:"))]
    pub role_arn: Option<String>,
    /// Whose credentials are used. Default: the operator's own (IRSA, Pod Identity), in the operator's namespace only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<AwsAuth>,
}

/// Whose AWS credentials: exactly one.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.secretRef) != has(self.serviceAccountRef)").message("name exactly one of secretRef and serviceAccountRef"))]
pub struct AwsAuth {
    /// An access key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<AwsAccessKey>,
    /// A ServiceAccount's token for `sts.amazonaws.com`, with which roleArn is assumed (AssumeRoleWithWebIdentity).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_ref: Option<ServiceAccountRef>,
}

/// An AWS access key in Secrets of the store's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AwsAccessKey {
    /// The access key id.
    pub access_key_id: SecretKeyRef,
    /// The secret access key.
    pub secret_access_key: SecretKeyRef,
    /// The session token of temporary credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token: Option<SecretKeyRef>,
}

/// Google Secret Manager. The secret's value is the token.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GoogleSecretManager {
    /// The project's id or number.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^([a-z0-9.-]+:)?[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub project_id: String,
    /// Another endpoint than `https://secretmanager.googleapis.com`, for example that of Private Service Connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^https?://[^/?#@]+/?$"))]
    pub endpoint: Option<String>,
    /// Another endpoint than `https://sts.googleapis.com`, where a ServiceAccount's token is exchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^https?://[^/?#@]+/?$"))]
    pub sts_endpoint: Option<String>,
    /// Another endpoint than `https://iamcredentials.googleapis.com`, where auth.serviceAccountEmail is impersonated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^https?://[^/?#@]+/?$"))]
    pub iam_endpoint: Option<String>,
    /// Where new secrets are kept, at most 16 locations, for example `europe-west3`. Default: wherever Google chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 64), regex(pattern = r"^[a-z0-9-]+$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub locations: Option<Vec<String>>,
    /// The Cloud KMS key that encrypts new secrets, by its full name. With locations it needs a key in each of them:
    /// `{location}` stands for the location. Without, it is a key in `global`. Default: Google's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 512),
        regex(pattern = r"^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$")
    )]
    pub kms_key: Option<String>,
    /// Whose credentials are used. Default: the operator's own (Workload Identity Federation for GKE), in the operator's
    /// namespace only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<GoogleAuth>,
}

/// Whose Google credentials: exactly one.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.secretRef) != has(self.serviceAccountRef)").message("name exactly one of secretRef and serviceAccountRef"))]
#[x_kube(validation = Rule::new("has(self.serviceAccountRef) == has(self.workloadIdentityProvider)").message("workloadIdentityProvider goes with serviceAccountRef, and only with it"))]
#[x_kube(validation = Rule::new("!has(self.serviceAccountEmail) || has(self.serviceAccountRef)").message("serviceAccountEmail goes with serviceAccountRef only"))]
pub struct GoogleAuth {
    /// A Google service account's key: the JSON file as it was downloaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,
    /// A ServiceAccount whose token is exchanged for Google's (workload identity federation).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_ref: Option<ServiceAccountRef>,
    /// The provider that trusts the cluster, by its full name; it is the audience of the ServiceAccount's token, too:
    /// `//iam.googleapis.com/projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 512),
        regex(
            pattern = r"^//iam\.googleapis\.com/projects/[0-9]+/locations/global/workloadIdentityPools/[^/]+/providers/[^/]+$"
        )
    )]
    pub workload_identity_provider: Option<String>,
    /// The Google service account to impersonate. Default: none, the ServiceAccount itself has the rights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 254), regex(pattern = r"^[A-Za-z0-9._-]+@[A-Za-z0-9.-]+$"))]
    pub service_account_email: Option<String>,
}

/// Azure Key Vault. The secret's value is the token; its expiry is that of the token.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.auth) || has(self.tenantId) && has(self.clientId)").message("tenantId and clientId are needed with auth"))]
#[x_kube(validation = Rule::new("!has(self.authorityHost) || has(self.auth)").message("authorityHost goes with auth only"))]
pub struct AzureKeyVault {
    /// The vault, for example `https://tokens.vault.azure.net`.
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^https://[^/?#@]+/?$"))]
    pub vault_url: String,
    /// The Microsoft Entra tenant (directory) of the application: its id, or one of its domains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[0-9A-Za-z.-]+$"))]
    pub tenant_id: Option<String>,
    /// The application (client) id to log in as. Without auth: that of the managed identity to use, if the operator's
    /// pod has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[0-9A-Za-z-]+$"))]
    pub client_id: Option<String>,
    /// The certificates (PEM) to trust, of the vault and of authorityHost. Default: the operator's own list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<SecretKeyRef>,
    /// Where access tokens come from, with auth. Default: `https://login.microsoftonline.com`; sovereign clouds have
    /// their own, for example `https://login.microsoftonline.us`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^https://[^/?#@]+/?$"))]
    pub authority_host: Option<String>,
    /// Whose credentials are used. Default: the operator's own (workload identity or managed identity of its pod), in the
    /// operator's namespace only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<AzureAuth>,
}

/// How to log in to Microsoft Entra ID: exactly one way.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.secretRef) != has(self.serviceAccountRef)").message("name exactly one of secretRef and serviceAccountRef"))]
pub struct AzureAuth {
    /// With a client secret of the application.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,
    /// With a ServiceAccount's token (workload identity). The application needs a federated credential with the cluster's
    /// issuer, the subject `system:serviceaccount:<namespace>:<name>` and the audience `api://AzureADTokenExchange`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_ref: Option<ServiceAccountRef>,
}

/// What the operator found out about the store. Written by the operator alone.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenStoreStatus {
    /// The generation of the spec that this status describes; -1 before the first check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The provider in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub provider: Option<String>,
    /// Ready: credentials and reach were checked with a real call. Stalled: nothing but a change of the spec can help.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The definition, with what the derive cannot say.
pub(super) fn crd() -> CustomResourceDefinition {
    super::finish(TokenStore::crd(), None)
}
