//! The everyday verbs: each is one RPC with a request.

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::api::Method;
use super::call::send;
use super::failure::Failed;
use super::output::Printer;
use super::session::Session;
use super::{input, render};
use crate::config::{
    BlockVerb, ClientArgs, ConnectionVerb, HistoryArgs, OneRequest, Output, RequestVerb, Rows, TwoUsers, UserCreate,
    UserRef, UserRows, UserUpdate, UserVerb, View,
};
use crate::proto::json as proto;

/// The maximum size of a page.
const PAGE_MAX: usize = 1_000;
/// The exit status of an import that refused rows.
const REFUSALS: u8 = 3;

/// What a verb does, with the settings of its call.
type Verb = (ClientArgs, Result<Plan, Failed>);

/// A call that a verb makes.
#[derive(Debug)]
pub(super) struct Plan {
    method: &'static str,
    request: Map<String, Value>,
    /// Fields whose values are users, by their paths.
    users: Vec<(&'static str, UserRef)>,
    kind: Kind,
    /// Whether to print what is personal too.
    full: bool,
}

/// What a verb prints.
#[derive(Debug)]
enum Kind {
    /// One response.
    One,
    /// At most this many rows of a list; all without a number.
    Rows(Option<usize>),
    /// The result of sending this file.
    Import(String),
}

impl Plan {
    fn new(method: &'static str, request: Value) -> Self {
        let request = if let Value::Object(request) = request { request } else { Map::new() };
        Self { method, request, users: Vec::new(), kind: Kind::One, full: false }
    }

    fn user(mut self, field: &'static str, user: UserRef) -> Self {
        self.users.push((field, user));
        self
    }

    /// Users are read without what the table does not show, unless they are asked for in full.
    fn view(mut self, View { full }: View) -> Self {
        self.request.insert("user_view".to_owned(), if full { "FULL" } else { "BASIC" }.into());
        Self { full, ..self }
    }

    fn rows(self, Rows { limit, all }: &Rows) -> Self {
        let limit = (!all).then(|| usize::try_from(*limit).unwrap_or(usize::MAX));
        Self { kind: Kind::Rows(limit), ..self }
    }
}

/// What `kith user` does.
pub(super) fn user(verb: UserVerb) -> Verb {
    match verb {
        UserVerb::Get(args) => (args.client, Ok(Plan::new("GetUser", key(&args.user)).view(args.view))),
        UserVerb::List(args) => (args.client, Ok(Plan::new("ListUsers", json!({})).view(args.view).rows(&args.rows))),
        UserVerb::Create(args) => (args.client.clone(), create(args)),
        UserVerb::Update(args) => (args.client.clone(), update(args)),
        UserVerb::Import(args) => {
            (args.client, Ok(Plan { kind: Kind::Import(args.file), ..Plan::new("ImportUsers", json!({})) }))
        }
        UserVerb::Delete(args) => (args.client, Ok(Plan::new("DeleteUser", json!({})).user("id", args.user))),
    }
}

/// The key of a user in `GetUser`.
pub(super) fn key(user: &UserRef) -> Value {
    match user {
        UserRef::Id(id) => json!({ "id": id }),
        UserRef::Name(name) => json!({ "username": name }),
        UserRef::External(id) => json!({ "external_id": id }),
    }
}

fn create(args: UserCreate) -> Result<Plan, Failed> {
    let UserCreate { username, external_id, id, real_name, email, profile, client: _ } = args;
    let mut user = input::object(profile.as_deref())?;
    let given = [
        ("username", username.map(Value::from)),
        ("external_id", external_id.map(Value::from)),
        ("id", id.map(Value::from)),
        ("real_name", real_name.map(Value::from)),
        ("email", email.map(Value::from)),
    ];
    user.extend(given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    Ok(Plan::new("CreateUser", json!({ "user": user })))
}

fn update(args: UserUpdate) -> Result<Plan, Failed> {
    let UserUpdate { user, profile, client: _ } = args;
    let fields = input::object(Some(&profile))?;
    let mask = fields.keys().map(|name| camel_case(name)).collect::<Vec<_>>().join(",");
    Ok(Plan::new("UpdateUser", json!({ "user": fields, "update_mask": mask })).user("user.id", user))
}

/// The name of a field as the JSON form of a field mask has it.
fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |mut name, word| {
        let mut letters = word.chars();
        name.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        name + letters.as_str()
    })
}

