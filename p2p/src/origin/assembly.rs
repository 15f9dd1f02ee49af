//! From settings to registries: what `[registries]` says, and where it says nothing, what
//! containerd's and Docker's directories say.
//!
//! A file that `[registries]` names and that cannot be used is an error; one of another program's
//! settings is a warning.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

use hawker_model::RegistryHost;
use rustls::RootCertStore;
use url::Url;

use super::{
    Http, OriginConfig, OriginConfigError, ProxyChoice, RegistryEndpoint,
    address::AddressRule,
    certs_d::{CertsD, Dir, hosts::HostEntry},
    config,
    connector::{Connector, Place, Special, TlsSettings, place},
    dialer::{Dialer, Hosts, Proxies},
    endpoint::{Endpoint, Namespace, Serves, Standing},
    exchange,
    registries::{About, Registries, Registry},
    tls::{self, ClientIdentity, PemFileError, Trust},
};

/// Everything that requests need.
pub(super) struct Assembly {
    pub(super) registries: Registries,
    pub(super) rule: Arc<AddressRule>,
    /// For what an operator named, and where that leads.
    pub(super) trusting: Http,
    /// For all else: not even a configured private host may be reached by a stranger's redirect.
    pub(super) wary: Http,
    pub(super) proxies: Proxies,
    /// The connections to mirrors that are shown a client certificate.
    pub(super) to_mirrors: HashMap<Place, Http>,
    pub(super) warnings: Vec<String>,
}

/// A registry before its connections.
struct Plan {
    registry: Registry,
    trust: Trust,
    /// What its own places are spoken to with, where they are shown who we are.
    identified: Option<Arc<rustls::ClientConfig>>,
    hosts: Hosts,
}

/// What is collected on the way.
struct Workshop {
    native: RootCertStore,
    /// For whoever is led there, so without client certificates.
    special: Special,
    /// The mirrors, and what stands in for all registries, that are shown who we are.
    to_mirrors: Special,
    /// By which proxy everything goes that has no other.
    proxies: Proxies,
    warnings: Vec<String>,
}

/// Reads all files that the settings name.
pub(super) fn assemble(config: &OriginConfig) -> Result<Assembly, OriginConfigError> {
    let found = CertsD::read(&config.certs_d, &config.own_addresses);
    let mut workshop = Workshop {
        native: tls::native_roots(),
        special: Special::new(),
        to_mirrors: Special::new(),
        proxies: Proxies::Usual(Arc::new(config.proxies.clone())),
        warnings: found.warnings,
    };
    let names: BTreeSet<_> = config
        .registries
        .keys()
        .chain(found.registries.keys())
        .collect();
    let (nothing, no_dir) = (RegistryEndpoint::default(), Dir::default());
    let mut plans = Vec::new();
    for name in names {
        let settings = config.registries.get(name).unwrap_or(&nothing);
        let dir = found.registries.get(name);
        let mut plan = workshop.plan(name, settings, dir.unwrap_or(&no_dir))?;
        plan.registry.is_by_default = dir.is_none() && settings.endpoints.is_empty();
        plans.push(plan);
    }
    alias(&mut plans);
    let (default, everywhere) = workshop.default(&found.default);
    let rule = {
        let own = plans.iter().flat_map(|plan| {
            let endpoints = plan
                .registry
                .endpoints
                .iter()
                .map(|endpoint| endpoint.api());
            endpoints.chain([&plan.registry.base])
        });
        let urls = own.chain(default.iter().map(Endpoint::api));
        Arc::new(AddressRule::new(&config.allow_private, urls))
    };
    let lanes = Lanes {
        config,
        usual: settings(&everywhere, &workshop.native)?,
        proxy_tls: proxy_tls(config, &workshop.native)?,
        native: workshop.native,
        special: workshop.special,
        proxies: workshop.proxies,
        rule: Arc::clone(&rule),
    };
    let registries = plans
        .into_iter()
        .map(|plan| lanes.registry(plan))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Assembly {
        registries: Registries::new(registries, default),
        trusting: lanes.http(Arc::clone(&rule)),
        wary: lanes.http(Arc::new(rule.for_strangers())),
        to_mirrors: lanes.to_mirrors(workshop.to_mirrors),
        rule,
        proxies: lanes.proxies,
        warnings: workshop.warnings,
    })
}

