//! Under what a right is remembered: who asks where, and for what.
//!
//! "Who" is the hash of what was shown; "where" is a repository of a registry, or one file. Neither
//! can be read out of a key.

use std::fmt;

use hawker_model::{Digest, TaskId};
use hawker_p2p::{Account, ManifestWish};
use hawker_swarm::{Secret, Source};
use sha2::{Digest as _, Sha256};

/// Somebody at a place: what a refusal of the origin's is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Holder([u8; 32]);

/// What is asked for there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Item {
    /// A blob, or a file.
    Task(TaskId),
    /// What is at a URL, whatever that is now.
    File,
    /// A manifest, by its digest: registries file these apart.
    Manifest(Digest),
}

/// A right's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct RightKey {
    pub(super) holder: Holder,
    pub(super) item: Item,
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Holder").finish_non_exhaustive()
    }
}

impl Holder {
    /// Whoever shows `credential` for the repository whose blobs and manifests are under `prefix`.
    pub(super) fn of_repository(prefix: &str, credential: Option<&Secret>) -> Self {
        Self::new(["repository", prefix, ""], credential)
    }

    /// Whoever shows what `source` brings, its query included, for the file at `bare`: a signature
    /// in the query is a credential as well.
    pub(super) fn of_file(bare: &str, source: &Source) -> Self {
        let query = source.url.split_once('?').map_or("", |(_, query)| query);
        Self::new(["file", bare, query], source.authorization.as_ref())
    }

    /// Whoever shows what another host's wish for a manifest brings, where the same is taken.
    pub(super) fn of_wish(wish: &ManifestWish) -> Self {
        let parts = ["manifest", &wish.source.url, &wish.accept];
        Self::new(parts, wish.source.authorization.as_ref())
    }

    /// The same place, for somebody whose password or identity token we hold.
    pub(super) fn of_account(place: &str, account: &Account) -> Self {
        match account {
            Account::Login(login) => {
                Self::new(["login", place, &login.username], Some(&login.password))
            }
            Account::IdentityToken(token) => Self::new(["identity", place, ""], Some(token)),
        }
    }

    fn new(parts: [&str; 3], credential: Option<&Secret>) -> Self {
        let mut hasher = Sha256::new();
        // Each with its length before it, so that no two can run into one another. "No credential"
        // must not equal an empty one.
        for part in parts {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.update([u8::from(credential.is_some())]);
        hasher.update(credential.map_or("", Secret::expose));
        Self(hasher.finalize().into())
    }
}

impl RightKey {
    /// The right to a manifest, of whoever holds this one.
    pub(super) fn of_manifest(holder: Holder, manifest: Digest) -> Self {
        let item = Item::Manifest(manifest);
        Self { holder, item }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_or_wherever_differs_is_another_holder() {
        let of = |place: &str, credential: Option<&str>| {
            Holder::of_repository(place, credential.map(Secret::new).as_ref())
        };
        let one = of("https://r.io/v2/a", Some("t"));
        assert!(one == of("https://r.io/v2/a", Some("t")));
        for other in [
            of("https://r.io/v2/a", None),
            of("https://r.io/v2/a", Some("")),
            of("https://r.io/v2/a", Some("u")),
            of("https://r.io/v2/ab", Some("t")),
            of("http://r.io/v2/a", Some("t")),
        ] {
            assert!(one != other);
        }
        assert!(of("a", None) != of("a", Some("")));
    }

    #[test]
    fn signature_of_a_file_is_a_credential() {
        let of = |url: &str| {
            let source = Source {
                url: url.to_owned(),
                authorization: None,
            };
            Holder::of_file("http://h/f", &source)
        };
        assert!(of("http://h/f?sig=1") == of("http://h/f?sig=1"));
        assert!(of("http://h/f?sig=1") != of("http://h/f?sig=2"));
        assert!(of("http://h/f?sig=1") != of("http://h/f"));
        assert!(of("http://h/f") != Holder::of_repository("http://h/f", None));
    }
}
