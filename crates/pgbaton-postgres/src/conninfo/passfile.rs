//! libpq's password file: lines of `host:port:database:user:password`, `*` for any, `\` before `:` and `\`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{Address, Host};
use crate::secret::Secret;

/// Directories whose Unix socket a password file calls `localhost`, as libpq built for Debian or from source does.
const DEFAULT_SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// The password of the first line that fits. A missing file is no file; one that others may read is ignored with a
/// warning, as libpq does.
pub(super) fn look_up(path: &Path, host: &Host, dbname: &str, user: &str) -> Option<Secret> {
    let mode = std::fs::metadata(path).ok().filter(|file| file.is_file())?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "password file is ignored: group or others may read it, chmod 0600 it");
        return None;
    }
    find(&std::fs::read_to_string(path).ok()?, host, dbname, user)
}

fn find(file: &str, host: &Host, dbname: &str, user: &str) -> Option<Secret> {
    let name = match &host.address {
        Address::Unix(_) if DEFAULT_SOCKET_DIRECTORIES.contains(&host.name()) => "localhost",
        _ => host.name(),
    };
    let port = host.port.to_string();
    let wanted = [name, &port, dbname, user];
    file.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = split(line);
        let (password, pattern) = fields.split_last().filter(|(_, pattern)| pattern.len() == wanted.len())?;
        let fits = pattern.iter().zip(wanted).all(|(field, value)| field == "*" || field == value);
        (fits && !password.is_empty()).then(|| Secret::new(password))
    })
}

/// At most five fields: the password may hold colons of its own.
fn split(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        let count = fields.len();
        let Some(field) = fields.last_mut() else { break };
        match c {
            ':' if count < 5 => fields.push(String::new()),
            '\\' => field.extend(chars.next()),
            c => field.push(c),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(file: &str) -> Option<String> {
        let host = Host { address: Address::Tcp { name: "db1".to_owned(), addr: None }, port: 5433 };
        find(file, &host, "appdb", "cdc").map(|secret| secret.expose().to_owned())
    }

    #[test]
    fn the_first_line_that_fits_gives_the_password() {
        let file = "# a comment\nbroken\ndb2:*:*:*:no\ndb1:5433:appdb:cdc:first\n*:*:*:*:second\n";
        assert_eq!(password(file).as_deref(), Some("first"));
        assert_eq!(password("*:*:*:other:no\n*:*:*:*:any").as_deref(), Some("any"));
        assert_eq!(password("db1:5432:*:*:no"), None);
    }

    #[test]
    fn colons_and_backslashes_of_a_password_are_kept() {
        assert_eq!(password(r"db1:*:*:*:a\:b\\c:d").as_deref(), Some(r"a:b\c:d"));
    }

    #[test]
    fn a_file_that_others_may_read_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgpass");
        std::fs::write(&path, "*:*:*:*:open").unwrap();
        let host = Host { address: Address::Unix("/tmp".into()), port: 5432 };
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        assert_eq!(look_up(&path, &host, "d", "u"), None);
        mode(0o600);
        assert_eq!(look_up(&path, &host, "d", "u"), Some(Secret::new("open")));
    }
}
