//! How a `secretPath` is called in each provider, and whether it is within a store's `pathPrefix`. Pure.
//!
//! Two different paths never get the same name: what could collide is refused, with the rule. Where a provider has no
//! leading slash (`/a` and `a` would be one name), a path of one part is written without it.

use super::Provider;

/// The path's name in the provider. The error says which rule it breaks and what to write instead.
pub fn name(provider: Provider, path: &str) -> Result<String, String> {
    let bare = path.strip_prefix('/').unwrap_or(path);
    if bare.is_empty() {
        return Err("spec.secretStores[].secretPath is empty; name a path".into());
    }
    if drops_slash(provider) && path != bare && !bare.contains('/') {
        return Err(format!("{}: a path of one part is written without the slash; write {bare}", title(provider)));
    }
    let name = match provider {
        Provider::HashicorpVault => bare.to_owned(),
        Provider::AwsSecretsManager => path.to_owned(),
        Provider::AwsParameterStore => parameter(path, bare)?,
        Provider::GoogleSecretManager => joined(provider, bare)?,
        Provider::AzureKeyVault => lower(joined(provider, bare)?)?,
    };
    let longest = longest(provider);
    if name.len() > longest {
        let length = name.len();
        return Err(format!(
            "{}: a name has at most {longest} characters and {name} has {length}; shorten secretPath",
            title(provider)
        ));
    }
    Ok(name)
}

/// Whether a path lies within a prefix; if not, the prefix for this namespace.
pub fn within(provider: Provider, prefix: &str, namespace: &str, path: &str) -> Result<(), String> {
    let prefix = prefix.replace("{namespace}", namespace);
    // What is written without its slash lies at the top.
    let inside = if drops_slash(provider) && !path.starts_with('/') {
        format!("/{path}").starts_with(&prefix)
    } else {
        path.starts_with(&prefix)
    };
    if inside { Ok(()) } else { Err(prefix) }
}

// Parameter Store shows the slash but does not tell `/a` from `a`: they have one ARN.
fn drops_slash(provider: Provider) -> bool {
    provider != Provider::AwsSecretsManager
}

fn parameter(path: &str, bare: &str) -> Result<String, String> {
    let lower = bare.to_ascii_lowercase();
    if lower.starts_with("aws") || lower.starts_with("ssm") {
        return Err(
            "AWS Parameter Store: a name must not begin with aws or ssm; begin secretPath with something else".into()
        );
    }
    if bare.split('/').count() > LEVELS {
        return Err(format!(
            "AWS Parameter Store: a name has at most {LEVELS} levels; write secretPath with fewer slashes"
        ));
    }
    Ok(path.to_owned())
}

// An inner slash becomes `--`, so neither may a path have `--` nor a part begin or end with `-` beside a slash.
fn joined(provider: Provider, bare: &str) -> Result<String, String> {
    let title = title(provider);
    if bare.contains("--") {
        return Err(format!("{title}: -- stands for a slash in names; write secretPath without --"));
    }
    if bare.contains("-/") || bare.contains("/-") {
        return Err(format!("{title}: a slash becomes --; write secretPath without - beside a slash"));
    }
    Ok(bare.replace('/', "--"))
}

fn lower(name: String) -> Result<String, String> {
    if name.chars().any(|c| c.is_ascii_uppercase()) {
        return Err("Azure Key Vault: names do not tell upper from lower case; write secretPath in lower case".into());
    }
    if name.contains('_') {
        return Err("Azure Key Vault: names have letters, digits and - only; write secretPath without _".into());
    }
    Ok(name)
}

/// Levels of a parameter's name.
const LEVELS: usize = 15;

// Vault's own limit depends on its storage; the API's limit of 512 for secretPath stays below all of them.
fn longest(provider: Provider) -> usize {
    match provider {
        Provider::HashicorpVault | Provider::AwsSecretsManager => 512,
        Provider::AwsParameterStore => 1011,
        Provider::GoogleSecretManager => 255,
        Provider::AzureKeyVault => 127,
    }
}

