//! `kith token`: signs tokens for development.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use secrecy::ExposeSecret;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Failure, print};
use crate::auth::SigningKey;
use crate::config::Token;
use crate::tls::read_key;

pub(super) fn run(args: &Token) -> Result<(), Failure> {
    match (&args.new_key, &args.key, &args.sub) {
        (Some(path), ..) => {
            create(path).map_err(|error| format!("--new-key {}: {error}", path.display()))?;
            print(&format!("{:#}\n", read(path, "--new-key")?.key_set()))
        }
        (None, Some(path), Some(subject)) => {
            print(&format!("{}\n", read(path, "--key")?.sign(&claims(args, subject)?)?))
        }
        (None, Some(path), None) => print(&format!("{:#}\n", read(path, "--key")?.key_set())),
        // clap demands one of them.
        (None, None, _) => Ok(()),
    }
}

fn read(path: &Path, flag: &str) -> Result<SigningKey, String> {
    let named = |error: String| format!("{flag} {}: {error}", path.display());
    SigningKey::new(&read_key(path).map_err(named)?).map_err(named)
}

/// Writes a new key into a file that only its owner may read. One that is there already is never overwritten.
fn create(path: &Path) -> Result<(), Failure> {
    let key = SigningKey::random()?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(key.expose_secret().as_bytes())?;
    Ok(file.sync_all()?)
}

fn claims(args: &Token, subject: &str) -> Result<Value, Failure> {
    let issuer = args.issuer.as_ref().ok_or("a token needs --issuer, the server's --jwt-issuer")?;
    let audience = match &args.audience[..] {
        [] => return Err("a token needs --audience, the server's --jwt-audience".into()),
        [one] => json!(one),
        several => json!(several),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let mut claims = json!({
        "iss": issuer,
        "sub": subject,
        "aud": audience,
        "iat": now,
        "exp": now.saturating_add(args.expires_in.as_secs()),
        "jti": Uuid::new_v4().to_string(),
    });
    if !args.scopes.is_empty() {
        claims["scope"] = args.scopes.join(" ").into();
    }
    Ok(claims)
}
