//! Signs tokens for development, with a local key.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::crypto;

/// The number of characters in a line of PEM.
const PEM_WIDTH: usize = 64;

/// A private key that signs tokens: Ed25519 or P-256. Its `Debug` does not show it.
#[derive(Debug)]
pub struct SigningKey {
    algorithm: Algorithm,
    private: EncodingKey,
    /// The public part, as a JSON Web Key without its id.
    public: Value,
}

impl SigningKey {
    /// Creates a random Ed25519 key, in PEM.
    ///
    /// # Errors
    ///
    /// If the system has no random numbers.
    pub fn random() -> Result<SecretString, String> {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
        let text = STANDARD.encode(key.map_err(|_| "the system has no random numbers")?);
        let lines = text.as_bytes().chunks(PEM_WIDTH).map(String::from_utf8_lossy).collect::<Vec<_>>().join("\n");
        Ok(format!("-----BEGIN PRIVATE KEY-----\n{lines}\n-----END PRIVATE KEY-----\n").into())
    }

    /// Uses a private key.
    ///
    /// # Errors
    ///
    /// If it is of another kind. In words that follow the name of its file.
    pub fn new(key: &PrivateKeyDer<'_>) -> Result<Self, String> {
        crypto::install();
        let der = key.secret_der();
        if let Some(pair) = crypto::ed25519(der) {
            let x = URL_SAFE_NO_PAD.encode(pair.public_key());
            let public = json!({ "crv": "Ed25519", "kty": "OKP", "x": x });
            return Ok(Self { algorithm: Algorithm::EdDSA, private: EncodingKey::from_ed_der(der), public });
        }
        if let Some(pair) = crypto::p256(der)
            && let Some((x, y)) = pair.public_key().as_ref().get(1..).and_then(|point| point.split_at_checked(32))
        {
            let [x, y] = [x, y].map(|coordinate| URL_SAFE_NO_PAD.encode(coordinate));
            let public = json!({ "crv": "P-256", "kty": "EC", "x": x, "y": y });
            return Ok(Self { algorithm: Algorithm::ES256, private: EncodingKey::from_ec_der(der), public });
        }
        Err("is no Ed25519 or P-256 key in PKCS#8".to_owned())
    }

    /// Returns the id of the key: its thumbprint, as of RFC 7638.
    pub fn id(&self) -> String {
        // The members are in the order that the thumbprint needs.
        URL_SAFE_NO_PAD.encode(digest(&SHA256, self.public.to_string().as_bytes()))
    }

    /// Returns the JSON Web Key Set that verifies tokens of this key. It has nothing secret.
    pub fn key_set(&self) -> Value {
        let mut key = self.public.clone();
        key["kid"] = self.id().into();
        key["alg"] = json!(self.algorithm);
        key["use"] = "sig".into();
        json!({ "keys": [key] })
    }

    /// Signs a token with these claims.
    ///
    /// # Errors
    ///
    /// If it cannot be signed.
    pub fn sign(&self, claims: &Value) -> Result<String, String> {
        let header = Header { typ: Some("at+jwt".to_owned()), kid: Some(self.id()), ..Header::new(self.algorithm) };
        encode(&header, claims, &self.private).map_err(|error| format!("cannot sign: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;
    use secrecy::ExposeSecret;

    use super::super::keys::Keys;
    use super::super::testing::{AUDIENCE, ISSUER, NOW, claims};
    use super::super::token::{Expected, Verifier};
    use super::*;

    #[test]
    fn tokens_are_verified_by_the_key_set_of_their_key() {
        let ed25519 = SigningKey::random().unwrap();
        let p256 = rcgen::KeyPair::generate().unwrap().serialize_pem();
        for pem in [ed25519.expose_secret(), &p256] {
            let key = SigningKey::new(&PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
            let keys = Keys::parse(key.key_set().to_string().as_bytes()).ok().unwrap();
            let expected = Expected {
                issuer: ISSUER.to_owned(),
                audiences: vec![AUDIENCE.to_owned()],
                cache: std::sync::Arc::default(),
            };
            let verifier = Verifier::new(keys, &expected);
            let token = key.sign(&claims()).unwrap();
            assert_eq!(verifier.verify(&token, NOW).unwrap().to_string(), "token:billing");
            let shown = format!("{key:?} {ed25519:?}");
            assert!(shown.contains("REDACTED") && !shown.contains(pem.lines().nth(1).unwrap()), "{shown}");
        }
    }

    #[test]
    fn the_id_of_a_key_is_its_thumbprint() {
        // The example of RFC 8037, appendix A.3.
        let public = json!({ "crv": "Ed25519", "kty": "OKP", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" });
        let private = EncodingKey::from_ed_der(&[]);
        let key = SigningKey { algorithm: Algorithm::EdDSA, private, public };
        assert_eq!(key.id(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn another_kind_of_key_is_refused() {
        let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
        let refused = SigningKey::new(&PrivateKeyDer::from_pem_slice(other.as_bytes()).unwrap()).unwrap_err();
        assert_eq!(refused, "is no Ed25519 or P-256 key in PKCS#8");
    }
}
