//! Making room: which blobs go when quota or disk is full.

use std::{fs::File, sync::Arc};

use hawker_model::TaskId;

use super::{
    Inner,
    error::{CreateError, StateError},
    kin::Kin,
    layout::is_no_space,
    record::{Record, lock},
};

impl Inner {
    /// Allocates the file of a new blob, evicting others as far as needed. The caller holds
    /// `structure`.
    pub(super) fn allocate(&self, task: TaskId, length: u64) -> Result<File, CreateError> {
        self.fit_quota(task, length)?;
        self.fit_disk(task, length)?;
        loop {
            match self.layout.allocate(&task, length) {
                Ok(file) => return Ok(file),
                // The disk needs more than what counts as free; each round frees some.
                Err(error) if is_no_space(&error) => {
                    if !self.evict(length.max(1))? {
                        return Err(self.no_space(task, length));
                    }
                }
                Err(cause) => {
                    let path = self.layout.blob(&task);
                    return Err(CreateError::Io { path, cause });
                }
            }
        }
    }

    /// As much room as a blob needs whose bytes are on the disk already. One that is to be kept is
    /// taken in whatever the quota says: refusing it would free nothing. Another program's bytes
    /// need none, and what shares extents with them drives nothing out.
    pub(super) fn fit_adopted(
        &self,
        task: TaskId,
        length: u64,
        pinned: bool,
        kin: Option<Kin>,
    ) -> Result<(), CreateError> {
        let fits = match kin {
            Some(Kin::Linked(_)) => Ok(()),
            Some(Kin::Cloned(_)) if !pinned => self.fit_beside(task, length),
            _ => self.fit_quota(task, length),
        };
        match fits {
            Err(error @ CreateError::State(_)) => Err(error),
            Err(error) if !pinned => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether the quota has room for one more blob.
    fn fit_beside(&self, task: TaskId, length: u64) -> Result<(), CreateError> {
        let held = bytes_of(&self.all());
        match self.quota {
            Some(quota) if held.saturating_add(length) > quota => Err(CreateError::QuotaHeld {
                task,
                length,
                quota,
                held,
            }),
            _ => Ok(()),
        }
    }

    fn fit_quota(&self, task: TaskId, length: u64) -> Result<(), CreateError> {
        let Some(quota) = self.quota else {
            return Ok(());
        };
        if length > quota {
            return Err(CreateError::LargerThanQuota {
                task,
                length,
                quota,
            });
        }
        let used = bytes_of(&self.all());
        if self.evict(used.saturating_add(length).saturating_sub(quota))? {
            return Ok(());
        }
        let held = used - bytes_of(&self.idle()).min(used);
        Err(CreateError::QuotaHeld {
            task,
            length,
            quota,
            held,
        })
    }

    fn fit_disk(&self, task: TaskId, length: u64) -> Result<(), CreateError> {
        let free = self.layout.free_bytes().map_err(|cause| CreateError::Io {
            path: self.layout.root().to_owned(),
            cause,
        })?;
        match self.evict(length.saturating_sub(free))? {
            true => Ok(()),
            false => Err(self.no_space(task, length)),
        }
    }

    fn no_space(&self, task: TaskId, length: u64) -> CreateError {
        CreateError::NoSpace {
            dir: self.layout.root().to_owned(),
            task,
            length,
            free: self.layout.free_bytes().unwrap_or(0),
        }
    }

    /// Evicts idle blobs, the least recently used first, until `wanted` bytes are free; none if
    /// that many cannot be freed. Says whether they were.
    fn evict(&self, wanted: u64) -> Result<bool, StateError> {
        if wanted == 0 {
            return Ok(true);
        }
        let mut candidates = self.idle();
        if bytes_of(&candidates) < wanted {
            return Ok(false);
        }
        candidates.sort_by_key(|record| record.last_used());
        let mut retired: Vec<Arc<Record>> = Vec::new();
        for record in candidates {
            if bytes_of(&retired) >= wanted {
                break;
            }
            if record.retire() {
                retired.push(record);
            }
        }
        if bytes_of(&retired) < wanted {
            // Others came into use meanwhile.
            retired
                .iter()
                .for_each(|record| record.state().removed = false);
            return Ok(false);
        }
        self.discard(&retired)?;
        for record in &retired {
            tracing::info!(task = %record.task, bytes = record.geometry.length(), "evicted");
            lock(&self.evicted).push(record.task);
        }
        Ok(true)
    }

    /// What may be evicted with some gain: to drop another program's file frees nothing.
    fn idle(&self) -> Vec<Arc<Record>> {
        let mut records = self.all();
        records.retain(|record| record.is_idle() && !record.state().is_linked());
        records
    }
}

fn bytes_of(records: &[Arc<Record>]) -> u64 {
    let lengths = records.iter().map(|record| record.own_bytes());
    lengths.fold(0, u64::saturating_add)
}
