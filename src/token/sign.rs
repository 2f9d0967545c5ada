//! Key material: one private key, parsed once, that signs the same message to the same bytes every time.
//!
//! ES256 is signed by p256 (RFC 6979), because aws-lc-rs takes a fresh nonce for each signature; RS256 (PKCS#1 v1.5) is
//! deterministic by itself. Both are verified by aws-lc-rs.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, KeyPair as _, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256,
    VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use p256::elliptic_curve::Generate as _;
use p256::pkcs8::der::asn1::UintRef;
use p256::pkcs8::der::{Reader as _, SliceReader};
use p256::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, LineEnding, SecretDocument};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

/// A signature algorithm, by its JOSE name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    #[default]
    #[serde(rename = "ES256")]
    #[value(name = "ES256")]
    Es256,
    /// RSA PKCS#1 v1.5 with SHA-256, 2048 bits.
    #[serde(rename = "RS256")]
    #[value(name = "RS256")]
    Rs256,
}

impl Algorithm {
    /// The JOSE name, as in a token's header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a private key cannot be used. Never holds any of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a PKCS#8 PEM document.
    #[error("the private key is not a PKCS#8 PEM document")]
    NotPkcs8,
    /// Neither a P-256 key nor an RSA key of 2048 bits or more.
    #[error("the private key is neither a P-256 key nor an RSA key of 2048 to 8192 bits")]
    Unsupported,
    /// What it signs does not verify under its own public half.
    #[error("the private key does not sign what its public half verifies")]
    Inconsistent,
    /// The system gave no key or no signature.
    #[error("the cryptographic library failed")]
    Library,
}

impl KeyError {
    /// For conditions, events and metric labels.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotPkcs8 => "KeyNotPkcs8",
            Self::Unsupported => "KeyUnsupported",
            Self::Inconsistent => "KeyInconsistent",
            Self::Library => "CryptoFailed",
        }
    }
}

enum Private {
    // Boxed for size only: a parsed P-256 key carries its public half.
    Es256(Box<SigningKey>),
    Rs256(RsaKeyPair),
}

/// One signing key with its public half and its name (`kid`).
pub struct KeyMaterial {
    private: Private,
    public: ParsedPublicKey,
    pem: Zeroizing<String>,
    kid: String,
    /// The members of the public JWK that its thumbprint covers.
    members: Value,
}

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyMaterial({}, {}, <redacted>)", self.algorithm(), self.kid)
    }
}

impl KeyMaterial {
    /// A new random key.
    pub fn generate(algorithm: Algorithm) -> Result<Self, KeyError> {
        let pem = match algorithm {
            Algorithm::Es256 => {
                let key = SigningKey::try_generate().map_err(|_| KeyError::Library)?;
                key.to_pkcs8_pem(LineEnding::LF).map_err(|_| KeyError::Library)?
            }
            Algorithm::Rs256 => {
                let key = RsaKeyPair::generate(KeySize::Rsa2048).map_err(|_| KeyError::Library)?;
                let der: Pkcs8V1Der<'_> = key.as_der().map_err(|_| KeyError::Library)?;
                let document = SecretDocument::try_from(der.as_ref()).map_err(|_| KeyError::Library)?;
                document.to_pem("PRIVATE KEY", LineEnding::LF).map_err(|_| KeyError::Library)?
            }
        };
        Self::from_pem(&pem)
    }

    /// Reads a PKCS#8 PEM document, and signs once to see that the two halves belong together.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let (label, document) = SecretDocument::from_pem(pem).map_err(|_| KeyError::NotPkcs8)?;
        if label != "PRIVATE KEY" {
            return Err(KeyError::NotPkcs8);
        }
        let (private, public, members) = match SigningKey::from_pkcs8_der(document.as_bytes()) {
            Ok(key) => es256(key)?,
            Err(_) => rs256(RsaKeyPair::from_pkcs8(document.as_bytes()).map_err(|_| KeyError::Unsupported)?)?,
        };
        // RFC 7638: the required members in lexicographic order without blanks, which is how a map of serde_json prints.
        let kid = URL_SAFE_NO_PAD.encode(digest(&SHA256, members.to_string().as_bytes()));
        let key = Self { private, public, pem: Zeroizing::new(pem.to_owned()), kid, members };
        let probe = b"virtual-account-operator";
        key.sign(probe).ok().filter(|signature| key.verifies(probe, signature)).ok_or(KeyError::Inconsistent)?;
        Ok(key)
    }

    /// The PKCS#8 PEM document.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The algorithm; a token signed by this key names exactly this one.
    pub fn algorithm(&self) -> Algorithm {
        match self.private {
            Private::Es256(_) => Algorithm::Es256,
            Private::Rs256(_) => Algorithm::Rs256,
        }
    }

    /// The key's name: its RFC 7638 thumbprint.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public half as a JWK (RFC 7517).
    pub fn jwk(&self) -> Value {
        let mut jwk = self.members.clone();
        for (name, value) in [("alg", self.algorithm().name()), ("kid", self.kid()), ("use", "sig")] {
            jwk[name] = json!(value);
        }
        jwk
    }

    /// Signs as JWS wants it (RFC 7518: r and s of fixed length, or PKCS#1 v1.5); same message, same bytes.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        match &self.private {
            Private::Es256(key) => {
                let signature: Signature = key.try_sign(message).map_err(|_| KeyError::Library)?;
                Ok(signature.to_bytes().to_vec())
            }
            Private::Rs256(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
                    .map_err(|_| KeyError::Library)?;
                Ok(signature)
            }
        }
    }

    /// Whether a signature is this key's; ES256 only in the fixed-length form, never DER.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.public.verify_sig(message, signature).is_ok()
    }
}

