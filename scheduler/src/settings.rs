//! What a scheduler is told.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use hawker_config::{SchedulerConfig, Transport};
use hawker_identity::{Identity, IdentityError, TlsFiles};
use hawker_model::HostId;
use hawker_tracker::TrackerConfig;

/// Settings of a [`crate::Scheduler`].
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name; under TLS the certificate's.
    pub name: HostId,
    /// Where hosts connect to. An unspecified IPv6 address that the machine does not have becomes
    /// the unspecified IPv4 address.
    pub listen: SocketAddr,
    pub security: Security,
    /// Where health, metrics and status are served.
    pub http: Option<SocketAddr>,
    pub tracker: TrackerConfig,
    /// How often hosts send their summaries.
    pub progress_interval: Duration,
    /// Messages that a host may be behind before it is cut off.
    pub queue: usize,
    /// Tasks that one host may announce.
    pub tasks_per_host: usize,
    /// Where hosts get certificates, if they do.
    pub issuer: Option<IssuerPlaces>,
    /// Who renews this scheduler's own certificate, as `host:port`, where it has no issuer itself.
    pub renew_at: Option<String>,
}

/// What an issuer needs.
#[derive(Clone, Debug)]
pub struct IssuerPlaces {
    /// The authority's certificate and key.
    pub ca_cert: PathBuf,
    pub ca_key: PathBuf,
    /// Where hosts ask.
    pub listen: SocketAddr,
    /// For how many days a certificate is good.
    pub days: u32,
    /// Where tokens and numbers are kept.
    pub dir: PathBuf,
    /// The socket of the operator.
    pub control: PathBuf,
}

/// How connections are secured.
#[derive(Clone, Debug)]
pub enum Security {
    /// Mutual TLS 1.3. Name and role in a host's hello must be its certificate's.
    Tls(Arc<Identity>),
    /// Hosts are believed: for networks that are trusted as a whole.
    Plain,
}

impl Security {
    /// Who we are under TLS.
    pub(crate) fn identity(&self) -> Option<&Arc<Identity>> {
        match self {
            Self::Tls(identity) => Some(identity),
            Self::Plain => None,
        }
    }
}

impl Settings {
    /// The defaults for a scheduler that listens on `listen`.
    pub fn new(name: HostId, listen: SocketAddr, security: Security) -> Self {
        Self {
            name,
            listen,
            security,
            http: None,
            tracker: TrackerConfig::default(),
            progress_interval: Duration::from_secs(2),
            queue: 1024,
            tasks_per_host: 200_000,
            issuer: None,
            renew_at: None,
        }
    }

    /// From the config file. Reads the certificate files.
    pub fn from_config(config: &SchedulerConfig) -> Result<Self, IdentityError> {
        let security = match config.scheduler.transport {
            Transport::Plain => Security::Plain,
            Transport::Tls => {
                let files = TlsFiles {
                    ca: config.tls.ca.clone(),
                    cert: config.tls.cert.clone(),
                    key: config.tls.key.clone(),
                    crl: config.tls.crl.clone(),
                };
                Security::Tls(Arc::new(Identity::load(&files)?))
            }
        };
        let listen = config.scheduler.listen.socket();
        let mut settings = Self::new(config.scheduler.name.clone(), listen, security);
        settings.http = config.http.listen.map(|listen| listen.socket());
        settings.issuer = issuer(config);
        settings.renew_at = config.tls.issuer.as_ref().map(ToString::to_string);
        let swarm = &config.swarm;
        settings.tracker = TrackerConfig {
            neighbours: swarm.parents.into(),
            settle_time: swarm.settle_time.duration(),
            silent_after: swarm.host_timeout.duration(),
            reports_to_isolate: swarm.reports_to_isolate.into(),
            isolation: swarm.isolation_time.duration(),
            ..settings.tracker
        };
        // Three signs of life may be lost before a host counts as gone.
        let interval = settings.tracker.silent_after / 4;
        let bounds = (Duration::from_millis(50), settings.progress_interval);
        settings.progress_interval = interval.clamp(bounds.0, bounds.1);
        Ok(settings)
    }
}

fn issuer(config: &SchedulerConfig) -> Option<IssuerPlaces> {
    let issuer = &config.issuer;
    Some(IssuerPlaces {
        ca_cert: issuer.ca_cert.clone()?,
        ca_key: issuer.ca_key.clone()?,
        listen: issuer.listen.socket(),
        days: issuer.days.into(),
        dir: issuer.dir.clone(),
        control: config.control.socket.clone(),
    })
}
