use std::time::Instant;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::testing::{AUDIENCE, ISSUER, Issuer, NOW, base64, claims, key_set};
use super::*;

fn expected() -> Expected {
    Expected {
        issuer: ISSUER.to_owned(),
        audiences: vec!["other".to_owned(), AUDIENCE.to_owned()],
        cache: Arc::default(),
    }
}

fn verifier(issuers: &[Issuer]) -> Verifier {
    Verifier::new(Keys::parse(&key_set(issuers)).ok().unwrap(), &expected())
}

fn named(verified: Result<Principal, Cause>) -> Result<String, Cause> {
    verified.map(|principal| principal.to_string())
}

/// A value with another member. `null` removes it.
fn with(mut value: Value, member: &str, other: &Value) -> Value {
    let object = value.as_object_mut().unwrap();
    if other.is_null() {
        object.remove(member);
    } else {
        object.insert(member.to_owned(), other.clone());
    }
    value
}

#[test]
fn a_token_of_each_algorithm_is_verified_and_remembered() {
    let issuers = Issuer::all();
    let verifier = verifier(&issuers);
    for (issuer, remembered) in issuers.iter().zip(1..) {
        let token = issuer.sign(issuer.header(), claims());
        for _ in 0..2 {
            let Ok(Principal::Service(service)) = verifier.verify(&token, NOW) else { panic!("a service") };
            assert_eq!(service.key().as_ref(), "token:billing");
            assert_eq!(service.scopes, [Scope::Read, Scope::Write].into_iter().collect());
            assert_eq!(verifier.remembered.len(), remembered);
        }
    }
}

#[test]
fn claims_decide_by_this_table() {
    let issuers = [Issuer::ed25519()];
    let verifier = verifier(&issuers);
    let billing = || Ok("token:billing".to_owned());
    let long = "x".repeat(255);
    for (claim, value, result) in [
        ("iss", json!(null), Err(Cause::MissingClaim("iss"))),
        ("iss", json!("https://issuer.example.com/"), Err(Cause::Issuer)),
        ("iss", json!([ISSUER]), Err(Cause::NotAToken)),
        ("aud", json!(null), Err(Cause::MissingClaim("aud"))),
        ("aud", json!("Kith"), Err(Cause::Audience)),
        ("aud", json!([]), Err(Cause::Audience)),
        ("aud", json!(["a", "b"]), Err(Cause::Audience)),
        ("aud", json!(["a", "kith"]), billing()),
        ("aud", json!("other"), billing()),
        ("exp", json!(null), Err(Cause::MissingClaim("exp"))),
        ("exp", json!("1900000000"), Err(Cause::NotAToken)),
        ("exp", json!(NOW - 30.0), Err(Cause::Expired)),
        ("exp", json!(NOW - 29.5), billing()),
        ("exp", json!(1_900_000_000), billing()),
        ("exp", json!(0), Err(Cause::Expired)),
        ("exp", json!(u64::MAX), billing()),
        ("nbf", json!(NOW + 30.0), billing()),
        ("nbf", json!(NOW + 30.5), Err(Cause::NotYetValid)),
        ("nbf", json!(u64::MAX), Err(Cause::NotYetValid)),
        ("nbf", json!("x"), Err(Cause::NotAToken)),
        ("iat", json!(NOW + 30.0), billing()),
        ("iat", json!(NOW + 31.0), Err(Cause::NotYetValid)),
        ("iat", json!(0), billing()),
        ("sub", json!(null), Err(Cause::MissingClaim("sub"))),
        ("sub", json!(7), Err(Cause::NotAToken)),
        ("sub", json!(""), Err(Cause::Subject)),
        ("sub", json!("a b"), Err(Cause::Subject)),
        ("sub", json!("a\n"), Err(Cause::Subject)),
        ("sub", json!("ä"), Err(Cause::Subject)),
        ("sub", json!(format!("{long}x")), Err(Cause::Subject)),
        ("sub", json!(long), Ok(format!("token:{long}"))),
        ("sub", json!("auth0|a@clients"), Ok("token:auth0|a@clients".to_owned())),
        ("sub", json!("User:7"), Ok("token:User:7".to_owned())),
        ("sub", json!("user:7"), Ok("user:7".to_owned())),
        ("sub", json!("user:9007199254740991"), Ok("user:9007199254740991".to_owned())),
        ("sub", json!("user:9007199254740992"), Err(Cause::Subject)),
        ("sub", json!("user:0"), Err(Cause::Subject)),
        ("sub", json!("user:07"), Err(Cause::Subject)),
        ("sub", json!("user:+7"), Err(Cause::Subject)),
        ("sub", json!("user:-7"), Err(Cause::Subject)),
        ("sub", json!("user:7x"), Err(Cause::Subject)),
        ("sub", json!("user:"), Err(Cause::Subject)),
        ("sub", json!("user:user:7"), Err(Cause::Subject)),
        ("scope", json!(["read"]), Err(Cause::NotAToken)),
        ("scope", json!(""), billing()),
        ("private", json!({ "a": [1] }), billing()),
    ] {
        let token = issuers[0].sign(issuers[0].header(), with(claims(), claim, &value));
        assert_eq!(named(verifier.verify(&token, NOW)), result, "{claim} = {value}");
    }
}

