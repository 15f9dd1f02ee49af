//! From what the operator wrote to what the parts need.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    num::NonZero,
    path::{Path, PathBuf},
    sync::Arc,
};

use hawker_config::{
    AdvertisedAddress, MirrorSettings as MirrorConfig, NodeConfig, OriginSettings, PrivateOrigin,
    RateLimit, RegistrySettings, StoreSettings, Transport,
};
use hawker_identity::{Identity, IdentityError, TlsFiles};
use hawker_model::RegistryHost;
use hawker_p2p::{
    AllowPrivate, AtStart, Budget, ClientFiles, Login, NodeSettings, OriginClient, OriginConfig,
    OriginConfigError, Proxy, ProxyChoice, RegistryEndpoint, Security, SeedAddress, StoreConfig,
    UsualProxies, Water,
};
use hawker_snapshotter::Limits;
use hawker_swarm::{Secret, SwarmConfig};
use tracing::warn;

use crate::{
    access::RightsSettings,
    containerd::{ContainerdSettings, StagerSettings},
    layers::LayersSettings,
    limits::{limits, rate},
    mirror::MirrorSettings,
};

/// Why settings cannot be used on this host.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Origin(#[from] OriginConfigError),
    #[error(
        "node.name is {configured:?}, but the certificate {cert} is for {certified:?}: set node.name \
         to that, or issue a certificate with `hawker ca issue --host {configured}`"
    )]
    Name {
        configured: String,
        certified: String,
        cert: PathBuf,
    },
    #[error(
        "node.role is {configured:?}, but the certificate {cert} is for a {certified:?}: issue one \
         with `hawker ca issue --role {configured}`"
    )]
    Role {
        configured: &'static str,
        certified: &'static str,
        cert: PathBuf,
    },
    #[error(
        "node.advertise: the interface {name:?} has no address that others could use: {reason}"
    )]
    Interface { name: String, reason: String },
    #[error("{key}: cannot read the password file {path}: {source}; hawkerd must be able to")]
    Password {
        key: String,
        path: PathBuf,
        source: io::Error,
    },
    #[error("store.dir: cannot make {path}: {source}; name a directory that hawkerd may write to")]
    StoreDir { path: PathBuf, source: io::Error },
}

/// What the node needs. Reads certificates and password files; makes the store's directory.
pub(crate) fn node_settings(config: &NodeConfig) -> Result<NodeSettings, SettingsError> {
    let standalone = config.is_standalone();
    let listen = config.p2p.listen.socket();
    let mut swarm = SwarmConfig::new(config.node.name.clone(), config.node.role);
    swarm.max_neighbours = usize::from(config.p2p.max_neighbours);
    swarm.limits = limits(&config.limits);
    swarm.upload_slots = usize::from(config.p2p.upload_slots);
    let seeds = config.p2p.seeds.iter().map(|seed| SeedAddress {
        host: seed.name.clone(),
        address: seed.address.as_str().to_owned(),
    });
    Ok(NodeSettings {
        host: config.node.name.clone(),
        role: config.node.role,
        security: security(config)?,
        peer_listen: (!standalone).then_some(listen),
        advertise: advertised(config, listen.port())?,
        zone: config.node.zone.clone(),
        schedulers: config
            .p2p
            .schedulers
            .iter()
            .map(ToString::to_string)
            .collect(),
        seeds: seeds.collect(),
        store_dir: config.store.dir.clone(),
        store: store(&config.store)?,
        origin: origin(config)?,
        swarm,
    })
}

/// Whether settings can be used on this host: reads all that they name, starts nothing.
pub fn check(config: &NodeConfig) -> Result<(), SettingsError> {
    let settings = node_settings(config)?;
    OriginClient::new(settings.origin)?;
    Ok(())
}

/// What the mirror needs.
pub(crate) fn mirror_settings(config: &NodeConfig) -> MirrorSettings {
    let mirror = &config.mirror;
    MirrorSettings {
        default_registry: mirror.default_registry.clone(),
        registries: mirror.registries.clone(),
        names: mirror
            .names
            .iter()
            .cloned()
            .chain(config.node.name.as_str().parse())
            .collect(),
        origin_patience: mirror.origin_timeout.duration(),
        network_patience: mirror.network_timeout.duration(),
        tags_from_seeds: mirror.tags_from_seeds,
    }
}

/// How long clients' rights are good for.
pub(crate) fn rights_settings(config: &NodeConfig) -> RightsSettings {
    RightsSettings {
        keep: config.mirror.keep_rights.duration(),
        grace: config.mirror.rights_grace.duration(),
        keep_tags: config.mirror.keep_tags.duration(),
    }
}

/// How layers are had.
pub(crate) fn layers_settings(config: &NodeConfig) -> LayersSettings {
    let mirror = &config.mirror;
    LayersSettings {
        network_patience: mirror.network_timeout.duration(),
        docker_config: config
            .credentials
            .docker_config
            .clone()
            .or_else(docker_config),
    }
}

