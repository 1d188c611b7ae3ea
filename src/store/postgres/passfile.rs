//! Files of passwords as libpq defines them (PostgreSQL manual, "The Password File").

/// Lines of the form `host:port:database:user:password`.
///
/// Each of the first four fields may be `*`, which fits any value. A colon or a backslash within a field has a backslash
/// before it. The first line that fits counts.
pub(in crate::store) struct PasswordFile(Vec<[String; 5]>);

/// The directory of Unix sockets that PostgreSQL has if nobody chose another one. Its lines have the host `localhost`.
const SOCKETS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

impl PasswordFile {
    /// Parses a file. Lines that do not have five fields, and comments, are passed over, as libpq does.
    pub(in crate::store) fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self(lines.filter_map(|line| fields(line).try_into().ok()).collect())
    }

    /// Returns the password for a connection.
    pub(in crate::store) fn find(&self, host: &str, port: u16, database: &str, user: &str) -> Option<&str> {
        let port = port.to_string();
        let host = if SOCKETS.contains(&host) { "localhost" } else { host };
        let wanted = [host, &port, database, user];
        let fits = |line: &[String; 5]| wanted.iter().zip(line).all(|(wanted, field)| field == "*" || field == wanted);
        // An empty password is none.
        self.0.iter().find(|line| fits(line)).map(|line| line[4].as_str()).filter(|password| !password.is_empty())
    }
}

/// The fields of a line: at most five, since colons of the password need no backslash.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        let count = fields.len();
        let Some(field) = fields.last_mut() else { break };
        match character {
            '\\' => field.extend(characters.next()),
            ':' if count < 5 => fields.push(String::new()),
            other => field.push(other),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_counts() {
        let file = PasswordFile::parse(
            "# db:5432:kith:ann:comment\n\
             db:5432:kith:ann:exact\n\
             db:5432:kith:ann:later\n\
             *:6432:*:ann:by port\n\
             d\\:b:*:a\\\\b:*:e\\:scaped\\\\\n\
             localhost:5432:*:*:a:b:c\n\
             four:fields:are:ignored\n\
             empty:*:*:*:\r\n\
             *:*:*:eve:any\n",
        );
        for (host, port, database, user, expected) in [
            ("db", 5432, "kith", "ann", Some("exact")),
            ("db", 6432, "kith", "ann", Some("by port")),
            ("other", 6432, "x", "ann", Some("by port")),
            ("d:b", 1, "a\\b", "bob", Some("e:scaped\\")),
            ("localhost", 5432, "kith", "bob", Some("a:b:c")),
            ("/tmp", 5432, "kith", "bob", Some("a:b:c")),
            ("/elsewhere", 5432, "kith", "bob", None),
            ("empty", 5432, "kith", "bob", None),
            ("db", 5432, "kith", "eve", Some("any")),
            ("db", 5432, "kith", "bob", None),
        ] {
            assert_eq!(file.find(host, port, database, user), expected, "{host}:{port}:{database}:{user}");
        }
    }
}
