//! Combinations of settings that cannot work.

use std::{net::IpAddr, path::Path};

use hawker_model::{HostId, RegistryHost, Role};

use crate::{
    ListenAddress, NodeConfig, OriginSettings, ProxyChoice, Quota, RegistrySettings,
    SchedulerConfig, SnapshotterSettings, StoreSettings, TlsSettings, Transport, error::Problem,
    hostname::localhost,
};

type Checked = Result<(), Problem>;

/// What can be said about a node's settings without looking at files.
pub(crate) fn node(config: &NodeConfig) -> Checked {
    role(config)?;
    zone(&config.node.zone)?;
    if !config.is_standalone() {
        own_name("node.name", &config.node.name)?;
        seeds(config)?;
    }
    mirror(config)?;
    listeners(&node_listeners(config))?;
    paths(&[
        ("tls.ca", &config.tls.ca),
        ("tls.cert", &config.tls.cert),
        ("tls.key", &config.tls.key),
        ("tls.crl", &config.tls.crl),
        ("store.dir", &config.store.dir),
        ("control.socket", &config.control.socket),
        ("containerd.socket", &config.containerd.socket),
        ("containerd.address", &config.containerd.address),
        ("snapshotter.dir", &config.snapshotter.dir),
    ])?;
    if let Some(file) = &config.credentials.docker_config {
        paths(&[("credentials.docker_config", file)])?;
    }
    if config.containerd.enabled {
        sockets(config)?;
        directories(config)?;
    }
    layer_limits(&config.snapshotter)?;
    store(&config.store)?;
    for (host, registry) in &config.registries {
        check_registry(host.as_str(), registry)?;
    }
    origin(&config.origin)?;
    numbers(&[
        ("p2p.max_neighbours", config.p2p.max_neighbours.into(), 256),
        ("p2p.upload_slots", config.p2p.upload_slots.into(), 4096),
    ])?;
    times(&[
        (
            "mirror.origin_timeout",
            config.mirror.origin_timeout.is_zero(),
        ),
        (
            "mirror.network_timeout",
            config.mirror.network_timeout.is_zero(),
        ),
    ])
}

/// Whether the files are there that a node's settings need.
pub(crate) fn node_files(config: &NodeConfig) -> Checked {
    match config.is_standalone() {
        true => Ok(()),
        false => certificates("p2p.transport", config.p2p.transport, &config.tls),
    }
}

/// What can be said about a scheduler's settings without looking at files.
pub(crate) fn scheduler(config: &SchedulerConfig) -> Checked {
    own_name("scheduler.name", &config.scheduler.name)?;
    let mut listening = vec![("scheduler.listen", config.scheduler.listen)];
    listening.extend(config.http.listen.map(|listen| ("http.listen", listen)));
    if issuer(config)? {
        listening.push(("issuer.listen", config.issuer.listen));
    }
    listeners(&listening)?;
    paths(&[
        ("tls.ca", &config.tls.ca),
        ("tls.cert", &config.tls.cert),
        ("tls.key", &config.tls.key),
        ("tls.crl", &config.tls.crl),
        ("issuer.dir", &config.issuer.dir),
        ("control.socket", &config.control.socket),
    ])?;
    numbers(&[
        ("swarm.parents", config.swarm.parents.into(), 256),
        (
            "swarm.reports_to_isolate",
            config.swarm.reports_to_isolate.into(),
            65535,
        ),
    ])?;
    times(&[
        ("swarm.host_timeout", config.swarm.host_timeout.is_zero()),
        (
            "swarm.isolation_time",
            config.swarm.isolation_time.is_zero(),
        ),
    ])
}

/// Whether there is an issuer.
fn issuer(config: &SchedulerConfig) -> Result<bool, Problem> {
    let issuer = &config.issuer;
    let files = match (&issuer.ca_cert, &issuer.ca_key) {
        (None, None) => return Ok(false),
        (Some(cert), Some(key)) => [
            ("issuer.ca_cert", cert.as_path()),
            ("issuer.ca_key", key.as_path()),
        ],
        (None, Some(_)) | (Some(_), None) => {
            return Err(Problem::new(
                &["issuer.ca_cert", "issuer.ca_key"],
                "one of the authority's two files is named without the other",
                "name both, or neither for a scheduler that issues no certificates",
            ));
        }
    };
    paths(&files)?;
    if config.scheduler.transport == Transport::Plain {
        return Err(Problem::new(
            &["scheduler.transport", "issuer.ca_key"],
            "without TLS there are no certificates to be issued",
            "write transport = \"tls\", or leave [issuer] out",
        ));
    }
    numbers(&[("issuer.days", config.issuer.days.into(), 3650)])?;
    Ok(true)
}

