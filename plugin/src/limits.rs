//! The limits that hold now: those of the settings, until somebody changes them.

use std::sync::{Arc, Mutex, PoisonError};

use hawker_config::{LimitSettings, RateLimit, RateLimitError};
use hawker_p2p::{Node, Traffic};
use hawker_swarm::{Limit, Limits, Rate};
use tracing::info;

/// Shows and changes the node's limits. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct LimitDesk {
    node: Node,
    now: Arc<Mutex<LimitSettings>>,
}

/// Why limits are not changed. None of them is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LimitError {
    #[error("there is no limit {0:?}; there are {names}", names = NAMES.join(", "))]
    Unknown(String),
    #[error("{name}: {source}")]
    Rate {
        name: String,
        source: RateLimitError,
    },
}

/// As they are called in the settings.
pub(crate) const NAMES: [&str; 6] = [
    "download",
    "download_per_task",
    "upload",
    "upload_per_task",
    "back_to_source",
    "back_to_source_per_task",
];

impl LimitDesk {
    /// For a node that keeps to `settings` already.
    pub(crate) fn new(node: Node, settings: &LimitSettings) -> Self {
        Self {
            node,
            now: Arc::new(Mutex::new(settings.clone())),
        }
    }

    pub(crate) fn now(&self) -> LimitSettings {
        self.settings().clone()
    }

    /// What moves now, beside what may.
    pub(crate) fn traffic(&self) -> Traffic {
        self.node.traffic()
    }

    /// Changes those that are named, all or none of them. Says what holds then.
    pub(crate) fn change<'a>(
        &self,
        changes: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<LimitSettings, LimitError> {
        let mut settings = self.settings();
        let mut changed = settings.clone();
        for (name, rate) in changes {
            let place = of_name(&mut changed, name);
            let place = place.ok_or_else(|| LimitError::Unknown(name.to_owned()))?;
            *place = rate.parse().map_err(|source| LimitError::Rate {
                name: name.to_owned(),
                source,
            })?;
        }
        self.apply(&mut settings, changed.clone());
        Ok(changed)
    }

    /// Those of the settings hold from now on.
    pub(crate) fn replace(&self, settings: LimitSettings) {
        self.apply(&mut self.settings(), settings);
    }

    fn apply(&self, now: &mut LimitSettings, new: LimitSettings) {
        if *now != new {
            info!(limits = ?new, "limits were changed");
            self.node.set_limits(limits(&new));
            *now = new;
        }
    }

    fn settings(&self) -> std::sync::MutexGuard<'_, LimitSettings> {
        // They are replaced whole.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn of_name<'a>(settings: &'a mut LimitSettings, name: &str) -> Option<&'a mut RateLimit> {
    match name {
        "download" => Some(&mut settings.download),
        "download_per_task" => Some(&mut settings.download_per_task),
        "upload" => Some(&mut settings.upload),
        "upload_per_task" => Some(&mut settings.upload_per_task),
        "back_to_source" => Some(&mut settings.back_to_source),
        "back_to_source_per_task" => Some(&mut settings.back_to_source_per_task),
        _ => None,
    }
}

/// As the network takes them.
pub(crate) fn limits(settings: &LimitSettings) -> Limits {
    let limit = |total, per_task| Limit {
        total: rate(total),
        per_task: rate(per_task),
    };
    Limits {
        download: limit(settings.download, settings.download_per_task),
        upload: limit(settings.upload, settings.upload_per_task),
        back_to_source: limit(settings.back_to_source, settings.back_to_source_per_task),
    }
}

/// A rate as the network takes it.
pub(crate) fn rate(limit: RateLimit) -> Option<Rate> {
    let RateLimit::Rate {
        bytes_per_second,
        burst,
    } = limit
    else {
        return None;
    };
    let rate = Rate::new(bytes_per_second.get())?;
    Some(burst.map_or(rate, |burst| rate.with_burst(burst.get())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_of_the_settings_has_its_name() {
        let mut settings = LimitSettings::default();
        for (at, name) in NAMES.iter().enumerate() {
            *of_name(&mut settings, name).unwrap() = RateLimit::from_bytes(at as u64 + 1);
        }
        assert_eq!(of_name(&mut settings, "up"), None);
        let limits = limits(&settings);
        let all = [limits.download, limits.upload, limits.back_to_source];
        let rates = all.iter().flat_map(|limit| [limit.total, limit.per_task]);
        let rates = rates.map(|rate| rate.unwrap().bytes_per_second());
        assert_eq!(rates.collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_burst_is_kept() {
        let limit = "1MiB/s burst 8MiB".parse().unwrap();
        assert_eq!(rate(limit).unwrap().burst(), 8 << 20);
        assert_eq!(rate(RateLimit::Unlimited), None);
    }
}
