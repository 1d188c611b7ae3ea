//! Tests of the sending of answers.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use http::Uri;
use tonic::codec::{Codec, EncodeBody, SingleMessageCompressionOverride};
use tonic_prost::ProstCodec;

use super::*;

const MIB: usize = 1 << 20;

/// A client, by number.
fn client(number: u16) -> Option<SocketAddr> {
    Some((IpAddr::V4(Ipv4Addr::LOCALHOST), number).into())
}

/// A response with one message of so many bytes, as tonic makes it. With its frame it is 5 bytes longer.
fn response(bytes: usize) -> Response<Body> {
    // It has one field: a number, a length of one to four bytes, and that many bytes.
    let header = (2..6).find(|header| 1 + prost::length_delimiter_len(bytes - header) == *header).expect("a length");
    let stream = futures_util::stream::iter([Ok(vec![7; bytes - header])]);
    let encoder = ProstCodec::<Vec<u8>, ()>::default().encoder();
    Response::new(Body::new(EncodeBody::new_server(
        encoder,
        stream,
        None,
        SingleMessageCompressionOverride::default(),
        None,
    )))
}

async fn prepared(unsent: &Unsent, peer: Option<SocketAddr>, bytes: usize, refusable: bool) -> Response<Body> {
    let call = Arc::new(Call::new(&Uri::from_static("/x"), &http::HeaderMap::new(), peer));
    let until = Instant::now() + Duration::from_secs(10);
    Sending { unsent: unsent.clone(), peer, until, refusable }.prepare(&call, response(bytes)).await
}

async fn next(body: &mut Body) -> Option<Frame<Bytes>> {
    poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await.map(|frame| frame.expect("a frame"))
}

/// The sizes of what is left of a body, and its trailers.
async fn sent(mut body: Body) -> (Vec<usize>, Option<Status>) {
    let (mut sizes, mut status) = (Vec::new(), None);
    while let Some(frame) = next(&mut body).await {
        match frame.into_data() {
            Ok(bytes) => sizes.push(bytes.len()),
            Err(frame) => status = Status::from_header_map(frame.trailers_ref().expect("trailers")),
        }
    }
    assert!(body.is_end_stream());
    (sizes, status)
}

fn total(unsent: &Unsent) -> usize {
    unsent.0.held.counted().0
}

#[tokio::test]
async fn nothing_else_holds_the_memory_of_a_large_answer() {
    let mut body = response(MIB).into_body();
    let first = next(&mut body).await.expect("a frame").into_data().expect("bytes");
    assert!(!first.is_unique());
    let (bytes, trailers) = super::rest(first, body).await.expect("a body");
    assert!(bytes.is_unique());
    assert_eq!((bytes.len(), trailers.len()), (MIB + 5, 1));
}

#[tokio::test]
async fn a_small_answer_passes_as_it_is() {
    let unsent = Unsent::new(0);
    let answer = prepared(&unsent, client(1), SMALL - 5, true).await;
    assert_eq!(total(&unsent), 0);
    let (sizes, status) = sent(answer.into_body()).await;
    assert_eq!((sizes, status.expect("a status").code()), (vec![SMALL], tonic::Code::Ok));
}

#[tokio::test]
async fn a_large_answer_arrives_in_pieces_and_is_counted_until_they_are_gone() {
    let unsent = Unsent::new(MIB);
    let answer = prepared(&unsent, client(1), 3 * PIECE, true).await;
    let mut body = answer.into_body();
    assert_eq!(total(&unsent), 3 * PIECE + 5);
    // What HTTP/2 has taken and not sent is counted beside the rest.
    let first = next(&mut body).await;
    assert_eq!(total(&unsent), 4 * PIECE + 5);
    drop(first);
    assert_eq!(total(&unsent), 3 * PIECE + 5);
    let (sizes, status) = sent(body).await;
    assert_eq!((sizes, status.expect("a status").code()), (vec![PIECE, PIECE, 5], tonic::Code::Ok));
    assert_eq!(total(&unsent), 0);
    // Its caller may go away.
    drop(prepared(&unsent, client(1), 3 * PIECE, true).await);
    assert_eq!(total(&unsent), 0);
    assert_eq!(unsent.0.held.counted(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_read_in_time_is_dropped_and_ends_with_an_error() {
    let unsent = Unsent::new(8 * MIB);
    let mut body = prepared(&unsent, client(1), MIB, true).await.into_body();
    let held = next(&mut body).await;
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(total(&unsent), MIB + 5 + PIECE);
    // Nobody polls the body.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(total(&unsent), PIECE);
    drop(held);
    assert_eq!(total(&unsent), 0);
    let (sizes, status) = sent(body).await;
    assert_eq!((sizes, status.expect("a status").code()), (vec![], tonic::Code::DeadlineExceeded));
}

#[tokio::test]
async fn a_read_is_refused_if_too_much_waits_in_all_or_for_its_connection_and_a_write_never() {
    let unsent = Unsent::new(4 * MIB);
    let refused = |answer: &Response<Body>| answer.headers().get("grpc-status").is_some_and(|code| code == "8");
    let mut waiting = Vec::new();
    for number in 1..5 {
        let answer = prepared(&unsent, client(number), MIB - 5, true).await;
        assert!(!refused(&answer));
        waiting.push(answer);
        // A quarter of the total is the part of one connection.
        assert!(refused(&prepared(&unsent, client(number), SMALL, true).await));
    }
    assert!(refused(&prepared(&unsent, client(5), SMALL, true).await));
    assert!(refused(&prepared(&unsent, None, SMALL, true).await));
    assert!(!refused(&prepared(&unsent, client(1), SMALL - 5, true).await), "it is small");
    assert!(!refused(&prepared(&unsent, client(1), SMALL, false).await), "it is that of a write");
    waiting.pop();
    assert!(!refused(&prepared(&unsent, client(5), SMALL, true).await));
}