#[test]
fn the_scopes_of_a_service_are_those_of_its_token() {
    let issuers = [Issuer::ed25519()];
    let verifier = verifier(&issuers);
    for (scope, scopes) in [
        (json!(null), vec![]),
        (json!(""), vec![]),
        (json!("admin"), vec![Scope::Admin]),
        (json!("read  users openid"), vec![Scope::Read, Scope::Users]),
        (json!("Read,write"), vec![]),
    ] {
        let token = issuers[0].sign(issuers[0].header(), with(claims(), "scope", &scope));
        let Ok(Principal::Service(service)) = verifier.verify(&token, NOW) else { panic!("a service") };
        assert_eq!(service.scopes, scopes.into_iter().collect(), "{scope}");
    }
}

#[test]
fn headers_decide_by_this_table() {
    let issuers = Issuer::all();
    let verifier = verifier(&issuers);
    let billing = || Ok("token:billing".to_owned());
    for (parameter, value, result) in [
        ("typ", json!(null), billing()),
        ("typ", json!("JWT"), billing()),
        ("typ", json!("jwt"), billing()),
        ("typ", json!("application/at+jwt"), billing()),
        ("typ", json!("logout+jwt"), Err(Cause::TokenType)),
        ("typ", json!(""), Err(Cause::TokenType)),
        ("typ", json!(1), Err(Cause::NotAToken)),
        ("crit", json!([]), Err(Cause::CriticalHeader)),
        ("crit", json!(["exp"]), Err(Cause::CriticalHeader)),
        ("crit", json!(["b64"]), Err(Cause::CriticalHeader)),
        ("b64", json!(false), Err(Cause::NotAToken)),
        ("kid", json!(null), Err(Cause::NoKeyId)),
        ("kid", json!(1), Err(Cause::NotAToken)),
        ("kid", json!(""), Err(Cause::UnknownKeyId)),
        ("kid", json!("../../EdDSA"), Err(Cause::UnknownKeyId)),
        ("alg", json!(null), Err(Cause::NotAToken)),
        ("alg", json!(1), Err(Cause::NotAToken)),
        ("alg", json!(""), Err(Cause::Algorithm)),
        ("alg", json!("none"), Err(Cause::Algorithm)),
        ("alg", json!("nOnE"), Err(Cause::Algorithm)),
        ("alg", json!("HS256"), Err(Cause::Algorithm)),
        ("alg", json!("HS512"), Err(Cause::Algorithm)),
        ("alg", json!("PS256"), Err(Cause::Algorithm)),
        ("alg", json!("RS512"), Err(Cause::Algorithm)),
        ("alg", json!("ES384"), Err(Cause::Algorithm)),
        ("jku", json!("https://attacker.example.com"), billing()),
    ] {
        for issuer in &issuers {
            let token = issuer.sign(with(issuer.header(), parameter, &value), claims());
            assert_eq!(named(verifier.verify(&token, NOW)), result, "{} {parameter} = {value}", issuer.algorithm);
        }
    }
}

/// HMAC by its definition in RFC 2104, with SHA-256.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