/// Docker's other name of its hub.
fn alias(plans: &mut Vec<Plan>) {
    let named = |text: &str| {
        plans
            .iter()
            .position(|plan| plan.registry.name.as_str() == text)
    };
    let (Some(hub), None) = (named("docker.io"), named("index.docker.io")) else {
        return;
    };
    let Ok(name) = RegistryHost::parse("index.docker.io") else {
        return;
    };
    let hub = &plans[hub];
    let registry = Registry {
        name,
        base: hub.registry.base.clone(),
        endpoints: hub.registry.endpoints.clone(),
        http: None,
        identified: None,
        is_by_default: hub.registry.is_by_default,
        proxies: hub.registry.proxies.clone(),
        about: hub.registry.about.clone(),
    };
    plans.push(Plan {
        registry,
        trust: hub.trust.clone(),
        identified: hub.identified.clone(),
        hosts: Arc::clone(&hub.hosts),
    });
}

impl Workshop {
    fn plan(
        &mut self,
        name: &RegistryHost,
        settings: &RegistryEndpoint,
        dir: &Dir,
    ) -> Result<Plan, OriginConfigError> {
        let invalid = |reason: String| OriginConfigError::Endpoint {
            registry: name.clone(),
            reason,
        };
        let named = config::default_base(name).map_err(|error| invalid(error.to_string()));
        let base = match settings.endpoints.first() {
            Some(first) => first.clone(),
            None => named?,
        };
        for url in settings.endpoints.iter().chain([&base]) {
            exchange::check_url(url).map_err(invalid)?;
        }
        let mut about = About {
            registry: name.to_string(),
            ..About::default()
        };
        let trust = match written(name, settings, &mut about)? {
            Some(trust) => trust,
            None => self.trust_of_dir(dir, &mut about),
        };
        let endpoints: Vec<Endpoint> = match settings.endpoints.is_empty() {
            false => settings.endpoints.iter().map(Endpoint::own).collect(),
            true => self.endpoints_of_dir(dir, &base, &trust),
        };
        let mut identified = None;
        if !trust.is_usual() {
            let unsound = |reason| OriginConfigError::Client {
                registry: name.clone(),
                reason,
            };
            let tls = self::settings(&trust.without_client(), &self.native)?;
            if trust.client.is_some() {
                identified = Some(trust.settings(&self.native).map_err(unsound)?);
            }
            let own = endpoints
                .iter()
                .filter(|e: &&Endpoint| e.standing == Standing::Own);
            let places: Vec<_> = own.map(|endpoint| place(endpoint.api())).collect();
            for place in places.into_iter().chain([place(&base)]) {
                self.set_apart(place, &tls);
            }
        }
        let hosts = settings.resolve.iter();
        let hosts = hosts.map(|(host, ips)| (host.to_ascii_lowercase(), ips.clone()));
        Ok(Plan {
            registry: Registry {
                name: name.clone(),
                base,
                endpoints: endpoints.into_iter().map(Arc::new).collect(),
                http: None,
                identified: None,
                is_by_default: false,
                proxies: match &settings.proxy {
                    ProxyChoice::Usual => self.proxies.clone(),
                    ProxyChoice::Direct => Proxies::None,
                    ProxyChoice::Via(proxy) => Proxies::One(Arc::new(proxy.clone())),
                },
                about,
            },
            trust,
            identified,
            hosts: Arc::new(hosts.collect::<HashMap<_, _>>()),
        })
    }

    /// The mirrors that a directory names, then the registry itself.
    fn endpoints_of_dir(&mut self, dir: &Dir, base: &Url, trust: &Trust) -> Vec<Endpoint> {
        let mut endpoints = self.mirrors(dir);
        let server = dir.hosts.as_ref().map(|hosts| &hosts.server);
        if let Some(server) = server.filter(|server| server.api.is_some()) {
            endpoints.extend(entry_endpoints(server, Standing::Own));
            return endpoints;
        }
        let secure = secure_form(base).filter(|_| !trust.is_usual());
        for base in secure.iter().chain([base]) {
            let mut own = Endpoint::own(base);
            own.headers = server
                .map(|server| server.headers.clone())
                .unwrap_or_default();
            endpoints.push(own);
        }
        endpoints
    }

