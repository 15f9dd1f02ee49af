//! The settings of `hawker-scheduler`.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use hawker_model::HostId;
use serde::{Deserialize, Serialize};

use crate::{
    Interval, ListenAddress, LogSettings, TlsSettings, Transport, hostname::hostname,
    section::section,
};

/// Everything that `hawker-scheduler` can be told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SchedulerConfig {
    pub scheduler: SchedulerSettings,
    pub tls: TlsSettings,
    pub issuer: IssuerSettings,
    pub control: SchedulerControlSettings,
    pub swarm: SwarmSettings,
    pub http: HttpSettings,
    pub log: LogSettings,
}

section! {
    /// This scheduler.
    pub struct SchedulerSettings {
        /// Its name in the cluster, the same as in its certificate. Default: the machine's host
        /// name.
        pub name: HostId = hostname(),
        /// Where nodes and seeds connect to. "[::]:8002" is every address, IPv4 too; without IPv6
        /// on the machine, 0.0.0.0.
        pub listen: ListenAddress =
            ListenAddress::new(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 8002)),
        /// "tls": TLS 1.3 with certificates on both sides, see [tls]. "plain": neither encrypted
        /// nor authenticated, for trusted networks only. The same on every host.
        pub transport: Transport = Transport::Tls,
    }
}

section! {
    /// Certificates for hosts that join with a token (hawker token create, hawker join), and for
    /// those that renew theirs. Only where the authority's two files are named: whoever reads its
    /// key is master of the cluster.
    pub struct IssuerSettings {
        /// The authority's certificate (PEM), as `hawker ca create` made it. "" is no issuer.
        #[serde(with = "crate::text::empty_is_none")]
        pub ca_cert: Option<PathBuf> = None,
        /// The authority's secret key (PEM).
        #[serde(with = "crate::text::empty_is_none")]
        pub ca_key: Option<PathBuf> = None,
        /// Where hosts ask for certificates.
        pub listen: ListenAddress =
            ListenAddress::new(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 8003)),
        /// For how many days a certificate is good. Hosts renew it after two thirds of them.
        pub days: u16 = 90,
        /// Where tokens and the numbers of issued certificates are kept; made when it is not there.
        pub dir: PathBuf = "/var/lib/hawker-scheduler".into(),
    }
}

section! {
    /// The socket of `hawker token` and `hawker ca revoke` on this machine.
    pub struct SchedulerControlSettings {
        /// Its path; only root and the daemon's own user may use it.
        pub socket: PathBuf = "/run/hawker-scheduler/control.sock".into(),
    }
}

section! {
    /// Who gets which parents, and when a host counts as gone.
    pub struct SwarmSettings {
        /// How many parents a host is given for one blob.
        pub parents: u16 = 10,
        /// How long a host may say nothing before it counts as gone. One whose stream ends is gone
        /// at once; it announces its blobs again when it is back.
        pub host_timeout: Interval = Interval::from_secs(10),
        /// How long a started scheduler listens to who has what before it sends anybody to a
        /// registry.
        pub settle_time: Interval = Interval::from_secs(2),
        /// How many hosts must report a host before no one is sent to it.
        pub reports_to_isolate: u16 = 3,
        /// How long it is then left alone.
        pub isolation_time: Interval = Interval::from_secs(600),
    }
}

section! {
    /// Health and metrics over HTTP: /healthy and /metrics.
    pub struct HttpSettings {
        /// Where they are served; "" switches them off.
        #[serde(with = "crate::text::empty_is_none")]
        pub listen: Option<ListenAddress> = Some(ListenAddress::new(SocketAddr::new(
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            8000,
        ))),
    }
}
