//! The keys that verify tokens: a JSON Web Key Set, as of RFC 7517.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

/// The sizes of an RSA modulus that are accepted, in bits.
const RSA_BITS: std::ops::RangeInclusive<u32> = 2048..=8192;
/// The length of a coordinate of Ed25519 and of P-256, in bytes.
const COORDINATE: usize = 32;

/// The keys of a set, by their ids.
pub(super) struct Keys {
    pub(super) by_id: HashMap<String, Key>,
    /// Why the others were ignored, for the log.
    pub(super) ignored: Vec<String>,
}

/// A public key with the only algorithm that it verifies.
pub(super) struct Key {
    pub(super) algorithm: Algorithm,
    pub(super) public: DecodingKey,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

impl Keys {
    /// Parses a set. Keys of other kinds, and those for other uses, are ignored.
    ///
    /// # Errors
    ///
    /// If it is no set, if no key can be used, or if two that can be used have the same id. In words that follow its
    /// name, without its content.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let set: Set = serde_json::from_slice(text)
            .map_err(|error| format!("is no JSON Web Key Set (line {}, column {})", error.line(), error.column()))?;
        let mut keys = Self { by_id: HashMap::new(), ignored: Vec::new() };
        for (number, value) in (1..).zip(&set.keys) {
            let id = value.get("kid").and_then(Value::as_str).unwrap_or_default();
            match Key::parse(value) {
                Err(reason) => keys.ignored.push(format!("key {number} {id:?} {reason}")),
                Ok(_) if id.is_empty() => keys.ignored.push(format!("key {number} has no id (kid)")),
                Ok(key) => match keys.by_id.entry(id.to_owned()) {
                    Entry::Vacant(entry) => drop(entry.insert(key)),
                    Entry::Occupied(_) => return Err(format!("has two keys with the id {id:?}")),
                },
            }
        }
        if keys.by_id.is_empty() {
            let reasons = keys.ignored.iter().map(|reason| format!("; {reason}")).collect::<String>();
            return Err(format!("has no key that can verify tokens{reasons}"));
        }
        Ok(keys)
    }
}

impl Key {
    /// Parses a key. The algorithm is that of its kind, which tokens cannot change.
    fn parse(value: &Value) -> Result<Self, String> {
        if value.get("d").is_some() {
            return Err("has the private part; remove it, and use another key".to_owned());
        }
        let jwk = Jwk::deserialize(value).map_err(|_| "cannot be parsed")?;
        if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return Err("is not for signatures".to_owned());
        }
        if jwk.common.key_operations.is_some_and(|operations| !operations.contains(&KeyOperations::Verify)) {
            return Err("is not for verification".to_owned());
        }
        let key = Self::of_kind(&jwk.algorithm)?;
        match jwk.common.key_algorithm {
            Some(algorithm) if algorithm != KeyAlgorithm::from(key.algorithm) => {
                Err(format!("is for another algorithm than {:?}", key.algorithm))
            }
            Some(_) | None => Ok(key),
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "a kind that is added to the library is not supported either")]
    fn of_kind(parameters: &AlgorithmParameters) -> Result<Self, String> {
        match parameters {
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                Ok(Self { algorithm: Algorithm::EdDSA, public: DecodingKey::from_ed_der(&coordinate(&key.x)?) })
            }
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
                // As an uncompressed point.
                let point = [&[4][..], &coordinate(&key.x)?, &coordinate(&key.y)?].concat();
                Ok(Self { algorithm: Algorithm::ES256, public: DecodingKey::from_ec_der(&point) })
            }
            AlgorithmParameters::RSA(key) => {
                let (modulus, exponent) = (number(&key.n)?, number(&key.e)?);
                let unused = modulus.first().map_or(0, |byte| byte.leading_zeros());
                let bits = u32::try_from(8 * modulus.len()).unwrap_or(u32::MAX).saturating_sub(unused);
                if !RSA_BITS.contains(&bits) {
                    return Err(format!("has {bits} bits; RSA needs {} to {}", RSA_BITS.start(), RSA_BITS.end()));
                }
                let public = DecodingKey::from_rsa_raw_components(&modulus, &exponent);
                Ok(Self { algorithm: Algorithm::RS256, public })
            }
            _ => Err("is of another kind than Ed25519, P-256 and RSA".to_owned()),
        }
    }
}

/// Decodes a coordinate of a point.
fn coordinate(text: &str) -> Result<Vec<u8>, String> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok().filter(|bytes| bytes.len() == COORDINATE);
    bytes.ok_or_else(|| "has a coordinate that is not 32 bytes in base64url".to_owned())
}

/// Decodes a positive number, without its leading zeros.
fn number(text: &str) -> Result<Vec<u8>, String> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| "has a number that is not in base64url")?;
    Ok(bytes.into_iter().skip_while(|byte| *byte == 0).collect())
}

#[cfg(test)]
mod tests;
