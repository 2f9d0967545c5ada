//! What the tests of this module share: two fixed keys (used nowhere else), a ring, an account and an entry.

use std::sync::Arc;

use super::*;
use crate::api::{AccountId, Entry, Instant, IssueReason, Phase, Seconds};

pub(crate) const ES256_PEM: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgaK+ha3mCjMrB/tkW
/4kYAq5YVeAeFQ24tJ24PYCyW8+hRANCAATF3oJfe/RH09JBmf9tRtJJ5n48jKyQ
XhID9bnHk6Z8nshuv5ZS4ti8XuGzHLkNAa15HNhupJ76neC/pf4TJDvC
-----END PRIVATE KEY-----
";

pub(crate) const RS256_PEM: &str = "-----BEGIN PRIVATE KEY-----
MIIEvgIBADANBgkqhkiG9w0BAQEFAASCBKgwggSkAgEAAoIBAQDF0W4Mtgb4y2iJ
8UlF/IH5hDK2AbmdpSWQ4mstJ2x60UaNEvKpHzLa9rAlc11SMBOv3sZ355mDOlx6
LKmyykhS3rM36sbdIqpwwVgXStOhMVG1BPV2O1t6l23wJKJ3GgXqAGN9UOe4qH4J
6sjE5RZmtylDRq1548+Ssxlko0ZVm+A5kCIFgdr90yGZ1tc/St9uNjsYrNn4XQRG
9INAH19kYwHJBdn1jRFdlytrWhynDQz9KIIRQ1MqPvoj0Ss47HuI4pi93wtkDqA6
Tjm6S46c1MdlbKpYijgL34A9KrTF9FZsT3bMz8QuSIn1SaN8hY/a4XmtPStKl0+6
RaAHm/7zAgMBAAECggEATIwOGb0WVY/glABaakqbwQH23ZctTGNrdfUnpAFtaNky
g8ShQfBgrXpoDxXlNriD5bo+8occUDt1LZG62QSNmAO1Nh4Tdd7ENX2bqOe7nNSI
2ZNhqK6vZ3DRieujMpNPVo1v8j4sbLhGjW/c4NQFJxoZTX88Ab61w/6qBNdpkBZj
DcYaSUHvoOeVfVawTPS8MnwEGQcVoUAw84hnVps2Ze+Ht/Eqhs3nU6FEzLKiygzi
/Cc/+gUnxikXP0llaamiWJYOh5MGJlOpqNQe978gkaVsmOOMJjCaIJlD0/lmzSfT
WTS4GpDFwNT7Liw9caRNV5NG74rucO6Y8ntJI5vJAQKBgQDqnfyE5Kee3nldew2m
Wfyv+b8mMkGbSkAL3tVvMZJEOhh9u/ow4ZtMU5B+zj3DX16LCvdn0iK5kCK2QgpD
fF97sMtwUe+NzWEUAuRnKPIm2nic2xblpO6LpSUsbjnnkq08RZMICINKbjCG1kxh
UjvXBQPfK1fjflY5GAECn00e+wKBgQDX2NwNYxyHCU/ZY/PaxZkJGms5g0w/Z0+p
34wm9shpfO0vLjpQKiX1J6htKL7WU1Bf79PJUK461ydvkVYe8Yl8grnkcrQTince
GWTl/b6XPJDWaJO9LHQZaUcfgXEYuQZ9y4+EvWzvzRFuLFHvpx7uVpYRWneh9uyE
SoXpKzS+aQKBgH1B/ahBn1ANPMRwxvfSQTr+XlQZLremq4zq2g50a7+rOJogOtHQ
ESZt0s4wc/8TspkPMMkoAkwJrM6bcXlYNG4IFIUR6ZBOXw7dAG4nCSk/KHet7IqM
RKMfdzpCWv3MbFqqVnZKfTXGoHfMf5jR24rPbaK/NDwLniL7Msbgn77zAoGBALd9
ApPezUF+CQMklQhFMfMrIjuiAg9kI7Sk9N+qqnQCXx7cjXXYXqwpKmShXpmT+Z+U
oNViYLpkbIHLawqjCd1uw9gQKkTyUJClxcA+FOc79WRPQkhuocN4W53My/fYUkxd
34NYBGNWUJr30i+IQiMaODhIT6q/3hAXyf6NXCkBAoGBAOiEfX8N8D1+H4qd2pjp
jwkzletD4nDPjEwThQhTX2UbEm3nHd5CeY61CgOgCoa2hZmKNWKNACwg4UIETP1z
TcMjQqJXNHbv8+vICzV/O9BoczQzUxOXvr5EDFeAeLzTNrZyhVBdRDB9wwddf+sc
tVkd1zG3Xy/Jq+/2wF5QNYOY
-----END PRIVATE KEY-----
";

pub(crate) fn es256() -> KeyMaterial {
    KeyMaterial::from_pem(ES256_PEM).unwrap()
}

pub(crate) fn rs256() -> KeyMaterial {
    KeyMaterial::from_pem(RS256_PEM).unwrap()
}

pub(crate) const T0: i64 = 1_800_000_000;

/// Seconds after the start of the story.
pub(crate) fn at(seconds: i64) -> Instant {
    Instant::from_unix(T0 + seconds)
}

pub(crate) fn key(material: KeyMaterial, published: i64, signs: i64) -> Key {
    Key {
        material: Arc::new(material),
        published_at: at(published),
        signs_from: at(signs),
        signs_until: None,
        compromised_at: None,
    }
}

/// The ES256 key signs, the RS256 key stands by.
pub(crate) fn ring() -> Ring {
    Ring { keys: vec![key(es256(), -9_000, -9_000), key(rs256(), -9_000, 9_000)], ..Ring::default() }
}

pub(crate) fn account() -> AccountId {
    AccountId::new("payments", "invoice-reader")
}

pub(crate) fn entry(kid: &str) -> Entry {
    Entry {
        id: "AAECAwQFBgcICQoLDA0ODw".into(),
        key_id: kid.into(),
        issuer: "https://issuer.example".into(),
        audiences: vec!["https://api.example".into()],
        issued_at: at(0),
        expires_at: at(3_600),
        grace: Seconds::minutes(30),
        reason: IssueReason::First,
        phase: Phase::Current,
        grace_ends_at: None,
        delivered_at: None,
    }
}

/// A signature of the ES256 key by a library that draws a fresh nonce each time.
pub(crate) fn randomized(signing_input: &str) -> String {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
    use base64::Engine as _;
    let (_, document) = p256::pkcs8::SecretDocument::from_pem(ES256_PEM).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_bytes()).unwrap();
    let signature = pair.sign(&aws_lc_rs::rand::SystemRandom::new(), signing_input.as_bytes()).unwrap();
    format!("{signing_input}.{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(signature))
}
