//! Signatures of Standard Webhooks 1.0, the symmetric scheme (`v1`): HMAC-SHA256 over id, time of the attempt and body.

use aws_lc_rs::hmac::{Context, HMAC_SHA256, Key};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::integration::{Credential, ErrorKind, ProviderError};

const PREFIX: &str = "whsec_";
/// How many bytes a secret has.
const LENGTHS: std::ops::RangeInclusive<usize> = 24..=64;
/// How many secrets there may be: a replacement takes two, and each makes the header longer.
const MOST: usize = 8;

/// The secrets of a channel. All sign, so that a receiver may know any one of them.
pub(super) struct Secrets(Vec<Key>);

impl Secrets {
    /// `whsec_` and base64, several with white space between them.
    pub(super) fn parse(text: &Credential) -> Result<Self, ProviderError> {
        let keys = text.expose().split_whitespace().map(key).collect::<Option<Vec<_>>>();
        keys.filter(|keys| (1..=MOST).contains(&keys.len())).map(Self).ok_or_else(unfit)
    }

    /// The header `webhook-signature`: one signature for each secret.
    pub(super) fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let signed = |key| {
            let mut context = Context::with_key(key);
            context.update(format!("{id}.{timestamp}.").as_bytes());
            context.update(body);
            format!("v1,{}", STANDARD.encode(context.sign()))
        };
        self.0.iter().map(signed).collect::<Vec<_>>().join(" ")
    }
}

fn key(secret: &str) -> Option<Key> {
    let bytes = Zeroizing::new(STANDARD.decode(secret.strip_prefix(PREFIX)?).ok()?);
    LENGTHS.contains(&bytes.len()).then(|| Key::new(HMAC_SHA256, &bytes))
}

fn unfit() -> ProviderError {
    let message = "the Secret of spec.webhook.signingSecretRef must hold 1 to 8 secrets with white space between them, \
                   each whsec_ and 24 to 64 bytes in base64: write what the receiver shows, or make one with \
                   echo \"whsec_$(openssl rand -base64 32)\"";
    ProviderError::new(ErrorKind::Denied, "InvalidSigningSecret", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(text: &str) -> Result<Secrets, ProviderError> {
        Secrets::parse(&Credential::new(text.to_owned()))
    }

    fn secret(bytes: usize) -> String {
        format!("{PREFIX}{}", STANDARD.encode(vec![7; bytes]))
    }

    // The example that the specification's own libraries test themselves with.
    #[test]
    fn a_known_message_has_its_known_signature() {
        let secrets = secrets("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = secrets.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn every_secret_signs_in_their_order() {
        let (one, two) = (secret(24), secret(64));
        let sign = |text: &str| secrets(text).unwrap().sign("id", 1, b"{}");
        assert_eq!(sign(&format!("\n{one} \t\n{two}\n")), format!("{} {}", sign(&one), sign(&two)));
        assert_ne!(sign(&one), sign(&two));
    }

    #[test]
    fn what_is_no_secret_is_refused_and_not_told() {
        let good = secret(32);
        let [short, long, many] = [secret(23), secret(65), [good.as_str(); MOST + 1].join(" ")];
        let [bare, url_safe] = [STANDARD.encode([7; 32]), format!("{PREFIX}{}", "-_".repeat(22))];
        let unpadded = good.trim_end_matches('=').to_owned();
        let mixed = format!("{good} canary");
        for text in ["", " ", "whsec_", "WHSEC_canary", &short, &long, &many, &bare, &url_safe, &unpadded, &mixed] {
            let error = secrets(text).err().unwrap();
            assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::Denied, "InvalidSigningSecret"), "{text}");
            assert!(error.message.contains("spec.webhook.signingSecretRef"), "{error}");
            assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        }
    }
}