/// Whether the files are there that a scheduler's settings need.
pub(crate) fn scheduler_files(config: &SchedulerConfig) -> Checked {
    certificates(
        "scheduler.transport",
        config.scheduler.transport,
        &config.tls,
    )
}

fn role(config: &NodeConfig) -> Checked {
    match config.node.role {
        Role::Node | Role::Seed => Ok(()),
        Role::Scheduler => Err(Problem::new(
            &["node.role"],
            "hawkerd is no scheduler",
            "write \"node\" or \"seed\", and run hawker-scheduler for a scheduler",
        )),
    }
}

fn zone(zone: &str) -> Checked {
    match zone.is_empty() || HostId::parse(zone).is_ok() {
        true => Ok(()),
        false => Err(Problem::new(
            &["node.zone"],
            format!("{zone:?} is no zone"),
            "write up to 128 letters, digits, '.', '-' and '_', or \"\" for none",
        )),
    }
}

fn own_name(key: &str, name: &HostId) -> Checked {
    match *name == localhost() {
        false => Ok(()),
        true => Err(Problem::new(
            &[key],
            "\"localhost\" cannot be told from other hosts",
            "give the host a name that no other host of the cluster has",
        )),
    }
}

fn seeds(config: &NodeConfig) -> Checked {
    let seeds = &config.p2p.seeds;
    for (at, seed) in seeds.iter().enumerate() {
        if seeds[..at].iter().any(|other| other.name == seed.name) {
            return Err(Problem::new(
                &["p2p.seeds"],
                format!("two seeds are called {:?}", seed.name.as_str()),
                "give each the name that its certificate carries",
            ));
        }
        if seed.name == config.node.name && config.node.role != Role::Seed {
            return Err(Problem::new(
                &["p2p.seeds", "node.role", "node.name"],
                format!("this host is called {:?}, as a seed is", seed.name.as_str()),
                "write node.role = \"seed\", or give the node another name",
            ));
        }
    }
    Ok(())
}

fn mirror(config: &NodeConfig) -> Checked {
    let mirror = &config.mirror;
    match mirror.enabled && !mirror.listen.is_loopback() && !mirror.allow_remote {
        false => Ok(()),
        true => Err(Problem::new(
            &["mirror.listen", "mirror.allow_remote"],
            format!(
                "other machines reach the mirror at {}, unencrypted",
                mirror.listen
            ),
            "listen on 127.0.0.1, or write mirror.allow_remote = true if that is wanted",
        )),
    }
}

fn node_listeners(config: &NodeConfig) -> Vec<(&'static str, ListenAddress)> {
    let mut listening = Vec::new();
    if !config.is_standalone() {
        listening.push(("p2p.listen", config.p2p.listen));
    }
    if config.mirror.enabled {
        listening.push(("mirror.listen", config.mirror.listen));
    }
    listening.extend(
        config
            .metrics
            .listen
            .map(|listen| ("metrics.listen", listen)),
    );
    listening
}

fn listeners(listening: &[(&str, ListenAddress)]) -> Checked {
    for (at, (key, address)) in listening.iter().enumerate() {
        let other = listening[..at]
            .iter()
            .find(|(_, other)| other.collides_with(*address));
        if let Some((other, _)) = other {
            return Err(Problem::new(
                &[key, other],
                format!("both listen on port {}", address.socket().port()),
                "give each a port of its own",
            ));
        }
    }
    Ok(())
}

fn paths(paths: &[(&str, &Path)]) -> Checked {
    match paths.iter().find(|(_, path)| !path.is_absolute()) {
        None => Ok(()),
        Some((key, path)) => Err(Problem::new(
            &[key],
            format!("{path:?} is not an absolute path"),
            "write it from / on, since a daemon's working directory is not yours",
        )),
    }
}

fn sockets(config: &NodeConfig) -> Checked {
    let sockets = [
        ("containerd.socket", &config.containerd.socket),
        ("containerd.address", &config.containerd.address),
        ("control.socket", &config.control.socket),
    ];
    for (at, (key, path)) in sockets.iter().enumerate() {
        if let Some((other, _)) = sockets[..at].iter().find(|(_, other)| other == path) {
            return Err(Problem::new(
                &[key, other],
                format!("both are {}", path.display()),
                "give each a socket of its own",
            ));
        }
    }
    Ok(())
}

