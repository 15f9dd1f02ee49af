//! From what the operator wrote to what the parts need.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    num::NonZero,
    path::{Path, PathBuf},
    sync::Arc,
};

use hawker_config::{AdvertisedAddress, NodeConfig, PrivateOrigin, RegistrySettings, Transport};
use hawker_identity::{Identity, IdentityError, TlsFiles};
use hawker_model::RegistryHost;
use hawker_p2p::{
    AllowPrivate, Login, NodeSettings, OriginClient, OriginConfig, OriginConfigError,
    RegistryEndpoint, Security, SeedAddress, StoreConfig,
};
use hawker_snapshotter::Limits;
use hawker_swarm::{Secret, SwarmConfig};
use tracing::warn;

use crate::{
    access::RightsSettings,
    containerd::{ContainerdSettings, StagerSettings},
    layers::LayersSettings,
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
    #[error("registries.{registry:?}: cannot read the password file {path}: {source}")]
    Password {
        registry: String,
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
        store: StoreConfig {
            quota_bytes: config
                .store
                .quota
                .bytes(file_system_bytes(&config.store.dir)?),
        },
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
        origin_patience: mirror.origin_timeout.duration(),
        network_patience: mirror.network_timeout.duration(),
    }
}

/// How long clients' rights are good for.
pub(crate) fn rights_settings(config: &NodeConfig) -> RightsSettings {
    RightsSettings {
        keep: config.mirror.keep_rights.duration(),
        grace: config.mirror.rights_grace.duration(),
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

fn origin(config: &NodeConfig) -> Result<OriginConfig, SettingsError> {
    let mut registries = std::collections::BTreeMap::new();
    for (name, registry) in &config.registries {
        if registry.skip_verify {
            warn!(registry = %name, "its certificate is not checked (skip_verify)");
        }
        registries.insert(name.clone(), endpoint(name, registry)?);
    }
    Ok(OriginConfig {
        registries,
        allow_private: allow_private(&config.mirror.allow_private),
        connect_timeout: config.origin.connect_timeout.duration(),
        read_timeout: config.origin.read_timeout.duration(),
        retries: u32::from(config.origin.retries),
        ..OriginConfig::default()
    })
}

fn allow_private(allowed: &[PrivateOrigin]) -> Vec<AllowPrivate> {
    // Both sides write registries and networks alike, and both are checked.
    let parsed = allowed.iter().map(|allowed| allowed.to_string().parse());
    parsed.filter_map(Result::ok).collect()
}

fn endpoint(
    name: &RegistryHost,
    settings: &RegistrySettings,
) -> Result<RegistryEndpoint, SettingsError> {
    let login = match (&settings.username, &settings.password_file) {
        (Some(username), Some(path)) => {
            let password = fs::read_to_string(path).map_err(|source| SettingsError::Password {
                registry: name.to_string(),
                path: path.clone(),
                source,
            })?;
            Some(Login {
                username: username.clone(),
                password: Secret::new(password.trim_end_matches(['\r', '\n'])),
            })
        }
        _ => None,
    };
    Ok(RegistryEndpoint {
        endpoint: settings
            .endpoint
            .as_ref()
            .map(|endpoint| endpoint.url().clone()),
        ca_file: settings.ca.clone(),
        skip_verify: settings.skip_verify,
        login,
    })
}
