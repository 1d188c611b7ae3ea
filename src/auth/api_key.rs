//! API keys: secrets of services.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::{ExposeSecret, SecretString};

use super::principal::Scope;

/// What an API key begins with.
const PREFIX: &str = "kith_";
/// The number of random bytes after the prefix.
const RANDOM: usize = 32;
/// The number of characters that these are in base64url.
const CHARACTERS: usize = 43;
/// What the hash of an API key begins with.
const HASH_PREFIX: &str = "sha256:";
/// Maximum length of a principal's name.
const MAX_NAME: usize = 64;

/// An API key. Its `Debug` does not show it.
#[derive(Debug)]
pub struct ApiKey(SecretString);

/// The SHA-256 of an API key.
///
/// A key is random and long, so that its hash needs neither salt nor many rounds.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct KeyHash([u8; 32]);

impl ApiKey {
    /// Creates a random key.
    ///
    /// # Errors
    ///
    /// If the system has no random numbers.
    pub fn random() -> Result<Self, String> {
        let mut bytes = [0; RANDOM];
        SystemRandom::new().fill(&mut bytes).map_err(|_| "the system has no random numbers")?;
        Ok(Self(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)).into()))
    }

    /// Returns the secret itself.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Returns the entry of a principal with this key for the file of principals. It has the hash, not the secret.
    ///
    /// # Errors
    ///
    /// If it can be no name of a principal.
    pub fn entry(&self, name: &str, scopes: &[Scope]) -> Result<String, String> {
        if !is_name(name) {
            return Err(NAMES.to_owned());
        }
        let hash = KeyHash::of(self.expose());
        let scopes = scopes.iter().map(|scope| format!("\"{}\"", scope.name())).collect::<Vec<_>>().join(", ");
        // A dot in a name would be a table in another.
        Ok(format!("[\"{name}\"]\nkey = \"{hash}\"\nscopes = [{scopes}]\n"))
    }
}

/// What the names of principals are, for errors.
pub(super) const NAMES: &str = "a name has 1 to 64 of the characters A-Z a-z 0-9 - _ .";

/// Whether a text can be the name of a principal.
pub(super) fn is_name(name: &str) -> bool {
    let in_names = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=MAX_NAME).contains(&name.len()) && name.chars().all(in_names)
}

/// Whether a credential is meant to be an API key. No token begins as one.
pub(super) fn is_api_key(credential: &str) -> bool {
    credential.starts_with(PREFIX)
}

/// Whether a text has the form of an API key. A shorter one could be guessed.
pub(super) fn is_well_formed(key: &str) -> bool {
    let in_keys = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    key.strip_prefix(PREFIX).is_some_and(|rest| rest.len() == CHARACTERS && rest.chars().all(in_keys))
}

impl KeyHash {
    pub(super) fn of(key: &str) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
        Self(hash)
    }
}

/// As in the file of principals.
impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HASH_PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for KeyHash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if is_api_key(text) {
            return Err("has an API key; write its hash, as `kith key new` prints it".to_owned());
        }
        let parsed = text.strip_prefix(HASH_PREFIX).and_then(|digits| {
            let mut hash = [0; 32];
            let is_hex = digits.len() == 2 * hash.len() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            for (byte, at) in hash.iter_mut().zip((0..).step_by(2)) {
                *byte = u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()?;
            }
            is_hex.then_some(Self(hash))
        });
        parsed.ok_or_else(|| "must be \"sha256:\" and 64 hexadecimal digits, as `kith key new` prints it".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_key_is_well_formed_and_is_not_shown() {
        let (key, other) = (ApiKey::random().unwrap(), ApiKey::random().unwrap());
        assert!(is_well_formed(key.expose()) && key.expose() != other.expose());
        let shown = format!("{key:?}");
        assert!(shown.contains("REDACTED") && !shown.contains(&key.expose()[5..]), "{shown}");
    }

    #[test]
    fn the_entry_has_the_hash_and_not_the_key() {
        let key = ApiKey::random().unwrap();
        let entry = key.entry("feed.1", &[Scope::Read, Scope::Events]).unwrap();
        let expected =
            format!("[\"feed.1\"]\nkey = \"{}\"\nscopes = [\"read\", \"events\"]\n", KeyHash::of(key.expose()));
        assert_eq!(entry, expected);
        for name in ["", "a b", "a\"]", &"a".repeat(65)] {
            assert_eq!(key.entry(name, &[]), Err(NAMES.to_owned()));
        }
    }

    #[test]
    fn a_hash_is_parsed_as_it_is_printed() {
        // The example of FIPS 180-2.
        let hash = KeyHash::of("abc");
        assert_eq!(hash.to_string(), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(hash.to_string().parse() == Ok(hash));
    }
}
