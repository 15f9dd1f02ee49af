//! The piece network of a node: store, transport, origin, scheduler session, driver

mod origin;
mod store;

pub use origin::{
    AllowPrivate, AllowPrivateError, ByteRange, Challenges, Login, OriginBody, OriginClient,
    OriginConfig, OriginConfigError, OriginError, OriginHead, PassBody, PassRequest, Redirects,
    RegistryEndpoint,
};
pub use store::{
    AddBatchError, BlobError, BlobFile, BlobSummary, CreateError, OpenStoreError, Pin, ReadError,
    StateError, Store, StoreConfig, WritePieceError, Written,
};
