//! `bench content`: what the content store costs. How long `Info` takes, which containerd asks inside
//! its one write transaction, with many blobs while a pull runs and promises are recorded; a pull
//! with containerd's own overlayfs against stock; what each profile writes and fetches.

mod bytes;
mod info;

use anyhow::{Result, bail};
use serde::Serialize;

use self::{bytes::BytesReport, info::InfoReport};
use super::pull::{ImageReport, pull_images};
use crate::cluster::{ContainerdVersion, Profile};

/// What containerd may wait for `Info` at the 99th percentile.
const INFO_LIMIT_MS: f64 = 1.0;
/// Seconds of a pull with many layers for each second of stock containerd.
const PULL_LIMIT: f64 = 0.7;

/// Answers, pulls and bytes of the content store.
#[derive(Debug, Clone, clap::Args)]
pub struct Content {
    /// How many blobs containerd has.
    #[arg(long, default_value_t = 10_000)]
    blobs: usize,
    /// How many pulls with each; none leaves them out.
    #[arg(long, default_value_t = 3)]
    runs: u16,
    /// "many" (fourteen layers), "python" (three) or "compilers" (one of some hundred MB).
    #[arg(long, default_value = "many")]
    image: String,
    #[arg(long, value_enum, default_value = "2")]
    containerd: ContainerdVersion,
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    info: Option<InfoReport>,
    pull: Option<ImageReport>,
    bytes: Option<BytesReport>,
}

impl Content {
    /// # Errors
    /// When something fails, or is slower than it may be.
    pub fn run(&self) -> Result<()> {
        let image = super::pull::image_named(&self.image)?;
        let info = match self.blobs {
            0 => None,
            blobs => Some(info::measure(self.containerd, blobs, &image)?),
        };
        let (mut pull, mut bytes) = (None, None);
        if self.runs > 0 {
            let profile = Profile::FullOverlayfs;
            let images = pull_images(
                self.containerd,
                profile,
                std::slice::from_ref(&image),
                self.runs,
            )?;
            pull = images.into_iter().next();
            bytes = Some(bytes::measure(self.containerd, &image)?);
        }
        let report = Report { info, pull, bytes };
        match self.json {
            true => println!("{}", serde_json::to_string_pretty(&report)?),
            false => println!("{}", report.render()),
        }
        report.check()
    }
}

impl Report {
    fn render(&self) -> String {
        let info = self.info.as_ref().map(InfoReport::render);
        let pull = self
            .pull
            .as_ref()
            .map(|it| it.render("full with overlayfs"));
        let bytes = self.bytes.as_ref().map(BytesReport::render);
        let parts: Vec<_> = [info, pull, bytes].into_iter().flatten().collect();
        parts.join("\n")
    }

    fn check(&self) -> Result<()> {
        if let Some(info) = &self.info
            && info.slowest_p99() > INFO_LIMIT_MS
        {
            let slowest = info.slowest_p99();
            bail!("Info takes {slowest:.2} ms at the 99th percentile, over {INFO_LIMIT_MS} ms");
        }
        match &self.pull {
            Some(pull) if pull.ratio() > PULL_LIMIT => {
                bail!("pull ÷ stock is {:.2}, over {PULL_LIMIT}", pull.ratio())
            }
            _ => Ok(()),
        }
    }
}
