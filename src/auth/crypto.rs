//! The cryptography of tokens: that of TLS, for the three algorithms that are accepted.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::signature::{Error as SignatureError, Signer, Verifier};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair,
    RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};

/// Tokens by ring. The library comes with others, which need another build or have an open advisory.
static PROVIDER: CryptoProvider =
    CryptoProvider { signer_factory: signer, verifier_factory: verifier, key_utils: KeyUtils::new_unimplemented() };

/// Makes the library of tokens use ring. Must be called before any other use of it; again has no effect.
pub(super) fn install() {
    let _installed = PROVIDER.install_default();
}

/// A public key with its algorithm.
enum Public {
    Point(&'static dyn VerificationAlgorithm, Vec<u8>, Algorithm),
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    use AlgorithmFamily::{Ec, Ed, Rsa};
    let point = |by: &'static dyn VerificationAlgorithm, bytes: &[u8]| Public::Point(by, bytes.to_vec(), *algorithm);
    let public = match (algorithm, key.family(), key.kind()) {
        (Algorithm::EdDSA, Ed, DecodingKeyKind::SecretOrDer(bytes)) => point(&ED25519, bytes),
        (Algorithm::ES256, Ec, DecodingKeyKind::SecretOrDer(bytes)) => point(&ECDSA_P256_SHA256_FIXED, bytes),
        (Algorithm::RS256, Rsa, DecodingKeyKind::RsaModulusExponent { n, e }) => {
            Public::Rsa(RsaPublicKeyComponents { n: n.clone(), e: e.clone() })
        }
        _ => return Err(ErrorKind::UnsupportedAlgorithm.into()),
    };
    Ok(Box::new(public))
}

impl Verifier<Vec<u8>> for Public {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), SignatureError> {
        let verified = match self {
            Self::Point(by, bytes, _) => UnparsedPublicKey::new(*by, bytes).verify(message, signature),
            Self::Rsa(key) => key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature),
        };
        verified.map_err(|_| SignatureError::new())
    }
}

impl JwtVerifier for Public {
    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Point(_, _, algorithm) => *algorithm,
            Self::Rsa(_) => Algorithm::RS256,
        }
    }
}

/// A private key with its algorithm.
enum Private {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
}

fn signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    let private = match (algorithm, key.family()) {
        (Algorithm::EdDSA, AlgorithmFamily::Ed) => ed25519(key.as_bytes()).map(Private::Ed25519),
        (Algorithm::ES256, AlgorithmFamily::Ec) => p256(key.as_bytes()).map(Private::P256),
        _ => return Err(ErrorKind::UnsupportedAlgorithm.into()),
    };
    Ok(Box::new(private.ok_or(ErrorKind::InvalidKeyFormat)?))
}

impl Signer<Vec<u8>> for Private {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, SignatureError> {
        match self {
            Self::Ed25519(key) => Ok(key.sign(message).as_ref().to_vec()),
            Self::P256(key) => {
                let signed = key.sign(&SystemRandom::new(), message);
                signed.map(|signature| signature.as_ref().to_vec()).map_err(|_| SignatureError::new())
            }
        }
    }
}

impl JwtSigner for Private {
    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Ed25519(_) => Algorithm::EdDSA,
            Self::P256(_) => Algorithm::ES256,
        }
    }
}

/// Reads an Ed25519 key in PKCS#8, of version 2 or of version 1, as OpenSSL writes it.
pub(super) fn ed25519(pkcs8: &[u8]) -> Option<Ed25519KeyPair> {
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).ok()
}

/// Reads a P-256 key in PKCS#8.
pub(super) fn p256(pkcs8: &[u8]) -> Option<EcdsaKeyPair> {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &SystemRandom::new()).ok()
}
