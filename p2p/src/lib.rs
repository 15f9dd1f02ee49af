//! The piece network of a node: store, transport, origin, scheduler session, driver

mod store;

pub use store::{
    AddBatchError, BlobError, BlobFile, BlobSummary, CreateError, OpenStoreError, Pin, ReadError,
    StateError, Store, StoreConfig, WritePieceError, Written,
};
