//! Where secrets come from, other than the command line: the database's URL and password, and the credentials of
//! those who call a server.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{env, fs};

use secrecy::SecretString;

use super::client::ServerArgs;
use super::database::Common;
use super::replicas::ReplicaArgs;
use super::setting::Sources;
use crate::store::DatabaseUrl;

impl Common {
    /// Whether the URL is in a file.
    pub fn has_url_file(&self) -> bool {
        self.database_url_file.is_some()
    }

    /// Returns the database's URL with its password.
    ///
    /// The password is that of the URL or of `--database-password-file`. Without both it is looked for as libpq does: in
    /// `PGPASSWORD`, then in the password file.
    ///
    /// # Errors
    ///
    /// If a file cannot be read or is not valid. The error names the setting and the path, and nothing of the content.
    pub fn database_url(&self, sources: &Sources) -> Result<DatabaseUrl, String> {
        let mut url = match &self.database_url_file {
            Some(path) => {
                let setting = format!("{} {}", sources.name("database-url-file"), path.display());
                read(&setting, path)?.parse().map_err(|error: String| format!("{setting}: {error}"))?
            }
            None => self.database_url.clone(),
        };
        if let Some(path) = &self.database_password_file {
            let setting = format!("{} {}", sources.name("database-password-file"), path.display());
            if !url.is_postgres() {
                return Err(format!("{setting}: the database {url} has no password"));
            }
            if url.has_password() {
                return Err(format!("{setting}: the database's URL has a password too; leave one of them out"));
            }
            url.set_password(&read(&setting, path)?);
        } else {
            find_password(&mut url);
        }
        Ok(url)
    }
}

impl ReplicaArgs {
    /// Returns the URLs of the replicas with their passwords.
    ///
    /// The password is that of the URL. Without one it is that of `--database-password-file`, or looked for as libpq does.
    ///
    /// # Errors
    ///
    /// If a URL is not of PostgreSQL, or the file cannot be read. The error names the setting.
    pub fn urls(&self, common: &Common, sources: &Sources) -> Result<Vec<DatabaseUrl>, String> {
        let mut urls = self.replica_url.clone();
        for url in &mut urls {
            if !url.is_postgres() {
                return Err(format!("{}: must begin with postgres://", sources.name("replica-url")));
            }
            match &common.database_password_file {
                Some(path) if !url.has_password() => {
                    let setting = format!("{} {}", sources.name("database-password-file"), path.display());
                    url.set_password(&read(&setting, path)?);
                }
                Some(_) | None => find_password(url),
            }
        }
        Ok(urls)
    }
}

/// Looks for the password of a PostgreSQL URL that has none, as libpq does.
fn find_password(url: &mut DatabaseUrl) {
    if !url.is_postgres() || url.has_password() {
        return;
    }
    match env::var("PGPASSWORD").ok().filter(|password| !password.is_empty()) {
        Some(password) => url.set_password(&password),
        None => read_password_file(url).into_iter().for_each(|file| url.set_password_from(&file)),
    }
}

impl ServerArgs {
    /// Reads the API key or the token to call with, if there is one.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or does not have one line. The error names the setting and the path.
    pub fn token(&self, sources: &Sources) -> Result<Option<SecretString>, String> {
        let Some(path) = &self.token_file else { return Ok(None) };
        let setting = format!("{} {}", sources.name("token-file"), path.display());
        read(&setting, path).map(|token| Some(token.into()))
    }
}

/// Reads a file that has one line.
fn read(setting: &str, path: &Path) -> Result<String, String> {
    let failed = |cause: &str| format!("{setting}: {cause}");
    let mut text = fs::read_to_string(path).map_err(|error| failed(&format!("cannot be read: {error}")))?;
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    match text.as_str() {
        "" => Err(failed("is empty")),
        line if line.contains('\n') => Err(failed("has more than one line")),
        _ => Ok(text),
    }
}

/// Reads libpq's file of passwords. It is passed over, with a warning, if others may read it too.
fn read_password_file(url: &DatabaseUrl) -> Option<String> {
    let named = url.password_file().map(Path::to_path_buf).or_else(|| env::var_os("PGPASSFILE").map(PathBuf::from));
    let path = match &named {
        Some(path) => path.clone(),
        None => Path::new(&env::var_os("HOME")?).join(".pgpass"),
    };
    let warn = |cause: &str| tracing::warn!(file = %path.display(), "password file ignored: {cause}");
    let metadata = match fs::metadata(&path) {
        Ok(metadata) => metadata,
        // The default one need not exist.
        Err(_) if named.is_none() => return None,
        Err(error) => {
            warn(&error.to_string());
            return None;
        }
    };
    if !metadata.is_file() {
        warn("it is not a file");
    } else if metadata.permissions().mode() & 0o077 != 0 {
        warn("others may read it; set its permissions to 0600");
    } else {
        return fs::read_to_string(&path).map_err(|error| warn(&error.to_string())).ok();
    }
    None
}