/// Where Docker's command keeps its logins, if it does.
fn docker_config() -> Option<PathBuf> {
    let dir = std::env::var_os("DOCKER_CONFIG").filter(|dir| !dir.is_empty());
    let dir = dir.map_or_else(|| PathBuf::from("/root/.docker"), PathBuf::from);
    Some(dir.join("config.json"))
}

/// What containerd's side needs.
pub(crate) fn containerd_settings(config: &NodeConfig) -> ContainerdSettings {
    let snapshotter = &config.snapshotter;
    let limits = Limits {
        size: snapshotter.max_layer_size.bytes(),
        ratio: snapshotter.max_layer_ratio.into(),
        entries: snapshotter.max_layer_entries,
        ..Limits::default()
    };
    ContainerdSettings {
        address: config.containerd.address.clone(),
        patience: snapshotter.prepare_wait.duration(),
        stager: StagerSettings {
            limits,
            unpacks: NonZero::new(usize::from(snapshotter.unpack_threads)),
            ..StagerSettings::default()
        },
        grace: config.mirror.stop_grace.duration(),
    }
}

pub(crate) fn security(config: &NodeConfig) -> Result<Security, SettingsError> {
    let (host, role) = (config.node.name.clone(), config.node.role);
    if config.is_standalone() || config.p2p.transport == Transport::Plain {
        return Ok(Security::Plain { host, role });
    }
    let identity = Identity::load(&TlsFiles {
        ca: config.tls.ca.clone(),
        cert: config.tls.cert.clone(),
        key: config.tls.key.clone(),
        crl: config.tls.crl.clone(),
    })?;
    if *identity.host() != host {
        return Err(SettingsError::Name {
            configured: host.to_string(),
            certified: identity.host().to_string(),
            cert: config.tls.cert.clone(),
        });
    }
    if identity.role() != role {
        return Err(SettingsError::Role {
            configured: role.as_str(),
            certified: identity.role().as_str(),
            cert: config.tls.cert.clone(),
        });
    }
    Ok(Security::Tls(Arc::new(identity)))
}

fn advertised(config: &NodeConfig, port: u16) -> Result<Vec<SocketAddr>, SettingsError> {
    let mut addresses = Vec::new();
    for address in config.node.advertise.addresses() {
        match address {
            AdvertisedAddress::Ip(ip) => addresses.push(SocketAddr::new(*ip, port)),
            AdvertisedAddress::Socket(socket) => addresses.push(*socket),
            AdvertisedAddress::Interface(name) => {
                let of_interface = interface_addresses(name)?;
                addresses.extend(of_interface.into_iter().map(|ip| SocketAddr::new(ip, port)));
            }
        }
    }
    Ok(addresses)
}

fn interface_addresses(name: &str) -> Result<Vec<IpAddr>, SettingsError> {
    let wrong = |reason: String| SettingsError::Interface {
        name: name.to_owned(),
        reason,
    };
    let all = nix::ifaddrs::getifaddrs().map_err(|error| wrong(error.to_string()))?;
    let mut known = false;
    let mut addresses = Vec::new();
    for found in all.filter(|found| found.interface_name == name) {
        known = true;
        let Some(address) = found.address else {
            continue;
        };
        if let Some(v4) = address.as_sockaddr_in() {
            addresses.push(IpAddr::V4(v4.ip()));
        } else if let Some(v6) = address.as_sockaddr_in6()
            && !v6.ip().is_unicast_link_local()
        {
            addresses.push(IpAddr::V6(v6.ip()));
        }
    }
    match (known, addresses.is_empty()) {
        (false, _) => Err(wrong("there is no such interface".to_owned())),
        (true, true) => Err(wrong("it has none, or only link-local ones".to_owned())),
        (true, false) => Ok(addresses),
    }
}

/// Shares are of the file system's size as it is now.
fn store(settings: &StoreSettings) -> Result<StoreConfig, SettingsError> {
    let total = file_system_bytes(&settings.dir)?;
    let water = settings.high_water.bytes(total).map(|high| {
        let low = settings.low_water.bytes(total).unwrap_or(high);
        let low = low.min(high);
        Water { high, low }
    });
    Ok(StoreConfig {
        quota_bytes: settings.quota.bytes(total),
        water,
        ttl: (!settings.ttl.is_zero()).then(|| settings.ttl.duration()),
        at_start: match settings.keep {
            true => AtStart::Keep,
            false => AtStart::Wipe,
        },
    })
}

/// The size of the file system the store is on. Makes the directory: it must be there to be asked.
fn file_system_bytes(dir: &Path) -> Result<u64, SettingsError> {
    let failed = |source| SettingsError::StoreDir {
        path: dir.to_owned(),
        source,
    };
    fs::create_dir_all(dir).map_err(failed)?;
    let found = nix::sys::statvfs::statvfs(dir).map_err(|errno| failed(errno.into()))?;
    Ok(found.blocks().saturating_mul(found.fragment_size()))
}

