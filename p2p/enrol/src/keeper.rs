//! Looks after a host's certificate files while its daemon runs.
//!
//! Every few seconds it looks whether the files have changed, and takes up what is new in them;
//! what is wrong is said once, and the old goes on. It renews the certificate in time, says when
//! that fails or when nobody renews it, and writes down what the schedulers say is revoked.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use hawker_identity::{Identity, Reloaded, date};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, MissedTickBehavior, interval},
};
use tracing::{debug, error, info, warn};

use crate::{
    expiry::{is_ending_soon, is_renewal_due, retry_after},
    issuer::{Issuer, renew_identity},
    stamps::Stamps,
};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(3);
/// How often the same bad news is said again.
const REMIND: Duration = Duration::from_secs(24 * 3600);
const REMIND_EXPIRED: Duration = Duration::from_secs(3600);

/// The loop. [`Self::run`] is to be given a task.
#[derive(Debug)]
pub struct Keeper {
    identity: Arc<Identity>,
    issuer: Option<Box<dyn Issuer>>,
    shared: Arc<Shared>,
    changes: watch::Receiver<u64>,
    seen: Stamps,
    /// What was wrong at the last look.
    trouble: Option<String>,
    renew_at: Instant,
    remind_at: Instant,
    lists_unwritten: bool,
}

/// Tells a keeper to look at once, and what it has done. Cheap to clone.
#[derive(Clone, Debug)]
pub struct KeeperHandle {
    identity: Arc<Identity>,
    shared: Arc<Shared>,
}

/// For metrics.
#[derive(Clone, Copy, Debug)]
pub struct KeeperStatus {
    /// When the certificate ends.
    pub not_after: SystemTime,
    /// Certificates that the lists name.
    pub revoked: usize,
    /// Renewals that went well, and that failed.
    pub renewals: u64,
    pub failures: u64,
}

#[derive(Debug, Default)]
struct Shared {
    reload: Notify,
    renewals: AtomicU64,
    failures: AtomicU64,
}

impl KeeperHandle {
    /// Reads the files again, changed or not, as after SIGHUP.
    pub fn reload(&self) {
        self.shared.reload.notify_one();
    }

    /// How the certificate stands.
    pub fn status(&self) -> KeeperStatus {
        KeeperStatus {
            not_after: self.identity.not_after(),
            revoked: self.identity.revoked_count(),
            renewals: self.shared.renewals.load(Relaxed),
            failures: self.shared.failures.load(Relaxed),
        }
    }
}

impl Keeper {
    /// A keeper for `identity`; without an issuer nothing is renewed.
    pub fn new(identity: Arc<Identity>, issuer: Option<Box<dyn Issuer>>) -> (Self, KeeperHandle) {
        let shared = Arc::new(Shared::default());
        let handle = KeeperHandle {
            identity: identity.clone(),
            shared: shared.clone(),
        };
        let keeper = Self {
            changes: identity.changes(),
            seen: Stamps::of(identity.files()),
            identity,
            issuer,
            shared,
            trouble: None,
            renew_at: Instant::now(),
            remind_at: Instant::now(),
            lists_unwritten: false,
        };
        (keeper, handle)
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What the files said while nobody looked, and lists that are not believed.
        self.reload();
        // What was read at the start is to be remembered, too.
        self.write_lists();
        loop {
            let shared = self.shared.clone();
            tokio::select! {
                _ = looks.tick() => self.look(),
                () = shared.reload.notified() => {
                    info!("reading the certificate files again");
                    self.trouble = None;
                    self.reload();
                }
                changed = self.changes.changed() => {
                    if changed.is_ok() {
                        self.write_lists();
                    }
                }
            }
            self.renew().await;
            self.remind();
        }
    }

    fn look(&mut self) {
        let stamps = Stamps::of(self.identity.files());
        // Two files that are exchanged one after the other do not match for a moment.
        if stamps != self.seen || self.trouble.is_some() {
            self.reload();
        }
        if self.lists_unwritten {
            self.write_lists();
        }
    }

    fn reload(&mut self) {
        self.seen = Stamps::of(self.identity.files());
        let trouble = match self.identity.reload() {
            Ok(reloaded) => self.reloaded(&reloaded),
            Err(error) => Some(error.to_string()),
        };
        if let Some(trouble) = trouble
            .as_ref()
            .filter(|now| self.trouble.as_ref() != Some(*now))
        {
            warn!(error = trouble, "went on with what was loaded before");
        }
        self.trouble = trouble;
    }

