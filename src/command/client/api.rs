//! The RPCs of the server, by the descriptors of this build.

use http::uri::PathAndQuery;
use prost_reflect::{FieldDescriptor, FileDescriptor, Kind, MessageDescriptor, MethodDescriptor};

use super::failure::Failed;
use super::table::{self, Table};
use crate::auth::rights::{RIGHTS, Right};
use crate::config::nearest;
use crate::proto::json::{self, PACKAGE};

/// An RPC.
#[derive(Clone, Debug)]
pub(super) struct Method(pub(super) MethodDescriptor);

impl Method {
    /// Finds an RPC by its name, `SERVICE/NAME` or `kith.v1.SERVICE/NAME`, with a dot or a slash, in upper or lower case.
    pub(super) fn find(name: &str) -> Result<Self, Failed> {
        let written = name.trim_start_matches('/').replace('/', ".");
        let ends_with = |full: &str| {
            let at = full.len().checked_sub(written.len());
            at.is_some_and(|at| {
                full.is_char_boundary(at)
                    && full[at..].eq_ignore_ascii_case(&written)
                    && (at == 0 || full[..at].ends_with('.'))
            })
        };
        match methods().find(|method| ends_with(method.full_name())) {
            Some(method) => Ok(Self(method)),
            None => Err(Failed::Usage(unknown(name, &written))),
        }
    }

    /// Its name, without that of its service.
    pub(super) fn name(&self) -> &str {
        self.0.name()
    }

    /// The path of its calls.
    pub(super) fn path(&self) -> Result<PathAndQuery, Failed> {
        let path = format!("/{}/{}", self.0.parent_service().full_name(), self.0.name());
        path.parse().map_err(|error| Failed::Other(format!("{path}: {error}").into()))
    }

    /// The message of its request.
    pub(super) fn input(&self) -> MessageDescriptor {
        self.0.input()
    }

    /// Its row of the table of rights, which names the field of the user who acts or views.
    pub(super) fn right(&self) -> Option<&'static Right> {
        let service = self.0.parent_service();
        RIGHTS.iter().find(|right| right.service == service.name() && right.method == self.0.name())
    }
}

/// The RPCs of Kith's services.
fn methods() -> impl Iterator<Item = MethodDescriptor> {
    let services = json::pool().services().filter(|service| service.package_name() == PACKAGE);
    services.flat_map(|service| service.methods().collect::<Vec<_>>())
}

/// Describes the error that no RPC has this name.
fn unknown(name: &str, written: &str) -> String {
    let known: Vec<String> = methods().map(|method| method.name().to_owned()).collect();
    let last = written.rsplit('.').next().unwrap_or_default();
    match nearest(last, known.iter().map(String::as_str)) {
        Some(near) => format!("there is no RPC {name:?}; did you mean {near}?"),
        None => format!("there is no RPC {name:?}; `kith call` without arguments lists all"),
    }
}

/// Lists the RPCs with the first sentence of their comments.
pub(super) fn list() -> String {
    let mut table = Table::new(&["RPC", ""]);
    for method in methods() {
        let file = method.parent_service().parent_file();
        let comment = comment(&file, method.path());
        let paragraph = comment.lines().next().unwrap_or_default();
        let sentence = paragraph.split_inclusive(". ").next().unwrap_or_default().trim_end();
        table.row([method.name().to_owned(), sentence.to_owned()]);
    }
    table.to_string()
}

/// Describes an RPC and the fields of its request with their comments.
pub(super) fn describe(method: &Method) -> String {
    let Method(descriptor) = method;
    let file = descriptor.parent_service().parent_file();
    let (input, output) = (descriptor.input(), descriptor.output());
    let stream = |is: bool| if is { "stream " } else { "" };
    let mut text = format!(
        "{}/{} ({}{}) returns ({}{})\n",
        descriptor.parent_service().full_name(),
        descriptor.name(),
        stream(descriptor.is_client_streaming()),
        input.name(),
        stream(descriptor.is_server_streaming()),
        output.name(),
    );
    text += &table::wrapped(&comment(&file, descriptor.path()), "  ");
    for field in input.fields() {
        text += &format!("\n{} {}\n", field.name(), kind(&field));
        text += &table::wrapped(&comment(&input.parent_file(), field.path()), "  ");
    }
    text
}

/// The type of a field, with the values of an enumeration.
fn kind(field: &FieldDescriptor) -> String {
    let name = match field.kind() {
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(of) => {
            let values: Vec<String> =
                of.values().skip(1).map(|value| json::short_name(value.name()).to_owned()).collect();
            values.join(" | ")
        }
        Kind::Double
        | Kind::Float
        | Kind::Int32
        | Kind::Int64
        | Kind::Uint32
        | Kind::Uint64
        | Kind::Sint32
        | Kind::Sint64
        | Kind::Fixed32
        | Kind::Fixed64
        | Kind::Sfixed32
        | Kind::Sfixed64
        | Kind::Bool
        | Kind::String
        | Kind::Bytes => format!("{:?}", field.kind()).to_lowercase(),
    };
    if field.is_list() { format!("repeated {name}") } else { name }
}

/// The comment before a declaration, as one paragraph a line. Empty if there is none.
fn comment(file: &FileDescriptor, path: &[i32]) -> String {
    let info = file.file_descriptor_proto().source_code_info.as_ref();
    let locations = info.map(|info| info.location.as_slice()).unwrap_or_default();
    let found = locations.iter().find(|location| location.path == path);
    let comment = found.map(|location| location.leading_comments()).unwrap_or_default();
    let paragraphs = comment.split("\n\n").map(|lines| lines.split_whitespace().collect::<Vec<_>>().join(" "));
    paragraphs.filter(|paragraph| !paragraph.is_empty()).collect::<Vec<_>>().join("\n").replace('`', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_rpc_is_found_by_each_of_its_names() {
        for name in [
            "SendConnectionRequest",
            "sendconnectionrequest",
            "ConnectionRequestService/SendConnectionRequest",
            "ConnectionRequestService.SendConnectionRequest",
            "kith.v1.ConnectionRequestService/SendConnectionRequest",
            "/kith.v1.ConnectionRequestService/SendConnectionRequest",
        ] {
            let method = Method::find(name).expect(name);
            assert_eq!(method.path().expect("a path"), "/kith.v1.ConnectionRequestService/SendConnectionRequest");
        }
        for (name, hint) in [
            ("SendConnectionRequst", "did you mean SendConnectionRequest?"),
            ("UserService/ListUser", "did you mean ListUsers?"),
            ("Frobnicate", "lists all"),
            ("", "lists all"),
            ("Übergabe", "lists all"),
        ] {
            let Err(Failed::Usage(error)) = Method::find(name) else { panic!("{name}") };
            assert!(error.contains(hint), "{error}");
        }
    }

    #[test]
    fn every_rpc_has_a_row_in_the_table_of_rights_and_a_comment() {
        assert!(methods().count() > 20);
        for method in methods() {
            assert!(Method(method.clone()).right().is_some(), "{}", method.full_name());
            assert!(describe(&Method(method.clone())).lines().count() > 3, "{}", method.full_name());
        }
        let list = list();
        assert!(list.contains("GetUser  ") && list.lines().all(|line| line.chars().count() <= 80), "{list}");
    }
}
