//! The settings of `hawkerd`, as node and as seed.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use hawker_model::{HostId, RegistryHost, Role};
use serde::{Deserialize, Serialize};

use crate::{
    Advertise, AllowedRegistry, ByteSize, Endpoint, Interval, ListenAddress, LogSettings, Percent,
    PrivateOrigin, ProxyChoice, ProxyException, Quota, RateLimit, RegistryEndpoint, ServedName,
    TlsSettings, Transport, hostname::hostname, section::section,
};

/// Everything that `hawkerd` can be told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeConfig {
    pub node: HostSettings,
    pub p2p: P2pSettings,
    pub limits: LimitSettings,
    pub tls: TlsSettings,
    pub store: StoreSettings,
    pub mirror: MirrorSettings,
    /// Registries that need more than their name.
    #[serde(with = "crate::registry::table")]
    pub registries: BTreeMap<RegistryHost, RegistrySettings>,
    pub origin: OriginSettings,
    pub containerd: ContainerdSettings,
    pub snapshotter: SnapshotterSettings,
    pub credentials: CredentialSettings,
    pub control: ControlSettings,
    pub metrics: MetricsSettings,
    pub log: LogSettings,
}

impl NodeConfig {
    /// The defaults for a role: a seed has neither mirror nor snapshotter, and sends more at a time.
    pub fn for_role(role: Role) -> Self {
        let mut config = Self::default();
        config.node.role = role;
        config.set_defaults_of_role(|_| false);
        config
    }

    /// Gives the keys whose default depends on the role that default, but for those that are set.
    pub(crate) fn set_defaults_of_role(&mut self, is_set: impl Fn(&str) -> bool) {
        let seed = self.node.role == Role::Seed;
        if !is_set("mirror.enabled") {
            self.mirror.enabled = !seed;
        }
        if !is_set("containerd.enabled") {
            self.containerd.enabled = !seed;
        }
    }

    /// Whether the host takes part in no cluster: a node without schedulers and seeds is a mirror
    /// with a cache, listens to no peer and needs no certificate.
    pub fn is_standalone(&self) -> bool {
        self.node.role == Role::Node && self.p2p.schedulers.is_empty() && self.p2p.seeds.is_empty()
    }
}

const fn any_address(port: u16) -> ListenAddress {
    ListenAddress::new(std::net::SocketAddr::new(
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        port,
    ))
}

const fn loopback(port: u16) -> ListenAddress {
    ListenAddress::new(std::net::SocketAddr::new(
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        port,
    ))
}

section! {
    /// This host.
    pub struct HostSettings {
        /// Its name in the cluster, the same as in its certificate. Default: the machine's host
        /// name.
        pub name: HostId = hostname(),
        /// "node" runs beside containerd or Docker; "seed" goes to the registries for the others.
        pub role: Role = Role::Node,
        /// Where other hosts reach this one: "" finds it (the address that reaches the scheduler);
        /// otherwise "ip", "ip:port" or "interface:NAME", or a list of them.
        pub advertise: Advertise = Advertise::default(),
        /// Where the host stands, such as a rack or an availability zone. Hosts of one zone prefer
        /// each other. "" is no zone.
        pub zone: String = String::new(),
    }
}

section! {
    /// The piece network. Without schedulers and seeds a node stands alone: its mirror fetches from
    /// the registries and caches.
    pub struct P2pSettings {
        /// Where peers connect to. "[::]:4005" is every address, IPv4 too; without IPv6 on the
        /// machine, 0.0.0.0.
        pub listen: ListenAddress = any_address(4005),
        /// "tls": TLS 1.3 with certificates on both sides, see [tls]. "plain": neither encrypted
        /// nor authenticated, for trusted networks only; credentials are then not given to seeds.
        pub transport: Transport = Transport::Tls,
        /// The cluster's schedulers, each as "host:port".
        pub schedulers: Vec<Endpoint> = Vec::new(),
        /// With how many peers pieces of one blob are exchanged at a time.
        pub max_neighbours: u16 = 10,
        /// How many pieces are sent at a time, over all peers, those to slow receivers not counted. With
        /// few each is sooner whole at its receiver, which then passes it on.
        pub upload_slots: u16 = 4,
        /// Seeds that are used while no scheduler answers, or instead of one; the same on every
        /// host, one [[p2p.seeds]] for each.
        pub seeds: Vec<SeedSettings> = Vec::new(),
    }
}

section! {
    /// A seed.
    pub struct SeedSettings {
        /// The seed's name, as in its certificate.
        pub name: HostId,
        /// The seed's peer address, as "host:port".
        pub address: Endpoint,
    }
}

