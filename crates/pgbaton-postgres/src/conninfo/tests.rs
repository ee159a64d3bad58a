use super::*;

fn parsed(text: &str) -> Conninfo {
    Conninfo::parse(text).unwrap()
}

fn refused(text: &str) -> String {
    Conninfo::parse(text).unwrap_err().to_string()
}

fn tcp(name: &str, port: u16) -> Host {
    Host { address: Address::Tcp { name: name.to_owned(), addr: None }, port }
}

#[test]
fn a_url_and_the_same_in_words_are_equal() {
    let url = parsed("postgresql://c%64c:s%40crt@db1:5433,db2/app%20db?sslmode=verify-full&connect_timeout=3");
    let words = parsed(
        r"host=db1,db2 port=5433,5432 user = cdc password='s@crt' dbname='app db' sslmode=verify-full connect_timeout=3",
    );
    assert_eq!(url, words);
    assert_eq!(url.hosts, [tcp("db1", 5433), tcp("db2", 5432)]);
    assert_eq!((url.user.as_str(), url.dbname.as_str()), ("cdc", "app db"));
    assert_eq!(url.password, Some(Secret::new("s@crt")));
    assert_eq!(url.connect_timeout, Duration::from_secs(3));
}

#[test]
fn quotes_and_backslashes_are_read_as_libpq_reads_them() {
    let conninfo = parsed(r"host=h user='it\'s' password=a\ b\\c dbname=''");
    assert_eq!(conninfo.user, "it's");
    assert_eq!(conninfo.password, Some(Secret::new(r"a b\c")));
    assert_eq!(conninfo.dbname, "it's", "an empty value is as good as none");
}

#[test]
fn sockets_addresses_and_ipv6_are_understood() {
    let socket = Host { address: Address::Unix("/run/pg".into()), port: 5432 };
    assert_eq!(parsed("postgresql://%2Frun%2Fpg/app?user=cdc").hosts, std::slice::from_ref(&socket));
    assert_eq!(parsed("postgresql:///app?host=/run/pg&user=cdc").hosts, [socket]);
    assert_eq!(parsed("postgres://cdc@[::1]:6000/app").hosts, [tcp("::1", 6000)]);
    let addr = Some("10.0.0.1".parse().unwrap());
    assert_eq!(parsed("host=db1 hostaddr=10.0.0.1 user=u").hosts[0].address, Address::Tcp { name: "db1".into(), addr });
}

#[test]
fn tls_is_never_weaker_than_it_reads() {
    assert_eq!(parsed("host=h user=u").sslmode, SslMode::Require);
    assert_eq!(parsed("host=/run/pg user=u").sslmode, SslMode::Disable);
    assert_eq!(parsed("host=h user=u sslrootcert=system").sslmode, SslMode::VerifyFull);
    for weak in ["prefer", "allow", "verify_full", "Require"] {
        let error = refused(&format!("host=h user=u sslmode={weak}"));
        assert!(error.contains("sslmode") && error.contains(weak) && error.contains("verify-full"), "{error}");
    }
    assert!(refused("host=h user=u sslmode=require sslrootcert=system").contains("verify-full"));
    assert!(refused("host=h user=u sslmode=verify-ca").contains("sslrootcert"));
    assert!(refused("host=h user=u sslcert=c.pem").contains("sslkey"));
}

#[test]
fn an_unknown_parameter_names_the_nearest_known_one() {
    let error = refused("host=h user=u sslmod=disable");
    assert_eq!(error, "parameter sslmod is unknown; did you mean sslmode?");
    assert!(refused("postgresql://u@h/db?frobnicate=1").contains("frobnicate is unknown; known are host"));
}

#[test]
fn what_cannot_be_is_refused_with_what_is_allowed() {
    for (text, needle) in [
        ("", "host is missing"),
        ("user=u", "host is missing"),
        ("host=h", "user is missing"),
        ("mysql://u@h/d", "neither a URL"),
        ("host=h user=u port=0", "1 to 65535"),
        ("host=h user=u port=1,2", "port has 2 entries"),
        ("host=a,b hostaddr=10.0.0.1 user=u", "hostaddr has 1 entries"),
        ("host=h user=u hostaddr=nope", "hostaddr is \"nope\""),
        ("host=h user=u connect_timeout=0", "1 to 3600"),
        ("host=h user=u channel_binding=yes", "allowed are disable, prefer, require"),
        ("host=h user=u target_session_attrs=standby", "allowed are any, read-write, primary"),
        ("host=h user=u client_encoding=LATIN1", "UTF8"),
        ("host=h user='u", "closing quote"),
        ("postgresql://u@[::1/db", "IPv6"),
        ("postgresql://u%4@h/db", "user in the URL"),
        ("postgresql://u%00@h/db", "user in the URL"),
    ] {
        let error = refused(text);
        assert!(error.contains(needle), "{text:?} gave {error:?}");
    }
}

#[test]
fn no_error_and_no_print_shows_a_password_nor_a_part_of_it() {
    let whole = parsed("postgresql://u:hunter2@h/db");
    assert!(!format!("{whole} {whole:?} {:?}", whole.password).contains("hunter2"));
    for text in [
        "postgresql://u:x/hunter2@h/db",
        "postgresql://u:1/hunter2@h/db",
        "postgresql://u:x?hunter2@h/db",
        "postgresql://u:x?hunter2=3@h/db",
        "postgresql://u:%hunter2@h/db",
        "host=h user=u password=x hunter2",
        "password=x hunter2 host=h user=u",
        "postgresql://u:hunter2@h:port/db",
    ] {
        let error = refused(text);
        assert!(!error.contains("hunter"), "{text:?} gave {error:?}");
    }
}

#[test]
fn a_password_in_the_text_goes_before_a_given_one_and_that_before_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pgpass");
    std::fs::write(&path, "*:*:*:*:from-file").unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let password = |conninfo: &Conninfo| conninfo.password_for(&conninfo.hosts[0]).map(|p| p.expose().to_owned());
    let bare = parsed(&format!("host=h user=u passfile={}", path.display()));
    assert_eq!(password(&bare).as_deref(), Some("from-file"));
    assert_eq!(password(&bare.with_password(Some(Secret::new("given")))).as_deref(), Some("given"));
    let own = parsed("host=h user=u password=own").with_password(Some(Secret::new("given")));
    assert_eq!(password(&own).as_deref(), Some("own"));
}