#[test]
fn a_key_verifies_only_with_its_own_algorithm() {
    let issuers = Issuer::all();
    let verifier = verifier(&issuers);
    for issuer in &issuers {
        // The bytes of a public key are known. They must be the secret of nothing.
        for secret in issuer.public.iter().chain([&issuer.jwk.to_string().into_bytes()]) {
            let message = format!(
                "{}.{}",
                base64(with(issuer.header(), "alg", &json!("HS256")).to_string()),
                base64(claims().to_string())
            );
            let token = format!("{message}.{}", base64(hmac(secret, message.as_bytes())));
            assert_eq!(named(verifier.verify(&token, NOW)), Err(Cause::Algorithm));
        }
        let unsigned = issuer.sign(with(issuer.header(), "alg", &json!("none")), claims());
        let unsigned = &unsigned[..=unsigned.rfind('.').unwrap()];
        assert_eq!(named(verifier.verify(unsigned, NOW)), Err(Cause::Algorithm));
        // The algorithm of its own key, and the id of another.
        for other in issuers.iter().filter(|other| other.algorithm != issuer.algorithm) {
            let token = issuer.sign(with(issuer.header(), "kid", &json!(other.algorithm)), claims());
            assert_eq!(named(verifier.verify(&token, NOW)), Err(Cause::Algorithm));
            // The other's algorithm too: only the signature is that of another key.
            let token = issuer.sign(other.header(), claims());
            assert_eq!(named(verifier.verify(&token, NOW)), Err(Cause::Signature));
        }
    }
    // Another key of the same kind, under the same id, which brings itself along.
    let attacker = Issuer::ed25519();
    let header = with(attacker.header(), "jwk", &attacker.jwk);
    assert_eq!(named(verifier.verify(&attacker.sign(header, claims()), NOW)), Err(Cause::Signature));
    assert_eq!(verifier.remembered.len(), 0, "nothing that was refused is remembered");
}

#[test]
fn what_is_no_token_is_refused() {
    let issuers = Issuer::all();
    let verifier = verifier(&issuers);
    for issuer in &issuers {
        let token = issuer.sign(issuer.header(), claims());
        let (message, signature) = token.rsplit_once('.').unwrap();
        let (header, payload) = message.split_once('.').unwrap();
        let twice =
            r#"{"sub":"billing","sub":"user:1","iss":"https://issuer.example.com","aud":"kith","exp":1900000000}"#;
        for (token, cause) in [
            (String::new(), Cause::NotAToken),
            ("..".to_owned(), Cause::NotAToken),
            (header.to_owned(), Cause::NotAToken),
            (message.to_owned(), Cause::NotAToken),
            (format!("{token}."), Cause::NotAToken),
            (format!("{token}.{signature}"), Cause::NotAToken),
            (format!("{token}="), Cause::NotAToken),
            (format!("{token}\u{e9}"), Cause::NotAToken),
            (format!("{message}."), Cause::Signature),
            (format!("{message}.AAAA"), Cause::Signature),
            (format!("{message}.{}", base64([0; 64])), Cause::Signature),
            (format!("{header}..{}", base64(issuer.signature(format!("{header}.").as_bytes()))), Cause::NotAToken),
            (format!("{header}.{}.{signature}", base64(claims().to_string() + " ")), Cause::Signature),
            (format!(".{payload}.{signature}"), Cause::NotAToken),
            (issuer.sign(issuer.header(), "[]"), Cause::NotAToken),
            (issuer.sign(issuer.header(), "null"), Cause::NotAToken),
            (issuer.sign(issuer.header(), "{}"), Cause::MissingClaim("")),
            (issuer.sign(issuer.header(), twice), Cause::NotAToken),
            (issuer.sign("[]", claims()), Cause::NotAToken),
            (issuer.sign("{", claims()), Cause::NotAToken),
        ] {
            let refused = verifier.verify(&token, NOW).unwrap_err();
            // Which of the missing claims it names is by chance.
            let refused = if matches!(refused, Cause::MissingClaim(_)) { Cause::MissingClaim("") } else { refused };
            assert_eq!(refused, cause, "{} {token}", issuer.algorithm);
        }
        assert!(verifier.verify(&token, NOW).is_ok());
    }
}

#[test]
fn a_remembered_token_expires_all_the_same() {
    let issuers = [Issuer::ed25519()];
    let verifier = verifier(&issuers);
    let token = issuers[0].sign(issuers[0].header(), with(claims(), "nbf", &json!(NOW)));
    assert!(verifier.verify(&token, NOW).is_ok());
    assert!(verifier.verify(&token, NOW + 3629.0).is_ok());
    assert_eq!(verifier.remembered.len(), 1);
    assert_eq!(named(verifier.verify(&token, NOW - 31.0)), Err(Cause::NotYetValid));
    assert!(verifier.verify(&token, NOW).is_ok());
    assert_eq!(named(verifier.verify(&token, NOW + 3630.0)), Err(Cause::Expired));
    assert_eq!(verifier.remembered.len(), 0);
}