fn title(provider: Provider) -> &'static str {
    match provider {
        Provider::HashicorpVault => "Vault",
        Provider::AwsSecretsManager => "AWS Secrets Manager",
        Provider::AwsParameterStore => "AWS Parameter Store",
        Provider::GoogleSecretManager => "Google Secret Manager",
        Provider::AzureKeyVault => "Azure Key Vault",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use Provider::{AwsParameterStore, AwsSecretsManager, AzureKeyVault, GoogleSecretManager, HashicorpVault};

    const ALL: [Provider; 5] =
        [HashicorpVault, AwsSecretsManager, AwsParameterStore, GoogleSecretManager, AzureKeyVault];

    #[test]
    fn names_are_readable_in_every_provider() {
        for (provider, path, expected) in [
            (HashicorpVault, "/team/app/token", "team/app/token"),
            (HashicorpVault, "Token_1", "Token_1"),
            (AwsSecretsManager, "/team/app/token", "/team/app/token"),
            (AwsSecretsManager, "/token", "/token"),
            (AwsSecretsManager, "token", "token"),
            (AwsParameterStore, "/team/app/token", "/team/app/token"),
            (AwsParameterStore, "token", "token"),
            (GoogleSecretManager, "/team/app_1/Token", "team--app_1--Token"),
            (GoogleSecretManager, "token-", "token-"),
            (AzureKeyVault, "/team/app-1/token", "team--app-1--token"),
        ] {
            assert_eq!(name(provider, path).as_deref(), Ok(expected), "{provider:?} {path}");
        }
    }

    #[test]
    fn what_could_collide_or_does_not_fit_is_refused_with_the_rule() {
        let (long, deep) = (format!("/{}/b", "a".repeat(256)), "/a".repeat(16));
        let azure = format!("/{}/b", "a".repeat(125));
        for (provider, path, rule) in [
            (HashicorpVault, "/token", "Vault: a path of one part is written without the slash; write token"),
            (AwsParameterStore, "/token", "write token"),
            (GoogleSecretManager, "/token", "write token"),
            (AzureKeyVault, "/token", "write token"),
            (GoogleSecretManager, "/a--b/c", "write secretPath without --"),
            (GoogleSecretManager, "/a-/b", "without - beside a slash"),
            (GoogleSecretManager, "/a/-b", "without - beside a slash"),
            (AzureKeyVault, "/a/-b", "without - beside a slash"),
            (AzureKeyVault, "/a/B", "in lower case"),
            (AzureKeyVault, "/a/b_c", "without _"),
            (AzureKeyVault, &azure, "at most 127 characters"),
            (GoogleSecretManager, &long, "at most 255 characters"),
            (AwsParameterStore, "/AWS/token", "must not begin with aws or ssm"),
            (AwsParameterStore, "ssm-token", "must not begin with aws or ssm"),
            (AwsParameterStore, &deep, "at most 15 levels"),
            (HashicorpVault, "/", "empty"),
        ] {
            let message = name(provider, path).unwrap_err();
            assert!(message.contains(rule), "{provider:?} {path}: {message}");
        }
    }

    #[test]
    fn a_prefix_is_the_namespaces_own() {
        for (provider, prefix, path, inside) in [
            (HashicorpVault, "/{namespace}/", "/team/token", true),
            (HashicorpVault, "/{namespace}/", "/team-2/token", false),
            (HashicorpVault, "/{namespace}/", "/team", false),
            (HashicorpVault, "/{namespace}/", "team", false),
            (HashicorpVault, "/", "token", true),
            (AwsSecretsManager, "/", "token", false),
            (AwsSecretsManager, "/{namespace}-{namespace}/", "/team-team/token", true),
            (AwsSecretsManager, "/shared/", "/team/shared/token", false),
        ] {
            let answer = within(provider, prefix, "team", path);
            assert_eq!(answer.is_ok(), inside, "{provider:?} {prefix} {path}");
        }
        assert_eq!(within(HashicorpVault, "/{namespace}/", "team", "/b/c"), Err("/team/".to_owned()));
    }

    /// Short paths over few characters, as the schema allows them: pairs that could collide are near each other.
    fn path() -> impl Strategy<Value = String> {
        let part = "[ab_-]{1,3}";
        prop_oneof![
            part.prop_map(|part| part),
            proptest::collection::vec(part, 1..4).prop_map(|parts| format!("/{}", parts.join("/")))
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
        #[test]
        fn no_two_paths_have_one_name(paths in proptest::collection::hash_set(path(), 2..60)) {
            for provider in ALL {
                let mut seen = std::collections::HashMap::new();
                for path in &paths {
                    if let Ok(name) = name(provider, path)
                        && let Some(other) = seen.insert(name.clone(), path) {
                        prop_assert!(false, "{provider:?}: {path} and {other} are both {name}");
                    }
                }
            }
        }
    }
}
