//! Tokens, signed as an issuer would.

use std::time::UNIX_EPOCH;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData as _, SigningKey as _};
use serde_json::{Value, json};
use sha2::Sha256;

/// The issuer and the audience of the tokens.
pub const ISSUER: &str = "https://issuer.example";
pub const AUDIENCE: &str = "kith";

/// An issuer's key.
pub struct Signer {
    kid: &'static str,
    key: KeyPair,
}

impl Signer {
    /// A new key with this id.
    pub fn new(kid: &'static str) -> Self {
        Self { kid, key: KeyPair::generate_for(&PKCS_ED25519).expect("a key") }
    }

    /// The file with this key for those who verify.
    pub fn jwks(&self) -> String {
        let x = URL_SAFE_NO_PAD.encode(self.key.der_bytes());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": self.kid, "x": x}]})
            .to_string()
    }

    /// A token that is valid for an hour.
    pub fn token(&self, subject: &str, scope: &str) -> String {
        self.sign(&self.header(), &claims(subject, scope))
    }

    pub fn header(&self) -> Value {
        json!({"alg": "EdDSA", "typ": "at+jwt", "kid": self.kid})
    }

    /// A token with this header and these claims, and an HMAC whose secret is the public key. Everybody knows that.
    pub fn sign_by_public_key(&self, header: &Value, claims: &Value) -> String {
        let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let mut hmac = Hmac::<Sha256>::new_from_slice(self.key.der_bytes()).expect("a key");
        hmac.update(format!("{header}.{claims}").as_bytes());
        format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode(hmac.finalize().into_bytes()))
    }

    /// A token with this header and these claims.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signed = format!("{header}.{claims}");
        let signature = self.key.sign(signed.as_bytes()).expect("a signature");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// The claims of a token that is valid for an hour.
pub fn claims(subject: &str, scope: &str) -> Value {
    let now = now();
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "scope": scope, "iat": now, "nbf": now, "exp": now + 3_600})
}

/// The seconds since 1970.
pub fn now() -> u64 {
    UNIX_EPOCH.elapsed().expect("after 1970").as_secs()
}
