//! `hawkerd` while it runs.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use hawker_config::{LimitSettings, NodeConfig};
use hawker_enrol::{Issuer, Keeper, KeeperHandle, RemoteIssuer};
use hawker_p2p::{Node, Security, StartError};
use hawker_snapshotter::{OpenSnapshotsError, Snapshots, SnapshotsConfig};
use tokio::{
    net::{TcpListener, UnixListener},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    access::Access,
    containerd::{self, Catalogue, Containerd, ContainerdClient, NodeSupply, Registrar},
    content::{ContentStore, OpenContentError},
    control::Control,
    layers::{ImageIndex, Layers},
    limits::LimitDesk,
    metrics::Metrics,
    mirror::Mirror,
    promiser::Promiser,
    requests,
    server::{Limits, serve},
    settings::{
        SettingsError, containerd_settings, layers_settings, mirror_settings, node_settings,
        rights_settings,
    },
    sharing::Sharing,
    socket::{SocketError, SocketFile, SocketPlace, activated_or_listen, listen as listen_unix},
};

/// Who may use the control socket: root and the daemon's group.
const CONTROL_MODE: u32 = 0o660;

/// A running `hawkerd`. Dropping it cuts everything; [`App::drain`] ends it well.
#[derive(Debug)]
pub struct App {
    node: Node,
    limits: LimitDesk,
    mirror: Vec<SocketAddr>,
    metrics: Option<SocketAddr>,
    socket: SocketFile,
    containerd: Option<SocketFile>,
    keeper: Option<KeeperHandle>,
    content: Option<ContentStore>,
    /// Mirror, containerd's socket and control: drained first.
    doors: JoinSet<()>,
    /// Metrics, answers to the node's questions, certificates: watched until the end.
    watched: JoinSet<()>,
    close_doors: CancellationToken,
    stop_watching: CancellationToken,
}

