//! Calls of any method with any credential, over TLS.

use std::sync::LazyLock;

use bytes::BufMut;
use http::HeaderValue;
use kith::auth::rights::Right;
use kith::proto::FILE_DESCRIPTOR_SET;
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::body::Body;
use tonic::codec::{EncodeBody, EncodeBuf, Encoder};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tower::Service;

use crate::harness::raw::{RawChannel, post};

/// A connection to a server.
#[derive(Clone)]
pub struct Caller(pub RawChannel);

/// How a call ended: OK, or an error's code and reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended(pub Code, pub String);

impl Ended {
    /// Whether the principal may make the call, whatever became of it.
    pub fn is_allowed(&self) -> bool {
        self.0 != Code::Unauthenticated && self.0 != Code::PermissionDenied
    }
}

impl Caller {
    /// Calls a method with these bytes as its only message, and with this `authorization`.
    pub async fn call(&self, path: &str, message: Vec<u8>, authorization: &[&str]) -> Ended {
        let body = EncodeBody::new_client(Bytes, tokio_stream::iter([Ok(message)]), None, None);
        let mut request = post(path, Body::new(body));
        for value in authorization {
            let value = HeaderValue::from_str(value).expect("a header");
            request.headers_mut().append("authorization", value);
        }
        let response = self.0.clone().call(request).await.expect("a response");
        // An error has no body. A stream that begins is allowed.
        let Some(status) = Status::from_header_map(response.headers()) else { return Ended(Code::Ok, String::new()) };
        let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
        Ended(status.code(), reason)
    }
}

/// Sends bytes as they are.
struct Bytes;

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

/// The path of a row's method.
pub fn path(right: &Right) -> String {
    format!("/kith.v1.{}/{}", right.service, right.method)
}

/// The descriptors of all protos. To decode them takes so long that it is done once.
fn protos() -> &'static FileDescriptorSet {
    static PROTOS: LazyLock<FileDescriptorSet> =
        LazyLock::new(|| FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("descriptors"));
    &PROTOS
}

/// A request in which one field, a number, has this value.
pub fn message(right: &Right, field: Option<&str>, value: i64) -> Vec<u8> {
    let Some(field) = field else { return Vec::new() };
    let name = format!("{}Request", right.method);
    let messages = protos().file.iter().filter(|file| file.package() == "kith.v1").flat_map(|file| &file.message_type);
    let message = messages.into_iter().find(|message| message.name() == name).expect("a message");
    let number = message.field.iter().find(|it| it.name() == field).expect("a field").number();
    let mut bytes = Vec::new();
    prost::encoding::int64::encode(number.cast_unsigned(), &value, &mut bytes);
    bytes
}
