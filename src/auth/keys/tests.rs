use serde_json::json;

use super::super::testing::{Issuer, base64, key_set};
use super::*;

/// A key with another member. `null` removes it.
fn with(mut key: Value, member: &str, other: Value) -> Value {
    let object = key.as_object_mut().unwrap();
    object.remove(member);
    if !other.is_null() {
        object.insert(member.to_owned(), other);
    }
    key
}

#[test]
fn the_algorithm_is_that_of_the_kind_of_the_key() {
    let issuers = Issuer::all();
    let keys = Keys::parse(&key_set(&issuers)).ok().unwrap();
    assert_eq!(keys.by_id.len(), 3);
    assert!(keys.ignored.is_empty(), "{:?}", keys.ignored);
    for (id, algorithm) in [("EdDSA", Algorithm::EdDSA), ("ES256", Algorithm::ES256), ("RS256", Algorithm::RS256)] {
        assert_eq!(keys.by_id[id].algorithm, algorithm);
    }
}

#[test]
fn keys_that_cannot_be_used_are_ignored_with_the_reason() {
    let [ed25519, p256, rsa] = Issuer::all().map(|issuer| issuer.jwk);
    for (key, reason) in [
        (with(ed25519.clone(), "kid", json!(null)), "has no id"),
        (with(ed25519.clone(), "kid", json!("")), "has no id"),
        (with(ed25519.clone(), "kid", json!(1)), "cannot be parsed"),
        (with(ed25519.clone(), "use", json!("enc")), "is not for signatures"),
        (with(ed25519.clone(), "key_ops", json!(["sign"])), "is not for verification"),
        (with(ed25519.clone(), "alg", json!("ES256")), "is for another algorithm than EdDSA"),
        (with(ed25519.clone(), "alg", json!("HS256")), "is for another algorithm than EdDSA"),
        (with(ed25519.clone(), "d", json!(base64([1; 32]))), "has the private part"),
        (with(ed25519.clone(), "x", json!(base64([1; 31]))), "has a coordinate that is not 32 bytes"),
        (with(ed25519.clone(), "x", json!("+/+/")), "has a coordinate that is not 32 bytes"),
        (with(ed25519.clone(), "crv", json!("X25519")), "is of another kind"),
        (with(ed25519.clone(), "crv", json!("P-256")), "is of another kind"),
        (with(p256.clone(), "crv", json!("Ed25519")), "is of another kind"),
        (with(p256.clone(), "crv", json!("P-384")), "is of another kind"),
        (with(p256.clone(), "crv", json!("secp256k1")), "is of another kind"),
        (with(p256.clone(), "y", json!(null)), "is of another kind"),
        (with(p256, "y", json!(base64([1; 33]))), "has a coordinate that is not 32 bytes"),
        (with(rsa.clone(), "alg", json!("PS256")), "is for another algorithm than RS256"),
        (with(rsa.clone(), "alg", json!("RS512")), "is for another algorithm than RS256"),
        (with(rsa.clone(), "n", json!(base64([0xff; 128]))), "has 1024 bits; RSA needs 2048 to 8192"),
        (with(rsa.clone(), "n", json!(base64([0x7f; 256]))), "has 2047 bits"),
        (with(rsa.clone(), "n", json!(base64([0xff; 1025]))), "has 8200 bits"),
        (with(rsa.clone(), "n", json!("")), "has 0 bits"),
        (with(rsa, "n", json!("=")), "has a number that is not in base64url"),
        (json!({ "kty": "oct", "kid": "a", "k": base64([1; 32]) }), "is of another kind"),
        (json!({ "kty": "AKP", "kid": "a", "alg": "ML-DSA-44", "pub": "" }), "is of another kind"),
        (json!("key"), "cannot be parsed"),
        (json!(null), "cannot be parsed"),
    ] {
        let alone = Keys::parse(json!({ "keys": [key] }).to_string().as_bytes()).err().unwrap();
        assert!(alone.starts_with("has no key that can verify tokens; key 1 "), "{alone}");
        assert!(alone.contains(reason), "{key}: {alone}");
        let other = Issuer::ed25519().jwk;
        let both = Keys::parse(json!({ "keys": [other, key] }).to_string().as_bytes()).ok().unwrap();
        assert_eq!(both.by_id.len(), 1);
        assert!(both.ignored.len() == 1 && both.ignored[0].contains(reason), "{:?}", both.ignored);
    }
}

#[test]
fn a_set_that_cannot_be_used_is_refused_without_its_content() {
    let key = Issuer::ed25519().jwk;
    for (text, reason) in [
        (String::new(), "is no JSON Web Key Set (line 1, column 0)"),
        ("secret".to_owned(), "is no JSON Web Key Set"),
        (r#"{"keys": "secret"}"#.to_owned(), "is no JSON Web Key Set"),
        (key.to_string(), "is no JSON Web Key Set"),
        (r#"{"keys": []}"#.to_owned(), "has no key that can verify tokens"),
        (json!({ "keys": [key.clone(), key] }).to_string(), "has two keys with the id \"EdDSA\""),
    ] {
        let refused = Keys::parse(text.as_bytes()).err().unwrap();
        assert!(refused.starts_with(reason) && !refused.contains("secret"), "{text}: {refused}");
    }
}
