//! Typed settings of every Hawker daemon.
//!
//! `hawkerd` loads a [`NodeConfig`], `hawker-scheduler` a [`SchedulerConfig`]: whole, before either
//! binds a port. A file that is not there gives the defaults, with which both work. Text becomes
//! types here, and nowhere later: sizes, times, addresses, names. What is wrong is a
//! [`ConfigError`] that names file, line, key and remedy.
//!
//! A section is declared once (`section.rs`): its keys, defaults and doc comments, which are also
//! the comments of `--print-config` ([`NodeConfig::to_documented_toml`]) and the list that unknown
//! keys are held against. No async, and no I/O but reading the file and looking whether the
//! certificates it names are there.

mod address;
mod advertise;
mod allowed;
mod check;
mod document;
mod error;
mod hostname;
mod load;
mod node;
mod print;
mod proxy;
mod quota;
mod rate;
mod registry;
mod scheduler;
mod schema;
mod section;
mod shared;
mod suggest;
mod text;
mod units;

pub use address::{Endpoint, EndpointError, ListenAddress, ListenAddressError};
pub use advertise::{Advertise, AdvertiseError, AdvertisedAddress};
pub use allowed::{AllowedRegistry, AllowedRegistryError, ServedName, ServedNameError};
pub use error::{ConfigError, Problem};
pub use load::{NODE_CONFIG_PATH, SCHEDULER_CONFIG_PATH};
pub use node::{
    ContainerdSettings, ControlSettings, CredentialSettings, HostSettings, LimitSettings,
    MetricsSettings, MirrorSettings, NodeConfig, OriginSettings, P2pSettings, RegistrySettings,
    SeedSettings, SnapshotterSettings, StoreSettings,
};
pub use proxy::{ProxyChoice, ProxyException, ProxyExceptionError, ProxyUrl, ProxyUrlError};
pub use quota::{Quota, QuotaError};
pub use rate::{RateLimit, RateLimitError};
pub use registry::{
    EndpointUrlError, Network, PrivateOrigin, PrivateOriginError, RegistryEndpoint,
};
pub use scheduler::{
    HttpSettings, IssuerSettings, SchedulerConfig, SchedulerControlSettings, SchedulerSettings,
    SwarmSettings,
};
pub use shared::{LogFormat, LogLevel, LogSettings, TlsSettings, Transport};
pub use units::{ByteSize, ByteSizeError, Interval, IntervalError, Percent, PercentError};
