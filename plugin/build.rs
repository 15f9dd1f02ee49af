//! Declares the server side of containerd's snapshots service.
//!
//! Its messages come from the crate `containerd-client`, which generates clients only. Declaring
//! the methods here, over those messages, keeps a second copy of containerd's API out of the tree.
//! `Snapshots` of containerd's `api/services/snapshots/v1/snapshots.proto` is what is declared.

use tonic_build::manual::{Builder, Method, Service};

const MESSAGES: &str = "containerd_client::services::v1::snapshots";
/// `google.protobuf.Empty`, which prost has as `()`: no path that the builder takes.
const EMPTY: &str = "crate::containerd::api::Empty";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let message = |name: &str| format!("{MESSAGES}::{name}");
    let request = |name: &str| message(&format!("{name}Request"));
    let response = |name: &str| message(&format!("{name}Response"));
    let empty = || EMPTY.to_owned();
    let methods = [
        unary(
            "prepare",
            request("PrepareSnapshot"),
            response("PrepareSnapshot"),
        ),
        unary("view", request("ViewSnapshot"), response("ViewSnapshot")),
        unary("mounts", request("Mounts"), response("Mounts")),
        unary("commit", request("CommitSnapshot"), empty()),
        unary("remove", request("RemoveSnapshot"), empty()),
        unary("stat", request("StatSnapshot"), response("StatSnapshot")),
        unary(
            "update",
            request("UpdateSnapshot"),
            response("UpdateSnapshot"),
        ),
        method("list", request("ListSnapshots"), response("ListSnapshots"))
            .server_streaming()
            .build(),
        unary("usage", request("Usage"), response("Usage")),
        unary("cleanup", request("Cleanup"), empty()),
    ];
    let service = Service::builder()
        .package("containerd.services.snapshots.v1")
        .name("Snapshots");
    let service = methods
        .into_iter()
        .fold(service, |service, method| service.method(method));
    Builder::new()
        .build_client(false)
        .compile(&[service.build()]);
}

fn unary(name: &str, input: String, output: String) -> Method {
    method(name, input, output).build()
}

fn method(name: &str, input: String, output: String) -> tonic_build::manual::MethodBuilder {
    let (first, rest) = name.split_at(1);
    Method::builder()
        .name(name)
        .route_name(first.to_uppercase() + rest)
        .input_type(input)
        .output_type(output)
        .codec_path("tonic_prost::ProstCodec")
}