    fn mirrors(&mut self, dir: &Dir) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        for entry in dir.hosts.iter().flat_map(|hosts| &hosts.mirrors) {
            let trust = self.trust_of_entry(entry, &mut About::default());
            let of_entry = entry_endpoints(entry, Standing::Mirror);
            self.note_tls(&of_entry, &trust, dir);
            endpoints.extend(of_entry);
        }
        endpoints
    }

    /// What holds at endpoints that are no single registry's.
    fn note_tls(&mut self, endpoints: &[Endpoint], trust: &Trust, dir: &Dir) {
        if !trust.is_usual()
            && let Some(tls) = self.usable(&trust.without_client(), &dir.path)
        {
            for endpoint in endpoints {
                self.set_apart(place(endpoint.api()), &tls);
            }
        }
        if trust.client.is_some()
            && let Some(tls) = self.usable(trust, &dir.path)
        {
            for endpoint in endpoints {
                let there = self.to_mirrors.entry(place(endpoint.api()));
                there.or_insert_with(|| Arc::clone(&tls));
            }
        }
    }

    /// Another trust than the usual one holds at `place`.
    fn set_apart(&mut self, place: Place, tls: &Arc<rustls::ClientConfig>) {
        self.special.entry(place).or_insert_with(|| Arc::clone(tls));
    }

    /// What `_default` says of all registries: where they are asked, and authorities. To believe every
    /// certificate of every host, or to show all of them what is one's own, is not taken from there;
    /// a server that stands in for them all is another matter.
    fn default(&mut self, dir: &Dir) -> (Vec<Endpoint>, Trust) {
        let mut endpoints = self.mirrors(dir);
        let trust = self.trust_of_dir(dir, &mut About::default());
        let server = dir.hosts.as_ref().map(|hosts| &hosts.server);
        if let Some(server) = server.filter(|server| server.api.is_some()) {
            let stand_in = entry_endpoints(server, Standing::Own);
            self.note_tls(&stand_in, &trust, dir);
            endpoints.extend(stand_in);
        } else if trust.skip_verify
            || trust.client.is_some()
            || server.is_some_and(|server| !server.headers.is_empty())
        {
            self.warnings.push(format!(
                "{}: skip_verify, client and header for all registries are passed over; write \
                 them for each registry",
                dir.path.display()
            ));
        }
        (endpoints, trust.for_others())
    }

    fn trust_of_dir(&mut self, dir: &Dir, about: &mut About) -> Trust {
        let trust = match &dir.hosts {
            Some(hosts) => self.trust_of_entry(&hosts.server, about),
            None => {
                let client = dir.client.as_ref();
                let client = client.map(|(cert, key)| (cert.as_path(), key.as_path()));
                self.trust(&dir.authorities, client, false, about)
            }
        };
        // A second directory may hold certificates alone.
        let more = dir.hosts.as_ref().map(|_| &dir.authorities[..]);
        let more = self.trust(more.unwrap_or_default(), None, false, about);
        Trust {
            authorities: [trust.authorities.clone(), more.authorities].concat(),
            ..trust
        }
    }

    fn trust_of_entry(&mut self, entry: &HostEntry, about: &mut About) -> Trust {
        if let [_, second, ..] = &entry.client[..] {
            self.warnings.push(format!(
                "{}: of several client certificates the first one is shown",
                second.0.display()
            ));
        }
        let client = entry.client.first();
        let client = client.map(|(cert, key)| (cert.as_path(), key.as_deref().unwrap_or(cert)));
        let skip_verify = entry.skip_verify.unwrap_or(false);
        self.trust(&entry.authorities, client, skip_verify, about)
    }

    /// What of the files can be used; the rest is told.
    fn trust(
        &mut self,
        authorities: &[PathBuf],
        client: Option<(&Path, &Path)>,
        skip_verify: bool,
        about: &mut About,
    ) -> Trust {
        let mut trust = Trust {
            skip_verify,
            ..Trust::default()
        };
        for path in authorities {
            match tls::read_authorities(path) {
                Ok(found) => {
                    trust.authorities.extend(found);
                    about.ca = Some(path.display().to_string());
                }
                Err(error) => self.warn(&error),
            }
        }
        if let Some((cert, key)) = client {
            match tls::read_client(cert, key).map(Arc::new) {
                Ok(client) => {
                    let alone = Trust {
                        client: Some(Arc::clone(&client)),
                        ..Trust::default()
                    };
                    // Whether the two belong together.
                    if self.usable(&alone, cert).is_some() {
                        trust.client = Some(client);
                        about.client = Some(cert.display().to_string());
                    }
                }
                Err(error) => self.warn(&error),
            }
        }
        trust
    }

    fn usable(&mut self, trust: &Trust, path: &Path) -> Option<Arc<rustls::ClientConfig>> {
        match trust.settings(&self.native) {
            Ok(settings) => Some(settings),
            Err(reason) => {
                let warning = format!("{}: {reason}: it is passed over", path.display());
                self.warnings.push(warning);
                None
            }
        }
    }

    fn warn(&mut self, error: &PemFileError) {
        self.warnings.push(format!("{error}: it is passed over"));
    }
}