section! {
    /// How much of the network hawkerd takes: "100MiB/s", "100MiB/s burst 16MiB" (what may pass at
    /// once after a pause; otherwise a tenth of a second's bytes), "800Mbit/s", or "" for no limit.
    /// `hawker limits` shows and changes them while hawkerd runs; SIGHUP reads them here again.
    pub struct LimitSettings {
        /// What peers and seeds send to this host, of all blobs together.
        pub download: RateLimit = RateLimit::Unlimited,
        /// The same of each blob.
        pub download_per_task: RateLimit = RateLimit::Unlimited,
        /// What this host sends to peers, of all blobs together. A blob's pieces go to those first
        /// who have had least.
        pub upload: RateLimit = RateLimit::Unlimited,
        /// The same of each blob.
        pub upload_per_task: RateLimit = RateLimit::Unlimited,
        /// What registries and other origins send for the piece network, of all blobs together. What
        /// one registry may be asked is said in [origin] and [registries].
        pub back_to_source: RateLimit = RateLimit::Unlimited,
        /// The same of each blob.
        pub back_to_source_per_task: RateLimit = RateLimit::Unlimited,
    }
}

section! {
    /// Where blobs are kept.
    pub struct StoreSettings {
        /// The directory; made when it is not there.
        pub dir: PathBuf = "/var/lib/hawker".into(),
        /// How much of the disk the blobs take: "100GiB", a share of the file system's size such as
        /// "50%", or "" for no limit. What was used longest ago makes room.
        pub quota: Quota = Percent::new(50).map_or(Quota::Unlimited, Quota::Share),
        /// How full the file system may get, whoever fills it: a share such as "80%", so many bytes
        /// in use such as "400GiB", or "" for no limit. Above that blobs go that nobody uses, but
        /// those of the last ten minutes only for a new one. The kubelet begins to delete images at
        /// 85%.
        pub high_water: Quota = Percent::new(80).map_or(Quota::Unlimited, Quota::Share),
        /// How full the file system is once enough have gone, written as high_water; "" is as full
        /// as that. Without a high_water it means nothing.
        pub low_water: Quota = Percent::new(75).map_or(Quota::Unlimited, Quota::Share),
        /// How long a blob is kept that nobody uses; "0s" is as long as there is room. What is
        /// pinned, such as content that containerd has, is always kept.
        pub ttl: Interval = Interval::from_secs(0),
        /// Whether the blobs of an earlier run are kept; false deletes at each start those that are
        /// not pinned.
        pub keep: bool = true,
    }
}

section! {
    /// The registry mirror for containerd and Docker.
    pub struct MirrorSettings {
        /// Whether there is one. Default: true on a node, false on a seed.
        pub enabled: bool = true,
        /// Where it listens. It passes on its clients' credentials: keep it on loopback.
        pub listen: ListenAddress = loopback(65001),
        /// Allows an address other than loopback for listen. Whoever reaches the mirror can use it,
        /// unencrypted.
        pub allow_remote: bool = false,
        /// The registry of requests that name none, such as Docker's.
        #[serde(with = "crate::registry::host")]
        pub default_registry: RegistryHost = docker_hub(),
        /// The registries that clients may ask for: names ("docker.io", "registry.lan:5000") and
        /// all names below a domain ("*.example.com"). [] is any public one, and what allow_private
        /// and [registries] name.
        pub registries: Vec<AllowedRegistry> = Vec::new(),
        /// Names besides localhost, this host's and IP addresses under which clients reach the
        /// mirror. Requests for any other host are refused: a web page whose name leads to this
        /// machine could make them.
        pub names: Vec<ServedName> = Vec::new(),
        /// Registries ("registry.lan:5000") and networks ("10.0.0.0/8") that may be fetched from
        /// although they are private, link-local or loopback. What has an endpoint in [registries]
        /// may be, too.
        pub allow_private: Vec<PrivateOrigin> = Vec::new(),
        /// How long a registry may take to answer before the client is told to go on by itself.
        pub origin_timeout: Interval = Interval::from_secs(5),
        /// How long the piece network may take to find a blob before the registry is asked for it; and,
        /// of one whose bytes proved wrong a moment ago, to bring another piece of it.
        pub network_timeout: Interval = Interval::from_secs(10),
        /// How long a client's right to a blob or manifest, granted by the registry, is remembered,
        /// but never longer than its token is good for. A yes that a seed tells may be up to 15s
        /// older. "0s" asks the registry each time, and no seed; on a seed, other hosts' questions
        /// share an answer only while it is on its way.
        pub keep_rights: Interval = Interval::from_secs(300),
        /// How long after that a right still holds while the registry cannot be reached; "0s": not
        /// at all. A refusal ends it at once.
        pub rights_grace: Interval = Interval::from_secs(600),
        /// Whether a seed of the cluster is believed what a tag names now, so that not every host
        /// has to ask the registry; never without TLS. Digests prove themselves.
        pub tags_from_seeds: bool = true,
        /// On a seed: how long the registry's answer about a tag serves other hosts, at most 15s. A
        /// push is seen by all of them within that. "0s": one question for all that
        /// come while another is being answered.
        pub keep_tags: Interval = Interval::from_secs(1),
        /// How long running answers may go on when the daemon is stopped.
        pub stop_grace: Interval = Interval::from_secs(20),
    }
}

