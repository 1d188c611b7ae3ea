use super::*;

fn parse(url: &str) -> PostgresUrl {
    PostgresUrl::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
}

fn host(name: &str, port: u16) -> HostPort {
    HostPort { name: name.to_owned(), address: None, port }
}

#[test]
fn hosts_are_those_of_libpq() {
    for (url, expected) in [
        ("postgres://", vec![host("localhost", 5432)]),
        ("postgresql:///kith", vec![host("localhost", 5432)]),
        ("postgres://db", vec![host("db", 5432)]),
        ("postgres://db:", vec![host("db", 5432)]),
        ("postgres://db:6432/kith", vec![host("db", 6432)]),
        ("postgres://u:p@db:6432?sslmode=disable", vec![host("db", 6432)]),
        ("postgres://[::1]/kith", vec![host("::1", 5432)]),
        ("postgres://[::1]:6432/kith", vec![host("::1", 6432)]),
        ("postgres://a,b:6432,[::1]:7/kith", vec![host("a", 5432), host("b", 6432), host("::1", 7)]),
        ("postgres://%2Frun%2Fpostgresql:6432/kith", vec![host("/run/postgresql", 6432)]),
        ("postgres:///kith?host=/tmp&port=6432", vec![host("/tmp", 6432)]),
        ("postgres://ignored:1/kith?host=a,b&port=6432", vec![host("a", 6432), host("b", 6432)]),
        ("postgres:///kith?host=a,b&port=,7", vec![host("a", 5432), host("b", 7)]),
    ] {
        assert_eq!(parse(url).hosts, expected, "{url}");
    }
    let by_address = parse("postgres://db/kith?hostaddr=192.0.2.1").hosts;
    assert_eq!(by_address, [HostPort { address: "192.0.2.1".parse().ok(), ..host("db", 5432) }]);
    let alone = parse("postgres:///kith?hostaddr=192.0.2.1").hosts;
    assert_eq!(alone, [HostPort { address: "192.0.2.1".parse().ok(), ..host("192.0.2.1", 5432) }]);
}

#[test]
fn user_password_and_database_are_decoded() {
    let some = |text: &str| Some(text.to_owned());
    for (url, user, password, database) in [
        ("postgres://db", None, None, None),
        ("postgres://ann@db/kith", some("ann"), None, some("kith")),
        ("postgres://ann:@db/", some("ann"), None, None),
        ("postgres://ann:s:e@cret@db/kith", some("ann"), some("s:e@cret"), some("kith")),
        ("postgres://a%40n:%2F%3f%25%C3%A9@db/my%20kith", some("a@n"), some("/?%é"), some("my kith")),
        ("postgres://db?user=ann&password=p%26q&dbname=kith", some("ann"), some("p&q"), some("kith")),
        ("postgres://bob:old@db/other?user=ann&password=new&dbname=kith", some("ann"), some("new"), some("kith")),
    ] {
        let parsed = parse(url);
        let found = parsed.password.as_ref().map(|password| password.expose().to_owned());
        assert_eq!((parsed.user, found, parsed.database), (user, password, database), "{url}");
    }
}

#[test]
fn parameters_have_the_meaning_and_the_units_of_libpq() {
    let parsed = parse(
        "postgres://db/kith?application_name=my%20kith&options=-c%20geqo%3Doff&target_session_attrs=read-write&\
         connect_timeout=3&tcp_user_timeout=1500&keepalives=1&keepalives_idle=10&keepalives_interval=2&\
         keepalives_count=4&sslmode=verify-ca&sslrootcert=/ca.pem&channel_binding=require&passfile=/pass",
    );
    let expected = PostgresUrl {
        hosts: vec![host("db", 5432)],
        user: None,
        password: None,
        database: Some("kith".to_owned()),
        application_name: Some("my kith".to_owned()),
        options: Some("-c geqo=off".to_owned()),
        ssl_mode: SslMode::VerifyCa,
        ssl_root_cert: Some("/ca.pem".into()),
        channel_binding: ChannelBinding::Require,
        session: SessionAttributes::ReadWrite,
        connect_timeout: Some(Duration::from_secs(3)),
        tcp_user_timeout: Some(Duration::from_millis(1_500)),
        keepalives: Some(true),
        keepalives_idle: Some(Duration::from_secs(10)),
        keepalives_interval: Some(Duration::from_secs(2)),
        keepalives_count: Some(4),
        password_file: Some("/pass".into()),
    };
    assert!(parsed == expected);
    let zeros = parse("postgres://db?connect_timeout=0&tcp_user_timeout=0&keepalives=0&keepalives_idle=0");
    assert_eq!((zeros.connect_timeout, zeros.tcp_user_timeout), (Some(Duration::ZERO), Some(Duration::ZERO)));
    assert_eq!((zeros.keepalives, zeros.keepalives_idle), (Some(false), None));
}