/// What `kith request` does.
pub(super) fn request(verb: RequestVerb) -> Verb {
    let one = |method, OneRequest { id, client }: OneRequest| (client, Ok(Plan::new(method, json!({ "id": id }))));
    match verb {
        RequestVerb::Send(args) => {
            let plan = Plan::new("SendConnectionRequest", json!({ "message": args.message }));
            (args.client, Ok(plan.user("from_user_id", args.from).user("to_user_id", args.to)))
        }
        RequestVerb::Accept(args) => {
            let request = json!({ "id": args.id, "reply": args.reply });
            (args.client, Ok(Plan::new("AcceptConnectionRequest", request)))
        }
        RequestVerb::Reject(args) => one("RejectConnectionRequest", args),
        RequestVerb::Restore(args) => one("RestoreConnectionRequest", args),
        RequestVerb::Cancel(args) => one("CancelConnectionRequest", args),
        RequestVerb::View(args) => one("MarkConnectionRequestViewed", args),
        RequestVerb::Get(args) => {
            (args.client, Ok(Plan::new("GetConnectionRequest", json!({ "id": args.id })).view(args.view)))
        }
        RequestVerb::List(args) => {
            let direction = if args.sent { "SENT" } else { "RECEIVED" };
            let state = if args.rejected { "REJECTED" } else { "PENDING" };
            let request = json!({ "direction": direction, "state": state, "unviewed_only": args.unviewed });
            let plan = Plan::new("ListConnectionRequests", request).user("user_id", args.user);
            (args.client, Ok(plan.view(args.view).rows(&args.rows)))
        }
    }
}

/// What `kith connection` does.
pub(super) fn connection(verb: ConnectionVerb) -> Verb {
    match verb {
        ConnectionVerb::List(args) => list("ListConnections", args),
        ConnectionVerb::Remove(args) => two("RemoveConnection", args),
        ConnectionVerb::Mutual(args) => {
            let plan = Plan::new("ListMutualConnections", json!({}));
            let plan = plan.user("user_id", args.user).user("other_user_id", args.other);
            (args.client, Ok(plan.view(args.view).rows(&args.rows)))
        }
        ConnectionVerb::Counts(args) => {
            (args.client, Ok(Plan::new("GetConnectionCounts", json!({})).user("user_id", args.user)))
        }
    }
}

/// What `kith block` does.
pub(super) fn block(verb: BlockVerb) -> Verb {
    match verb {
        BlockVerb::Add(args) => two("BlockUser", args),
        BlockVerb::Remove(args) => two("UnblockUser", args),
        BlockVerb::List(args) => list("ListBlockedUsers", args),
    }
}

/// What `kith history` does.
pub(super) fn history(args: HistoryArgs) -> Verb {
    let plan = Plan::new("ListEvents", json!({})).user("user_id", args.user).user("other_user_id", args.other);
    (args.client, Ok(Plan { kind: Kind::Rows(None), ..plan }))
}

fn list(method: &'static str, args: UserRows) -> Verb {
    let plan = Plan::new(method, json!({})).user("user_id", args.user);
    (args.client, Ok(plan.view(args.view).rows(&args.rows)))
}

fn two(method: &'static str, args: TwoUsers) -> Verb {
    let plan = Plan::new(method, json!({})).user("user_id", args.user).user("other_user_id", args.other);
    (args.client, Ok(plan))
}

