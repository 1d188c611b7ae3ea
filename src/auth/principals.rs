//! The file of principals: services with API keys and certificates.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use rustls::pki_types::DnsName;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::api_key::{KeyHash, NAMES, is_name, is_well_formed};
use super::names::{Names, SPIFFE};
use super::principal::{Principal, Scope, Scopes, Service, Source};
use super::unauthenticated::Cause;
use crate::follow::NamedFile;

/// What a DNS name begins with.
const DNS_PREFIX: &str = "dns:";
/// The principals of a file, by their credentials.
pub(super) struct Principals {
    keys: HashMap<KeyHash, Principal>,
    certificates: HashMap<CertificateName, Principal>,
}

/// A name in a certificate.
#[derive(PartialEq, Eq, Hash)]
enum CertificateName {
    Spiffe(String),
    Dns(String),
}

impl Principals {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// If it cannot be read or is not valid, or if everybody may write it. The text names the setting, the line and the
    /// principal, and has nothing of a key or its hash.
    pub(super) fn read(file: &NamedFile) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("{file}: cannot be read: {error}");
        if fs::metadata(&file.path).map_err(failed)?.permissions().mode() & 0o002 != 0 {
            return Err(format!("{file}: every user of the system may write it; set its permissions to 0640 or less"));
        }
        Self::parse(&fs::read_to_string(&file.path).map_err(failed)?).map_err(|(line, error)| match line {
            Some(line) => format!("{file}:{line}: {error}"),
            None => format!("{file}: {error}"),
        })
    }

    /// Parses the text of a file. An error has its line.
    fn parse(text: &str) -> Result<Self, (Option<usize>, String)> {
        let line = |at: usize| Some(text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1);
        let table = DeTable::parse(text)
            .map_err(|error| (error.span().and_then(|span| line(span.start)), error.message().to_owned()))?;
        let mut principals = Self { keys: HashMap::new(), certificates: HashMap::new() };
        for (name, value) in table.into_inner() {
            principals
                .add(name.get_ref(), name.span().start, value.get_ref())
                .map_err(|(at, error)| (line(at), format!("[{}]: {error}", name.get_ref())))?;
        }
        if principals.keys.is_empty() && principals.certificates.is_empty() {
            return Err((None, "has no principals".to_owned()));
        }
        Ok(principals)
    }

    /// Adds a principal, by its table at `at`.
    fn add(&mut self, name: &str, at: usize, value: &DeValue<'_>) -> Result<(), (usize, String)> {
        let refused = |error: &str| (at, error.to_owned());
        if !is_name(name) {
            return Err(refused(NAMES));
        }
        let DeValue::Table(table) = value else { return Err(refused("must be a table")) };
        let (mut scopes, mut hashes, mut names) = (None, Vec::new(), Vec::new());
        for (key, value) in table {
            let (at, of) =
                (key.span().start, |error: String| (key.span().start, format!("{}: {error}", key.get_ref())));
            match key.get_ref().as_ref() {
                "key" => hashes.push((at, text(value).and_then(str::parse).map_err(of)?)),
                "keys" => {
                    for value in texts(value).map_err(of)? {
                        hashes.push((at, value.parse().map_err(of)?));
                    }
                }
                "certificate" => names.push((at, parse_certificate(text(value).map_err(of)?).map_err(of)?)),
                "scopes" => scopes = Some(parse_scopes(&texts(value).map_err(of)?).map_err(of)?),
                _ => return Err(of("is unknown; a principal has key, keys, certificate and scopes".to_owned())),
            }
        }
        let scopes = scopes.ok_or_else(|| refused("needs scopes, such as scopes = [\"read\"]"))?;
        if hashes.is_empty() && names.is_empty() {
            return Err(refused("needs a key or a certificate"));
        }
        let service = Service::new(Source::File, name, scopes);
        let principal = Principal::Service(Arc::new(service));
        for (at, hash) in hashes {
            insert(&mut self.keys, hash, &principal).map_err(|of| (at, format!("has a key that {of} has too")))?;
        }
        for (at, name) in names {
            insert(&mut self.certificates, name, &principal)
                .map_err(|of| (at, format!("has the certificate of {of}")))?;
        }
        Ok(())
    }

    /// Returns the principal with this API key.
    pub(super) fn by_api_key(&self, key: &str) -> Result<Principal, Cause> {
        let found = if is_well_formed(key) { self.keys.get(&KeyHash::of(key)) } else { None };
        found.cloned().ok_or(Cause::UnknownApiKey)
    }

    /// Returns the principal with one of these names.
    pub(super) fn by_certificate(&self, names: &Names) -> Result<Principal, Cause> {
        let Names { spiffe, dns } = names;
        let names = spiffe.iter().cloned().map(CertificateName::Spiffe);
        let names = names.chain(dns.iter().cloned().map(CertificateName::Dns));
        let mut found = names.filter_map(|name| self.certificates.get(&name));
        let principal = found.next().ok_or(Cause::UnknownCertificate)?;
        if found.any(|other| other != principal) {
            return Err(Cause::AmbiguousCertificate);
        }
        Ok(principal.clone())
    }
}

/// Inserts a credential, or returns the name of the principal that has it.
fn insert<K: std::hash::Hash + Eq>(
    map: &mut HashMap<K, Principal>,
    credential: K,
    principal: &Principal,
) -> Result<(), String> {
    match map.entry(credential) {
        Entry::Vacant(entry) => {
            entry.insert(principal.clone());
            Ok(())
        }
        Entry::Occupied(entry) => Err(entry.get().to_string()),
    }
}

fn text<'a>(value: &'a Spanned<DeValue<'_>>) -> Result<&'a str, String> {
    value.get_ref().as_str().ok_or_else(|| "must be text in quotes".to_owned())
}

fn texts<'a>(value: &'a Spanned<DeValue<'_>>) -> Result<Vec<&'a str>, String> {
    let list = value.get_ref().as_array().ok_or("must be a list of texts in quotes")?;
    if list.is_empty() {
        return Err("is empty".to_owned());
    }
    list.iter().map(text).collect()
}

/// Parses a SPIFFE id, or `dns:` and a DNS name.
fn parse_certificate(text: &str) -> Result<CertificateName, String> {
    let is_id = |id: &str| !id.starts_with('/') && id.chars().all(|c| c.is_ascii_graphic());
    if text.strip_prefix(SPIFFE).is_some_and(|id| !id.is_empty() && is_id(id)) {
        return Ok(CertificateName::Spiffe(text.to_owned()));
    }
    let name = text.strip_prefix(DNS_PREFIX).filter(|name| DnsName::try_from(*name).is_ok());
    name.map(|name| CertificateName::Dns(name.to_ascii_lowercase()))
        .ok_or_else(|| "must be \"spiffe://DOMAIN/PATH\" or \"dns:NAME\" without a wildcard".to_owned())
}

fn parse_scopes(names: &[&str]) -> Result<Scopes, String> {
    let known = || Scope::ALL.map(Scope::name).join(", ");
    let scope = |name: &&str| {
        Scope::from_name(name).ok_or_else(|| format!("unknown scope {name:?}; the scopes are: {}", known()))
    };
    names.iter().map(scope).collect()
}

#[cfg(test)]
mod tests;
