//! What a host can do beyond the version of the protocol that it speaks.

/// Abilities as a host announces them. Those that are unknown here are kept, and mean nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities(u64);

impl Abilities {
    /// What this version of the swarm can do.
    pub const OURS: Self = Self(Self::RESOLVES | Self::NUMBERS_SIGNERS);

    /// It answers [`crate::Message::Resolve`].
    const RESOLVES: u64 = 1;
    /// It takes a number in place of a signer's certificate that came before.
    const NUMBERS_SIGNERS: u64 = 2;

    /// As they are announced.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The reverse of [`Self::from_bits`].
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Whether it answers [`crate::Message::Resolve`]; others would not even say that they heard it.
    pub fn resolves(self) -> bool {
        self.0 & Self::RESOLVES != 0
    }

    /// Whether it takes a number in place of a signer's certificate that came before on the same
    /// connection; to others each goes out whole.
    pub fn numbers_signers(self) -> bool {
        self.0 & Self::NUMBERS_SIGNERS != 0
    }
}
