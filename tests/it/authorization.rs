//! Who may make which call: every RPC with every kind of credential, over TLS.

mod caller;

use kith::auth::Scope;
use kith::auth::rights::{RIGHTS, Right};
use kith::error;
use kith::proto::v1::{self as pb, ErrorReason};
use serde_json::{Value, json};
use tonic::Code;

use self::caller::{Caller, Ended, message, path};
use crate::harness::secured::Secured;
use crate::harness::tokens::{Signer, claims, now};

const ANN: i64 = 1;
const BOB: i64 = 2;

/// A token of this header and these claims, each with one value replaced.
fn token(server: &Secured, header: (&str, Value), claim: (&str, Value)) -> String {
    let (mut headers, mut all) = (server.signer.header(), claims("user:1", ""));
    headers[header.0] = header.1;
    all[claim.0] = claim.1;
    server.signer.sign(&headers, &all)
}

/// Credentials that are not valid, each with what is wrong with it.
fn invalid(server: &Secured) -> Vec<(&'static str, Vec<String>)> {
    let now = now();
    let header = |name, value: &str| token(server, (name, json!(value)), ("sub", json!("user:1")));
    let claim = |name, value| token(server, ("typ", json!("at+jwt")), (name, value));
    let good = server.signer.token("user:1", "");
    let (signed, signature) = good.rsplit_once('.').expect("three parts");
    let unsigned = header("alg", "none");
    let unsigned = unsigned.rsplit_once('.').expect("three parts").0;
    let tampered = token(server, ("typ", json!("JWT")), ("sub", json!("user:2")));
    let tampered = tampered.rsplit_once('.').expect("three parts").0;
    let hmac_header = json!({"alg": "HS256", "typ": "JWT", "kid": "one"});
    let hmac = server.signer.sign_by_public_key(&hmac_header, &claims("user:1", ""));
    let bearer = |credential: &str| vec![format!("Bearer {credential}")];
    vec![
        ("expired", bearer(&claim("exp", json!(now - 60)))),
        ("not yet valid", bearer(&claim("nbf", json!(now + 600)))),
        ("wrong audience", bearer(&claim("aud", json!("other")))),
        ("wrong issuer", bearer(&claim("iss", json!("https://other.example")))),
        ("no subject", bearer(&claim("sub", Value::Null))),
        ("no user", bearer(&claim("sub", json!("user:ann")))),
        ("unknown key id", bearer(&header("kid", "two"))),
        ("another's key", bearer(&Signer::new("one").token("user:1", ""))),
        ("wrong algorithm", bearer(&header("alg", "ES256"))),
        ("HMAC", bearer(&hmac)),
        ("none", bearer(&format!("{unsigned}."))),
        ("claims of another token", bearer(&format!("{tampered}.{signature}"))),
        ("no signature", bearer(signed)),
        ("no token", bearer("token")),
        ("unknown API key", bearer(&format!("kith_{}", "x".repeat(43)))),
        ("another scheme", vec!["Basic YW5uOnNlY3JldA==".to_owned()]),
        ("two headers", [bearer(&good), bearer(&good)].concat()),
    ]
}

/// The requests of a method that differ in who acts: nobody, Ann and Bob. The ones with Bob name him in one field each.
fn requests(right: &Right) -> Vec<(i64, Vec<u8>)> {
    let named = |value| move |field: &'static str| (value, message(right, Some(field), value));
    let fields = || [right.acting, right.also].into_iter().flatten();
    let mut requests = vec![(0, Vec::new())];
    requests.extend(fields().map(named(ANN)));
    requests.extend(fields().map(named(BOB)));
    requests
}

/// What a service is told that has this scope alone.
fn of_service(right: &Right, scope: Scope, acting: i64) -> Option<ErrorReason> {
    let needed = right.operator.filter(|_| acting == 0).unwrap_or(right.scope);
    (scope != needed && scope != Scope::Admin).then_some(ErrorReason::ScopeMissing)
}

/// What Ann is told.
fn of_user(right: &Right, acting: i64) -> Option<ErrorReason> {
    match (right.users, acting) {
        (false, _) => Some(ErrorReason::OperatorsOnly),
        (true, BOB) => Some(ErrorReason::ActsForAnotherUser),
        (true, _) => None,
    }
}

/// Makes all requests of all methods with this credential. Each must be denied as expected, or not at all.
async fn call_all(
    caller: &Caller,
    kind: &str,
    authorization: &[&str],
    expected: impl Fn(&Right, i64) -> Option<ErrorReason>,
) {
    for right in RIGHTS {
        for (acting, request) in requests(right) {
            let ended = caller.call(&path(right), request, authorization).await;
            match expected(right, acting) {
                None => assert!(ended.is_allowed(), "{kind}: {} as {acting}: {ended:?}", path(right)),
                Some(reason) => {
                    let denied = Ended(Code::PermissionDenied, error::name(reason).to_owned());
                    assert_eq!(ended, denied, "{kind}: {} as {acting}", path(right));
                }
            }
        }
    }
}

