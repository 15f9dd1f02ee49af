//! Long steps as people see them: a spinner on a terminal, plain lines elsewhere. All of it goes to
//! standard error, so that results can be piped.

use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Runs one step of something longer and says how long it took.
///
/// # Errors
/// Those of `work`.
pub fn step<T>(text: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let is_terminal = console_is_terminal();
    let spinner = ProgressBar::new_spinner().with_message(text.to_owned());
    if is_terminal {
        spinner.enable_steady_tick(Duration::from_millis(120));
    } else {
        eprintln!("... {text}");
    }
    let done = work();
    spinner.finish_and_clear();
    let mark = if done.is_ok() { "ok " } else { "FAILED" };
    eprintln!("{mark} {text} ({:.1} s)", started.elapsed().as_secs_f64());
    done
}

/// Bars of bytes, one for each host; nothing where there is no terminal.
#[derive(Debug)]
pub struct Bars {
    all: MultiProgress,
}

impl Bars {
    #[must_use]
    pub fn new() -> Self {
        Self {
            all: MultiProgress::new(),
        }
    }

    #[must_use]
    pub fn add(&self, name: &str, len: u64) -> ProgressBar {
        const TEMPLATE: &str = "    {prefix:10} [{bar:40}] {bytes:>11} of {total_bytes} {msg}";
        let style = ProgressStyle::with_template(TEMPLATE);
        let style = style
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        self.all.add(
            ProgressBar::new(len)
                .with_style(style)
                .with_prefix(name.to_owned()),
        )
    }
}

impl Default for Bars {
    fn default() -> Self {
        Self::new()
    }
}

fn console_is_terminal() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stderr())
}
