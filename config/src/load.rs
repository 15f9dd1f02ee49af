//! From a file to settings.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use hawker_model::Role;

use crate::{
    ConfigError, NodeConfig, SchedulerConfig, check, document::Document, schema::File as _,
};

/// Where `hawkerd` looks for its settings.
pub const NODE_CONFIG_PATH: &str = "/etc/hawker/hawkerd.toml";
/// Where `hawker-scheduler` looks for its settings.
pub const SCHEDULER_CONFIG_PATH: &str = "/etc/hawker/scheduler.toml";

impl NodeConfig {
    /// Reads and checks the file at `path`; without a path [`NODE_CONFIG_PATH`], or the defaults
    /// where that is not there. Errors also when certificates are needed and not there.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load_as(path, None)
    }

    /// [`Self::load`] with the role from the command line, which wins over the file's.
    pub fn load_as(path: Option<&Path>, role: Option<Role>) -> Result<Self, ConfigError> {
        let (path, text) = read(path, NODE_CONFIG_PATH)?;
        let config = Self::parse(&text, &path, role)?;
        match check::node_files(&config) {
            Ok(()) => Ok(config),
            Err(problem) => Err(Document::new(&path, &text).error(problem)),
        }
    }

    /// [`Self::load_as`] without a look at the certificates: for `--print-config`.
    pub fn read(path: Option<&Path>, role: Option<Role>) -> Result<Self, ConfigError> {
        let (path, text) = read(path, NODE_CONFIG_PATH)?;
        Self::parse(&text, &path, role)
    }

    /// Settings from text, all but the files they name checked. `path` is for the errors.
    pub fn parse(text: &str, path: &Path, role: Option<Role>) -> Result<Self, ConfigError> {
        let document = Document::new(path, text);
        let mut config: Self = document.settings(Self::SECTIONS)?;
        config.node.role = role.unwrap_or(config.node.role);
        config.set_defaults_of_role(|key| document.sets(key));
        match check::node(&config) {
            Ok(()) => Ok(config),
            Err(problem) => Err(document.error(problem)),
        }
    }
}

impl SchedulerConfig {
    /// Reads and checks the file at `path`; without a path [`SCHEDULER_CONFIG_PATH`], or the
    /// defaults where that is not there. Errors also when certificates are needed and not there.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let (path, text) = read(path, SCHEDULER_CONFIG_PATH)?;
        let config = Self::parse(&text, &path)?;
        match check::scheduler_files(&config) {
            Ok(()) => Ok(config),
            Err(problem) => Err(Document::new(&path, &text).error(problem)),
        }
    }

    /// [`Self::load`] without a look at the certificates: for `--print-config`.
    pub fn read(path: Option<&Path>) -> Result<Self, ConfigError> {
        let (path, text) = read(path, SCHEDULER_CONFIG_PATH)?;
        Self::parse(&text, &path)
    }

    /// Settings from text, all but the files they name checked. `path` is for the errors.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let document = Document::new(path, text);
        let config: Self = document.settings(Self::SECTIONS)?;
        match check::scheduler(&config) {
            Ok(()) => Ok(config),
            Err(problem) => Err(document.error(problem)),
        }
    }
}

fn read(path: Option<&Path>, default: &str) -> Result<(PathBuf, String), ConfigError> {
    let chosen = path.map_or_else(|| PathBuf::from(default), Path::to_owned);
    match fs::read_to_string(&chosen) {
        Ok(text) => Ok((chosen, text)),
        Err(error) if path.is_none() && error.kind() == io::ErrorKind::NotFound => {
            Ok((chosen, String::new()))
        }
        Err(source) => Err(ConfigError::Read {
            path: chosen,
            remedy: remedy(&source),
            source,
        }),
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "make it (--print-config prints one), or leave --config out",
        io::ErrorKind::PermissionDenied => "run as a user who may read it",
        io::ErrorKind::IsADirectory => "name the file in it",
        io::ErrorKind::InvalidData => "it must be UTF-8 text",
        _ => "see that it is a readable file",
    }
}