#[test]
fn no_more_tokens_are_remembered_than_have_room() {
    let issuers = [Issuer::ed25519()];
    let verifier = verifier(&issuers);
    let small = Verifier { remembered: remember(8, &CacheMetrics::default()), ..verifier };
    for id in 1..100 {
        let token = issuers[0].sign(issuers[0].header(), with(claims(), "sub", &json!(format!("user:{id}"))));
        assert_eq!(named(small.verify(&token, NOW)), Ok(format!("user:{id}")));
        assert!(small.remembered.len() <= 8);
    }
}

#[test]
fn no_changed_byte_is_accepted() {
    let issuers = Issuer::all();
    let verifier = verifier(&issuers);
    for issuer in &issuers {
        let token = issuer.sign(issuer.header(), claims());
        for at in 0..token.len() {
            for other in ['A', 'e', '9', '-', '.', '=', '\u{0}', '~'] {
                let changed = format!("{}{other}{}", &token[..at], &token[at + 1..]);
                assert!(changed == token || verifier.verify(&changed, NOW).is_err(), "{changed}");
            }
            let removed = format!("{}{}", &token[..at], &token[at + 1..]);
            assert!(verifier.verify(&removed, NOW).is_err(), "{removed}");
            assert!(verifier.verify(&token[..at], NOW).is_err(), "{}", &token[..at]);
        }
    }
}

/// JSON of a few levels, with the names that matter.
fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ -~]{0,8}".prop_map(Value::from),
        prop::sample::select(vec!["EdDSA", "ES256", "RS256", "HS256", "none", "JWT", "kith", ISSUER, "user:1"])
            .prop_map(Value::from),
    ];
    let name = prop::sample::select(vec![
        "alg", "kid", "typ", "crit", "b64", "jwk", "zip", "enc", "x5c", "iss", "aud", "exp", "nbf", "iat", "sub",
        "scope",
    ]);
    leaf.prop_recursive(2, 16, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(name.clone().prop_map(str::to_owned), inner, 0..8)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn nothing_made_up_is_verified(token in "\\PC{0,60}", parts in prop::collection::vec(any::<Vec<u8>>(), 3)) {
        let issuers = [Issuer::ed25519()];
        let verifier = verifier(&issuers);
        prop_assert!(verifier.verify(&token, NOW).is_err());
        let parts: Vec<String> = parts.iter().map(base64).collect();
        prop_assert!(verifier.verify(&parts.join("."), NOW).is_err());
    }

    #[test]
    fn any_json_is_refused_or_names_who_it_says(header in json_value(), claims in json_value()) {
        let issuers = [Issuer::ed25519()];
        let verifier = verifier(&issuers);
        // Headers that anybody can make up, without the key.
        let unsigned = format!("{}.{}.{}", base64(header.to_string()), base64(claims.to_string()), base64([1; 64]));
        prop_assert!(verifier.verify(&unsigned, NOW).is_err());
        // Claims that the issuer signed.
        let signed = issuers[0].sign(issuers[0].header(), &claims);
        if let Ok(principal) = verifier.verify(&signed, NOW) {
            let subject = claims["sub"].as_str().unwrap();
            let service = format!("token:{subject}");
            prop_assert!([subject, service.as_str()].contains(&principal.to_string().as_str()));
        }
    }
}

/// Prints what a call pays: `cargo test --release --lib what_a_call_pays -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn what_a_call_pays() {
    const TIMES: u32 = 2_000;
    let issuers = Issuer::all();
    for issuer in &issuers {
        let verifier = verifier(&issuers);
        let tokens: Vec<String> =
            (0..TIMES).map(|id| issuer.sign(issuer.header(), with(claims(), "jti", &json!(id.to_string())))).collect();
        for case in ["verified", "remembered"] {
            let start = Instant::now();
            assert!(tokens.iter().all(|token| verifier.verify(token, NOW).is_ok()));
            println!("{} {case}: {:?} a token of {} bytes", issuer.algorithm, start.elapsed() / TIMES, tokens[0].len());
        }
    }
}