/// Makes a call of each method with this credential, and expects that none is authenticated.
async fn call_all_in_vain(caller: &Caller, kind: &str, authorization: &[String], reason: ErrorReason) {
    let authorization: Vec<&str> = authorization.iter().map(String::as_str).collect();
    for right in RIGHTS {
        let ended = caller.call(&path(right), Vec::new(), &authorization).await;
        assert_eq!(ended, Ended(Code::Unauthenticated, error::name(reason).to_owned()), "{kind}: {}", path(right));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_method_answers_to_who_has_no_valid_credential() {
    let server = Secured::start(false).await;
    let caller = Caller(server.connect(None).await);
    call_all_in_vain(&caller, "none", &[], ErrorReason::CredentialsMissing).await;
    for (kind, authorization) in invalid(&server) {
        call_all_in_vain(&caller, kind, &authorization, ErrorReason::CredentialsInvalid).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_answers_to_services_with_its_scope_and_to_users_as_themselves() {
    let server = Secured::start(false).await;
    let caller = Caller(server.connect(None).await);
    for scope in Scope::ALL {
        let authorization = format!("Bearer {}", server.signer.token("billing", scope.name()));
        call_all(&caller, scope.name(), &[&authorization], |right, acting| of_service(right, scope, acting)).await;
    }
    let none = format!("Bearer {}", server.signer.token("billing", "openid profile"));
    call_all(&caller, "no scope", &[&none], |_, _| Some(ErrorReason::ScopeMissing)).await;
    let key = format!("bearer {}", server.key);
    call_all(&caller, "API key", &[&key], |right, acting| of_service(right, Scope::Read, acting)).await;
    // The scopes of a user's token do not count.
    for scope in ["", "admin"] {
        let ann = format!("Bearer {}", server.signer.token("user:1", scope));
        call_all(&caller, "user", &[&ann], of_user).await;
    }
    // A user who asks for every field of others. Whom the request names does not matter.
    let ann = format!("Bearer {}", server.signer.token("user:1", ""));
    let (full, mut views) = (i32::from(pb::UserView::Full).into(), 0);
    for right in RIGHTS.iter().filter(|right| right.view.is_some()) {
        let ended = caller.call(&path(right), message(right, right.view, full), &[&ann]).await;
        let denied = Ended(Code::PermissionDenied, error::name(ErrorReason::OperatorsOnly).to_owned());
        assert_eq!(ended, denied, "{} with the full view", path(right));
        views += 1;
    }
    assert!(views > 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_counts_by_its_names_and_only_without_a_header() {
    let server = Secured::start(true).await;
    let own = server.authority.sign_for("spiffe://example.com/writer");
    let caller = Caller(server.connect(Some(&own)).await);
    call_all(&caller, "certificate", &[], |right, acting| of_service(right, Scope::Write, acting)).await;
    let ann = format!("Bearer {}", server.signer.token("user:1", ""));
    call_all(&caller, "certificate and token", &[&ann], of_user).await;
    call_all_in_vain(&caller, "certificate and bad token", &["Bearer x".to_owned()], ErrorReason::CredentialsInvalid)
        .await;
    // Certificates of the same authority, with a name that is no principal's, or only as the common name.
    let unknown = server.authority.sign();
    let common_name = server.authority.sign_common_name("spiffe://example.com/writer");
    for (kind, certificate) in [("unknown certificate", unknown), ("common name", common_name)] {
        let caller = Caller(server.connect(Some(&certificate)).await);
        call_all_in_vain(&caller, kind, &[], ErrorReason::CredentialsInvalid).await;
    }
}

/// A row of the table in docs/security.md.
fn row(right: &Right) -> String {
    let Right { service, method, scope, acting, operator, also, view, users } = right;
    let scope = match (operator, acting) {
        (Some(operator), Some(acting)) => {
            format!("`{}`, or `{}` without `{acting}`", scope.name(), operator.name())
        }
        _ => format!("`{}`", scope.name()),
    };
    let users = match (users, acting, also) {
        (false, ..) => "no".to_owned(),
        (true, None, _) => "yes".to_owned(),
        (true, Some(acting), None) => format!("as `{acting}`"),
        (true, Some(acting), Some(also)) => format!("as `{acting}` and `{also}`"),
    };
    let view = if view.is_some() { "`user_view`" } else { "" };
    format!("| `{service}.{method}` | {scope} | {users} | {view} |")
}

#[test]
fn the_documented_table_is_the_one_that_is_enforced() {
    let rows: Vec<_> = RIGHTS.iter().map(row).collect();
    let header = "| RPC | A service needs | A user may call it | View |\n|---|---|---|---|";
    let table = format!("{header}\n{}\n", rows.join("\n"));
    let document = include_str!("../../docs/security.md");
    assert!(document.contains(&table), "docs/security.md needs this table:\n{table}");
}
