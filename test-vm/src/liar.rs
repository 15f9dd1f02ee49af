//! A host of the cluster that lies: it has a certificate, speaks the real protocol, and tells the
//! real scheduler that it has a blob.
//!
//! It counts whom it gave how many pieces and messages, and prints that as it goes on, one line each:
//! what a victim took before it had enough is known best to the liar.

mod tale;
mod talk;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use hawker_identity::{Identity, TlsFiles};
use hawker_model::Role;
use hawker_p2p::{Holding, Listener, Security, Session, SessionConfig, SessionEvent};
use tokio::task::JoinSet;

use self::{tale::Tale, talk::Talk};

const PORT: u16 = 4005;

/// What a liar does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A true list, and pieces with a wrong byte.
    WrongBytes,
    /// A list that ends in the digest and fits other bytes, and those bytes.
    FalseList,
    /// Pieces of half their length.
    Short,
    /// Pieces of 4 MiB, whatever their length.
    Endless,
    /// Takes requests and answers none.
    Stall,
    /// Has nothing of what it says it has.
    FalseHave,
    /// Messages of all kinds without end.
    Flood,
    /// As `false-list`, with a seed's certificate and for whatever it is asked.
    LyingSeed,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::WrongBytes,
        Self::FalseList,
        Self::Short,
        Self::Endless,
        Self::Stall,
        Self::FalseHave,
        Self::Flood,
        Self::LyingSeed,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::WrongBytes => "wrong-bytes",
            Self::FalseList => "false-list",
            Self::Short => "short",
            Self::Endless => "endless",
            Self::Stall => "stall",
            Self::FalseHave => "false-have",
            Self::Flood => "flood",
            Self::LyingSeed => "lying-seed",
        }
    }

    #[must_use]
    pub fn role(self) -> Role {
        match self {
            Self::LyingSeed => Role::Seed,
            _ => Role::Node,
        }
    }
}

/// How the program is told what it is.
#[derive(Debug, Clone, clap::Args)]
pub struct Liar {
    #[arg(long, value_enum)]
    kind: Kind,
    /// A file with the true blob.
    #[arg(long)]
    blob: PathBuf,
    /// `host:port`.
    #[arg(long)]
    scheduler: String,
    /// With `ca.pem`, `cert.pem` and `key.pem`.
    #[arg(long)]
    tls: PathBuf,
}

impl Liar {
    /// Lies until it is killed.
    ///
    /// # Errors
    /// When it cannot read its files or bind its port.
    pub fn run(&self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        runtime.block_on(self.lie())
    }

    async fn lie(&self) -> Result<()> {
        let identity = Identity::load(&TlsFiles::in_dir(&self.tls))?;
        let (host, role) = (identity.host().clone(), identity.role());
        let identity = Arc::new(identity);
        let blob = std::fs::read(&self.blob).context("cannot read the blob")?;
        let tale = Arc::new(Tale::new(self.kind, blob, &identity)?);
        let security = Security::Tls(identity);
        let mut listener = Listener::bind(SocketAddr::from(([0_u16; 8], PORT)), security.clone())?;
        let (session, mut events) = Session::spawn(SessionConfig {
            schedulers: vec![self.scheduler.clone()],
            security,
            host,
            role,
            advertise: Vec::new(),
            peer_port: Some(PORT),
            zone: String::new(),
        });
        let mut talks = JoinSet::new();
        loop {
            tokio::select! {
                event = events.recv() => {
                    let event = event.context("the session has ended")?;
                    if let SessionEvent::Up { .. } = event {
                        session.announce(holding(&tale));
                    }
                }
                accepted = listener.accept() => {
                    if let Ok(connection) = accepted {
                        talks.spawn(Talk::new(Arc::clone(&tale), connection).run());
                    }
                }
            }
        }
    }
}

fn holding(tale: &Tale) -> Holding {
    let count = tale.geometry().piece_count();
    // A seed need not say that it has it: it is asked as one.
    let claims = tale.kind() != Kind::LyingSeed;
    Holding {
        task: tale.task(),
        pieces: if claims { count } else { 0 },
        total: count,
        complete: claims,
    }
}
