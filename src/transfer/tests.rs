//! Files that are read and written.

use std::io::BufReader;

use chrono::DateTime;

use super::*;
use crate::domain::text::UsernameRule;
use crate::domain::user::UserStatus;

/// A file with all types of rows and all fields, as an export writes it.
const FULL: &str = r#"{"type":"header","format":"kith.export.v1","source":"kith","epoch":"e","revision":12,"created":"2026-11-25T12:00:00Z"}
{"type":"user","id":17,"external_id":"0b1e","username":"ann","real_name":"Ann","email":"ann@example.com","email_isvalid":true,"date_joined":"2021-01-01T00:00:00.000001Z","bio":"a\n\"b\"","location":"Ulm","birthday":"1990-12-31","description":"d","gender":"GENDER_FEMALE","status":"USER_STATUS_APPROVED","website":"https://example.com/","avatar":"https://example.com/a","cover":"https://example.com/c","position":1}
{"type":"user","id":18,"username":"bob","status":"USER_STATUS_BLOCKED"}
{"type":"connection","id":5,"from":17,"to":{"external_id":"9f3c"},"created":"2021-03-01T10:00:00Z","viewed":"2021-03-01T11:00:00Z","connected":"2021-03-02T08:00:00Z","message":"Hi","reply":"Hello","position":6}
{"type":"request","id":7,"from":17,"to":{"username":"Bob"},"state":"CONNECTION_REQUEST_STATE_REJECTED","created":"2021-03-01T10:00:00Z","viewed":"2021-03-01T10:00:00.500Z","rejected":"2021-03-02T10:00:00Z","message":"Hi","position":9}
{"type":"request","from":18,"to":17,"state":"CONNECTION_REQUEST_STATE_WITHDRAWN","rejected":"2021-03-02T10:00:00Z"}
{"type":"block","user":17,"other":20,"created":"2021-03-01T10:00:00Z","position":11}
{"type":"footer","users":2,"connections":1,"requests":2,"blocks":1,"sha256":"DIGEST"}
"#;

const HEADER: &str = r#"{"type":"header","format":"kith.export.v1"}"#;
const FOOTER: &str = r#"{"type":"footer"}"#;

fn rules() -> Rules {
    let now = DateTime::parse_from_rfc3339("2026-11-30T00:00:00Z").expect("a time").to_utc();
    Rules { usernames: UsernameRule::Ascii, now }
}

fn reader(text: &str) -> JsonReader<BufReader<&[u8]>> {
    // A small buffer, so that lines span several.
    JsonReader::new(BufReader::with_capacity(7, text.as_bytes()), rules())
}

/// All rows, and the error that ended them.
fn rows(mut reader: impl RowReader) -> (Vec<ReadRow>, Option<FileError>) {
    let mut rows = Vec::new();
    loop {
        match reader.next_row() {
            Ok(Some(row)) => rows.push(row),
            Ok(None) => return (rows, None),
            Err(error) => return (rows, Some(error)),
        }
    }
}

fn write(rows: impl IntoIterator<Item = Row>) -> String {
    let mut rows = rows.into_iter();
    let Some(Row::Header(header)) = rows.next() else { panic!("no header") };
    let mut writer = JsonWriter::new(Vec::new(), header).expect("a writer");
    rows.for_each(|row| writer.row(&row).expect("written"));
    String::from_utf8(writer.finish().expect("a footer").0).expect("text")
}