/// The snapshotter's directory may lie in the store's, but not among its blobs, nor around it: each
/// removes from its own what it does not know.
fn directories(config: &NodeConfig) -> Checked {
    let (store, snapshots) = (&config.store.dir, &config.snapshotter.dir);
    let problem = if store.starts_with(snapshots) {
        "the store lies in the snapshotter's directory"
    } else if snapshots.starts_with(store.join("blobs")) {
        "the snapshotter lies among the store's blobs"
    } else {
        return Ok(());
    };
    Err(Problem::new(
        &["snapshotter.dir", "store.dir"],
        problem,
        format!("write, for instance, {:?}", store.join("snapshotter")),
    ))
}

fn layer_limits(settings: &SnapshotterSettings) -> Checked {
    if settings.max_layer_size.bytes() == 0 {
        return Err(Problem::new(
            &["snapshotter.max_layer_size"],
            "no layer is as small as nothing",
            "write a size such as \"64GiB\"",
        ));
    }
    if settings.unpack_threads > 1024 {
        return Err(Problem::new(
            &["snapshotter.unpack_threads"],
            format!("{} is out of range", settings.unpack_threads),
            "write a number from 1 to 1024, or 0 for one for each core",
        ));
    }
    numbers(&[
        (
            "snapshotter.max_layer_ratio",
            settings.max_layer_ratio.into(),
            1_000_000,
        ),
        (
            "snapshotter.max_layer_entries",
            settings.max_layer_entries,
            1_000_000_000,
        ),
    ])
}

fn store(store: &StoreSettings) -> Checked {
    let size = "write a size such as \"100GiB\", a share such as \"50%\", or \"\" for no limit";
    let nothing = |key, quota: Quota, text| match quota.bytes(u64::MAX) {
        Some(0) => Err(Problem::new(&[key], text, size)),
        _ => Ok(()),
    };
    nothing("store.quota", store.quota, "a quota of 0 keeps no blob")?;
    let always = "every disk is fuller than 0";
    nothing("store.high_water", store.high_water, always)?;
    nothing("store.low_water", store.low_water, always)?;
    let keys = ["store.low_water", "store.high_water"];
    match (store.low_water, store.high_water) {
        (Quota::Bytes(low), Quota::Bytes(high)) if low > high => Err(Problem::new(
            &keys,
            format!("{low} is more than {high}"),
            "write a low_water below high_water",
        )),
        (Quota::Share(low), Quota::Share(high)) if low > high => Err(Problem::new(
            &keys,
            format!("{low} is more than {high}"),
            "write a low_water below high_water",
        )),
        _ => Ok(()),
    }
}

fn check_registry(name: &str, registry: &RegistrySettings) -> Checked {
    let key = |key: &str| format!("registries.{name:?}.{key}");
    endpoints(&key, registry)?;
    both(
        [&key("username"), &key("password_file")],
        [
            registry.username.is_some(),
            registry.password_file.is_some(),
        ],
        "write both for an account, or none",
    )?;
    both(
        [&key("client_cert"), &key("client_key")],
        [
            registry.client_cert.is_some(),
            registry.client_key.is_some(),
        ],
        "write both, the same file where it holds both, or none",
    )?;
    proxy_account(
        [
            &key("proxy"),
            &key("proxy_username"),
            &key("proxy_password_file"),
        ],
        &registry.proxy,
        [
            registry.proxy_username.is_some(),
            registry.proxy_password_file.is_some(),
        ],
    )?;
    resolve(&key("resolve"), registry)?;
    let files = [
        ("ca", &registry.ca),
        ("client_cert", &registry.client_cert),
        ("client_key", &registry.client_key),
        ("password_file", &registry.password_file),
        ("proxy_password_file", &registry.proxy_password_file),
    ];
    for (name, file) in files {
        if let Some(file) = file {
            paths(&[(&key(name), file)])?;
        }
    }
    Ok(())
}

fn endpoints(key: &dyn Fn(&str) -> String, registry: &RegistrySettings) -> Checked {
    let (one, several) = (key("endpoint"), key("endpoints"));
    let (ca, skip, client) = (key("ca"), key("skip_verify"), key("client_cert"));
    if registry.endpoint.is_some() && !registry.endpoints.is_empty() {
        return Err(Problem::new(
            &[&one, &several],
            "both are there",
            "write all of them into endpoints, in the order of asking",
        ));
    }
    for (at, endpoint) in registry.endpoints.iter().enumerate() {
        if registry.endpoints[..at].contains(endpoint) {
            return Err(Problem::new(
                &[&several],
                format!("{endpoint} is there twice"),
                "write each once",
            ));
        }
    }
    if registry.ca.is_some() && registry.skip_verify {
        return Err(Problem::new(
            &[&ca, &skip],
            "a certificate that any may replace needs no CA",
            "leave skip_verify out to have it checked with the CA",
        ));
    }
    let mut all = registry
        .endpoint
        .iter()
        .chain(&registry.endpoints)
        .peekable();
    let is_plain = all.peek().is_some() && all.all(|endpoint| endpoint.is_plain());
    let has_tls = registry.ca.is_some() || registry.skip_verify || registry.client_cert.is_some();
    if is_plain && has_tls {
        return Err(Problem::new(
            &[&one, &several, &ca, &skip, &client],
            "an http:// endpoint shows no certificate, and asks for none",
            "write https://, or leave ca, skip_verify and client_cert out",
        ));
    }
    Ok(())
}