pub(crate) fn origin(config: &NodeConfig) -> Result<OriginConfig, SettingsError> {
    let mut registries = std::collections::BTreeMap::new();
    for (name, registry) in &config.registries {
        if registry.skip_verify {
            warn!(registry = %name, "its certificate is not checked (skip_verify)");
        }
        registries.insert(name.clone(), endpoint(name, registry)?);
    }
    // Also where this hawkerd has no mirror, such as a seed beside a node: they would ask each other.
    let usual = MirrorConfig::default().listen;
    let own = [config.mirror.listen.socket(), usual.socket()];
    Ok(OriginConfig {
        registries,
        allow_private: allow_private(&config.mirror.allow_private),
        proxies: proxies(&config.origin)?,
        certs_d: config.origin.certs_d.clone(),
        own_addresses: own.into(),
        connect_timeout: config.origin.connect_timeout.duration(),
        read_timeout: config.origin.read_timeout.duration(),
        endpoint_timeout: config.origin.endpoint_timeout.duration(),
        retries: u32::from(config.origin.retries),
        longest_retry_after: config.origin.longest_retry_after.duration(),
        budget: budget(
            config.origin.registry_rate,
            config.origin.registry_connections,
            config.origin.registry_requests,
        ),
        ..OriginConfig::default()
    })
}

fn budget(most: RateLimit, connections: u16, requests: u16) -> Budget {
    Budget {
        rate: rate(most),
        connections: NonZero::new(connections),
        requests: NonZero::new(requests),
    }
}

fn allow_private(allowed: &[PrivateOrigin]) -> Vec<AllowPrivate> {
    // Both sides write registries and networks alike, and both are checked.
    let parsed = allowed.iter().map(|allowed| allowed.to_string().parse());
    parsed.filter_map(Result::ok).collect()
}

/// The proxies of everything that names none of its own.
fn proxies(settings: &OriginSettings) -> Result<UsualProxies, SettingsError> {
    let variable = |name: &str| std::env::var(name).ok();
    let mut proxies = match &settings.proxy {
        hawker_config::ProxyChoice::Default => UsualProxies::of_environment(variable),
        hawker_config::ProxyChoice::Direct => UsualProxies::default(),
        hawker_config::ProxyChoice::Via(url) => {
            let login = login(
                "origin.proxy_password_file",
                settings.proxy_username.as_deref(),
                settings.proxy_password_file.as_deref(),
            )?;
            let proxy = Proxy {
                url: url.url().clone(),
                login,
                setting: "origin.proxy".to_owned(),
            };
            UsualProxies::one(proxy, variable)
        }
    };
    for exception in &settings.no_proxy {
        proxies.except.add(exception.as_str());
    }
    proxies.ca_file = settings.proxy_ca.clone();
    Ok(proxies)
}

fn endpoint(
    name: &RegistryHost,
    settings: &RegistrySettings,
) -> Result<RegistryEndpoint, SettingsError> {
    let key = |key: &str| format!("registries.{:?}.{key}", name.as_str());
    let client = match (&settings.client_cert, &settings.client_key) {
        (Some(cert), Some(key)) => Some(ClientFiles {
            cert: cert.clone(),
            key: key.clone(),
        }),
        _ => None,
    };
    let proxy = match &settings.proxy {
        hawker_config::ProxyChoice::Default => ProxyChoice::Usual,
        hawker_config::ProxyChoice::Direct => ProxyChoice::Direct,
        hawker_config::ProxyChoice::Via(url) => ProxyChoice::Via(Proxy {
            url: url.url().clone(),
            login: login(
                &key("proxy_password_file"),
                settings.proxy_username.as_deref(),
                settings.proxy_password_file.as_deref(),
            )?,
            setting: key("proxy"),
        }),
    };
    let endpoints = settings.endpoint.iter().chain(&settings.endpoints);
    Ok(RegistryEndpoint {
        endpoints: endpoints.map(|endpoint| endpoint.url().clone()).collect(),
        ca_file: settings.ca.clone(),
        client,
        skip_verify: settings.skip_verify,
        login: login(
            &key("password_file"),
            settings.username.as_deref(),
            settings.password_file.as_deref(),
        )?,
        trust_group: settings.trust_group.clone(),
        budget: budget(settings.rate, settings.connections, settings.requests),
        proxy,
        resolve: settings.resolve.clone(),
    })
}

/// The account that a name and a password file make; `key` names the file.
fn login(
    key: &str,
    username: Option<&str>,
    password_file: Option<&Path>,
) -> Result<Option<Login>, SettingsError> {
    let (Some(username), Some(path)) = (username, password_file) else {
        return Ok(None);
    };
    let password = fs::read_to_string(path).map_err(|source| SettingsError::Password {
        key: key.to_owned(),
        path: path.to_owned(),
        source,
    })?;
    Ok(Some(Login {
        username: username.to_owned(),
        password: Secret::new(password.trim_end_matches(['\r', '\n'])),
    }))
}