#[test]
fn roots_are_never_ignored() {
    for (parameters, expected) in [
        ("sslmode=require", SslMode::Require),
        ("sslmode=require&sslrootcert=/ca", SslMode::VerifyCa),
        ("sslrootcert=/ca&sslmode=verify-full", SslMode::VerifyFull),
        ("sslrootcert=system&sslmode=verify-full", SslMode::VerifyFull),
        ("ssl=true", SslMode::Require),
    ] {
        assert_eq!(parse(&format!("postgres://db?{parameters}")).ssl_mode, expected, "{parameters}");
    }
}

#[test]
fn errors_name_the_parameter() {
    for (url, expected) in [
        ("postgres://h/d?colour=1", "unknown parameter \"colour\""),
        ("postgres://h/d?gssencmode=disable", "the parameter gssencmode is not supported"),
        ("postgres://h/d?keepalives_retries=1", "unknown parameter \"keepalives_retries\""),
        ("postgres://h/d?ssl=on", "unknown parameter \"ssl\""),
        ("postgres://h/d?connect_timeout=soon", "connect_timeout is not a whole number"),
        ("postgres://h/d?sslmode=allow", "sslmode can be disable, prefer, require, verify-ca or verify-full"),
        ("postgres://h/d?sslrootcert=/ca", "sslrootcert needs sslmode=verify-full, or verify-ca"),
        (
            "postgres://h/d?sslmode=verify-ca",
            "sslmode=verify-ca needs sslrootcert, since anybody can have a certificate that the system trusts",
        ),
        ("postgres://h/d?sslmode=require&sslrootcert=system", "sslrootcert=system needs sslmode=verify-full"),
        ("postgres://h/d?sslmode", "a parameter after the question mark has no value"),
        ("postgres://h:port/d", "the port is not a number to 65535"),
        ("postgres://h:65536/d", "the port is not a number to 65535"),
        ("postgres://[::1/d", "a [ in the host has no ]"),
        ("postgres://[::1]x/d", "after the ] of a host there can be only a port"),
        ("postgres://h/d?hostaddr=h", "hostaddr is no IP address"),
        ("postgres://h/100%", "a % is not followed by two hexadecimal digits: write it as %25"),
        ("postgres://h/%+1", "a % is not followed by two hexadecimal digits: write it as %25"),
        ("postgres://h/%00", "%00 stands for no character"),
        ("postgres://h/%FF", "percent-encoded characters are not UTF-8"),
    ] {
        assert_eq!(PostgresUrl::parse(url).err().as_deref(), Some(expected), "{url}");
    }
    for wrong in
        ["target_session_attrs=master", "channel_binding=maybe", "host=a,b&port=1,2,3", "host=a&hostaddr=::1,::2"]
    {
        assert!(PostgresUrl::parse(&format!("postgres://h/d?{wrong}")).is_err(), "{wrong}");
    }
}

/// Passwords with characters that must be encoded, and are not.
#[test]
fn no_error_has_a_part_of_a_password() {
    for password in
        ["can/ary", "can?ary", "can?ary=1", "can/ary?b=2&ary=3", "12/canary", "12?sslmode=canary", "c%anary"]
    {
        let error = PostgresUrl::parse(&format!("postgres://kith:{password}@h/d")).err().unwrap_or_default();
        assert!(!error.is_empty(), "{password} is taken");
        for part in ["can", "ary", "kith", "12"] {
            assert!(!error.contains(part), "{password}: {error}");
        }
    }
}
