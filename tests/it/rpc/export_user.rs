use std::time::{Duration, Instant};

use chrono::TimeDelta;
use kith::proto::v1 as pb;
use kith::proto::v1::export_user_response::Item;
use kith::proto::v1::{ConnectionRequestState as State, ErrorReason, EventKind, UserView};
use tonic::{Code, Status};

use super::{REQUEST_ID, at_once, crowd, full_user, people};
use crate::cases;
use crate::harness::clients::Clients;
use crate::harness::raw::{RawChannel, read, read_at};
use crate::harness::{App, refused, until};

const EXPORT: &str = "/kith.v1.UserService/ExportUser";
/// The number of exports that may run at the same time.
const EXPORTS_MAX: usize = 32;

/// An export: the revision of the first message, and all items.
struct Export {
    revision: i64,
    items: Vec<Item>,
}

/// The kinds of items that a test counts.
fn kind(item: &Item) -> &'static str {
    match item {
        Item::User(_) => "user",
        Item::Counts(_) => "counts",
        Item::ConnectionRequest(_) => "request",
        Item::Block(_) => "block",
        Item::BlockOfUser(_) => "block of",
        Item::Cooldown(_) => "cooldown",
        Item::EndedRequests(_) => "ended",
        Item::StoredResponse(_) => "response",
        Item::Event(_) => "event",
        Item::Totals(_) => "totals",
    }
}

