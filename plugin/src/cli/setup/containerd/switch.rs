//! What a run does to containerd's content: nothing, or it goes where the settings say that it is.
//!
//! It is moved before containerd is restarted, so that it finds all there, and what came meanwhile
//! once more after that. The other side keeps what it has: a run that fails goes back to it.

use std::cell::OnceCell;

use hawker_config::NodeConfig;

use super::{CliError, standing::Standing};
use crate::{
    cli::progress,
    setup::{
        content::{Moved, Mover, Pending, Progress, Way},
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
    running: Option<Containerd>,
    /// Some of containerd's images, as they could be read before.
    sample: OnceCell<Sample>,
}

impl Switch {
    pub(super) fn new(
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
        if way == Way::Out {
            self.pending.note().map_err(CliError::failed)?;
        }
        self.tell(way, &self.moved(way).await?);
        Ok(())
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

    /// The switch was taken back, and all is again where it was.
    pub(super) async fn abandon(&self) -> Result<(), CliError> {
        if !self.from_ours && self.to_ours {
            let released = self.mover.release().await;
            released.map_err(CliError::failed)?;
        }
        self.forget()
    }

    /// Nothing is to be given back any more.
    pub(super) fn forget(&self) -> Result<(), CliError> {
        self.pending.forget().map_err(CliError::failed)
    }

    /// The switch is done: hawkerd keeps no longer what is containerd's own again.
    pub(super) async fn finish(&self) -> Result<(), CliError> {
        match self.way() {
            Some(Way::Out) => self.release().await,
            // What was to be given back is not any more.
            Some(Way::In) => self.forget(),
            None => Ok(()),
        }
    }

    /// Ends what an earlier run was killed in: giving content back to a containerd that has its own
    /// store already.
    pub(super) async fn settle(&self) -> Result<(), CliError> {
        if self.from_ours || self.to_ours || !self.is_pending()? {
            return Ok(());
        }
        println!("an earlier run was cut short: containerd's content is given back");
        self.tell(Way::Out, &self.moved(Way::Out).await?);
        self.release().await
    }

    /// Whether an earlier run was killed while it gave content back.
    pub(super) fn is_pending(&self) -> Result<bool, CliError> {
        self.pending.is_noted().map_err(CliError::failed)
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