/// Two keys that are of use together only.
fn both(keys: [&str; 2], there: [bool; 2], remedy: &str) -> Checked {
    match there[0] == there[1] {
        true => Ok(()),
        false => Err(Problem::new(
            &keys,
            "one is there without the other",
            remedy,
        )),
    }
}

/// `keys`: proxy, its user name, its password file.
fn proxy_account(keys: [&str; 3], proxy: &ProxyChoice, there: [bool; 2]) -> Checked {
    let [key, username, password] = keys;
    both(
        [username, password],
        there,
        "write both for an account, or none",
    )?;
    match (proxy, there[0]) {
        (ProxyChoice::Via(_), _) | (_, false) => Ok(()),
        (_, true) => Err(Problem::new(
            &[username, key],
            "an account at no proxy",
            format!("write {key} = \"http://HOST:PORT\", or leave the account out"),
        )),
    }
}

fn resolve(key: &str, registry: &RegistrySettings) -> Checked {
    for (host, addresses) in &registry.resolve {
        let is_name = !host.contains(':') && RegistryHost::parse(host).is_ok();
        if !is_name || host.parse::<IpAddr>().is_ok() {
            return Err(Problem::new(
                &[key],
                format!("{host:?} is no name of a host"),
                "write the name alone, without a port: { \"harbor.example\" = [\"10.0.0.5\"] }",
            ));
        }
        if addresses.is_empty() {
            return Err(Problem::new(
                &[key],
                format!("{host:?} has no address"),
                "write its addresses, or leave it to DNS",
            ));
        }
    }
    Ok(())
}

/// The settings of all origins.
fn origin(origin: &OriginSettings) -> Checked {
    proxy_account(
        [
            "origin.proxy",
            "origin.proxy_username",
            "origin.proxy_password_file",
        ],
        &origin.proxy,
        [
            origin.proxy_username.is_some(),
            origin.proxy_password_file.is_some(),
        ],
    )?;
    let files = [
        ("origin.proxy_ca", &origin.proxy_ca),
        ("origin.proxy_password_file", &origin.proxy_password_file),
    ];
    for (key, file) in files {
        if let Some(file) = file {
            paths(&[(key, file)])?;
        }
    }
    for dir in &origin.certs_d {
        paths(&[("origin.certs_d", dir)])?;
    }
    times(&[
        ("origin.connect_timeout", origin.connect_timeout.is_zero()),
        ("origin.read_timeout", origin.read_timeout.is_zero()),
        ("origin.endpoint_timeout", origin.endpoint_timeout.is_zero()),
    ])
}

fn numbers(numbers: &[(&str, u64, u64)]) -> Checked {
    match numbers.iter().find(|(_, n, most)| !(1..=*most).contains(n)) {
        None => Ok(()),
        Some((key, n, most)) => Err(Problem::new(
            &[key],
            format!("{n} is out of range"),
            format!("write a number from 1 to {most}"),
        )),
    }
}

fn times(times: &[(&str, bool)]) -> Checked {
    match times.iter().find(|(_, is_zero)| *is_zero) {
        None => Ok(()),
        Some((key, _)) => Err(Problem::new(
            &[key],
            "no time at all is too short",
            "write a time such as \"5s\"",
        )),
    }
}

fn certificates(key: &str, transport: Transport, tls: &TlsSettings) -> Checked {
    let files = [
        ("tls.ca", &tls.ca),
        ("tls.cert", &tls.cert),
        ("tls.key", &tls.key),
    ];
    // What cannot be looked at is reported by whoever reads it.
    let missing = files
        .iter()
        .find(|(_, path)| transport == Transport::Tls && !path.try_exists().unwrap_or(true));
    match missing {
        None => Ok(()),
        Some((file_key, path)) => Err(Problem::new(
            &[key, file_key],
            format!(
                "transport \"tls\" needs {}, which is not there",
                path.display()
            ),
            format!(
                "make this host's certificate with `hawker ca`, or write {key} = \"plain\" on a \
                 network where every host is trusted"
            ),
        )),
    }
}