impl Export {
    /// The kinds of the items, in their order, each with the number of items that follow each other.
    fn kinds(&self) -> Vec<(&'static str, usize)> {
        let mut kinds: Vec<(&'static str, usize)> = Vec::new();
        for kind in self.items.iter().map(kind) {
            match kinds.last_mut() {
                Some((last, number)) if *last == kind => *number += 1,
                _ => kinds.push((kind, 1)),
            }
        }
        kinds
    }

    fn requests(&self) -> impl Iterator<Item = &pb::ConnectionRequest> {
        self.items
            .iter()
            .filter_map(|item| if let Item::ConnectionRequest(request) = item { Some(request) } else { None })
    }

    fn events(&self) -> Vec<(EventKind, pb::EventCause)> {
        let events =
            self.items.iter().filter_map(|item| if let Item::Event(event) = item { Some(event) } else { None });
        events.map(|event| (event.kind(), event.cause())).collect()
    }
}

async fn export(clients: &Clients, request: pb::ExportUserRequest) -> Result<Export, Status> {
    let mut stream = clients.users().export_user(request).await?.into_inner();
    let (mut revision, mut items) = (None, Vec::new());
    while let Some(message) = stream.message().await? {
        revision.get_or_insert(message.revision);
        items.push(message.item.expect("an item"));
    }
    Ok(Export { revision: revision.expect("an item"), items })
}

fn of(id: i64) -> pb::ExportUserRequest {
    pb::ExportUserRequest { id, ..Default::default() }
}

fn by_themselves(id: i64) -> pb::ExportUserRequest {
    pb::ExportUserRequest { id, user_id: id, ..Default::default() }
}

/// Ann with something of everything. Bob and Cy are connected to her; Dee asked her, and so did Eve, whom she rejected;
/// she asked Fay, who rejected her, and Gus, who blocks her; Gus asked her too before that, and cancelled.
async fn life(app: &App) -> [i64; 7] {
    let [ann, bob, cy, dee, eve, fay, gus] = people(app).await;
    let row = pb::ImportUsersRequest { user: Some(full_user(ann, "ann")), request_id: String::new() };
    app.users().import_users(tokio_stream::iter([row])).await.unwrap();
    app.connect(ann, bob).await;
    app.connect(cy, ann).await;
    app.send(dee, ann).await;
    let rejected = app.send(eve, ann).await;
    app.reject(rejected, ann).await.unwrap();
    let of_fay = pb::SendConnectionRequestRequest {
        from_user_id: ann,
        to_user_id: fay,
        message: "Hello".to_owned(),
        request_id: REQUEST_ID.to_owned(),
    };
    let of_fay =
        app.requests().send_connection_request(of_fay).await.unwrap().into_inner().connection_request.unwrap().id;
    app.reject(of_fay, fay).await.unwrap();
    let cancelled = app.send(gus, ann).await;
    app.cancel(cancelled, gus).await.unwrap();
    app.block(gus, ann).await;
    app.send(ann, gus).await;
    app.block(ann, eve).await;
    // Sent into the block, and told to nobody.
    app.cancel(rejected, eve).await.unwrap();
    app.send(eve, ann).await;
    [ann, bob, cy, dee, eve, fay, gus]
}

/// Lets a user block 1,500 others, so that the export is larger than what is sent ahead.
async fn block_many(app: &App, user: i64) {
    for others in crowd(app, 1_500).await.chunks(100) {
        at_once(others.iter().copied().map(|other| {
            let clients = Clients(app.channel());
            async move { clients.block(user, other).await }
        }))
        .await;
    }
}

cases! {
    async fn an_operator_receives_everything_in_a_fixed_order(app: App) {
        let [ann, bob, cy, dee, eve, fay, gus] = life(&app).await;
        let exported = export(&app, of(ann)).await.unwrap();
        assert_eq!(exported.revision, app.revision().await);
        assert_eq!(exported.items[0], Item::User(full_user(ann, "ann")));
        let events = exported.events();
        assert_eq!(exported.kinds(), [
            ("user", 1), ("counts", 1), ("request", 6), ("block", 1), ("block of", 1), ("cooldown", 2), ("ended", 2),
            ("response", 1), ("event", events.len()), ("totals", 1),
        ]);
        let basic = |user: &Option<pb::User>| {
            let user = user.clone().unwrap();
            assert_eq!((user.email.as_str(), user.bio.as_str()), ("", ""));
            user.id
        };
        let requests: Vec<_> = exported
            .requests()
            .map(|request| (basic(&request.from_user), basic(&request.to_user), request.state(), request.message.as_str()))
            .collect();
        assert_eq!(requests, [
            (dee, ann, State::Pending, ""),
            (eve, ann, State::Silenced, ""),
            (ann, gus, State::Silenced, ""),
            (ann, fay, State::Rejected, "Hello"),
            (cy, ann, State::Connected, ""),
            (ann, bob, State::Connected, ""),
        ]);
        let Item::Counts(counts) = &exported.items[1] else { panic!("no counts") };
        let numbers = (counts.requests_sent, counts.requests_received, counts.requests_unviewed, counts.connections);
        assert_eq!((numbers, counts.sends), ((2, 1, 1, 2), 3));
        assert!(counts.sends_since.is_some());
        let records: Vec<_> = exported.items.iter().filter_map(|item| match item {
            Item::BlockOfUser(block) => Some((block.user_id, ann, 0)),
            Item::Cooldown(cooldown) => Some((cooldown.from_user_id, cooldown.to_user_id, 1)),
            Item::EndedRequests(ended) => Some((ended.from_user_id, ended.to_user_id, 1 + ended.requests)),
            _ => None,
        }).collect();
        assert_eq!(records, [(gus, ann, 0), (ann, fay, 1), (eve, ann, 1), (eve, ann, 2), (gus, ann, 2)]);
        let response = exported.items.iter().find_map(|item| if let Item::StoredResponse(it) = item { Some(it) } else { None });
        let response = response.unwrap();
        assert_eq!((response.request_id.as_str(), response.actor_user_id), (REQUEST_ID, ann));
        assert_eq!(response.caller, "operator");
        let Some(Item::Totals(totals)) = exported.items.last() else { panic!("no totals") };
        assert_eq!(*totals, pb::ExportTotals {
            connection_requests: 6, blocks: 1, blocks_of_user: 1, cooldowns: 2, ended_requests: 2, stored_responses: 1,
            events: events.len() as i64,
        });
        let all = pb::ListEventsRequest { user_ids: vec![ann], page_size: 1_000, ..Default::default() };
        let listed = app.events().list_events(all).await.unwrap().into_inner().events;
        assert_eq!(listed.iter().map(|event| (event.kind(), event.cause())).collect::<Vec<_>>(), events);
    }

    async fn a_user_receives_what_they_may_see_and_nothing_of_what_others_did(app: App) {
        let [ann, bob, cy, dee, _, fay, gus] = life(&app).await;
        // About Ann, but not hers.
        let of_ann = pb::GetUserRequest { key: Some(pb::get_user_request::Key::Id(ann)), ..Default::default() };
        let profile = app.users().get_user(of_ann).await.unwrap().into_inner().user;
        let create = pb::BlockUserRequest { user_id: dee, other_user_id: ann, request_id: uuid::Uuid::new_v4().to_string() };
        app.blocks().block_user(create).await.unwrap();
        let exported = export(&app, by_themselves(ann)).await.unwrap();
        assert_eq!(exported.items.first(), profile.map(Item::User).as_ref());
        let states: Vec<_> = exported.requests().map(|request| {
            let sent = request.from_user.as_ref().unwrap().id == ann;
            assert!(request.rejected.is_none() && (request.viewed.is_none() || !sent), "{request:?}");
            (request.from_user.as_ref().unwrap().id, request.to_user.as_ref().unwrap().id, request.state())
        }).collect();
        // Dee's request is silenced now, and Eve's is. Fay's rejection and Gus's block do not show.
        assert_eq!(states[..2], [(ann, gus, State::Pending), (ann, fay, State::Pending)]);
        assert_eq!(states[2..], [(cy, ann, State::Connected), (ann, bob, State::Connected)]);
        let kinds: Vec<_> = exported.kinds().into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, ["user", "counts", "request", "block", "response", "event", "totals"]);
        let Item::Counts(counts) = &exported.items[1] else { panic!("no counts") };
        let numbers = [counts.requests_sent, counts.requests_received, counts.requests_unviewed, counts.connections];
        assert_eq!((numbers, counts.sends, counts.sends_since), (app.counts(ann).await, 0, None));
        let responses: Vec<_> = exported.items.iter()
            .filter_map(|item| if let Item::StoredResponse(it) = item { Some(it) } else { None }).collect();
        assert_eq!(responses.len(), 1);
        assert_eq!((responses[0].request_id.as_str(), responses[0].caller.as_str()), (REQUEST_ID, ""));
        let own = pb::ListEventsRequest { viewer_user_id: ann, page_size: 1_000, ..Default::default() };
        let listed = app.events().list_events(own).await.unwrap().into_inner().events;
        assert_eq!(listed.iter().map(|event| (event.kind(), event.cause())).collect::<Vec<_>>(), exported.events());
    }

