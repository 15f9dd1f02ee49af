//! What a run does to containerd's content: nothing, or it goes where the settings say that it is.
//!
//! It is moved before containerd is restarted, so that it finds all there, and what came meanwhile
//! once more after that. The other side keeps what it has: a run that fails goes back to it. What a
//! run that is killed would leave to do is noted before it begins ([`Debt`]).

use std::{
    cell::OnceCell,
    path::{Path, PathBuf},
};

use hawker_config::NodeConfig;

use super::{
    CliError,
    standing::{self, Standing},
};
use crate::{
    cli::progress,
    setup::{
        content::{Debt, Moved, Mover, Pending, Progress, Way},
        machine::Containerd,
        restart::Restart,
        verify::content::{self, Sample},
    },
};

pub(super) struct Switch {
    mover: Mover,
    pending: Pending,
    /// Whether containerd keeps its content in hawkerd now.
    from_ours: bool,
    /// Whether it is to.
    to_ours: bool,
    /// containerd's settings.
    config: PathBuf,
    running: Option<Containerd>,
    /// Some of containerd's images, as they could be read before.
    sample: OnceCell<Sample>,
}

impl Switch {
    pub(super) fn new(
        config: &Path,
        before: &Standing,
        to_ours: bool,
        hawkerd: &NodeConfig,
        pending: Pending,
    ) -> Self {
        let control = hawkerd.control.socket.clone();
        Self {
            mover: Mover::new(control, before.local_dir.clone()),
            pending,
            from_ours: before.is_ours,
            to_ours,
            config: config.to_owned(),
            running: before.running.clone(),
            sample: OnceCell::new(),
        }
    }

    /// Which way content goes.
    fn way(&self) -> Option<Way> {
        match (self.from_ours, self.to_ours) {
            (_, true) => Some(Way::In),
            (true, false) => Some(Way::Out),
            (false, false) => None,
        }
    }

    /// Whether the settings on disk say that it has its content in hawkerd after its next start.
    fn is_ours_next(&self) -> bool {
        standing::is_ours_next(&self.config)
    }

    /// Says what is going to happen.
    pub(super) fn announce(&self) {
        let dir = self.mover.dir().display();
        match self.way() {
            Some(Way::In) if !self.from_ours => {
                println!("containerd's content in {dir} is taken into Hawker's store");
            }
            Some(Way::Out) => println!("containerd's content is given back, to {dir}"),
            _ => {}
        }
    }

    /// Fails when what a switch needs is not there, before anything is changed.
    pub(super) async fn require(&self, restart: Option<&Restart>) -> Result<(), CliError> {
        let Some(way) = self.way() else { return Ok(()) };
        if self.from_ours != self.to_ours && self.running.is_some() && restart.is_none() {
            return Err(CliError::Failed(
                "where containerd has its content is changed together with a restart of it, so \
                 that nothing is missing: give --restart (or --restart-command); running \
                 containers go on. Nothing was changed"
                    .to_owned(),
            ));
        }
        self.mover.reach(way).await.map_err(CliError::failed)?;
        if let Some(containerd) = &self.running {
            let sample = Sample::take(containerd).await.map_err(CliError::failed)?;
            // It may be looked at once only: later it would miss what is lost.
            let _ = self.sample.set(sample);
        }
        Ok(())
    }

    /// Moves all, before the restart.
    pub(super) async fn before(&self) -> Result<(), CliError> {
        let Some(way) = self.way() else { return Ok(()) };
        match way {
            Way::Out => self.owe(Debt::GiveBack)?,
            Way::In if self.from_ours => {}
            // It may be started with its content in hawkerd at any time.
            Way::In if self.is_ours_next() => self.owe(Debt::GiveBack)?,
            Way::In => self.owe(Debt::Release)?,
        }
        self.tell(way, &self.moved(way).await?);
        Ok(())
    }

    /// The settings are going to be written: from then on containerd may be started with them.
    pub(super) fn written(&self) -> Result<(), CliError> {
        match !self.from_ours && self.to_ours {
            true => self.owe(Debt::GiveBack),
            false => Ok(()),
        }
    }

    fn owe(&self, debt: Debt) -> Result<(), CliError> {
        self.pending.owe(debt).map_err(CliError::failed)
    }

