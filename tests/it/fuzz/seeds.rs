//! A valid request of each method, made from the protos.

use std::sync::LazyLock;

use kith::proto::FILE_DESCRIPTOR_SET;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet, MethodDescriptorProto};

/// A method, and a valid request.
pub struct Method {
    pub name: String,
    /// `/package.Service/Method`.
    pub path: String,
    pub seed: Vec<u8>,
    /// The numbers of `page_token` in the request and of `next_page_token` in the response.
    pub page_tokens: Option<(u32, u32)>,
}

/// All methods of Kith's services.
pub fn methods() -> &'static [Method] {
    static METHODS: LazyLock<Vec<Method>> = LazyLock::new(read_methods);
    &METHODS
}

fn read_methods() -> Vec<Method> {
    let protos = Protos(FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("descriptors"));
    let files = protos.0.file.iter().filter(|file| file.package() == "kith.v1");
    let services = files.flat_map(|file| &file.service);
    let methods: Vec<_> = services
        .flat_map(|service| service.method.iter().map(|method| protos.method(service.name(), method)))
        .collect();
    assert!(methods.len() >= 27);
    methods
}

struct Protos(FileDescriptorSet);

impl Protos {
    fn method(&self, service: &str, method: &MethodDescriptorProto) -> Method {
        let number = |message: &str, field: &str| {
            let fields = &self.message(message).field;
            fields.iter().find(|it| it.name() == field).map(|it| it.number().try_into().expect("a number"))
        };
        Method {
            name: method.name().to_owned(),
            path: format!("/kith.v1.{service}/{}", method.name()),
            seed: self.seed(method.input_type()),
            page_tokens: number(method.input_type(), "page_token").zip(number(method.output_type(), "next_page_token")),
        }
    }

    fn message(&self, name: &str) -> &DescriptorProto {
        let with_package = |package: &str, message: &DescriptorProto| format!(".{package}.{}", message.name()) == name;
        let mut files = self.0.file.iter();
        let found = files.find_map(|file| file.message_type.iter().find(|it| with_package(file.package(), it)));
        found.unwrap_or_else(|| panic!("no message {name}"))
    }

    fn seed(&self, name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for field in &self.message(name).field {
            self.push(&mut bytes, field);
        }
        bytes
    }

    fn push(&self, bytes: &mut Vec<u8>, field: &FieldDescriptorProto) {
        // They are of one database, or of the past.
        if ["page_token", "epoch", "min_revision", "min_revision_epoch", "date_joined"].contains(&field.name()) {
            return;
        }
        let number = field.number().try_into().expect("a number");
        match field.r#type() {
            Type::String => delimited(bytes, number, text(field.name()).as_bytes()),
            Type::Message => delimited(bytes, number, &self.seed(field.type_name())),
            _ => {
                let value = match field.name() {
                    "other_user_id" | "other_user_ids" | "to_user_id" => 2,
                    "nanos" => 0,
                    _ => 1,
                };
                encode_key(number, WireType::Varint, bytes);
                encode_varint(value, bytes);
            }
        }
    }
}

pub fn delimited(bytes: &mut Vec<u8>, number: u32, value: &[u8]) {
    encode_key(number, WireType::LengthDelimited, bytes);
    encode_varint(value.len().try_into().expect("few"), bytes);
    bytes.extend(value);
}

/// A valid value of a text.
fn text(field: &str) -> &str {
    match field {
        "request_id" => "8c5ad3c2-6ac8-4c0f-9d1e-3a1f5f0c7b11",
        "email" => "ann@example.com",
        "birthday" => "1990-12-31",
        "website" | "avatar" | "cover" => "https://example.com/ann",
        "username" => "user-1",
        "external_id" | "external_ids" => "ext-1",
        "paths" => "bio",
        _ => "some words",
    }
}
