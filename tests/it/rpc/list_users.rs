use kith::proto::v1 as pb;
use kith::proto::v1::ErrorReason;
use tonic::Code;

use super::{crowd, page_sizes, pages, people, wrong_tokens};
use crate::cases;
use crate::harness::app::fields;
use crate::harness::refused;

fn page(page_size: i32) -> pb::ListUsersRequest {
    pb::ListUsersRequest { page_size, page_token: String::new(), ..Default::default() }
}

fn ids(pages: &[Vec<pb::User>]) -> Vec<Vec<i64>> {
    pages.iter().map(|page| page.iter().map(|user| user.id).collect()).collect()
}

cases! {
    async fn the_newest_come_first_page_by_page(app: App) {
        assert_eq!(ids(&pages!(app.users().list_users(page(2)).users)), [[0_i64; 0]]);
        let [ann, bob] = people(&app).await;
        // The newest, although its id is the smallest.
        let old = pb::User { id: 1_000, username: "old".to_owned(), ..Default::default() };
        app.users().create_user(pb::CreateUserRequest { user: Some(old), ..Default::default() }).await.unwrap();
        let cy = pb::User { id: 500, username: "cy".to_owned(), ..Default::default() };
        app.users().create_user(pb::CreateUserRequest { user: Some(cy), ..Default::default() }).await.unwrap();
        assert_eq!(ids(&pages!(app.users().list_users(page(3)).users)), [vec![500, 1_000, bob], vec![ann]]);
        assert_eq!(ids(&pages!(app.users().list_users(page(2)).users)), [[500, 1_000], [bob, ann]]);
        // A change does not move a user.
        app.moderate(ann, "ann", pb::UserStatus::Blocked).await;
        assert_eq!(ids(&pages!(app.users().list_users(page(0)).users)), [[500, 1_000, bob, ann]]);
    }

    async fn nobody_is_repeated_or_skipped_while_others_come_and_go(app: App) {
        let [ann, bob, cy, dee] = people(&app).await;
        let first = app.users().list_users(page(2)).await.unwrap().into_inner();
        assert_eq!(ids(&[first.users]), [[dee, cy]]);
        app.user("eve").await;
        app.users().delete_user(pb::DeleteUserRequest { id: cy, ..Default::default() }).await.unwrap();
        let next = pb::ListUsersRequest { page_token: first.next_page_token, ..page(2) };
        let second = app.users().list_users(next).await.unwrap().into_inner();
        assert_eq!(ids(&[second.users]), [[bob, ann]]);
        assert_eq!(second.next_page_token, "");
    }

    async fn pages_have_their_limits(app: App) {
        crowd(&app, 1_002).await;
        for refusal in page_sizes!(app.users().list_users(page(0)).users) {
            let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
            assert_eq!(fields(&details), ["page_size"]);
        }
    }

    async fn tokens_cannot_be_altered_or_moved_here_from_another_list(app: App) {
        let [ann, bob, cy] = people(&app).await;
        for result in wrong_tokens!(app.users().list_users(page(1)), others: []) {
            let details = refused(result, Code::InvalidArgument, ErrorReason::InvalidPageToken);
            assert_eq!(fields(&details), ["page_token"]);
        }
        app.block(ann, bob).await;
        app.block(ann, cy).await;
        let blocked = pb::ListBlockedUsersRequest { user_id: ann, page_size: 1, page_token: String::new(), ..Default::default() };
        let foreign = app.blocks().list_blocked_users(blocked).await.unwrap().into_inner().next_page_token;
        let moved = pb::ListUsersRequest { page_token: foreign, ..page(1) };
        refused(app.users().list_users(moved).await, Code::InvalidArgument, ErrorReason::InvalidPageToken);
    }
}