#[allow(clippy::expect_used, reason = "a constant that a test parses")]
fn docker_hub() -> RegistryHost {
    RegistryHost::parse("docker.io").expect("docker.io is a sound name")
}

section! {
    /// A registry that needs more than its name, which is the one clients use:
    /// [registries."harbor.example:8443"]. What is written here wins over origin.certs_d.
    pub struct RegistrySettings {
        /// Its base URL, http:// or https://, where it is not https://NAME.
        #[serde(with = "crate::text::empty_is_none")]
        pub endpoint: Option<RegistryEndpoint> = None,
        /// Its base URLs, where it has several that hold the same and take the same credentials.
        /// They are asked in this order: the next one where no connection is made, no answer comes
        /// in origin.endpoint_timeout, or the answer is 5xx. One that failed is left alone for 30 s.
        pub endpoints: Vec<RegistryEndpoint> = Vec::new(),
        /// CA certificates (PEM) that its certificate, and that of its token server, may be of
        /// besides the system's.
        #[serde(with = "crate::text::empty_is_none")]
        pub ca: Option<PathBuf> = None,
        /// The certificate (PEM, with its chain) that hawkerd shows to its endpoints, with
        /// client_key.
        #[serde(with = "crate::text::empty_is_none")]
        pub client_cert: Option<PathBuf> = None,
        /// The private key (PEM, not encrypted) of client_cert.
        #[serde(with = "crate::text::empty_is_none")]
        pub client_key: Option<PathBuf> = None,
        /// Accepts any certificate of its endpoints. Whoever is on the way can then read
        /// credentials.
        pub skip_verify: bool = false,
        /// The account for requests that carry no credentials. Every client of the mirror has its
        /// rights.
        #[serde(with = "crate::text::empty_is_none")]
        pub username: Option<String> = None,
        /// The file that holds the account's password.
        #[serde(with = "crate::text::empty_is_none")]
        pub password_file: Option<PathBuf> = None,
        /// The proxy by which it, its token server and what it redirects to are reached:
        /// "http://HOST:PORT", "https://HOST:PORT", or "" for none. "default" is origin.proxy.
        pub proxy: ProxyChoice = ProxyChoice::Default,
        /// The account at the proxy.
        #[serde(with = "crate::text::empty_is_none")]
        pub proxy_username: Option<String> = None,
        /// The file that holds the password of that account.
        #[serde(with = "crate::text::empty_is_none")]
        pub proxy_password_file: Option<PathBuf> = None,
        /// Addresses of hosts, instead of what DNS says: { "harbor.example" = ["10.0.0.5"] }. For
        /// requests to this registry, and to its token server and what it redirects to. They may be
        /// private. Behind a proxy they are what it is asked to connect to for https.
        pub resolve: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new(),
        /// How much it gives this host: "100MiB/s"; "" is origin.registry_rate.
        pub rate: RateLimit = RateLimit::Unlimited,
        /// How many requests it answers at a time; 0 is origin.registry_connections.
        pub connections: u16 = 0,
        /// How many requests it is sent in a second; 0 is origin.registry_requests.
        pub requests: u16 = 0,
        /// Registries with the same group hold each other's content by your word: what a client may
        /// have of one it gets although the bytes came from another, without a proof that both have
        /// them. Not for registries to which others can push.
        #[serde(with = "crate::text::empty_is_none")]
        pub trust_group: Option<String> = None,
    }
}

