//! Declares the server side of containerd's snapshots, content and diff services.
//!
//! Their messages come from the crate `containerd-client`, which generates clients only. Declaring
//! the methods here, over those messages, keeps a second copy of containerd's API out of the tree.
//! What is declared is what containerd's `api/services/<name>/v1/<name>.proto` says.

use tonic_build::manual::{Builder, Method, MethodBuilder, Service};

/// `google.protobuf.Empty`, which prost has as `()`: no path that the builder takes.
const EMPTY: &str = "crate::containerd::api::Empty";

/// Where a service's messages are.
struct Messages(&'static str);

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    Builder::new()
        .build_client(false)
        .compile(&[snapshots(), content(), diff()]);
}

fn snapshots() -> Service {
    let messages = Messages("containerd_client::services::v1::snapshots");
    let unary = |name, input, output| messages.unary(name, input, output);
    let empty = |name, input| messages.method(name, input, EMPTY.to_owned()).build();
    let methods = [
        unary(
            "prepare",
            "PrepareSnapshotRequest",
            "PrepareSnapshotResponse",
        ),
        unary("view", "ViewSnapshotRequest", "ViewSnapshotResponse"),
        unary("mounts", "MountsRequest", "MountsResponse"),
        empty("commit", "CommitSnapshotRequest"),
        empty("remove", "RemoveSnapshotRequest"),
        unary("stat", "StatSnapshotRequest", "StatSnapshotResponse"),
        unary("update", "UpdateSnapshotRequest", "UpdateSnapshotResponse"),
        messages
            .answering("list", "ListSnapshotsRequest", "ListSnapshotsResponse")
            .server_streaming()
            .build(),
        unary("usage", "UsageRequest", "UsageResponse"),
        empty("cleanup", "CleanupRequest"),
    ];
    service("containerd.services.snapshots.v1", "Snapshots", methods)
}

fn content() -> Service {
    let messages = Messages("containerd_client::services::v1");
    let unary = |name, input, output| messages.unary(name, input, output);
    let empty = |name, input| messages.method(name, input, EMPTY.to_owned()).build();
    let methods = [
        unary("info", "InfoRequest", "InfoResponse"),
        unary("update", "UpdateRequest", "UpdateResponse"),
        messages
            .answering("list", "ListContentRequest", "ListContentResponse")
            .server_streaming()
            .build(),
        empty("delete", "DeleteContentRequest"),
        messages
            .answering("read", "ReadContentRequest", "ReadContentResponse")
            .server_streaming()
            .build(),
        unary("status", "StatusRequest", "StatusResponse"),
        unary(
            "list_statuses",
            "ListStatusesRequest",
            "ListStatusesResponse",
        ),
        messages
            .answering("write", "WriteContentRequest", "WriteContentResponse")
            .client_streaming()
            .server_streaming()
            .build(),
        empty("abort", "AbortRequest"),
    ];
    service("containerd.services.content.v1", "Content", methods)
}

fn diff() -> Service {
    let messages = Messages("containerd_client::services::v1");
    let methods = [
        messages.unary("apply", "ApplyRequest", "ApplyResponse"),
        messages.unary("diff", "DiffRequest", "DiffResponse"),
    ];
    service("containerd.services.diff.v1", "Diff", methods)
}

fn service(package: &str, name: &str, methods: impl IntoIterator<Item = Method>) -> Service {
    let service = Service::builder().package(package).name(name);
    let service = methods
        .into_iter()
        .fold(service, |service, method| service.method(method));
    service.build()
}

impl Messages {
    fn unary(&self, name: &str, input: &str, output: &str) -> Method {
        self.answering(name, input, output).build()
    }

    fn answering(&self, name: &str, input: &str, output: &str) -> MethodBuilder {
        self.method(name, input, format!("{}::{output}", self.0))
    }

    fn method(&self, name: &str, input: &str, output: String) -> MethodBuilder {
        Method::builder()
            .name(name)
            .route_name(camel_case(name))
            .input_type(format!("{}::{input}", self.0))
            .output_type(output)
            .codec_path("tonic_prost::ProstCodec")
    }
}

/// `list_statuses` as `ListStatuses`.
fn camel_case(name: &str) -> String {
    let words = name.split('_').map(|word| {
        let (first, rest) = word.split_at(1);
        first.to_uppercase() + rest
    });
    words.collect()
}
