//! How far a download is: a bar on a terminal, lines elsewhere.

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use indicatif::{DecimalBytes, HumanBytes, ProgressBar, ProgressStyle};

/// Between two lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Progress {
    shown: Shown,
    started: Instant,
    length: Option<u64>,
    done: u64,
}

enum Shown {
    Nothing,
    Bar(ProgressBar),
    Lines { last: Instant },
}

impl Progress {
    /// Progress on standard error.
    pub(super) fn new(length: Option<u64>, quiet: bool) -> Self {
        let started = Instant::now();
        let shown = match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Shown::Nothing,
            (false, true) => Shown::Bar(bar(length)),
            (false, false) => Shown::Lines { last: started },
        };
        Self {
            shown,
            started,
            length,
            done: 0,
        }
    }

    pub(super) fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        match &mut self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => bar.inc(bytes),
            Shown::Lines { last } if last.elapsed() >= LINE_EVERY => {
                *last = Instant::now();
                eprintln!("hawker: {}", self.line());
            }
            Shown::Lines { .. } => {}
        }
    }

    fn line(&self) -> String {
        let rate = self.rate();
        let done = HumanBytes(self.done);
        match self.length {
            Some(length) if length > 0 => format!(
                "{done} of {} ({} %), {rate}/s",
                HumanBytes(length),
                self.done.saturating_mul(100) / length
            ),
            _ => format!("{done}, {rate}/s"),
        }
    }

    fn rate(&self) -> DecimalBytes {
        let seconds = self.started.elapsed().as_secs_f64().max(1e-3);
        DecimalBytes((self.done as f64 / seconds) as u64)
    }

    /// Takes the bar away; what is to be said at the end.
    pub(super) fn finish(self) -> String {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
        format!(
            "{} in {:.1} s ({}/s)",
            HumanBytes(self.done),
            self.started.elapsed().as_secs_f64(),
            self.rate()
        )
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

fn bar(length: Option<u64>) -> ProgressBar {
    let bar = match length {
        Some(length) => ProgressBar::new(length),
        None => ProgressBar::new_spinner(),
    };
    let template = match length {
        Some(_) => "{bar:30} {percent:>3} %  {bytes} of {total_bytes}  {bytes_per_sec}  eta {eta}",
        None => "{spinner} {bytes}  {bytes_per_sec}",
    };
    // A template that does not parse leaves indicatif's own style.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