/// [`FULL`] with the digest of its rows.
fn full() -> String {
    let (rows, _) = rows(reader(&FULL.replace(r#","sha256":"DIGEST""#, "")));
    write(rows.into_iter().map(|row| row.row.expect("a row")))
}

/// What is wrong with a row in a file of its own: the reason, and the fields with their rules.
fn refusal(line: &str) -> String {
    let (rows, error) = rows(reader(&format!("{HEADER}\n{line}\n{FOOTER}\n")));
    assert!(error.is_none(), "{error:?}");
    let [_, row, _] = &rows[..] else { panic!("{rows:?}") };
    match &row.row {
        Ok(row) => format!("{row:?}"),
        Err(refusal) => {
            assert_eq!(refusal.line, 2);
            format!("{} {}", refusal.reason.name(), refusal.detail())
        }
    }
}

#[test]
fn a_file_is_read_and_written_again_as_it_was() {
    let file = full();
    let digest = file.rsplit('"').nth(1).expect("a digest").to_owned();
    assert_eq!(digest.len(), 64);
    assert_eq!(file, FULL.replace("DIGEST", &digest));
    let (read, error) = rows(reader(&file));
    assert!(error.is_none(), "{error:?}");
    assert_eq!(read.iter().map(|row| row.line).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
    // The digest is that of the lines between the first and the last.
    let body: Vec<_> = file.split_inclusive('\n').collect();
    let body = body[1..body.len() - 1].concat();
    assert_eq!(digest, super::json::hex(&<sha2::Sha256 as sha2::Digest>::digest(&body)));
    // Another way to write the same: names in another order and with escapes, short names of states, spaces, nulls.
    let other = r#" {"to":{"username":"Bob"},"from":17,"st\u0061te":"REJECTED","type":"request","id":7,"reply":null} "#;
    assert!(refusal(&other.replace(r#","reply":null"#, r#","viewed":null"#)).starts_with("Request(RequestRow"));
    assert!(refusal(other).starts_with("INVALID_FIELDS reply: is not a field of a request"), "{}", refusal(other));
}

#[test]
fn all_that_is_wrong_with_a_row_is_said() {
    for (line, expected) in [
        ("nonsense", "UNKNOWN_TYPE must be a JSON object: expected ident at character 2"),
        ("[]", "UNKNOWN_TYPE must be a JSON object"),
        (r#"{"id":1}"#, "UNKNOWN_TYPE type: must be set"),
        (r#"{"type":1}"#, "UNKNOWN_TYPE type: must be a text"),
        (r#"{"type":"pal\u0000"}"#, r#"UNKNOWN_TYPE type: "pal" is no type of row"#),
        (
            r#"{"type":"user","id":0,"username":"a b","email":"x","gender":"?","status":"?","email_isvalid":1,"birthday":"1.1.90","date_joined":"now","age":7,"id":1}"#,
            "INVALID_FIELDS id: is given more than once; id: must be a whole number from 1 to 9007199254740991; \
             username: must be 1 to 255 characters of A-Z a-z 0-9 - _; email: must be an e-mail address; \
             email_isvalid: must be true or false; birthday: must be a date YYYY-MM-DD in the past; \
             gender: must be GENDER_MALE, GENDER_FEMALE or GENDER_UNSPECIFIED; \
             status: must be USER_STATUS_APPROVED, USER_STATUS_BLOCKED or USER_STATUS_UNREGISTERED; \
             date_joined: must be a time with its zone, such as 2026-11-25T12:00:00Z; age: is not a field of a user",
        ),
        (r#"{"type":"user","id":1}"#, "INVALID_FIELDS username: must be 1 to 255 characters of A-Z a-z 0-9 - _"),
        (
            r#"{"type":"user","external_id":"a\tb","username":"ann"}"#,
            "INVALID_FIELDS external_id: must not contain control characters",
        ),
        (r#"{"type":"block","user":1}"#, "INVALID_FIELDS other: must be set"),
        (
            r#"{"type":"block","user":"1","other":{"id":1,"username":"b"},"user_username":"ann"}"#,
            "INVALID_FIELDS user: must name the user in one way only; \
             other: must be an id, {\"external_id\": \"…\"} or {\"username\": \"…\"}",
        ),
        (
            r#"{"type":"connection","from":9007199254740992,"to":{"external_id":""},"message":7,"created":1.5}"#,
            "INVALID_FIELDS from: must be an id from 1 to 9007199254740991; \
             to: must be 1 to 128 characters without control characters; created: must be a time with its zone, such as 2026-11-25T12:00:00Z; message: must be a text",
        ),
        (
            r#"{"type":"request","from":1,"to":2,"state":"CONNECTED"}"#,
            "INVALID_FIELDS state: must be one of CONNECTION_REQUEST_STATE_PENDING, CONNECTION_REQUEST_STATE_REJECTED, \
             CONNECTION_REQUEST_STATE_SILENCED, CONNECTION_REQUEST_STATE_WITHDRAWN",
        ),
    ] {
        assert_eq!(refusal(line), expected, "{line}");
    }
    // A row that was refused before has a note, which is not read.
    let noted = r#"{"type":"block","user":1,"other":2,"line":7,"reason":"USER_NOT_FOUND","field":"to"}"#;
    assert!(refusal(noted).starts_with("Block(BlockRow"), "{}", refusal(noted));
    let long = format!(r#"{{"type":"user","username":"ann","bio":"{}"}}"#, "x".repeat(300_000));
    assert_eq!(refusal(&long), "INVALID_FIELDS must be no longer than 262144 bytes");
    let (read, _) =
        rows(JsonReader::new(&b"{\"type\":\"header\",\"format\":\"kith.export.v1\"}\n\xff{}\n"[..], rules()));
    let refused = read[1].row.as_ref().expect_err("not UTF-8");
    assert_eq!(refused.detail(), "must be UTF-8, and is not at byte 1");
}

#[test]
fn a_user_may_have_an_external_id_in_place_of_a_name() {
    let (read, _) = rows(reader(&format!("{HEADER}\n{}\n", r#"{"type":"user","external_id":"u-1"}"#)));
    let Ok(Row::User(user)) = &read[1].row else { panic!("{read:?}") };
    assert_eq!(user.profile.username.as_str(), "");
    assert_eq!(user.profile.external_id.as_ref().map(ExternalId::as_str), Some("u-1"));
    assert_eq!(user.date_joined, Date::Missing(Missing::Absent));
}

#[test]
fn a_file_that_was_cut_off_or_changed_is_noticed() {
    let file = full();
    let lines: Vec<_> = file.split_inclusive('\n').collect();
    let error = |text: &str| {
        let (_, error) = rows(reader(text));
        error.map_or_else(String::new, |error| error.to_string())
    };
    assert_eq!(error(&file), "");
    // After each line, and within the last.
    for kept in 1..lines.len() {
        let text = error(&lines[..kept].concat());
        assert_eq!(
            text,
            format!("the file ends without a footer, after line {kept}: it was cut off; copy or export it again")
        );
    }
    let end = file.trim_end().len();
    assert_eq!(error(&file[..end]), "", "only the last end of a line is missing");
    for cut in 1..lines[7].trim_end().len() {
        assert!(error(&file[..end - cut]).contains("ends without a footer"), "{}", &file[..end - cut]);
    }
    // Changed.
    let digest = "the rows do not match the SHA-256 of the footer";
    assert!(error(&file.replace("Ulm", "Bonn")).starts_with(digest));
    assert!(error(&file.replace("\"a\\n", "\"A\\n")).starts_with(digest));
    let lost = error(&[&lines[..2], &lines[3..]].concat().concat());
    assert_eq!(lost, "the footer says 2 users, and the file has 1: rows were lost or added");
    // A row that cannot be read may be of any type; the digest says whether it was there.
    let spoiled = file.replace(r#"{"type":"block""#, r#"{"type":"block"#);
    assert!(error(&spoiled).starts_with(digest), "{}", error(&spoiled));
    let without = format!("{HEADER}\nnonsense\n{}\n", r#"{"type":"footer","blocks":1}"#);
    assert_eq!(error(&without), "");
    // Not such a file.
    for (text, expected) in [
        ("", "line 1: not a header"),
        ("\n\n", "line 3: not a header"),
        ("id,username\n", "line 1: not a header"),
        (r#"{"type":"user","id":1}"#, "line 1: not a header"),
        (&"x".repeat(300_000), "line 1: not a header"),
        (r#"{"type":"header","format":"kith.export.v2"}"#, r#"the file has the format "kith.export.v2""#),
        (r#"{"type":"header"}"#, r#"the file has the format """#),
        (
            r#"{"type":"header","format":"kith.export.v1","revision":-1,"x":1}"#,
            "line 1: the header is invalid: revision:",
        ),
        (&format!("{HEADER}\n{HEADER}\n"), "line 2: the header is not the first line"),
        (&format!("{HEADER}\n{FOOTER}\n\n{FOOTER}\n"), "line 4: the footer before this line is not the end"),
        (&format!("{HEADER}\n{}\n", r#"{"type":"footer","users":-1}"#), "line 2: the footer is invalid: users:"),
        (&format!("{HEADER}\n{}\n", r#"{"type":"footer","sha256":"00"}"#), "line 2: the footer is invalid: sha256:"),
    ] {
        assert!(error(text).starts_with(expected), "{text:.80}: {}", error(text));
    }
}

#[test]
fn refused_rows_can_be_mended_and_read_again() {
    let refusal = |reason| Refusal { line: 7, reason, violations: vec![Violation::new("to", "no \"user\" 9")] };
    let note = r#""line":7,"reason":"USER_NOT_FOUND","field":"to","detail":"to: no \"user\" 9""#;
    for (text, expected) in [
        (r#"{"type":"block","user":1,"other":9}"#, format!(r#"{{"type":"block","user":1,"other":9,{note}}}"#)),
        (" {} ", format!("{{{note}}}")),
        ("nonsense }", format!(r#"{{"type":"unreadable","text":"nonsense }}",{note}}}"#)),
    ] {
        assert_eq!(refused(text, &refusal(Reason::UserNotFound)), expected);
    }
    let plain = Refusal { line: 1, reason: Reason::SelfRequest, violations: vec![] };
    assert_eq!(refused("{}", &plain), r#"{"line":1,"reason":"SELF_REQUEST"}"#);
}

fn csv(text: &str, kind: Kind) -> Result<CsvReader<&[u8]>, FileError> {
    CsvReader::new(text.as_bytes(), kind, rules())
}

#[test]
fn csv_has_the_same_fields() {
    let text = "\u{feff}id,username,bio,email_isvalid,status,date_joined\r\n\
                1,ann,\"a\nb, \"\"c\"\"\",t,APPROVED,2021-03-01 10:00:00+00\r\n\
                \r\n\
                2,bob,,,,0000-00-00\r\n\
                3,c d,\r\n";
    let mut reader = csv(text, Kind::User).expect("columns");
    let ann = reader.next_row().expect("a row").expect("a row");
    let Ok(Row::User(user)) = ann.row else { panic!("{ann:?}") };
    assert_eq!(
        (ann.line, user.profile.bio.as_str(), user.profile.status),
        (2, "a\nb, \"c\"", Some(UserStatus::Approved))
    );
    assert!(user.profile.email_isvalid && user.date_joined.known().is_some());
    assert_eq!(
        reader.text(),
        r#"{"type":"user","id":1,"username":"ann","bio":"a\nb, \"c\"","email_isvalid":true,"status":"APPROVED","date_joined":"2021-03-01 10:00:00+00"}"#
    );
    let (rest, error) = rows(reader);
    assert!(error.is_none(), "{error:?}");
    let Ok(Row::User(bob)) = &rest[0].row else { panic!("{rest:?}") };
    assert_eq!((rest[0].line, bob.profile.status, bob.date_joined), (5, None, Date::Missing(Missing::Zero)));
    let refused = rest[1].row.as_ref().expect_err("too short");
    assert_eq!((refused.line, refused.detail().as_str()), (6, "must have 6 cells, as the first row, and has 3"));
}

#[test]
fn csv_names_users_in_three_ways() {
    let text = "from,from_username,to_external_id,state\n7,,u-1,PENDING\n,ann,u-1,\n7,ann,u-1,\n,,u-1,\nann,,u-1,\n";
    let mut reader = csv(text, Kind::Request).expect("columns");
    let mut next = || {
        let row = reader.next_row().expect("a row").expect("a row").row;
        let users = match row {
            Ok(Row::Request(request)) => format!("{} to {}", request.from, request.to),
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => refusal.detail(),
        };
        (users, reader.text().into_owned())
    };
    let expected = [
        ("7 to external_id \"u-1\"", r#"{"type":"request","from":7,"to":{"external_id":"u-1"},"state":"PENDING"}"#),
        (
            "username \"ann\" to external_id \"u-1\"",
            r#"{"type":"request","from":{"username":"ann"},"to":{"external_id":"u-1"}}"#,
        ),
        (
            "from: must name the user in one way only",
            r#"{"type":"request","from":{"username":"ann"},"to":{"external_id":"u-1"}}"#,
        ),
        ("from: must be set", r#"{"type":"request","to":{"external_id":"u-1"}}"#),
        ("from: must be an id", r#"{"type":"request","from":"ann","to":{"external_id":"u-1"}}"#),
    ];
    for (users, text) in expected {
        assert_eq!(next(), (users.to_owned(), text.to_owned()));
    }
}

#[test]
fn a_csv_file_with_other_columns_is_refused() {
    for (text, kind, expected) in [
        ("user,other,since\n", Kind::Block, "the first row of blocks: \"since\" is not a field of a block"),
        ("user,other,user_id\n", Kind::Block, "the first row of blocks: \"user_id\" is not a field of a block"),
        ("user,other,user\n", Kind::Block, "the first row of blocks: user is there twice"),
        ("user_username\n", Kind::Block, "the first row of blocks: needs other, other_external_id or other_username"),
        ("id\n", Kind::Connection, "the first row of connections: needs from, from_external_id or from_username"),
        ("user_username\n", Kind::User, "the first row of users: \"user_username\" is not a field of a user"),
    ] {
        let error = csv(text, kind).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
}

#[test]
fn an_empty_csv_file_has_no_rows() {
    for kind in Kind::ALL {
        let (rows, error) = rows(csv("", kind).expect("a file"));
        assert!(rows.is_empty() && error.is_none(), "{rows:?} {error:?}");
    }
}

#[test]
fn csv_is_written_as_it_is_read() {
    let (all, _) = rows(reader(&full()));
    for kind in Kind::ALL {
        let of_kind: Vec<_> =
            all.iter().filter_map(|read| read.row.clone().ok()).filter(|row| row.kind() == Some(kind)).collect();
        assert!(!of_kind.is_empty());
        let mut writer = CsvWriter::new(Vec::new(), kind).expect("a writer");
        for read in &all {
            writer.row(read.row.as_ref().expect("a row")).expect("written");
        }
        let text = String::from_utf8(writer.finish().expect("written")).expect("text");
        let (read, error) = rows(csv(&text, kind).expect("columns"));
        assert!(error.is_none(), "{error:?}");
        assert_eq!(read.into_iter().map(|read| read.row.expect("a row")).collect::<Vec<_>>(), of_kind, "{text}");
    }
}

#[test]
fn names_are_those_of_the_proto() {
    use crate::domain::user::Gender;
    use crate::proto::v1 as pb;
    for (name, short, state) in RequestRowState::ALL.map(|state| (state.name(), state.name().rsplit('_').next(), state))
    {
        assert!(pb::ConnectionRequestState::from_str_name(name).is_some(), "{name}");
        assert_eq!([Some(name), short].map(|name| name.and_then(RequestRowState::from_name)), [Some(state); 2]);
    }
    for status in [UserStatus::Approved, UserStatus::Blocked, UserStatus::Unregistered] {
        assert!(pb::UserStatus::from_str_name(status_name(status)).is_some(), "{status:?}");
        assert_eq!(read_status(status_name(status)), Some(status));
    }
    for gender in [Gender::Unspecified, Gender::Male, Gender::Female] {
        assert!(pb::Gender::from_str_name(gender_name(gender)).is_some(), "{gender:?}");
        assert_eq!(read_gender(gender_name(gender)), Some(gender));
    }
    for (text, expected) in [("FEMALE", Some(Gender::Female)), ("GENDER_", None), ("", None), ("female", None)] {
        assert_eq!(read_gender(text), expected, "{text}");
    }
}
