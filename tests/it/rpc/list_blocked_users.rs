use kith::proto::v1 as pb;
use kith::proto::v1::ErrorReason;
use tonic::Code;

use super::{at_once, crowd, page_sizes, pages, people, wrong_tokens};
use crate::cases;
use crate::harness::app::fields;
use crate::harness::{App, refused};

fn of(user_id: i64) -> pb::ListBlockedUsersRequest {
    pb::ListBlockedUsersRequest { user_id, ..Default::default() }
}

async fn users(app: &App, request: pb::ListBlockedUsersRequest) -> Vec<i64> {
    let pages = pages!(app.blocks().list_blocked_users(request).blocks);
    pages.concat().iter().map(|block| block.user.as_ref().unwrap().id).collect()
}

cases! {
    async fn blocks_come_newest_first_and_whole(app: App) {
        let [ann, bob, cy, dee] = people(&app).await;
        assert_eq!(users(&app, of(ann)).await, [0; 0]);
        for other in [cy, bob, dee] {
            app.block(ann, other).await;
        }
        app.block(bob, ann).await;
        for page_size in [0, 1, 2, 3] {
            let request = pb::ListBlockedUsersRequest { page_size, ..of(ann) };
            assert_eq!(users(&app, request).await, [dee, bob, cy]);
        }
        app.unblock(ann, cy).await;
        app.clock.advance(chrono::TimeDelta::minutes(5));
        app.block(ann, cy).await;
        assert_eq!(users(&app, of(ann)).await, [cy, dee, bob]);
        let response = app.blocks().list_blocked_users(of(ann)).await.unwrap().into_inner();
        let newest = &response.blocks[0];
        assert_eq!(newest.user.as_ref().unwrap().username, "cy");
        assert_eq!(newest.created.unwrap().seconds, app.clock.now().timestamp());
        // Blocked users do not see it.
        assert_eq!(users(&app, of(cy)).await, [0; 0]);
    }

    async fn nothing_is_repeated_or_skipped_while_others_write(app: App) {
        let [ann, bob, cy, dee, eve] = people(&app).await;
        for other in [bob, cy, dee] {
            app.block(ann, other).await;
        }
        let first = pb::ListBlockedUsersRequest { page_size: 1, ..of(ann) };
        let page = app.blocks().list_blocked_users(first.clone()).await.unwrap().into_inner();
        app.block(ann, eve).await;
        app.unblock(ann, dee).await;
        app.unblock(ann, cy).await;
        let next = pb::ListBlockedUsersRequest { page_token: page.next_page_token, ..first };
        assert_eq!(users(&app, next).await, [bob]);
    }

    async fn pages_have_their_limits(app: App) {
        let ann = app.user("ann").await;
        at_once(crowd(&app, 1_002).await.into_iter().map(|other_user_id| {
            let mut blocks = app.blocks();
            let block = pb::BlockUserRequest { user_id: ann, other_user_id, request_id: String::new() };
            async move { blocks.block_user(block).await.unwrap() }
        }))
        .await;
        for refusal in page_sizes!(app.blocks().list_blocked_users(of(ann)).blocks) {
            let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
            assert_eq!(fields(&details), ["page_size"]);
        }
    }

    async fn tokens_cannot_be_altered_or_moved_to_another_list(app: App) {
        let [ann, bob, cy] = people(&app).await;
        app.block(ann, bob).await;
        app.block(ann, cy).await;
        for result in wrong_tokens!(app.blocks().list_blocked_users(of(ann)), others: [of(bob)]) {
            let details = refused(result, Code::InvalidArgument, ErrorReason::InvalidPageToken);
            assert_eq!(fields(&details), ["page_token"]);
        }
    }

    async fn the_user_must_exist(app: App) {
        let refusal = app.blocks().list_blocked_users(of(99)).await;
        let details = refused(refusal, Code::NotFound, ErrorReason::UserNotFound);
        assert_eq!(details.error_info().unwrap().metadata["user_id"], "99");
    }

    async fn every_wrong_field_is_named(app: App) {
        let wrong = pb::ListBlockedUsersRequest { user_id: -1, page_size: -1, page_token: "x".to_owned(), ..Default::default() };
        let refusal = app.blocks().list_blocked_users(wrong).await;
        let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
        assert_eq!(fields(&details), ["user_id", "page_size", "page_token"]);
    }
}
