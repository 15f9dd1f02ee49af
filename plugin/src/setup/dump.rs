//! What containerd itself makes of its settings: `containerd config dump`.
//!
//! Versions read old schemas and imports in their own ways. Whatever was thought of that, here
//! containerd has the last word, before it is restarted.

use std::{io, path::Path, process::Command};

use toml::{Table, Value};

use super::{
    containerd::{CRI_NAMES, Profile, SNAPSHOTTER, Target},
    machine,
    settings::{ImageKey, Settings, SettingsReadError},
};

/// containerd does not take what was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DumpError {
    #[error("cannot run `{command}`: {source}")]
    Run { command: String, source: io::Error },
    #[error("containerd refuses its new settings (`{command}`): {why}")]
    Refused { command: String, why: String },
    #[error("the answer of `{command}` is not understood: {why}")]
    Unreadable { command: String, why: String },
    #[error(transparent)]
    Read(#[from] SettingsReadError),
    #[error(
        "containerd takes {key} = {found} from its new settings instead of {wanted} (`{command}`): \
         another file that it imports has the last word"
    )]
    Ignored {
        command: String,
        key: &'static str,
        found: String,
        wanted: String,
    },
}

/// Asks the installed containerd whether the settings at `config` mean what they are to mean. Says
/// whether it could be asked: it is there, and of the target's version.
pub(crate) fn check(config: &Path, target: &Target) -> Result<bool, DumpError> {
    if machine::installed_version() != Some(target.version) {
        return Ok(false);
    }
    let command = format!("containerd --config {} config dump", config.display());
    let dump = dump(config, &command)?;
    let settings = Settings::parse(config, &dump, target.version)?;
    let ignored = |key, found: Option<&str>, wanted: &str| DumpError::Ignored {
        command: command.clone(),
        key,
        found: format!("{:?}", found.unwrap_or_default()),
        wanted: format!("{wanted:?}"),
    };
    if !settings.is_disabled(&CRI_NAMES) {
        let path = settings.images(ImageKey::ConfigPath);
        if path
            .as_ref()
            .and_then(Value::as_str)
            .is_none_or(str::is_empty)
        {
            let wanted = target.certs_d.to_string_lossy();
            return Err(ignored("registry.config_path", None, &wanted));
        }
        let name = settings.images(ImageKey::Snapshotter);
        let name = name.as_ref().and_then(Value::as_str);
        if target.profile == Profile::Snapshotter && name != Some(SNAPSHOTTER) {
            return Err(ignored("the snapshotter of CRI", name, SNAPSHOTTER));
        }
    }
    let address = settings.proxy_address(SNAPSHOTTER);
    let wanted = target.socket.to_string_lossy();
    match target.profile == Profile::Mirror || address == Some(&wanted) {
        true => Ok(true),
        false => Err(ignored("proxy_plugins.hawker.address", address, &wanted)),
    }
}

/// All its settings, with every default and import.
fn dump(config: &Path, command: &str) -> Result<String, DumpError> {
    let output = Command::new("containerd")
        .arg("--config")
        .arg(config)
        .args(["config", "dump"])
        // As a service runs.
        .current_dir("/")
        .output()
        .map_err(|source| DumpError::Run {
            command: command.to_owned(),
            source,
        })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(DumpError::Refused {
            command: command.to_owned(),
            why: said.lines().last().unwrap_or_default().to_owned(),
        });
    }
    let unreadable = |why: String| DumpError::Unreadable {
        command: command.to_owned(),
        why,
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let mut table: Table = text
        .parse()
        .map_err(|error: toml::de::Error| unreadable(error.message().to_owned()))?;
    // They are in it already.
    table.remove("imports");
    toml::to_string(&table).map_err(|error| unreadable(error.to_string()))
}
