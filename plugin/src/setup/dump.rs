//! What containerd itself makes of its settings: `containerd config dump`.
//!
//! Versions read old schemas and imports in their own ways. Whatever was thought of that, here
//! containerd has the last word, before it is restarted.

use std::{io, path::Path, process::Command};

use toml::{Table, Value};

use super::{
    containerd::{
        CONTENT, CRI_NAMES, CriSnapshotter, DIFF_SERVICE, DIFFER, LOCAL_CONTENT, SNAPSHOTTER,
        Target,
    },
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
    let ignored = |refused: Refused| DumpError::Ignored {
        command: command.clone(),
        key: refused.key,
        found: format!("{:?}", refused.found),
        wanted: format!("{:?}", refused.wanted),
    };
    if !settings.is_disabled(&CRI_NAMES) {
        cri(&settings, target).map_err(ignored)?;
    }
    proxies(&settings, target).map_err(ignored)?;
    if target.profile.has_content() {
        content(&settings, target).map_err(ignored)?;
    }
    Ok(true)
}

/// A setting that is not what it is to be.
struct Refused {
    key: &'static str,
    found: String,
    wanted: String,
}

impl Refused {
    fn new(key: &'static str, found: Option<&str>, wanted: &str) -> Self {
        Self {
            key,
            found: found.unwrap_or_default().to_owned(),
            wanted: wanted.to_owned(),
        }
    }
}

fn cri(settings: &Settings, target: &Target) -> Result<(), Refused> {
    let path = settings.images(ImageKey::ConfigPath);
    let path = path.as_ref().and_then(Value::as_str);
    if path.is_none_or(str::is_empty) {
        let wanted = target.certs_d.to_string_lossy();
        return Err(Refused::new("registry.config_path", None, &wanted));
    }
    let name = settings.images(ImageKey::Snapshotter);
    let name = name.as_ref().and_then(Value::as_str);
    let is_wanted = target.profile.has_snapshotter() && target.cri == CriSnapshotter::Hawker;
    match is_wanted && name != Some(SNAPSHOTTER) {
        true => Err(Refused::new("the snapshotter of CRI", name, SNAPSHOTTER)),
        false => Ok(()),
    }
}

fn proxies(settings: &Settings, target: &Target) -> Result<(), Refused> {
    let profile = target.profile;
    let differs = profile.has_content() && target.version.takes_differs();
    let wanted = target.socket.to_string_lossy();
    for (name, key, is_wanted) in [
        (
            SNAPSHOTTER,
            "proxy_plugins.hawker.address",
            profile.has_snapshotter(),
        ),
        (
            CONTENT,
            "proxy_plugins.hawker-content.address",
            profile.has_content(),
        ),
        (DIFFER, "proxy_plugins.hawker-diff.address", differs),
    ] {
        let address = settings.proxy_address(name);
        if is_wanted && address != Some(&wanted) {
            return Err(Refused::new(key, address, &wanted));
        }
    }
    Ok(())
}

/// Whether containerd has one content store, and asks our differ first.
fn content(settings: &Settings, target: &Target) -> Result<(), Refused> {
    if !settings.is_disabled(&[LOCAL_CONTENT]) {
        return Err(Refused::new("disabled_plugins", None, LOCAL_CONTENT));
    }
    let order = settings.of_plugin(DIFF_SERVICE, "default");
    let first = order.and_then(|order| order.get(0)?.as_str());
    match target.version.takes_differs() && first != Some(DIFFER) {
        true => Err(Refused::new("the first differ", first, DIFFER)),
        false => Ok(()),
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