type Parts = (Private, ParsedPublicKey, Value);

fn es256(key: SigningKey) -> Result<Parts, KeyError> {
    let point = key.verifying_key().to_sec1_point(false);
    let (Some(x), Some(y)) = (point.x(), point.y()) else { return Err(KeyError::Unsupported) };
    let members = json!({"kty": "EC", "crv": "P-256", "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)});
    let public = parsed(&ECDSA_P256_SHA256_FIXED, point.as_bytes())?;
    Ok((Private::Es256(Box::new(key)), public, members))
}

fn rs256(key: RsaKeyPair) -> Result<Parts, KeyError> {
    let der = key.public_key().as_ref();
    let (n, e) = modulus_and_exponent(der).map_err(|_| KeyError::Unsupported)?;
    let members = json!({"kty": "RSA", "n": n, "e": e});
    let public = parsed(&RSA_PKCS1_2048_8192_SHA256, der)?;
    Ok((Private::Rs256(key), public, members))
}

fn parsed(algorithm: &'static dyn VerificationAlgorithm, bytes: &[u8]) -> Result<ParsedPublicKey, KeyError> {
    ParsedPublicKey::new(algorithm, bytes).map_err(|_| KeyError::Unsupported)
}

/// RFC 8017 `RSAPublicKey ::= SEQUENCE { modulus, publicExponent }`, both as base64url.
fn modulus_and_exponent(der: &[u8]) -> Result<(String, String), p256::pkcs8::der::Error> {
    let mut reader = SliceReader::new(der)?;
    reader.sequence(|inner| {
        let n: UintRef<'_> = inner.decode()?;
        let e: UintRef<'_> = inner.decode()?;
        Ok((URL_SAFE_NO_PAD.encode(n.as_bytes()), URL_SAFE_NO_PAD.encode(e.as_bytes())))
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{ES256_PEM, RS256_PEM, es256, rs256};
    use super::*;

    #[test]
    fn a_key_signs_the_same_bytes_every_time() {
        for key in [es256(), rs256()] {
            let signature = key.sign(b"message").unwrap();
            assert_eq!(signature, key.sign(b"message").unwrap());
            assert!(key.verifies(b"message", &signature));
            assert!(!key.verifies(b"Message", &signature));
        }
        assert_eq!(es256().sign(b"m").unwrap().len(), 64);
    }

    #[test]
    fn a_generated_key_survives_its_pem() {
        for algorithm in [Algorithm::Es256, Algorithm::Rs256] {
            let key = KeyMaterial::generate(algorithm).unwrap();
            let again = KeyMaterial::from_pem(key.pem()).unwrap();
            assert_eq!((again.kid(), again.algorithm()), (key.kid(), algorithm));
            assert!(again.verifies(b"m", &key.sign(b"m").unwrap()));
        }
    }

    #[test]
    fn the_kid_is_the_rfc7638_thumbprint() {
        // RFC 7638, section 3.1, through the same code path: members printed in order, hashed, base64url.
        let members = json!({"e": "AQAB", "kty": "RSA", "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"});
        let kid = URL_SAFE_NO_PAD.encode(digest(&SHA256, members.to_string().as_bytes()));
        assert_eq!(kid, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
        assert_eq!(es256().jwk()["kid"], es256().kid());
    }

    #[test]
    fn the_public_half_tells_nothing_private() {
        for key in [es256(), rs256()] {
            let jwk = key.jwk();
            let names: Vec<_> = jwk.as_object().unwrap().keys().map(String::as_str).collect();
            assert!(names.iter().all(|name| ["alg", "crv", "e", "kid", "kty", "n", "use", "x", "y"].contains(name)));
            assert!(format!("{key:?}").ends_with("<redacted>)"));
        }
    }

    #[test]
    fn what_is_no_usable_key_is_refused() {
        let ed25519 = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
        for (pem, error) in [
            ("", KeyError::NotPkcs8),
            ("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", KeyError::NotPkcs8),
            (&ES256_PEM.replace("PRIVATE", "PUBLIC"), KeyError::NotPkcs8),
            (&RS256_PEM.replace("BEGIN PRIVATE", "BEGIN RSA PRIVATE"), KeyError::NotPkcs8),
            (ed25519, KeyError::Unsupported),
        ] {
            assert_eq!(KeyMaterial::from_pem(pem).err(), Some(error), "{pem}");
        }
    }
}
