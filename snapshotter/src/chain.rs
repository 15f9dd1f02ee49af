//! How layers and stacks of layers are named, as the OCI image spec says (config.md, "Layer
//! DiffID" and "Layer ChainID").

use std::{fmt, str::FromStr};

use hawker_model::{Digest, DigestError};

/// The digest of a layer's uncompressed tar. Not the digest of the blob that is pulled.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiffId(Digest);

/// The name of a stack of layers: what a committed snapshot is called.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainId(Digest);

impl DiffId {
    /// The digest of the tar.
    pub fn digest(&self) -> &Digest {
        &self.0
    }
}

impl ChainId {
    /// The stack of one layer: it has the layer's own name.
    pub fn base(layer: DiffId) -> Self {
        Self(layer.0)
    }

    /// This stack with one more layer on top: `sha256(ChainId + " " + DiffId)`.
    pub fn on_top(&self, layer: DiffId) -> Self {
        Self(Digest::of(format!("{self} {layer}").as_bytes()))
    }

    /// The name as a digest.
    pub fn digest(&self) -> &Digest {
        &self.0
    }
}

/// The chain id of every stack of an image, bottom first: the last one is the image's root. The
/// diff ids are in the order of the image config (`rootfs.diff_ids`), bottom first.
pub fn chain_ids(layers: &[DiffId]) -> Vec<ChainId> {
    layers
        .iter()
        .scan(None, |below: &mut Option<ChainId>, layer| {
            let chain = match below {
                Some(below) => below.on_top(*layer),
                None => ChainId::base(*layer),
            };
            *below = Some(chain);
            Some(chain)
        })
        .collect()
}

macro_rules! digest_name {
    ($($name:ident)*) => {$(
        impl From<Digest> for $name {
            fn from(digest: Digest) -> Self {
                Self(digest)
            }
        }
        impl FromStr for $name {
            type Err = DigestError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Digest::parse(text).map(Self)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}
digest_name!(DiffId ChainId);

#[cfg(test)]
mod tests {
    use super::*;

    /// The tar without any entry, as every builder makes it for an empty layer.
    const EMPTY_TAR: &str =
        "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

    fn layers() -> [DiffId; 3] {
        let of = |bytes: &[u8]| DiffId::from(Digest::of(bytes));
        [of(&[0; 1024]), of(b""), of(b"layer")]
    }

    #[test]
    fn a_stack_of_one_layer_is_called_as_the_layer() {
        let [bottom, ..] = layers();
        assert_eq!(bottom.to_string(), EMPTY_TAR);
        assert_eq!(chain_ids(&[bottom]), [ChainId::base(bottom)]);
        assert_eq!(ChainId::base(bottom).digest(), bottom.digest());
        assert_eq!(chain_ids(&[]), []);
    }

    #[test]
    fn chain_ids_are_those_of_the_spec() {
        // printf '%s %s' "$CHAIN_ID_BELOW" "$DIFF_ID" | sha256sum
        let expected = [
            EMPTY_TAR,
            "sha256:33b3e894f3d840843a86495314bf58ac707860d3553f5535922e180a451dc751",
            "sha256:2890b09afadd78bc62c824eab5e3e8666b5576131ca32e10c02eaafb0b3d6d81",
        ];
        let chains: Vec<_> = chain_ids(&layers())
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(chains, expected);
    }

    #[test]
    fn the_identity_of_the_spec_holds() {
        // ChainID(A|B|C) = Digest(ChainID(A|B) + " " + DiffID(C)), written out.
        let [a, b, c] = layers();
        let ab = Digest::of(format!("{a} {b}").as_bytes());
        let abc = Digest::of(format!("{ab} {c}").as_bytes());
        assert_eq!(
            chain_ids(&[a, b, c]).last().map(|chain| *chain.digest()),
            Some(abc)
        );
    }

    #[test]
    fn the_order_of_layers_and_equal_layers_count() {
        let [a, b, _] = layers();
        assert_ne!(chain_ids(&[a, b])[1], chain_ids(&[b, a])[1]);
        assert_ne!(chain_ids(&[a, a])[1], chain_ids(&[a])[0]);
        assert_eq!(chain_ids(&[a, b])[0], chain_ids(&[a])[0]);
    }

    #[test]
    fn what_is_no_digest_names_no_layer() {
        assert!("sha256:12".parse::<DiffId>().is_err());
        assert_eq!(EMPTY_TAR.parse::<DiffId>(), Ok(layers()[0]));
    }
}