section! {
    /// Requests to registries and other origins.
    pub struct OriginSettings {
        /// How long a connection may take to be made.
        pub connect_timeout: Interval = Interval::from_secs(5),
        /// How long an origin may be silent.
        pub read_timeout: Interval = Interval::from_secs(30),
        /// How long an endpoint may be silent before the next one of its registry is asked, or the
        /// only one by another connection.
        pub endpoint_timeout: Interval = Interval::from_secs(2),
        /// How much one registry gives this host, unless [registries] says otherwise of it:
        /// "100MiB/s", or "" for no limit.
        pub registry_rate: RateLimit = RateLimit::Unlimited,
        /// How many requests one registry answers at a time, its blobs included; 0 is no limit.
        pub registry_connections: u16 = 0,
        /// How many requests one registry is sent in a second; 0 is no limit.
        pub registry_requests: u16 = 0,
        /// How long a registry is waited for that answers 429 or 503 and says when to come back
        /// (Retry-After); after that a fetch fails. No other registry waits meanwhile.
        pub longest_retry_after: Interval = Interval::from_secs(600),
        /// How often a failed or cut request is repeated.
        pub retries: u8 = 3,
        /// The proxy by which origins are reached: "http://HOST:PORT", "https://HOST:PORT", or ""
        /// for none. "default" reads HTTP_PROXY, HTTPS_PROXY and NO_PROXY of the environment.
        /// Loopback is always reached without. The proxy resolves names by itself: it should not
        /// lead strangers into your network.
        pub proxy: ProxyChoice = ProxyChoice::Default,
        /// The account at the proxy.
        #[serde(with = "crate::text::empty_is_none")]
        pub proxy_username: Option<String> = None,
        /// The file that holds the password of that account.
        #[serde(with = "crate::text::empty_is_none")]
        pub proxy_password_file: Option<PathBuf> = None,
        /// CA certificates (PEM) that the certificates of https:// proxies may be of besides the
        /// system's.
        #[serde(with = "crate::text::empty_is_none")]
        pub proxy_ca: Option<PathBuf> = None,
        /// What is reached without that proxy: hosts with their subdomains ("registry.lan"),
        /// addresses, networks ("10.0.0.0/8"). NO_PROXY counts as well.
        pub no_proxy: Vec<ProxyException> = Vec::new(),
        /// Where containerd's and Docker's settings of registries lie: hosts.toml, ca.crt,
        /// client.cert, client.key. They are read as containerd and Docker read them, when hawkerd
        /// starts; a registry with a directory there may be private. hawkerd's own entry is passed
        /// over. [] reads none.
        pub certs_d: Vec<PathBuf> = vec![
            "/etc/containerd/certs.d".into(),
            "/etc/docker/certs.d".into(),
        ],
    }
}

section! {
    /// What hawkerd is to containerd: the snapshotter "hawker", which brings an image's layers
    /// through the piece network and unpacks them all at once. `hawker setup containerd` tells
    /// containerd of it.
    pub struct ContainerdSettings {
        /// Whether it is served. Default: true on a node, false on a seed.
        pub enabled: bool = true,
        /// Where hawkerd serves it: the address of proxy_plugins.hawker in containerd's settings.
        pub socket: PathBuf = "/run/hawker/containerd.sock".into(),
        /// Where containerd itself answers. hawkerd asks it whether its garbage collection waits;
        /// where it cannot be asked, containerd unpacks layers that are not there within 2 s.
        pub address: PathBuf = "/run/containerd/containerd.sock".into(),
        /// Whether blobs that containerd keeps itself are shared with it: they are on the disk once,
        /// and peers can have what containerd pulled without hawkerd, built or imported.
        pub share: bool = true,
    }
}

section! {
    /// Images unpacked, and what containers write. A layer over a limit is left to containerd.
    pub struct SnapshotterSettings {
        /// The directory; made when it is not there. On a file system that overlayfs can lie on,
        /// such as ext4 or xfs.
        pub dir: PathBuf = "/var/lib/hawker/snapshotter".into(),
        /// How long a pull may wait for one layer before it is left to containerd; "0s" leaves all
        /// to containerd.
        pub prepare_wait: Interval = Interval::from_secs(600),
        /// The most that a layer's files may hold.
        pub max_layer_size: ByteSize = ByteSize::from_bytes(64 << 30),
        /// How many times its compressed size a layer may unpack to.
        pub max_layer_ratio: u32 = 1000,
        /// The most files, directories and links of a layer.
        pub max_layer_entries: u64 = 4_000_000,
        /// How many layers are unpacked at a time; 0 is one for each core.
        pub unpack_threads: u16 = 0,
    }
}

section! {
    /// Accounts for private images whose layers hawkerd fetches ahead of containerd. It also uses
    /// the account of [registries], and what containerd itself sends to the mirror.
    pub struct CredentialSettings {
        /// A Docker config.json with logins or credential helpers; "" is
        /// $DOCKER_CONFIG/config.json or /root/.docker/config.json where there is one.
        #[serde(with = "crate::text::empty_is_none")]
        pub docker_config: Option<PathBuf> = None,
    }
}

section! {
    /// The socket of `hawker status`, `hawker get` and `hawker limits`.
    pub struct ControlSettings {
        /// Its path; root, the daemon's own user and its group may use it.
        pub socket: PathBuf = "/run/hawker/hawkerd.sock".into(),
    }
}

section! {
    /// Metrics and health over HTTP: /metrics and /healthy.
    pub struct MetricsSettings {
        /// Where they are served; "" switches them off.
        #[serde(with = "crate::text::empty_is_none")]
        pub listen: Option<ListenAddress> = Some(loopback(4002)),
    }
}
