//! The piece network of one host: what hawkerd runs, as node or as seed.
//!
//! [`Node`] is the entrance: it opens tasks as [`Blob`]s, whose bytes come from the store, from
//! peers or from the origin, checked piece by piece. Behind it:
//!
//! * `driver`: the one loop that feeds the sans-IO `hawker_swarm::Swarm` and does what it asks;
//! * `store`: blobs on disk (`docs/store.md`);
//! * `transport`: connections between hosts (`docs/wire.md`);
//! * `origin`: registries and other HTTP servers;
//! * `session`: the streams to schedulers.

mod adoption;
mod blob;
mod brief;
mod counters;
mod driver;
mod extent;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod node;
mod origin;
mod race;
mod request;
mod session;
mod status;
mod store;
mod sys;
mod throttle;
mod transport;

pub use blob::Blob;
pub use counters::{BytesBySource, Counters};
pub use hawker_model::{Recorder, Recording};
pub use hawker_swarm::{GivenManifest, ManifestWish, NoSeed, Resolution, Verdict};
pub use node::{HeldRate, Node, NodeSettings, OpenError, SeedAddress, StartError};
pub use origin::{
    Account, AllowPrivate, AllowPrivateError, Budget, ByteRange, Challenges, ClientFiles,
    EndpointReport, Login, NoProxy, OriginBody, OriginClient, OriginConfig, OriginConfigError,
    OriginError, OriginGroup, OriginHead, PassBody, PassRequest, Proxy, ProxyChoice, Redirects,
    RegistryEndpoint, UsualProxies,
};
pub use race::Race;
pub use request::NodeRequest;
pub use session::{
    Holding, Level, PeerAddress, Progress, SchedulerBytes, SchedulerStatus, Session, SessionConfig,
    SessionEvent, SessionHandle,
};
pub use status::{
    Flow, NodeStatus, PeerStatus, RoomStatus, StoreStatus, TaskPhase, TaskProgress, Traffic,
};
pub use store::{
    AddBatchError, AdoptError, AtStart, BlobError, BlobFile, BlobSummary, CreateError, Need,
    OpenStoreError, Otherwise, Owner, Pace, Pin, ReadError, Share, Shared, StateError, Store,
    StoreConfig, Water, WritePieceError, Written,
};
pub use transport::{
    AcceptError, Connection, Decoder, DialError, Dialer, ErrorCode, FrameError, FrameReader,
    FrameWriter, HandshakeError, Listener, Peer, Security, UnsendableError, WireError, frame,
};
