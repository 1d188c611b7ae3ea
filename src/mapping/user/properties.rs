//! Properties of users and times: a valid value is preserved, and an invalid field is named.

use chrono::{DateTime, Days, NaiveDate, TimeDelta};
use proptest::collection::vec;
use proptest::prelude::*;
use prost_types::Timestamp;

use super::*;
use crate::domain::id::ID_MAX;
use crate::domain::text::{Birthday, Email, ExternalId, Line, Prose, Url};
use crate::domain::user::{Gender, User, UserStatus};
use crate::mapping::timestamp;

const FIRST: i64 = -62_135_596_800;
const LAST: i64 = 253_402_300_799;

fn now() -> Time {
    DateTime::from_timestamp(1_780_000_000, 0).expect("a time")
}

fn valid<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is valid"))
}

fn lines<const MAX: usize>() -> impl Strategy<Value = Line<MAX>> {
    let plain = any::<char>().prop_filter("no control character", |c| !c.is_control());
    vec(plain, 0..=MAX).prop_map(|text| valid(&text.into_iter().collect::<String>()))
}

fn prose() -> impl Strategy<Value = Prose<5000>> {
    "(\\PC|\n|\t){0,99}".prop_map(|text| valid(&text))
}

fn urls() -> impl Strategy<Value = Url> {
    "(https?://[a-z]{1,9}\\.example(:[1-9][0-9]{1,3})?(/[a-zA-Z0-9._~-]{0,9}){0,3}(\\?[a-z]=[0-9])?)?"
        .prop_map(|text| valid(&text))
}

fn times() -> impl Strategy<Value = Time> {
    (FIRST * 1_000_000..=LAST * 1_000_000 + 999_999)
        .prop_map(|micros| Time::from_timestamp_micros(micros).expect("a time"))
}

fn birthdays() -> impl Strategy<Value = Birthday> {
    prop_oneof![
        1 => Just(Birthday::default()),
        9 => (1_u64..700_000).prop_map(|days| {
            let today = now().date_naive();
            let date = today.checked_sub_days(Days::new(days)).expect("a date");
            Birthday::parse(&date.format("%Y-%m-%d").to_string(), today).expect("in the past")
        }),
    ]
}

fn users() -> impl Strategy<Value = User> {
    let genders = prop::sample::select(vec![Gender::Unspecified, Gender::Male, Gender::Female]);
    let statuses = prop::sample::select(vec![UserStatus::Approved, UserStatus::Blocked, UserStatus::Unregistered]);
    let keys = ("[A-Za-z0-9_-]{1,255}", prop::option::of("\\S(\\PC{0,126}\\S)?"))
        .prop_filter("no control character", |keys| keys.1.iter().all(|id| id.parse::<ExternalId>().is_ok()));
    let names = (keys, lines(), "([a-z+]{1,9}@[a-z]{1,9}\\.[a-z]{2,4})?", lines(), lines());
    let rest = (1..=ID_MAX, any::<bool>(), times(), prose(), birthdays(), genders, statuses);
    (names, rest, (urls(), urls(), urls())).prop_map(|(names, rest, (website, avatar, cover))| {
        let ((username, external_id), real_name, email, location, description) = names;
        let (id, email_isvalid, date_joined, bio, birthday, gender, status) = rest;
        let profile = Profile {
            id: Some(UserId::new(id)),
            username: valid(&username),
            real_name,
            email: valid::<Email>(&email),
            email_isvalid,
            date_joined: Some(date_joined),
            bio,
            location,
            birthday,
            description,
            gender,
            status: Some(status),
            website,
            avatar,
            cover,
            external_id: external_id.map(|id| valid(&id)),
        };
        profile.into_user(UserId::new(id), None, now())
    })
}

fn request(user: pb::User) -> pb::CreateUserRequest {
    pb::CreateUserRequest { user: Some(user), request_id: String::new() }
}

/// Makes a field invalid.
type Spoil = fn(&mut pb::User);

/// An invalid value for each field, in the order in which fields are read.
const WRONG: [(&str, Spoil); 17] = [
    ("user.id", |user| user.id = -1),
    ("user.username", |user| user.username.push(' ')),
    ("user.username", |user| user.username.push('é')),
    ("user.real_name", |user| user.real_name = "é".repeat(256)),
    ("user.email", |user| user.email = "nobody".to_owned()),
    ("user.date_joined", |user| user.date_joined = Some(Timestamp { seconds: LAST + 1, nanos: 0 })),
    ("user.bio", |user| user.bio.push('\0')),
    ("user.location", |user| user.location = "\n".to_owned()),
    ("user.birthday", |user| user.birthday = "9999-01-01".to_owned()),
    ("user.description", |user| user.description = "x".repeat(51)),
    ("user.gender", |user| user.gender = 3),
    ("user.status", |user| user.status = -1),
    ("user.website", |user| user.website = "example.com".to_owned()),
    ("user.avatar", |user| user.avatar = "ftp://example.com".to_owned()),
    ("user.cover", |user| user.cover = format!("https://example.com/{}", "x".repeat(200))),
    ("user.external_id", |user| user.external_id = "é".repeat(129)),
    ("user.external_id", |user| user.external_id.push(' ')),
];

