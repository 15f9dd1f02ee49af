//! The piece network of a node: store, transport, origin, scheduler session, driver

mod origin;
mod session;
mod store;
mod transport;

pub use origin::{
    AllowPrivate, AllowPrivateError, ByteRange, Challenges, Login, OriginBody, OriginClient,
    OriginConfig, OriginConfigError, OriginError, OriginHead, PassBody, PassRequest, Redirects,
    RegistryEndpoint,
};
pub use session::{
    Holding, Level, PeerAddress, Progress, SchedulerBytes, SchedulerStatus, Session, SessionConfig,
    SessionEvent, SessionHandle,
};
pub use store::{
    AddBatchError, BlobError, BlobFile, BlobSummary, CreateError, OpenStoreError, Pin, ReadError,
    StateError, Store, StoreConfig, WritePieceError, Written,
};
pub use transport::{
    AcceptError, Connection, Decoder, DialError, Dialer, ErrorCode, FrameError, FrameReader,
    FrameWriter, HandshakeError, Listener, Peer, Security, UnsendableError, WireError, frame,
};