/// Makes the call of a verb, and prints the response.
pub(super) async fn run(session: &Session<'_>, plan: Plan) -> Result<ExitCode, Failed> {
    let Plan { method, mut request, users, kind, full } = plan;
    let method = Method::find(method)?;
    let printer = Printer::new(session.args.output, Output::Table);
    for (path, user) in users {
        let id = session.user_id(&user).await?;
        match path.split_once('.') {
            Some((outer, inner)) => request.entry(outer).or_insert_with(|| json!({}))[inner] = id.into(),
            None => _ = request.insert(path.to_owned(), id.into()),
        }
    }
    match kind {
        Kind::One => {
            let request = session.request(&method, request).await?;
            let response = proto::value(&session.unary(&method, request).await?)?;
            printer.message(&method.0.output(), &response, full)?;
        }
        Kind::Rows(limit) => rows(session, &method, request, limit, full, printer).await?,
        Kind::Import(file) => {
            let wrap = |user| Map::from_iter([("user".to_owned(), Value::Object(user))]);
            let mut has_refusals = false;
            let print = |response: Value| {
                has_refusals |= response.get("refused").is_some();
                printer.message(&method.0.output(), &response, full)
            };
            send(session, &method, input::file(&file)?, wrap, print).await?;
            if has_refusals {
                return Ok(ExitCode::from(REFUSALS));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads pages until there are enough rows, and prints them: lines of JSON page by page, anything else as one response.
///
/// Its revision is that of the first page: a watch that starts after it misses nothing.
async fn rows(
    session: &Session<'_>,
    method: &Method,
    mut request: Map<String, Value>,
    limit: Option<usize>,
    full: bool,
    printer: Printer,
) -> Result<(), Failed> {
    let output = method.0.output();
    let field = render::list(&output).ok_or_else(|| format!("{} returns no list", method.name()))?;
    let mut whole: Option<Value> = None;
    let mut read = 0;
    loop {
        let left = limit.map_or(PAGE_MAX, |limit| limit.saturating_sub(read).min(PAGE_MAX));
        request.insert("page_size".to_owned(), left.into());
        let message = session.request(method, request.clone()).await?;
        let mut page = proto::value(&session.unary(method, message).await?)?;
        let next = page.get("next_page_token").and_then(Value::as_str).unwrap_or_default().to_owned();
        read += page[field.name()].as_array().map_or(0, Vec::len);
        let is_last = next.is_empty() || limit.is_some_and(|limit| read >= limit);
        if printer.has_lines() {
            printer.list(&output, &page, full)?;
        } else if let Some(whole) = &mut whole {
            append(whole, &mut page, field.name());
        } else {
            whole = Some(page);
        }
        if is_last {
            if !next.is_empty() {
                more();
            }
            break;
        }
        request.insert("page_token".to_owned(), next.into());
    }
    whole.map_or(Ok(()), |whole| printer.list(&output, &whole, full))
}

/// Adds the rows of a page, and takes over its token.
fn append(whole: &mut Value, page: &mut Value, field: &str) {
    let rows = page[field].as_array_mut().map(std::mem::take).unwrap_or_default();
    match whole.get_mut(field).and_then(Value::as_array_mut) {
        Some(all) => all.extend(rows),
        None => whole[field] = rows.into(),
    }
    let Some(whole) = whole.as_object_mut() else { return };
    match page.get("next_page_token") {
        Some(next) => _ = whole.insert("next_page_token".to_owned(), next.clone()),
        None => _ = whole.shift_remove("next_page_token"),
    }
}

fn more() {
    use std::io::Write;
    // Nobody may be there to read it.
    let _closed = std::io::stderr().write_all(b"kith: there are more rows; print them with --limit or --all\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_mask_has_names_in_camel_case() {
        for (name, expected) in [("bio", "bio"), ("real_name", "realName"), ("email_isvalid", "emailIsvalid")] {
            assert_eq!(camel_case(name), expected);
        }
    }

    #[test]
    fn pages_become_one_response() {
        let mut whole = json!({"users": [1], "next_page_token": "a", "revision": 7});
        append(&mut whole, &mut json!({"users": [2, 3], "next_page_token": "b", "revision": 9}), "users");
        assert_eq!(whole, json!({"users": [1, 2, 3], "next_page_token": "b", "revision": 7}));
        append(&mut whole, &mut json!({"revision": 10}), "users");
        assert_eq!(whole, json!({"users": [1, 2, 3], "revision": 7}));
        let mut empty = json!({"revision": 7, "next_page_token": "a"});
        append(&mut empty, &mut json!({"users": [1]}), "users");
        assert_eq!(empty, json!({"revision": 7, "users": [1]}));
    }
}
