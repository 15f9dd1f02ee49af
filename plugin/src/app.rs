//! `hawkerd` while it runs.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use hawker_config::{LimitSettings, NodeConfig};
use hawker_enrol::{Issuer, Keeper, KeeperHandle, RemoteIssuer};
use hawker_p2p::{Node, Security, StartError};
use hawker_snapshotter::{OpenSnapshotsError, Snapshots};
use tokio::{
    net::{TcpListener, UnixListener},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::info;

mod doors;
mod stores;

use self::{
    doors::{Doors, addresses},
    stores::{Stores, open_snapshots},
};
use crate::{
    containerd::{Containerd, ContainerdClient, Registrar},
    content::{ContentStore, OpenContentError},
    control::Control,
    limits::LimitDesk,
    metrics::Metrics,
    mirror::Mirror,
    promiser::Promiser,
    requests,
    server::{Limits, serve},
    settings::{SettingsError, containerd_settings, mirror_settings, node_settings},
    sharing::Sharing,
    socket::{SocketError, SocketFile},
};

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
        let security = settings.security.clone();
        let doors = Doors::bind(config).await?;
        let snapshots = match doors.containerd {
            Some(_) => Some(open_snapshots(config).await?),
            None => None,
        };
        let node = Node::start(settings).await?;
        let metrics = Metrics::new();
        metrics.collect_node(node.clone());
        let (control, socket) = doors.control;
        let (containerd, containerd_file) = doors.containerd.unzip();
        let mut app = Self {
            limits: LimitDesk::new(node.clone(), &config.limits),
            node,
            mirror: addresses(&doors.mirror),
            metrics: doors.metrics.as_ref().and_then(|it| it.local_addr().ok()),
            socket,
            containerd: containerd_file,
            keeper: None,
            content: None,
            doors: JoinSet::new(),
            watched: JoinSet::new(),
            close_doors: CancellationToken::new(),
            stop_watching: CancellationToken::new(),
        };
        metrics.collect_limits(app.limits.clone());
        app.spawn_keeper(config, security, &metrics);
        let stores = Stores::open(config, &app.node, &metrics).await?;
        app.spawn_stores(&stores);
        app.spawn_mirror(config, doors.mirror, &stores, &metrics);
        let containerd = containerd.zip(snapshots).map(|(listener, snapshots)| {
            app.spawn_containerd(config, listener, snapshots, &stores, &metrics)
        });
        app.spawn_sharing(config, &metrics);
        app.spawn_control(config, control, stores, containerd);
        app.spawn_metrics(config, doors.metrics, metrics);
        app.log_addresses(config);
        Ok(app)
    }

    /// Answers the node's questions, and keeps what is known of images.
    fn spawn_stores(&mut self, stores: &Stores) {
        self.content = Some(stores.content.clone());
        let answers = requests::answer(self.node.clone(), stores.layers.clone());
        let stop = self.stop_watching.clone();
        self.watched.spawn(async move {
            stop.run_until_cancelled(answers).await;
        });
        let keeping = stores.images.clone().keep(self.stop_watching.clone());
        self.watched.spawn(keeping);
    }

    fn spawn_promiser(&mut self, stores: &Stores) -> Promiser {
        let stop = self.close_doors.clone();
        let (content, images) = (stores.content.clone(), stores.images.clone());
        let promiser = Promiser::new(content, images, stop.clone());
        let ending = promiser.clone();
        self.doors.spawn(async move {
            stop.cancelled().await;
            ending.ended().await;
        });
        promiser
    }

    /// Looks after the certificate, where there is one.
    fn spawn_keeper(&mut self, config: &NodeConfig, security: Security, metrics: &Metrics) {
        let Security::Tls(identity) = security else {
            return;
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
        metrics.collect_keeper(handle.clone());
        self.keeper = Some(handle);
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

    fn spawn_mirror(
        &mut self,
        config: &NodeConfig,
        listeners: Vec<TcpListener>,
        stores: &Stores,
        metrics: &Metrics,
    ) {
        let mirror = Arc::new(Mirror::new(
            self.node.clone(),
            stores.layers.clone(),
            stores.images.clone(),
            Some(self.spawn_promiser(stores)),
            mirror_settings(config),
            metrics.mirror.clone(),
        ));
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

    /// Content, diffs and snapshots for containerd.
    fn spawn_containerd(
        &mut self,
        config: &NodeConfig,
        listener: UnixListener,
        snapshots: Snapshots,
        stores: &Stores,
        metrics: &Metrics,
    ) -> Containerd {
        let client = ContainerdClient::new(&config.containerd.address);
        let (content, stop) = (stores.content.clone(), self.close_doors.clone());
        let (registrar, registering) = Registrar::new(
            client.clone(),
            content.clone(),
            stores.images.clone(),
            stop.clone(),
        );
        self.doors.spawn(registering);
        let containerd = Containerd::new(
            snapshots,
            Arc::new(stores.supply(client)),
            containerd_settings(config),
            (metrics.add_snapshots(), metrics.add_diff()),
            Some(registrar),
            stop,
        );
        let counts = metrics.add_content(content.clone());
        let containerd = containerd.with_content(content, counts);
        self.doors.spawn(containerd.clone().serve(listener));
        containerd
    }

    fn spawn_control(
        &mut self,
        config: &NodeConfig,
        listener: UnixListener,
        stores: Stores,
        containerd: Option<Containerd>,
    ) {
        let containerd = self.containerd_path().zip(containerd);
        let control = Control::new(
            self.node.clone(),
            stores.access,
            stores.content,
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