    #[with(|settings| settings.policy.max_sends_per_hour = None)]
    async fn every_part_may_have_many_pages(app: App) {
        const EACH: usize = 120;
        let [ann] = people(&app).await;
        let others = crowd(&app, 6 * EACH as i64).await;
        let parts: Vec<&[i64]> = others.chunks(EACH).collect();
        at_once((0..6 * EACH).map(|index| {
            let (part, other, clients) = (index / EACH, parts[index / EACH][index % EACH], Clients(app.channel()));
            async move {
                match part {
                    0 => _ = clients.send(ann, other).await,
                    1 => _ = clients.send(other, ann).await,
                    2 => _ = clients.connect(ann, other).await,
                    3 => _ = clients.connect(other, ann).await,
                    4 => clients.block(ann, other).await,
                    _ => clients.block(other, ann).await,
                }
            }
        })).await;
        // Each is there once, and everything else in the lists.
        let exported = export(&app, of(ann)).await.unwrap();
        assert_eq!(exported.kinds()[..5], [
            ("user", 1), ("counts", 1), ("request", 4 * EACH), ("block", EACH), ("block of", EACH),
        ]);
        let mut ids: Vec<_> = exported.requests().map(|request| request.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 4 * EACH);
        assert!(exported.events().len() > 6 * EACH);
    }

    async fn what_has_expired_is_left_out_and_a_connection_is_not(app: App) {
        let [ann, bob, cy] = people(&app).await;
        app.connect(ann, bob).await;
        app.send(cy, ann).await;
        app.clock.advance(TimeDelta::days(200));
        let exported = export(&app, of(ann)).await.unwrap();
        assert_eq!(exported.requests().map(|request| request.state()).collect::<Vec<_>>(), [State::Connected]);
    }

