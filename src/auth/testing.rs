//! Issuers of tokens for tests, one for each algorithm. They sign anything.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
    RsaPublicKeyComponents,
};
use serde_json::{Value, json};

/// An RSA key of 2048 bits in PKCS#8 that only these tests have: ring cannot create one.
const RSA: &str = "\
    MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQCxZ+opZHfrgWyasCulTgPy6GJNHg0Zz44vxLstMOdHHvIkZsOu\
    XZGqChfWhgamwmCZa/ZizTAZS2s3uBX7jZsxRi0DcgTnykSCG0X4+8S6Z/sszd4ilKCw60zFhPhOAuFOoEHgPYzrjr5yZQ1iYZCF\
    cwXUz7oFhHlVD6tQafpmR9nd0VrfgPu0A9wOTScQpJ7ZDhYy6kzJ2Cd6dTsbsHcT4pgAEv6mSTRJOu2fwAEO3SOHE2/8sxpnwE+s\
    Zv4DGCuielTQTl2dPDUuPUR1COU7A04U7A3bez/erji+WrtS+pQfqWdlV9/9PwCC0bA+96JIM1nTLb4CK6bJHuh2rEhJAgMBAAEC\
    ggEAB9+faUEh3+BFfkuLkll3LCaTZ04KQY8gRb822fN5zkKht0sey+wv8PKj+nPGE4xcrm5318x4wiSiYG2RfzG6laoiSQz8Sf/E\
    gNw+Q6XD5kyDXaqQ3WrIg3Wb+Ye0X/z5fCx5Y/8DVDiIfAn/WTKQkBWp6HckL8bAfk2U2jur3vJmPowt0IgM9g+IaBHHSgk8lmj9\
    pO8mQxtpQZcjcMSdsOzJ/dngovuv1+m/wa58ucQo0SQXIefs6qK8qj7uZr0OBOV9z0l4nv++8QxQOB9XJi22yJv0DPtCVsd08E8F\
    DyOJ8P6dftb3AwjijB4EIj50j6VnhWxn0avGRSz5Gvk7IQKBgQDWzRz4mqdzqhs3Yb4Y9RUXDKojYxwHjEoP5ixDQ3ubIPk7UjnP\
    yX5FsqlH8fb/WWAHu/X7fauiJ+VYvhI7zf/bbqphOH5o//N5ne14u7naHyhlGan2XGWiY3gS34cT9B4eiZIyWbj7FGt8k9CUCP3k\
    fJLlY0eLnp7cc3gqZdbzKQKBgQDTbqqau8TFj8/N3d0JezJbTivbUY6CTLYS04seeA6e4q+LSs+fpI5kv9FBZJR7Pr7svtWRRvK2\
    ygB/hPVv+e5tzSo5j8ziFDxiBwrTAG4OMtmPaOGBFgjKummgxQ2lC9VP5v4c8crCoMYWA8rFvHE3NoMN7UVOxxXuuMceLo1wIQKB\
    gFLKhBweH+So8AyMk+SysgpMS1eQX8FZBULTiMP0QrQsJWQD8VxxYUYj8rNUQ8tv+19/xvPEIF9D2VY3DHgYkkFVij4mtDJsVL/P\
    azRZxuyXjc5J8gSO4G2SwTklBr9eHC3RAJR/mJjN6g/+OSqVvKZQjZ30giMCZGC78NkGn67hAoGBAMKQEAaby5NRp5R2GbVj3Q8Q\
    fGMyRcW5+cKRUHAVYr7rM0cm7LCnqTElItbeS5SuRNtvMPCjLS7v7E1seL82ayY3qieWIJ/ap0Y93MQWnTALsxC5Huq+8BA+Qn1j\
    WA8NOJpyolzYVBGOCTqw+qPDqRt52leyhBjeM1yeRP2NMTKBAoGAc4oKqczdr3+ZA16RdacDgratXnt55auWtkkfYvSmRIm0TLNW\
    DxnXpTol/Gq1Pauo2sICkQV078ezBIgllPXkzgYI6fZRhemii7Q6Ig8W2UhDngxQZC7dw6qdjEYT4T5lu+Yomsg0sbXN0DnIiE5i\
    ijtYar40UDN0C5UUr35zgC8=";

/// The time of the tests, in seconds since 1970.
pub(super) const NOW: f64 = 1_800_000_000.0;
pub(super) const ISSUER: &str = "https://issuer.example.com";
pub(super) const AUDIENCE: &str = "kith";

/// A private key.
enum Private {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

/// Signs tokens with a key.
pub(super) struct Issuer {
    pub(super) algorithm: &'static str,
    /// The public key, with an id that is the algorithm.
    pub(super) jwk: Value,
    /// The bytes of the public key, in its forms.
    pub(super) public: Vec<Vec<u8>>,
    private: Private,
}

pub(super) fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Issuer {
    pub(super) fn ed25519() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let key = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        let public = key.public_key().as_ref().to_vec();
        let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": base64(&public), "kid": "EdDSA", "alg": "EdDSA" });
        Self { algorithm: "EdDSA", jwk, public: vec![public], private: Private::Ed25519(key) }
    }

    pub(super) fn p256() -> Self {
        let (by, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(by, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(by, pkcs8.as_ref(), &random).unwrap();
        let public = key.public_key().as_ref().to_vec();
        let (x, y) = (base64(&public[1..33]), base64(&public[33..]));
        let jwk = json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": "ES256", "use": "sig" });
        Self { algorithm: "ES256", jwk, public: vec![public], private: Private::P256(key) }
    }

    pub(super) fn rsa() -> Self {
        let key = RsaKeyPair::from_pkcs8(&STANDARD.decode(RSA).unwrap()).unwrap();
        let RsaPublicKeyComponents { n, e } = key.public().into();
        let n: Vec<u8> = n;
        let e: Vec<u8> = e;
        // Some write a zero first.
        let with_zero = [&[0][..], &n].concat();
        let jwk =
            json!({ "kty": "RSA", "n": base64(with_zero), "e": base64(e), "kid": "RS256", "key_ops": ["verify"] });
        let public = vec![key.public().as_ref().to_vec(), n];
        Self { algorithm: "RS256", jwk, public, private: Private::Rsa(key) }
    }

    /// One for each algorithm.
    pub(super) fn all() -> [Self; 3] {
        [Self::ed25519(), Self::p256(), Self::rsa()]
    }

    pub(super) fn header(&self) -> Value {
        json!({ "alg": self.algorithm, "kid": self.algorithm, "typ": "at+jwt" })
    }

    /// Signs a message.
    pub(super) fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.private {
            Private::Ed25519(key) => key.sign(message).as_ref().to_vec(),
            Private::P256(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Private::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
        }
    }

    /// Signs a token with any text as its header and claims.
    #[expect(clippy::needless_pass_by_value, reason = "tests make them in place")]
    pub(super) fn sign(&self, header: impl ToString, claims: impl ToString) -> String {
        let message = format!("{}.{}", base64(header.to_string()), base64(claims.to_string()));
        let signature = self.signature(message.as_bytes());
        format!("{message}.{}", base64(signature))
    }
}

/// The claims of a service that may read and write.
pub(super) fn claims() -> Value {
    json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "billing", "exp": NOW + 3600.0, "scope": "read bogus write" })
}

/// The set of these issuers' keys.
pub(super) fn key_set(issuers: &[Issuer]) -> Vec<u8> {
    let keys: Vec<&Value> = issuers.iter().map(|issuer| &issuer.jwk).collect();
    json!({ "keys": keys }).to_string().into_bytes()
}
