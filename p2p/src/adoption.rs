//! Whole files that become blobs of a node, past the swarm.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use hawker_model::{ChainState, Digest, Geometry, PieceIndex, Recording, SignedStates, TaskId};

use crate::{
    Node,
    blob::Blob,
    driver::{Command, ListSigner},
    store::{AdoptError, BlobError, BlobFile, Otherwise, Owner, Pace, Share, Shared, StateError},
    sys,
};

impl Node {
    /// Moves a whole file into the store as the blob whose bytes `recording` saw being written; a
    /// blob that is here in part is completed from it, one that is here already is kept. The file
    /// is gone afterwards. It must lie on the store's file system, or it is copied, and nobody may
    /// write to it any more.
    ///
    /// Durable when it returns, and pinned if `pin` says so. Nothing is known of where the bytes
    /// come from. Readers who wait for the blob have it, and peers are told. Goes on to the end
    /// when the future is dropped.
    pub async fn adopt(
        &self,
        recording: Recording,
        file: PathBuf,
        pin: bool,
    ) -> Result<Blob, AdoptError> {
        let node = self.clone();
        let adopt = move || {
            let sign = signer_of(node.signer(), recording.digest());
            let blob = node.store().adopt(&recording, &file, pin, &sign)?;
            Ok(node.adopted(blob))
        };
        at_once(adopt).await
    }

    /// As [`Self::adopt`], for a file that stays where it is and is another program's: by shared
    /// extents or as a second name of the same file, so that its bytes are on the disk once, else
    /// as `share` says. A whole blob that is here gives up its own copy. The file is read and must
    /// have the digest `digest`; one that is known to be shared already is not read again, and what
    /// could only be copied is not, where the blob is here.
    ///
    /// A file under two names is never written to by the store, and the blob goes as soon as the
    /// other program is found to have changed it.
    pub async fn adopt_from(
        &self,
        digest: Digest,
        file: PathBuf,
        share: Share,
        pin: bool,
    ) -> Result<Shared, AdoptError> {
        let (store, known) = (self.store().clone(), file.clone());
        let find = move || store.shared_already(digest, &known, share, pin);
        if at_once(find).await?.is_some() {
            return Ok(Shared::Already);
        }
        // What is here already is not copied, unless it is another program's.
        let here = self.look_up(&TaskId::Blob(digest));
        let here = here.is_some_and(|blob| blob.durable && blob.owner != Owner::Other)
            && share.otherwise == Otherwise::Copy;
        let share = match here {
            true => Share {
                otherwise: Otherwise::Refuse,
                ..share
            },
            false => share,
        };
        let (store, path) = (self.store().clone(), file.clone());
        let bring = move || store.bring(digest, &file, share);
        let brought = match share.pace {
            Pace::Full => at_once(bring).await,
            Pace::Idle => on_idle_thread(&path, bring).await,
        };
        let brought = match brought {
            Err(AdoptError::Apart { .. }) if here => {
                if pin {
                    self.keep(digest).await?;
                }
                return Ok(Shared::Already);
            }
            brought => brought?,
        };
        let node = self.clone();
        let take_in = move || {
            let sign = signer_of(node.signer(), digest);
            let (blob, shared) = node.store().take_in(brought, pin, &sign)?;
            drop(node.adopted(blob));
            Ok(shared)
        };
        at_once(take_in).await
    }

    /// Makes `target`, which is replaced if it is there, a file with the bytes of a whole blob, for
    /// another program: by shared extents, else as a second name of the same file, else as a copy,
    /// which is checked. Durable when it returns.
    pub async fn give(&self, digest: Digest, target: PathBuf) -> Result<Shared, AdoptError> {
        let store = self.store().clone();
        at_once(move || store.give(digest, &target)).await
    }

    async fn keep(&self, digest: Digest) -> Result<(), BlobError> {
        match self.set_pinned(digest, true).await? {
            true => Ok(()),
            false => Err(BlobError::Unknown(TaskId::Blob(digest))),
        }
    }

    fn adopted(&self, blob: Arc<BlobFile>) -> Blob {
        let told = Arc::clone(&blob);
        // A driver that is gone serves nobody.
        let _ = self.commands().send(Command::Adopted { blob: told });
        // The open file keeps it from eviction.
        Blob::complete_in_store(blob, None, None, self.commands().clone())
    }
}

/// Signs as the host does for what it reads from an origin; but nothing is known of the origin.
fn signer_of(
    signer: &ListSigner,
    digest: Digest,
) -> impl Fn(&Geometry, PieceIndex, Vec<ChainState>) -> SignedStates {
    let task = TaskId::Blob(digest);
    move |geometry, first, states| signer.sign(&task, geometry, first, states, None)
}

async fn at_once<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AdoptError> + Send + 'static,
) -> Result<T, AdoptError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or(Err(StateError::Closed.into()))
}

/// Runs `work` on a thread of its own, which all others go before. So it must not hold a lock that
/// others wait for.
async fn on_idle_thread<T: Send + 'static>(
    file: &Path,
    work: impl FnOnce() -> Result<T, AdoptError> + Send + 'static,
) -> Result<T, AdoptError> {
    let (done, result) = tokio::sync::oneshot::channel();
    let idle = move || {
        sys::be_idle();
        let _ = done.send(work());
    };
    let thread = std::thread::Builder::new().name("idle".to_owned());
    thread.spawn(idle).map_err(|cause| AdoptError::Io {
        path: file.to_owned(),
        cause,
    })?;
    result.await.unwrap_or(Err(StateError::Closed.into()))
}
