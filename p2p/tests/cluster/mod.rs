//! A cluster made for one test, in memory.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use hawker_identity::{
    ClusterCa, Identity, IdentityError, Issued, Subject, TlsFiles, TlsPem, Validity,
};
use hawker_model::{HostId, Role};

pub const DAY: Duration = Duration::from_secs(86_400);

#[derive(Debug)]
pub struct Cluster {
    pub authority: ClusterCa,
}

impl Cluster {
    pub fn new(name: &str) -> Self {
        let authority = ClusterCa::create(name, 365).unwrap();
        Self { authority }
    }

    pub fn identity(&self, host: &str, role: Role) -> Arc<Identity> {
        let issued = self.authority.issue(&subject(host, role), 30).unwrap();
        Arc::new(self.load(&issued, SystemTime::now()).unwrap())
    }

    /// An identity whose certificate holds from `from` days from now for a day, as it would have
    /// been loaded then.
    pub fn identity_of_day(&self, host: &str, role: Role, from: i32) -> Arc<Identity> {
        let now = SystemTime::now();
        let not_before = match from < 0 {
            true => now - DAY * from.unsigned_abs(),
            false => now + DAY * from.unsigned_abs(),
        };
        let validity = Validity {
            not_before,
            not_after: not_before + DAY,
        };
        let issued = self.authority.issue_for(&subject(host, role), validity);
        Arc::new(self.load(&issued.unwrap(), not_before + DAY / 2).unwrap())
    }

    pub fn load(&self, issued: &Issued, now: SystemTime) -> Result<Identity, IdentityError> {
        let pem = TlsPem {
            ca: self.authority.cert_pem().as_bytes(),
            cert: issued.cert_pem.as_bytes(),
            key: issued.key_pem.as_bytes(),
        };
        Identity::from_pem(pem, &TlsFiles::in_dir(Path::new("/test")), now)
    }
}

pub fn subject(host: &str, role: Role) -> Subject {
    Subject {
        host: HostId::parse(host).unwrap(),
        role,
        names: Vec::new(),
    }
}
