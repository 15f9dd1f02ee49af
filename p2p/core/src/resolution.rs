//! What a seed says of a manifest that it asked a registry for.

use bytes::Bytes;
use hawker_model::Digest;

/// The outcome, as the registry gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The registry gives it to this credential.
    Given(GivenManifest),
    /// The registry refuses this credential.
    Denied {
        /// Its HTTP status.
        status: u16,
        /// The values of its `WWW-Authenticate` headers.
        challenges: Vec<String>,
    },
    /// The registry does not have it.
    NotFound,
    /// Nothing can be said, since the registry cannot be reached or fails, or what it gives is not
    /// handed on: ask it yourself.
    Failed(String),
}

/// A manifest that a registry gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenManifest {
    /// Of the bytes: whoever holds them can check it.
    pub digest: Digest,
    /// What the registry calls them.
    pub media_type: String,
    /// How many bytes there are.
    pub length: u64,
    /// All of them, unless only the rest was asked for.
    pub bytes: Option<Bytes>,
}
