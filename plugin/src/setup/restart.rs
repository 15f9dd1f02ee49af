//! Starting a service anew, when that is asked for.

use std::{path::Path, process::Command};

/// How a service learns of its new settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    /// `systemctl <verb> <unit>`
    Systemd {
        verb: &'static str,
        unit: &'static str,
    },
    /// A line for the shell.
    Command(String),
}

/// Why a service was not started anew.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestartError {
    #[error("this machine does not run systemd: say how with --restart-command \"…\"")]
    NoSystemd,
    #[error("cannot run {command:?}: {source}")]
    Start {
        command: String,
        source: std::io::Error,
    },
    #[error("{command:?} failed ({status}){}", because(output))]
    Failed {
        command: String,
        status: std::process::ExitStatus,
        output: String,
    },
}

fn because(output: &str) -> String {
    match output {
        "" => String::new(),
        output => format!(": {output}"),
    }
}

impl Restart {
    /// The line that a person would type.
    pub(crate) fn line(&self) -> String {
        match self {
            Self::Systemd { verb, unit } => format!("systemctl {verb} {unit}"),
            Self::Command(line) => line.clone(),
        }
    }

    pub(crate) fn run(&self) -> Result<(), RestartError> {
        if matches!(self, Self::Systemd { .. }) && !Path::new("/run/systemd/system").exists() {
            return Err(RestartError::NoSystemd);
        }
        let command = self.line();
        let output = Command::new("sh").args(["-c", &command]).output();
        let output = output.map_err(|source| RestartError::Start {
            command: command.clone(),
            source,
        })?;
        match output.status.success() {
            true => Ok(()),
            false => Err(RestartError::Failed {
                command,
                status: output.status,
                output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            }),
        }
    }
}
