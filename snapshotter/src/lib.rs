//! Snapshots and layers: everything between the bytes of a layer and a container's root.
//!
//! What lives here, and in which order a pull meets it:
//!
//! * the **snapshots** ([`Snapshots`], `docs/snapshots.md`): keys, kinds, parents, labels, usage,
//!   each change durable; the mounts of each (overlay, and single directories as binds); whole
//!   layers staged beside them and committed by one rename;
//! * **unpack** ([`unpack()`], `docs/unpack.md`): compressed bytes → tar → diff id → files in one
//!   pass, confined to the snapshot's directory whatever the tar says. Layers are independent of
//!   each other: the plugin unpacks all of an image at once.
//!
//! The crate knows nothing of p2p: a layer's bytes come through its own trait `LayerSource`, which
//! the plugin implements over the piece network. `config/tests/house.rs` holds it to that.
//!
//! The rule that all of those stand on is which [`ChainId`] a stack of layers has.

mod chain;
mod snapshots;
mod source;
mod unpack;

pub use chain::{ChainId, DiffId, chain_ids};
pub use snapshots::{
    FillError, Filter, FilterError, Info, Kind, Mount, OpenSnapshotsError, SnapshotError,
    Snapshots, SnapshotsConfig, Stage, StagedLayer, Target, Usage,
};
pub use source::{FileSource, LayerSource, SourceError};
pub use unpack::{
    Fault, LayerKind, Limits, Refusal, Rights, TarFault, UnpackError, UnpackOptions, Unpacked,
    unpack,
};