    async fn nothing_of_an_earlier_user_with_the_same_id_is_in_it(app: App) {
        let [ann, bob] = people(&app).await;
        app.connect(ann, bob).await;
        app.users().delete_user(pb::DeleteUserRequest { id: ann, request_id: String::new() }).await.unwrap();
        app.create(ann).await.unwrap();
        for request in [of(ann), by_themselves(ann)] {
            let exported = export(&app, request).await.unwrap();
            assert_eq!(exported.events(), [(EventKind::UserCreated, pb::EventCause::Unspecified)]);
        }
    }

    async fn only_an_operator_and_the_user_may_export_a_user(app: App) {
        let [ann, bob] = people(&app).await;
        let by_bob = pb::ExportUserRequest { id: ann, user_id: bob, ..Default::default() };
        refused(export(&app, by_bob).await.map(drop), Code::PermissionDenied, ErrorReason::NotTheUser);
        for unknown in [of(99), by_themselves(99)] {
            refused(export(&app, unknown).await.map(drop), Code::NotFound, ErrorReason::UserNotFound);
        }
        refused(export(&app, of(0)).await.map(drop), Code::InvalidArgument, ErrorReason::InvalidFields);
        // The users inside have no more fields than a list of users shows.
        let view = pb::GetUserRequest {
            key: Some(pb::get_user_request::Key::Id(bob)), user_view: UserView::Basic.into(), ..Default::default()
        };
        let basic = app.users().get_user(view).await.unwrap().into_inner().user;
        app.connect(ann, bob).await;
        let exported = export(&app, by_themselves(ann)).await.unwrap();
        assert_eq!(exported.requests().next().unwrap().to_user, basic);
    }

    async fn an_export_of_a_user_who_is_deleted_meanwhile_fails(app: App) {
        let [ann] = people(&app).await;
        block_many(&app, ann).await;
        // The server cannot send it all, and the rest is read later.
        let mut channel = RawChannel::with_window(&app.address, 4 << 10).await;
        let body = channel.post(EXPORT, of(ann)).await.into_body();
        app.users().delete_user(pb::DeleteUserRequest { id: ann, request_id: String::new() }).await.unwrap();
        app.create(ann).await.unwrap();
        let (_, trailers) = read(body).await;
        let status = Status::from_header_map(&trailers).expect("a status");
        refused(Err::<(), _>(status), Code::NotFound, ErrorReason::UserNotFound);
    }

    #[with(|settings| settings.max_call_time = Duration::from_secs(3))]
    async fn exports_that_nobody_reads_end_and_one_that_is_read_slowly_does_not(app: App) {
        let [ann] = people(&app).await;
        block_many(&app, ann).await;
        let mut channel = RawChannel::with_window(&app.address, 4 << 10).await;
        let mut unread = Vec::new();
        for _ in 0..EXPORTS_MAX {
            unread.push(channel.post(EXPORT, of(ann)).await.into_body());
        }
        let tried = export(&app, of(ann)).await;
        refused(tried.map(drop), Code::ResourceExhausted, ErrorReason::Overloaded);
        until("there is room again", async || export(&app, of(ann)).await.is_ok()).await;
        let (bytes, trailers) = read(unread.remove(0)).await;
        assert!(bytes < 50 << 10, "{bytes} bytes of an export");
        let status = Status::from_header_map(&trailers).expect("a status");
        refused(Err::<(), _>(status), Code::DeadlineExceeded, ErrorReason::DeadlinePassed);
        drop(unread);
        // One that is read all the time may take longer than a call.
        let begun = Instant::now();
        let mut channel = RawChannel::with_window(&app.address, 4 << 10).await;
        let body = channel.post(EXPORT, of(ann)).await.into_body();
        let (bytes, trailers) = read_at(body, 24 << 10).await;
        assert_eq!(Status::from_header_map(&trailers).expect("a status").code(), Code::Ok);
        assert!(begun.elapsed() > Duration::from_secs(3), "{bytes} bytes in {:?}", begun.elapsed());
    }
}