    /// Moves what came meanwhile, and looks whether containerd's images are there.
    pub(super) async fn after(&self, containerd: &Containerd) -> Result<(), CliError> {
        let Some(way) = self.way() else { return Ok(()) };
        let moved = self.moved(way).await?;
        if moved.blobs > 0 {
            self.tell(way, &moved);
        }
        if let Some(sample) = self.sample.get() {
            let count = sample.read(containerd).await.map_err(CliError::failed)?;
            println!("verified: {count} manifests of containerd's images were read");
        }
        if self.to_ours {
            content::trial(containerd).await.map_err(CliError::failed)?;
        }
        Ok(())
    }

    /// Moves back what came after a switch that is taken back.
    pub(super) async fn back(&self) -> Result<(), CliError> {
        match (self.from_ours, self.to_ours) {
            (false, true) => self.moved(Way::Out).await.map(drop),
            (true, false) => self.moved(Way::In).await.map(drop),
            _ => Ok(()),
        }
    }

    /// All that containerd has was moved back: its copy in hawkerd is one too many.
    pub(super) fn moved_back(&self) -> Result<(), CliError> {
        match !self.from_ours && self.to_ours && !self.is_ours_next() {
            true => self.give_up(),
            false => Ok(()),
        }
    }

    /// The switch is off, and containerd goes on as it did.
    pub(super) async fn abandon(&self) -> Result<(), CliError> {
        match (self.from_ours, self.to_ours) {
            // As before, or since they could not be taken back.
            (false, true) if self.is_ours_next() => Ok(()),
            (false, true) => self.repay().await,
            (true, false) => self.forget(),
            _ => Ok(()),
        }
    }

    /// containerd gets nothing back that hawkerd has of it.
    pub(super) fn give_up(&self) -> Result<(), CliError> {
        self.pending.note(Debt::Release).map_err(CliError::failed)
    }

    fn forget(&self) -> Result<(), CliError> {
        self.pending.forget().map_err(CliError::failed)
    }

    /// The switch is done: hawkerd keeps no longer what is containerd's own again, be it from an
    /// earlier run.
    pub(super) async fn finish(&self) -> Result<(), CliError> {
        match self.way() {
            Some(Way::Out) => self.release().await,
            // What was to be given back is not any more.
            Some(Way::In) => self.forget(),
            None => self.settle().await,
        }
    }

    /// Does what an earlier run left to do. containerd keeps its content itself, now and after its
    /// next start.
    pub(super) async fn settle(&self) -> Result<(), CliError> {
        if self.is_owing()? {
            println!("an earlier run was cut short: containerd's content is its own");
        }
        self.repay().await
    }

    /// Whether an earlier run left something to do.
    pub(super) fn is_owing(&self) -> Result<bool, CliError> {
        let noted = self.pending.noted().map_err(CliError::failed)?;
        Ok(noted.is_some())
    }

    /// The same without a word about an earlier run.
    pub(super) async fn repay(&self) -> Result<(), CliError> {
        let noted = self.pending.noted().map_err(CliError::failed)?;
        let Some(debt) = noted else { return Ok(()) };
        if debt == Debt::GiveBack {
            self.tell(Way::Out, &self.moved(Way::Out).await?);
        }
        self.release().await
    }

    async fn release(&self) -> Result<(), CliError> {
        let released = self.mover.release().await.map_err(CliError::failed)?;
        println!("Hawker keeps {released} blobs as cache only, within its quota");
        self.forget()
    }

    async fn moved(&self, way: Way) -> Result<Moved, CliError> {
        // A containerd that never ran, or whose own store was removed since.
        let may_be_missing = self.from_ours || self.running.is_none();
        if way == Way::In && may_be_missing && !self.mover.dir().exists() {
            return Ok(Moved::default());
        }
        let mut shown: Option<progress::Progress> = None;
        let mut done = 0;
        let mut show = |progress: Progress| {
            let bar = shown
                .get_or_insert_with(|| progress::Progress::new(Some(progress.bytes_total), false));
            bar.advance(progress.bytes.saturating_sub(done));
            done = done.max(progress.bytes);
        };
        let moved = self.mover.move_all(way, &mut show).await;
        moved.map_err(CliError::failed)
    }

    fn tell(&self, way: Way, moved: &Moved) {
        let (verb, dir) = (
            match way {
                Way::In => "taken into Hawker's store from",
                Way::Out => "given back to",
            },
            self.mover.dir().display(),
        );
        println!(
            "{verb} {dir}: {} blobs, {} ({} without a copy); {} were there",
            moved.blobs,
            indicatif::HumanBytes(moved.bytes),
            indicatif::HumanBytes(moved.shared_bytes),
            moved.known
        );
        for skipped in &moved.skipped {
            println!("note: left out {skipped}");
        }
    }
}
