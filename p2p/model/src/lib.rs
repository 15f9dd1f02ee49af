//! Leaf types of Hawker: what a blob, a piece, a task and a host *are*.
//!
//! No async, no I/O, no clock. Everything else imports this crate; it imports nothing of ours.
//!
//! * [`Digest`], [`TaskId`]: what is moved.
//! * [`Geometry`], [`PieceIndex`], [`PieceSet`]: how it is cut.
//! * [`ChainState`], [`Chain`], [`check_piece`]: how one piece is proven alone (SHA-256 midstates).
//! * [`Recorder`], [`Recording`]: the chain of a blob that is written without knowing its length.
//! * [`SignedStates`], [`PieceList`]: how the chain values travel before they are proven.
//! * [`OriginName`]: where the bytes behind them were read.
//! * [`HostId`], [`Role`]: who takes part; [`rendezvous`]: who of them takes a task.
//! * [`Reference`], [`Repository`], [`RegistryHost`]: how images are named.

mod chain;
mod digest;
mod geometry;
mod host;
mod origin_name;
mod piece;
mod piece_list;
mod piece_set;
mod recorder;
mod reference;
mod rendezvous;
mod task;

pub use chain::{Chain, ChainState, PieceMismatch, check_piece};
pub use digest::{Digest, DigestError};
pub use geometry::{Geometry, GeometryError, MAX_PIECE_LEN, MIN_PIECE_LEN};
pub use host::{HostId, HostIdError, Role, RoleError};
pub use origin_name::{OriginName, OriginNameError};
pub use piece::PieceIndex;
pub use piece_list::{ListError, MAX_STATES_PER_BATCH, PieceList, SignedStates};
pub use piece_set::{PieceSet, PieceSetError};
pub use recorder::{Recorder, Recording};
pub use reference::{Reference, ReferenceError, RegistryHost, Repository, Target};
pub use rendezvous::{rendezvous, rendezvous_score};
pub use task::{TaskId, TaskIdError, UrlTask};
