//! The tokens: JSON web tokens as docker-registry verifies them, signed with ES256 under a
//! certificate that stands in their header.

use anyhow::{Context, Result};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// What a token says, as far as the testbed cares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub iss: String,
    /// The account; empty for nobody.
    pub sub: String,
    pub aud: String,
    pub exp: u64,
    pub nbf: u64,
    pub iat: u64,
    pub jti: String,
    pub access: Vec<Grant>,
}

/// What may be done with one repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    #[serde(rename = "type")]
    pub kind: String,
    pub name: String,
    pub actions: Vec<String>,
}

impl Grant {
    #[must_use]
    pub fn pull(name: &str) -> Self {
        Self::of(name, &["pull"])
    }

    #[must_use]
    pub fn of(name: &str, actions: &[&str]) -> Self {
        Self {
            kind: "repository".to_owned(),
            name: name.to_owned(),
            actions: actions.iter().map(|&it| it.to_owned()).collect(),
        }
    }

    /// `repository:NAME:ACTION,ACTION`; names may hold colons.
    pub(super) fn parse(scope: &str) -> Option<Self> {
        let (kind, rest) = scope.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        Some(Self {
            kind: kind.to_owned(),
            name: name.to_owned(),
            actions: actions.split(',').map(str::to_owned).collect(),
        })
    }
}

/// The service's key and certificate.
pub(super) struct Signer {
    key: EcdsaKeyPair,
    certificate: String,
}

impl Signer {
    /// Of PEM files.
    ///
    /// # Errors
    /// When they are no P-256 key and certificate.
    pub(super) fn new(cert_pem: &[u8], key_pem: &[u8]) -> Result<Self> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(key_pem).context("no PKCS#8 key")?;
        let key =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_pkcs8_der())?;
        let certificate = CertificateDer::from_pem_slice(cert_pem).context("no certificate")?;
        let certificate = STANDARD.encode(&certificate);
        Ok(Self { key, certificate })
    }

    /// # Errors
    /// When there is no randomness.
    pub(super) fn sign(&self, claims: &Claims) -> Result<String> {
        let head = json!({"typ": "JWT", "alg": "ES256", "x5c": [self.certificate]});
        let encode = |bytes: Vec<u8>| URL_SAFE_NO_PAD.encode(bytes);
        let payload = encode(serde_json::to_vec(claims)?);
        let signed = format!("{}.{payload}", encode(serde_json::to_vec(&head)?));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes())?;
        Ok(format!("{signed}.{}", encode(signature.as_ref().to_vec())))
    }
}

/// What a token says, without looking who has signed it.
pub(crate) fn unverified(token: &str) -> Option<Claims> {
    let payload = token.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::PrivateCa;

    #[test]
    fn token_says_what_was_signed() -> Result<()> {
        let pair = PrivateCa::create("tokens")?.server(&["tokens"])?;
        let signer = Signer::new(pair.cert_pem.as_bytes(), pair.key_pem.as_bytes())?;
        let claims = Claims {
            iss: "testbed".to_owned(),
            sub: "robot$a".to_owned(),
            aud: "registry".to_owned(),
            exp: 20,
            nbf: 10,
            iat: 10,
            jti: "1".to_owned(),
            access: vec![Grant::pull("a/b")],
        };
        let token = signer.sign(&claims)?;
        assert_eq!(unverified(&token), Some(claims));
        assert_eq!(unverified("a.b.c"), None);
        Ok(())
    }

    #[test]
    fn scope_is_parsed_from_both_ends() {
        let grant = Grant::parse("repository:host:5000/a:pull,push");
        assert_eq!(grant, Some(Grant::of("host:5000/a", &["pull", "push"])));
        assert_eq!(Grant::parse("nonsense"), None);
    }
}