/// Why `hawkerd` does not start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Node(#[from] StartError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(
        "snapshotter.dir: {0}; name a directory that hawkerd may write to, or set \
         `containerd.enabled = false` where containerd does not use hawker"
    )]
    Snapshots(#[from] OpenSnapshotsError),
    #[error(transparent)]
    Content(#[from] OpenContentError),
    #[error("stopped while it was starting")]
    Stopping,
    #[error("cannot listen on {address} ({key}): {source}; is another hawkerd running?")]
    Listen {
        address: SocketAddr,
        key: &'static str,
        source: io::Error,
    },
}

impl AppError {
    /// Whether the settings are at fault and not the moment.
    pub fn is_config(&self) -> bool {
        matches!(self, Self::Settings(_))
    }
}

impl App {
    /// Binds everything, then starts everything.
    pub async fn start(config: &NodeConfig) -> Result<Self, AppError> {
        let settings = node_settings(config)?;
        let control = SocketPlace {
            path: &config.control.socket,
            mode: CONTROL_MODE,
            key: "control.socket",
        };
        let (control, socket) = listen_unix(control).await?;
        let (containerd, containerd_file) = listen_containerd(config).await?.unzip();
        let metrics_listener = match config.metrics.listen {
            Some(address) => Some(listen(address.socket(), "metrics.listen").await?),
            None => None,
        };
        let mirror_listeners = match config.mirror.enabled {
            true => listen_both(config.mirror.listen.socket()).await?,
            false => Vec::new(),
        };
        let containerd = match containerd {
            Some(listener) => Some((listener, open_snapshots(config).await?)),
            None => None,
        };
        let security = settings.security.clone();
        let node = Node::start(settings).await?;
        let mut app = Self {
            limits: LimitDesk::new(node.clone(), &config.limits),
            node,
            mirror: addresses(&mirror_listeners),
            metrics: metrics_listener.as_ref().and_then(|l| l.local_addr().ok()),
            socket,
            containerd: containerd_file,
            keeper: None,
            content: None,
            doors: JoinSet::new(),
            watched: JoinSet::new(),
            close_doors: CancellationToken::new(),
            stop_watching: CancellationToken::new(),
        };
        let metrics = Metrics::new();
        metrics.collect_node(app.node.clone());
        app.keeper = app.spawn_keeper(config, security);
        if let Some(keeper) = &app.keeper {
            metrics.collect_keeper(keeper.clone());
        }
        let access = Access::new(
            app.node.clone(),
            config.mirror.origin_timeout.duration(),
            rights_settings(config),
            metrics.add_access(),
        );
        let layers = Layers::new(app.node.clone(), access.clone(), layers_settings(config));
        let answers = requests::answer(app.node.clone(), layers.clone());
        let stop = app.stop_watching.clone();
        app.watched.spawn(async move {
            stop.run_until_cancelled(answers).await;
        });
        let images = open_images(config, layers.clone()).await?;
        let keeping = images.clone().keep(app.stop_watching.clone());
        app.watched.spawn(keeping);
        let content = ContentStore::open(
            config.store.dir.join("content"),
            app.node.clone(),
            layers.clone(),
            images.clone(),
        );
        let content = content.await?;
        app.content = Some(content.clone());
        let promiser = app.spawn_promiser(content.clone(), images.clone());
        let client = ContainerdClient::new(&config.containerd.address);
        let supply = NodeSupply {
            layers: layers.clone(),
            images: images.clone(),
            content: content.clone(),
            catalogue: Catalogue::new(client.clone()),
        };
        let registrar = containerd.is_some().then(|| {
            let stop = app.close_doors.clone();
            let (registrar, working) =
                Registrar::new(client, content.clone(), images.clone(), stop);
            app.doors.spawn(working);
            registrar
        });
        let mirror = Mirror::new(
            app.node.clone(),
            layers,
            images,
            Some(promiser),
            mirror_settings(config),
            metrics.mirror.clone(),
        );
        app.spawn_mirror(config, mirror_listeners, mirror);
        let containerd = containerd.map(|(listener, snapshots)| {
            let containerd = Containerd::new(
                snapshots,
                Arc::new(supply),
                containerd_settings(config),
                (metrics.add_snapshots(), metrics.add_diff()),
                registrar,
                app.close_doors.clone(),
            );
            let counts = metrics.add_content(content.clone());
            let containerd = containerd.with_content(content.clone(), counts);
            app.doors.spawn(containerd.clone().serve(listener));
            containerd
        });
        app.spawn_sharing(config, &metrics);
        app.spawn_control(config, control, (access, content), containerd);
        app.spawn_metrics(config, metrics_listener, metrics);
        app.log_addresses(config);
        Ok(app)
    }

    fn spawn_promiser(&mut self, content: ContentStore, images: ImageIndex) -> Promiser {
        let stop = self.close_doors.clone();
        let promiser = Promiser::new(content, images, stop.clone());
        let ending = promiser.clone();
        self.doors.spawn(async move {
            stop.cancelled().await;
            ending.ended().await;
        });
        promiser
    }

    /// Looks after the certificate, where there is one.
    fn spawn_keeper(&mut self, config: &NodeConfig, security: Security) -> Option<KeeperHandle> {
        let Security::Tls(identity) = security else {
            return None;
        };
        let issuer = config.tls.issuer.as_ref().map(|address| {
            let issuer = RemoteIssuer::new(address.to_string());
            Box::new(issuer) as Box<dyn Issuer>
        });
        let (keeper, handle) = Keeper::new(identity, issuer);
        let stop = self.stop_watching.clone();
        self.watched.spawn(async move {
            stop.run_until_cancelled(keeper.run()).await;
        });
        Some(handle)
    }

    /// Reads the certificate files again, as SIGHUP asks; `limits` are those of the settings as they
    /// are now, if they can be read.
    pub fn reload(&self, limits: Option<LimitSettings>) {
        if let Some(limits) = limits {
            self.limits.replace(limits);
        }
        if let Some(keeper) = &self.keeper {
            keeper.reload();
        }
    }

    fn spawn_mirror(&mut self, config: &NodeConfig, listeners: Vec<TcpListener>, mirror: Mirror) {
        let mirror = Arc::new(mirror);
        for listener in listeners {
            let mirror = Arc::clone(&mirror);
            let handler = move |request| {
                let mirror = Arc::clone(&mirror);
                async move { mirror.answer(request).await }
            };
            let stop = self.close_doors.clone();
            self.doors
                .spawn(serve(listener, limits(config), stop, handler));
        }
    }

    fn spawn_control(
        &mut self,
        config: &NodeConfig,
        listener: UnixListener,
        (access, content): (Access, ContentStore),
        containerd: Option<Containerd>,
    ) {
        let containerd = self.containerd_path().zip(containerd);
        let control = Control::new(
            self.node.clone(),
            access,
            content,
            self.limits.clone(),
            self.mirror.clone(),
            containerd,
        );
        let control = Arc::new(control);
        let handler = move |request| {
            let control = Arc::clone(&control);
            async move { control.answer(request).await }
        };
        let stop = self.close_doors.clone();
        self.doors
            .spawn(serve(listener, limits(config), stop, handler));
    }

    /// Shares blobs with containerd's own content store.
    fn spawn_sharing(&mut self, config: &NodeConfig, metrics: &Metrics) {
        if !config.containerd.enabled || !config.containerd.share {
            return;
        }
        let metrics = metrics.add_sharing(self.node.clone());
        let sharing = Sharing::new(self.node.clone(), &config.containerd.address, metrics);
        let stop = self.close_doors.clone();
        self.watched.spawn(async move {
            stop.run_until_cancelled(sharing.run()).await;
        });
    }

    fn spawn_metrics(
        &mut self,
        config: &NodeConfig,
        listener: Option<TcpListener>,
        metrics: Metrics,
    ) {
        let Some(listener) = listener else { return };
        let handler = move |request| std::future::ready(metrics.answer(&request));
        let limits = Limits {
            grace: Duration::ZERO,
            connections: 64,
            ..limits(config)
        };
        let stop = self.stop_watching.clone();
        self.watched.spawn(serve(listener, limits, stop, handler));
    }

    fn log_addresses(&self, config: &NodeConfig) {
        for address in &self.mirror {
            info!(%address, registry = %config.mirror.default_registry, "mirror listens");
        }
        if let Some(address) = self.metrics {
            info!(%address, "metrics and health listen");
        }
        if let Some(socket) = &self.containerd {
            info!(path = %socket.path().display(), "snapshotter listens for containerd");
        }
        info!(path = %self.socket.path().display(), "control socket listens");
        match self.node.peer_address() {
            Some(address) => info!(%address, "peers may connect"),
            None => info!("standing alone: neither scheduler nor seed is configured"),
        }
    }

    /// Where the mirror listens.
    pub fn mirror_addresses(&self) -> &[SocketAddr] {
        &self.mirror
    }

    /// Where metrics and health are served.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// Where the control socket is.
    pub fn control_path(&self) -> PathBuf {
        self.socket.path().to_owned()
    }

    /// Where containerd finds the snapshotter.
    pub fn containerd_path(&self) -> Option<PathBuf> {
        let socket = self.containerd.as_ref();
        socket.map(|socket| socket.path().to_owned())
    }

    /// Waits until a part ends that never should.
    pub async fn failed(&mut self) {
        tokio::select! {
            Some(_) = self.doors.join_next() => {}
            Some(_) = self.watched.join_next() => {}
            else => {}
        }
    }

    /// Takes no more requests, lets running responses end within the grace period, then leaves the
    /// network and writes the store's state.
    pub async fn drain(mut self) {
        self.close_doors.cancel();
        while self.doors.join_next().await.is_some() {}
        if let Some(content) = &self.content {
            content.close().await;
        }
        self.node.shutdown().await;
        self.stop_watching.cancel();
        while self.watched.join_next().await.is_some() {}
    }
}

fn limits(config: &NodeConfig) -> Limits {
    Limits {
        grace: config.mirror.stop_grace.duration(),
        ..Limits::default()
    }
}

async fn listen_containerd(
    config: &NodeConfig,
) -> Result<Option<(UnixListener, SocketFile)>, SocketError> {
    if !config.containerd.enabled {
        return Ok(None);
    }
    let place = SocketPlace {
        path: &config.containerd.socket,
        mode: containerd::SOCKET_MODE,
        key: "containerd.socket",
    };
    activated_or_listen(place).await.map(Some)
}

async fn open_snapshots(config: &NodeConfig) -> Result<Snapshots, AppError> {
    let dir = config.snapshotter.dir.clone();
    let open = move || Snapshots::open(&dir, SnapshotsConfig::default());
    let opened = tokio::task::spawn_blocking(open).await;
    Ok(opened.map_err(|_| AppError::Stopping)??)
}

async fn open_images(config: &NodeConfig, layers: Layers) -> Result<ImageIndex, AppError> {
    let dir = config.store.dir.join("images");
    let open = move || ImageIndex::open(&dir, layers);
    let opened = tokio::task::spawn_blocking(open).await;
    opened.map_err(|_| AppError::Stopping)
}

async fn listen(address: SocketAddr, key: &'static str) -> Result<TcpListener, AppError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| AppError::Listen {
        address,
        key,
        source,
    })
}

/// The configured address; for 127.0.0.1 also `[::1]` on the same port, where that works: some
/// clients look up "localhost".
async fn listen_both(address: SocketAddr) -> Result<Vec<TcpListener>, AppError> {
    let mut listeners = vec![listen(address, "mirror.listen").await?];
    if address.ip() == IpAddr::from([127, 0, 0, 1]) {
        let port = addresses(&listeners)
            .first()
            .map_or_else(|| address.port(), SocketAddr::port);
        let beside = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port);
        match TcpListener::bind(beside).await {
            Ok(listener) => listeners.push(listener),
            Err(error) => warn!(address = %beside, %error, "the mirror listens on IPv4 only"),
        }
    }
    Ok(listeners)
}

fn addresses(listeners: &[TcpListener]) -> Vec<SocketAddr> {
    let address = |listener: &TcpListener| listener.local_addr().ok();
    listeners.iter().filter_map(address).collect()
}
