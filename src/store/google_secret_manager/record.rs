//! What a secret's annotations say: whose it is, and which version holds which token. A version has no metadata of its
//! own, so the secret's has it for all. Pure.
//!
//! Labels would be for this, but they allow no capital letters. One label is for people who filter.

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use google_cloud_secretmanager_v1::model::Secret;

use super::super::Mark;

/// `1=JTI,2=JTI`: the tokens of versions.
const VERSIONS: &str = "virtualaccounts-versions";
/// Of so many versions the tokens are known; those of older ones have long ended.
const REMEMBERED: usize = 16;
const LABEL: (&str, &str) = ("managed-by", "virtual-account-operator");

/// Whose a secret is, and which version holds which token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) mark: Option<Mark>,
    versions: BTreeMap<u64, String>,
}

impl Record {
    pub(super) fn of(secret: &Secret) -> Self {
        let annotation = |name: &str| secret.annotations.get(name).map(String::as_str);
        let versions = annotation(VERSIONS).unwrap_or_default().split(',').filter_map(version).collect();
        Self { mark: Mark::parse(annotation), versions }
    }

    /// The token of a version, if it was recorded.
    pub(super) fn jti(&self, version: u64) -> Option<&str> {
        self.versions.get(&version).map(String::as_str)
    }

    /// The newest version that was recorded; 0: none.
    pub(super) fn newest(&self) -> u64 {
        self.versions.keys().next_back().copied().unwrap_or(0)
    }

    /// The newest version with the marked token.
    pub(super) fn marked(&self) -> Option<u64> {
        let jti = &self.mark.as_ref()?.jti;
        self.versions.iter().rev().find_map(|(version, held)| (held == jti).then_some(*version))
    }

    /// From now on the secret has this mark, and this version its token.
    pub(super) fn advance(&mut self, mark: &Mark, version: Option<u64>) {
        self.mark = Some(mark.clone());
        self.versions.extend(version.map(|version| (version, mark.jti.clone())));
        while self.versions.len() > REMEMBERED {
            self.versions.pop_first();
        }
    }

    /// A secret's annotations and labels with this record in them; others stay.
    pub(super) fn write(&self, secret: Secret) -> Secret {
        let (mut annotations, mut labels) = (secret.annotations.clone(), secret.labels.clone());
        self.annotate(&mut annotations);
        labels.insert(LABEL.0.to_owned(), LABEL.1.to_owned());
        secret.set_annotations(annotations).set_labels(labels)
    }

    fn annotate(&self, annotations: &mut HashMap<String, String>) {
        for (name, value) in self.mark.iter().flat_map(Mark::pairs) {
            annotations.insert(name.to_owned(), value);
        }
        let versions: Vec<String> = self.versions.iter().map(|(version, jti)| format!("{version}={jti}")).collect();
        annotations.insert(VERSIONS.to_owned(), versions.join(","));
    }
}

/// The `jti` that a value claims to have, if it looks like a token. Enough to tell that it is none of others: a token of
/// ours never claims another's.
pub(super) fn claimed(value: &[u8]) -> Option<String> {
    let claims = value.split(|byte| *byte == b'.').nth(1)?;
    let claims: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    Some(claims["jti"].as_str()?.to_owned())
}

fn version(entry: &str) -> Option<(u64, String)> {
    let (version, jti) = entry.split_once('=')?;
    Some((version.parse().ok()?, jti.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Instant;
    use crate::store::Owner;

    fn mark(jti: &str) -> Mark {
        let owner = Owner { cluster: "c".into(), account: "shop/cart".into(), uid: "u".into() };
        Mark { owner, jti: jti.into(), sequence: 7, expires_at: Instant::from_unix(1_800_000_000) }
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_foreign_annotations_stay() {
        let theirs = Secret::new().set_annotations([("team", "a")]).set_labels([("cost", "1")]);
        let mut record = Record::of(&theirs);
        assert_eq!(record, Record::default());
        record.advance(&mark("one"), Some(3));
        record.advance(&mark("two"), Some(5));
        let secret = record.write(theirs);
        assert_eq!(Record::of(&secret), record);
        assert_eq!((record.jti(3), record.jti(4), record.jti(5)), (Some("one"), None, Some("two")));
        assert_eq!((record.newest(), record.marked()), (5, Some(5)));
        assert_eq!(secret.annotations["team"], "a");
        assert_eq!((&*secret.labels["cost"], &*secret.labels["managed-by"]), ("1", "virtual-account-operator"));
    }

    #[test]
    fn a_mark_before_its_version_names_none() {
        let mut record = Record::default();
        record.advance(&mark("one"), None);
        let record = Record::of(&record.write(Secret::new()));
        assert_eq!((record.mark.clone(), record.newest(), record.marked()), (Some(mark("one")), 0, None));
    }

    #[test]
    fn a_token_that_was_not_recorded_tells_its_jti_and_nothing_else_does() {
        let token = |claims: &str| format!("h.{}.s", URL_SAFE_NO_PAD.encode(claims)).into_bytes();
        assert_eq!(claimed(&token(r#"{"jti":"one"}"#)).as_deref(), Some("one"));
        for other in [token("{}"), token(r#"{"jti":1}"#), token("[]"), b"made.by.hand".to_vec(), b"\xff".to_vec()] {
            assert_eq!(claimed(&other), None);
        }
    }

    #[test]
    fn only_the_newest_versions_are_remembered_and_nonsense_is_none() {
        let mut record = Record::default();
        for version in 1..=20 {
            record.advance(&mark(&format!("jti-{version}")), Some(version));
        }
        let secret = record.write(Secret::new());
        assert_eq!((Record::of(&secret).jti(4), Record::of(&secret).jti(5)), (None, Some("jti-5")));
        let secret = Secret::new().set_annotations([(VERSIONS, "x=1,,2,3=three,=4")]);
        assert_eq!(Record::of(&secret).versions, BTreeMap::from([(3, "three".to_owned())]));
    }
}
