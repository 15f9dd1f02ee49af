//! Sections that every daemon has.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Endpoint, section::section};

/// How daemons speak to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TLS 1.3, both sides with certificates of the cluster's CA.
    #[default]
    Tls,
    /// No encryption and no proof of who speaks. An explicit choice for trusted networks.
    Plain,
}

section! {
    /// Certificates of this host, as `hawker join` and `hawker ca` make them. Needed for
    /// transport = "tls". The files may be exchanged while the daemon runs.
    pub struct TlsSettings {
        /// The certificate of the cluster's CA (PEM).
        pub ca: PathBuf = "/etc/hawker/tls/ca.pem".into(),
        /// This host's certificate (PEM). It carries the host's name and role.
        pub cert: PathBuf = "/etc/hawker/tls/cert.pem".into(),
        /// The private key of the certificate (PEM), readable by the daemon only.
        pub key: PathBuf = "/etc/hawker/tls/key.pem".into(),
        /// The list of revoked certificates (PEM), where there is one. Hosts get it from their
        /// schedulers and keep it here; on a scheduler it is the list that is handed on.
        pub crl: PathBuf = "/etc/hawker/tls/crl.pem".into(),
        /// Where this host renews its certificate before it ends: a scheduler with [issuer], as
        /// "host:8003". `hawker join` writes it. "" is nowhere.
        #[serde(with = "crate::text::empty_is_none")]
        pub issuer: Option<Endpoint> = None,
    }
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// The level's name, as `tracing` filters take it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// In which form it is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

section! {
    /// The log, on standard error.
    pub struct LogSettings {
        /// "error", "warn", "info" (each task and each change of state), "debug" (each peer) or
        /// "trace" (each piece).
        pub level: LogLevel = LogLevel::Info,
        /// "text" for people, "json" for log collectors.
        pub format: LogFormat = LogFormat::Text,
    }
}