    /// Says what is new; gives what is wrong.
    fn reloaded(&mut self, reloaded: &Reloaded) -> Option<String> {
        if reloaded.certificate {
            let until = date(self.identity.not_after());
            let serial = self.identity.serial();
            info!(%serial, until, "using a new certificate");
            self.remind_at = Instant::now();
        }
        if reloaded.authorities {
            let authorities = self.identity.authority_pins().len();
            info!(authorities, "believing other authorities");
        }
        if reloaded.revocations {
            let revoked = self.identity.revoked_count();
            info!(revoked, "read a newer list of revoked certificates");
        }
        let refused = reloaded.refused.iter().map(ToString::to_string);
        let refused = refused.collect::<Vec<_>>().join("; ");
        (!refused.is_empty()).then_some(refused)
    }

    /// Keeps what schedulers have told for the next start.
    fn write_lists(&mut self) {
        let failed = self.identity.keep_lists().err();
        if let Some(error) = failed.as_ref().filter(|_| !self.lists_unwritten) {
            warn!(%error, "cannot write down all that is revoked");
        }
        self.lists_unwritten = failed.is_some();
    }

    async fn renew(&mut self) {
        let Some(issuer) = &self.issuer else { return };
        let now = SystemTime::now();
        let (from, until) = (self.identity.not_before(), self.identity.not_after());
        if !is_renewal_due(from, until, now) || Instant::now() < self.renew_at {
            return;
        }
        debug!("asking for the next certificate");
        match renew_identity(&self.identity, issuer.as_ref()).await {
            Ok(()) => {
                self.shared.renewals.fetch_add(1, Relaxed);
                let (until, serial) = (date(self.identity.not_after()), self.identity.serial());
                info!(%serial, until, "renewed the certificate");
                self.seen = Stamps::of(self.identity.files());
                // However short the new one's life is: not again and again.
                self.renew_at = Instant::now() + Duration::from_secs(60);
            }
            Err(error) => {
                self.shared.failures.fetch_add(1, Relaxed);
                let again = retry_after(until, now);
                let (until, again_seconds) = (date(until), again.as_secs());
                warn!(%error, until, again_seconds, "cannot renew the certificate");
                self.renew_at = Instant::now() + again;
            }
        }
    }

    fn remind(&mut self) {
        if Instant::now() < self.remind_at {
            return;
        }
        let now = SystemTime::now();
        let (from, until) = (self.identity.not_before(), self.identity.not_after());
        let wait = if let Err(reason) = self.identity.check_own() {
            error!(%reason, "this host is no longer believed: get a new certificate (hawker join)");
            REMIND_EXPIRED
        } else if until <= now {
            let until = date(until);
            error!(
                until,
                "the certificate has expired: nobody believes this host"
            );
            REMIND_EXPIRED
        } else if is_ending_soon(from, until, now) {
            let until = date(until);
            warn!(
                until,
                "the certificate ends soon: renew it (hawker join, hawker ca issue)"
            );
            REMIND
        } else {
            // To be looked at again at the next turn: a revocation is not to wait.
            return;
        };
        self.remind_at = Instant::now() + wait;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use hawker_identity::{ClusterCa, Existing, Issued, Subject, write_host};
    use hawker_model::{HostId, Role};
    use tokio::time::{sleep, timeout};

    use super::*;

    fn issue(authority: &ClusterCa, host: &str) -> Issued {
        let subject = Subject {
            host: HostId::parse(host).unwrap(),
            role: Role::Node,
            names: Vec::new(),
        };
        authority.issue(&subject, 30).unwrap()
    }

    #[tokio::test]
    async fn what_was_revoked_at_the_start_is_remembered_as_well() {
        let authority = ClusterCa::create("prod", 365).unwrap();
        let [own, one, two] = ["node-1", "node-2", "node-3"].map(|host| issue(&authority, host));
        let dir = tempfile::tempdir().unwrap();
        let pem = authority.cert_pem();
        let files = write_host(dir.path(), pem, &own, Existing::Keep).unwrap();
        let [first, second] = [&one, &two].map(|bad| {
            let serial = bad.serial.clone();
            authority.revoke(&[serial], None).unwrap()
        });
        fs::write(&files.crl, &first).unwrap();
        let identity = Arc::new(Identity::load(&files).unwrap());
        let (keeper, _handle) = Keeper::new(identity, None);
        let keeper = tokio::spawn(keeper.run());
        let known = files.crl.with_file_name("crl.pem.known");
        let written = async {
            while !known.exists() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(20), written).await.unwrap();
        keeper.abort();
        let _ = keeper.await;
        fs::write(&files.crl, &second).unwrap();
        assert_eq!(Identity::load(&files).unwrap().revoked_count(), 2);
    }
}