/// What `[registries]` says of TLS; `None` where it says nothing.
fn written(
    name: &RegistryHost,
    settings: &RegistryEndpoint,
    about: &mut About,
) -> Result<Option<Trust>, OriginConfigError> {
    let RegistryEndpoint {
        ca_file,
        client,
        skip_verify,
        ..
    } = settings;
    if ca_file.is_none() && client.is_none() && !skip_verify {
        return Ok(None);
    }
    let mut trust = Trust {
        skip_verify: *skip_verify,
        ..Trust::default()
    };
    if let Some(path) = ca_file {
        trust.authorities = tls::read_authorities(path).map_err(|error| wrong_ca(name, error))?;
        about.ca = Some(format!("registries.\"{name}\".ca, {}", path.display()));
    }
    if let Some(files) = client {
        let read = tls::read_client(&files.cert, &files.key);
        let identity: ClientIdentity = read.map_err(|error| OriginConfigError::Client {
            registry: name.clone(),
            reason: error.to_string(),
        })?;
        trust.client = Some(Arc::new(identity));
        let shown = files.cert.display();
        about.client = Some(format!("registries.\"{name}\".client_cert, {shown}"));
    }
    Ok(Some(trust))
}

fn wrong_ca(registry: &RegistryHost, error: PemFileError) -> OriginConfigError {
    let registry = registry.clone();
    match error {
        PemFileError::Read { path, reason } => OriginConfigError::ReadCa {
            registry,
            path,
            reason,
        },
        PemFileError::NoCertificate(path) | PemFileError::NoKey(path) => {
            OriginConfigError::NoCa { registry, path }
        }
    }
}

/// An entry of `hosts.toml` as endpoints. containerd asks an `http://` host of which TLS settings are
/// known as `https://` first, unless the port leaves no doubt.
fn entry_endpoints(entry: &HostEntry, standing: Standing) -> Vec<Endpoint> {
    let serves = Serves {
        pull: entry.pull,
        resolve: entry.resolve,
    };
    let Some(api) = entry.api.as_ref().filter(|_| serves.pull || serves.resolve) else {
        return Vec::new();
    };
    let endpoint = |api: Url| {
        let mut endpoint = Endpoint::new(api, standing, Namespace::Told, serves);
        endpoint.headers = entry.headers.clone();
        endpoint
    };
    let secure = secure_form(api).filter(|_| entry.has_tls());
    let all = secure.into_iter().chain([api.clone()]);
    all.map(endpoint).collect()
}

/// The `https://` form of an `http://` URL, unless its port leaves no doubt.
fn secure_form(url: &Url) -> Option<Url> {
    let port = url.port_or_known_default();
    let rest = url
        .as_str()
        .strip_prefix("http:")
        .filter(|_| port != Some(80))?;
    Url::parse(&format!("https:{rest}")).ok()
}

fn settings(
    trust: &Trust,
    native: &RootCertStore,
) -> Result<Arc<rustls::ClientConfig>, OriginConfigError> {
    trust.settings(native).map_err(OriginConfigError::Tls)
}