proptest! {
    #[test]
    fn a_valid_user_is_preserved(user in users()) {
        let (command, _) = create(&request(pb::User::from(&user)), &Policy::default(), now()).expect("valid");
        let Command::CreateUser(profile) = command else { panic!("{command:?}") };
        prop_assert_eq!(profile.id, Some(user.id));
        let later = now() + TimeDelta::days(1);
        prop_assert_eq!(profile.into_user(user.id, None, later), user);
    }

    #[test]
    fn each_invalid_field_is_named_and_no_other(
        user in users(),
        wrong in prop::sample::subsequence(WRONG.to_vec(), 1..WRONG.len()),
    ) {
        let mut user = pb::User::from(&user);
        wrong.iter().for_each(|(_, spoil)| spoil(&mut user));
        let invalid = create(&request(user), &Policy::default(), now()).expect_err("invalid");
        let named: Vec<_> = invalid.violations.iter().map(|violation| violation.field.as_str()).collect();
        let mut expected: Vec<_> = wrong.iter().map(|(field, _)| *field).collect();
        expected.dedup();
        prop_assert_eq!(named, expected);
    }

    #[test]
    fn any_user_is_accepted_unchanged_or_refused_with_a_violation(
        texts in vec(".{0,60}", 10),
        (id, gender, status, seconds, nanos) in any::<(i64, i32, i32, i64, i32)>(),
    ) {
        let [username, real_name, email, bio, location, birthday, description, website, avatar, external_id] =
            <[String; 10]>::try_from(texts).expect("ten");
        let date_joined = Some(Timestamp { seconds, nanos });
        let user = pb::User {
            id, username, real_name, email, bio, location, birthday, description, website, avatar, external_id, gender,
            status,
            date_joined,
            ..Default::default()
        };
        match create(&request(user.clone()), &Policy::default(), now()) {
            Ok((Command::CreateUser(profile), _)) => {
                let taken = pb::User::from(&profile.into_user(UserId::new(id), None, now()));
                prop_assert_eq!(pb::User { date_joined, ..taken }, user);
            }
            Ok(other) => prop_assert!(false, "{other:?}"),
            Err(invalid) => prop_assert!(!invalid.violations.is_empty()),
        }
    }

    #[test]
    fn a_time_is_preserved(time in times()) {
        let mut fields = Fields::default();
        let read = fields.time("time", &timestamp(time));
        prop_assert_eq!(fields.finish(read), Ok(time));
    }

    #[test]
    fn a_time_outside_the_range_of_a_timestamp_is_refused(
        seconds in prop_oneof![any::<i64>(), FIRST - 2..FIRST + 2, LAST - 2..LAST + 2],
        nanos in prop_oneof![any::<i32>(), -2..2, 999_999_998..1_000_000_002],
    ) {
        let mut fields = Fields::default();
        let read = fields.time("time", &Timestamp { seconds, nanos });
        let is_valid = (FIRST..=LAST).contains(&seconds) && (0..1_000_000_000).contains(&nanos);
        match fields.finish(read) {
            Ok(time) => {
                prop_assert!(is_valid);
                prop_assert_eq!(time.timestamp(), seconds);
                prop_assert_eq!(time.timestamp_subsec_nanos(), nanos.unsigned_abs() / 1_000 * 1_000);
            }
            Err(invalid) => {
                prop_assert!(!is_valid);
                prop_assert_eq!(&invalid.violations[0].field, "time");
            }
        }
    }

    #[test]
    fn a_birthday_is_a_valid_date_in_the_past(year in 0_i32..10_000, month in 0_u32..15, day in 0_u32..35) {
        let text = format!("{year:04}-{month:02}-{day:02}");
        let mut fields = Fields::default();
        let read = fields.birthday("birthday", &text, now());
        let is_valid = NaiveDate::from_ymd_opt(year, month, day).is_some_and(|date| date < now().date_naive());
        prop_assert_eq!(fields.finish(read).is_ok(), is_valid, "{}", text);
    }
}