fn proxy_tls(
    config: &OriginConfig,
    native: &RootCertStore,
) -> Result<Arc<rustls::ClientConfig>, OriginConfigError> {
    let mut trust = Trust::default();
    if let Some(path) = &config.proxies.ca_file {
        trust.authorities =
            tls::read_authorities(path).map_err(|error| OriginConfigError::ProxyCa {
                reason: error.to_string(),
            })?;
    }
    let settings = settings(&trust, native)?;
    // A proxy speaks HTTP/1.1 with us, whatever flows through it.
    let mut settings = Arc::unwrap_or_clone(settings);
    settings.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(settings))
}

/// Makes connections for registries.
struct Lanes<'a> {
    config: &'a OriginConfig,
    usual: Arc<rustls::ClientConfig>,
    proxy_tls: Arc<rustls::ClientConfig>,
    native: RootCertStore,
    special: Special,
    proxies: Proxies,
    rule: Arc<AddressRule>,
}

impl Lanes<'_> {
    /// The connections of everything that has none of its own.
    fn http(&self, rule: Arc<AddressRule>) -> Http {
        let tls = TlsSettings {
            usual: Arc::clone(&self.usual),
            special: self.special.clone(),
        };
        self.pooled(rule, self.proxies.clone(), Hosts::default(), tls)
    }

    /// The connections to mirrors that are shown who we are. Whatever they lead to is not.
    fn to_mirrors(&self, mirrors: Special) -> HashMap<Place, Http> {
        let to_mirror = |(place, identified): (Place, _)| {
            let mut tls = TlsSettings {
                usual: Arc::clone(&self.usual),
                special: self.special.clone(),
            };
            tls.special.insert(place.clone(), identified);
            let (rule, proxies) = (Arc::clone(&self.rule), self.proxies.clone());
            (place, self.pooled(rule, proxies, Hosts::default(), tls))
        };
        mirrors.into_iter().map(to_mirror).collect()
    }

    /// A registry with connections of its own where other settings hold for them.
    fn registry(&self, plan: Plan) -> Result<Registry, OriginConfigError> {
        let is_usual = matches!(plan.registry.proxies, Proxies::Usual(_))
            && plan.hosts.is_empty()
            && plan.trust.authorities.is_empty();
        if is_usual && plan.identified.is_none() {
            return Ok(plan.registry);
        }
        let mut tls = TlsSettings {
            usual: Arc::clone(&self.usual),
            special: self.special.clone(),
        };
        if !plan.trust.authorities.is_empty() {
            // Its token server, and what it redirects to, are often of the same authority.
            tls.usual = settings(&plan.trust.for_others(), &self.native)?;
        }
        let own: Vec<Place> = plan.registry.own_urls().map(place).collect();
        if !plan.trust.is_usual() {
            let led_there = settings(&plan.trust.without_client(), &self.native)?;
            let led_there = own.iter().map(|own| (own.clone(), Arc::clone(&led_there)));
            tls.special.extend(led_there);
        }
        let pooled = |tls| {
            let (rule, hosts) = (Arc::clone(&self.rule), Arc::clone(&plan.hosts));
            self.pooled(rule, plan.registry.proxies.clone(), hosts, tls)
        };
        let identified = plan.identified.map(|identified| {
            let mut tls = tls.clone();
            let own = own.into_iter().map(|own| (own, Arc::clone(&identified)));
            tls.special.extend(own);
            pooled(tls)
        });
        Ok(Registry {
            http: (!is_usual).then(|| pooled(tls)),
            identified,
            ..plan.registry
        })
    }

    fn pooled(
        &self,
        rule: Arc<AddressRule>,
        proxies: Proxies,
        hosts: Hosts,
        tls: TlsSettings,
    ) -> Http {
        let timeout = self.config.connect_timeout;
        let proxy_tls = Arc::clone(&self.proxy_tls);
        let connector = Connector {
            dialer: Dialer::new(rule, timeout, proxies, hosts, proxy_tls),
            timeout,
            tls: Arc::new(tls),
        };
        Http::new(connector)
    }
}
