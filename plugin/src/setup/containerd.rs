//! The edit that tells containerd of Hawker.
//!
//! [`plan`] reads and decides, and changes nothing. What it leaves, a second [`plan`] finds done.

use std::{
    fs,
    path::{Path, PathBuf},
};

use toml::{Table, Value};
use toml_edit::{Array, value};

use super::{
    edit::{self, NoTable},
    hosts::{self, AddMirrorError, ReadHostsError},
    mirrors::{self, MoveMirrorsError},
    plan::Plan,
    settings::{
        CRI_IMAGES, ImageKey, LONG_CRI, Schema, Settings, SettingsFile, SettingsReadError, TRANSFER,
    },
    version::ContainerdVersion,
};

mod full;
mod k3s;
mod schema;
mod unpack;

pub(crate) use self::full::{FullError, STORES};

/// The snapshotter's name in containerd.
pub(crate) const SNAPSHOTTER: &str = "hawker";
/// The content store's name in containerd.
pub(crate) const CONTENT: &str = "hawker-content";
/// The differ's name in containerd.
pub(crate) const DIFFER: &str = "hawker-diff";
/// containerd's own content store, as it is called where plugins are switched off.
pub(crate) const LOCAL_CONTENT: &str = "io.containerd.content.v1.content";
/// What tries differs one after the other.
pub(crate) const DIFF_SERVICE: &str = "io.containerd.service.v1.diff-service";
/// containerd's own differ.
pub(crate) const WALKING: &str = "walking";
/// containerd's own snapshotter.
pub(crate) const OVERLAYFS: &str = "overlayfs";
/// What CRI is called where plugins are switched off.
pub(crate) const CRI_NAMES: [&str; 3] = ["cri", LONG_CRI, CRI_IMAGES];
/// Where containerd looks for hosts.toml files when its settings name no other place.
pub(crate) const CERTS_D: &str = "/etc/containerd/certs.d";

/// What containerd is to use of Hawker; each has what those before it have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Profile {
    /// The mirror only.
    Mirror,
    /// Mirror and snapshotter.
    Default,
    /// Content store and differ as well.
    Full,
}

impl Profile {
    pub(crate) fn has_snapshotter(self) -> bool {
        self >= Self::Default
    }

    pub(crate) fn has_content(self) -> bool {
        self == Self::Full
    }
}

/// Which snapshotter CRI is to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CriSnapshotter {
    /// Ours.
    Hawker,
    /// What it uses; where that is ours and ours goes, this one, or containerd's own.
    Kept { former: Option<String> },
}

/// What containerd is to be told.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) version: ContainerdVersion,
    pub(crate) profile: Profile,
    pub(crate) cri: CriSnapshotter,
    /// The mirror's URL.
    pub(crate) mirror: String,
    /// Where hawkerd serves the snapshotter.
    pub(crate) socket: PathBuf,
    /// The snapshotter's directory.
    pub(crate) snapshots: PathBuf,
    /// The machine's platform, such as `linux/amd64`.
    pub(crate) platform: String,
    /// Whether the kernel maps the owners of overlay mounts.
    pub(crate) remaps_ids: bool,
    /// Where hosts.toml files go when containerd's settings name no place.
    pub(crate) certs_d: PathBuf,
}

/// Why no edit can be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    #[error(transparent)]
    Read(#[from] SettingsReadError),
    #[error(transparent)]
    Hosts(#[from] ReadHostsError),
    #[error("{}: {error}", path.display())]
    Edit { path: PathBuf, error: NoTable },
    #[error("{}: {error}", path.display())]
    Mirrors {
        path: PathBuf,
        error: MoveMirrorsError,
    },
    #[error(
        "{} is there, and containerd's own settings have registry.mirrors or registry.configs for \
         the same registry, which exclude each other: keep one of the two", .0.display()
    )]
    BothMirrors(PathBuf),
    #[error(
        "{} is written anew by k3s or RKE2 at every start. Put these keys into {} beside it (in the \
         tables that are there already), write\n\nmirrors:\n  \"*\":\n    endpoint: \
         [\"{mirror}\"]\n\ninto /etc/rancher/k3s/registries.yaml, and restart \
         k3s:\n\n{lines}", path.display(), template.display()
    )]
    Generated {
        path: PathBuf,
        template: PathBuf,
        mirror: String,
        lines: String,
    },
    #[error("--profile full is not possible: {0}")]
    Full(#[from] FullError),
    #[error(
        "the edit of {} would change more than it should: make it by hand, as in \
         config/examples/containerd, and report this", .0.display()
    )]
    Unsound(PathBuf),
}

/// The changes that make containerd use Hawker, from the settings at `config`.
pub(crate) fn plan(config: &Path, target: &Target) -> Result<Plan, PlanError> {
    let mut settings = Settings::load(config, target.version)?;
    let mut plan = Plan::default();
    let before: Vec<Table> = settings.files.iter().map(values).collect();
    let certs_d = edit_all(&mut settings, target, &mut plan)?;
    if k3s::is_generated(&settings) {
        return k3s::by_template(&settings, &certs_d, target).map(|()| Plan::default());
    }
    hosts_files(&certs_d, target, &mut plan)?;
    for (file, before) in settings.files.iter().zip(&before) {
        if file.original.is_none() && file.is_empty() && file.document.is_empty() {
            continue;
        }
        check(file, before)?;
        plan.change(&file.path, file.original.clone(), file.text());
    }
    Ok(plan)
}

/// Puts everything into the settings. Says where hosts.toml files belong.
fn edit_all(
    settings: &mut Settings,
    target: &Target,
    plan: &mut Plan,
) -> Result<PathBuf, PlanError> {
    if target.profile.has_content() {
        full::check(settings, target)?;
        schema::lengthen(settings, target.version)?;
    }
    let certs_d = registry(settings, target, plan)?;
    match target.profile.has_snapshotter() {
        true => {
            proxy_plugin(settings, target)?;
            images(settings, target, plan)?;
        }
        false => leave_snapshotter(settings, target, plan)?,
    }
    match target.profile.has_content() {
        true => full::enter(settings, target, plan)?,
        false => full::leave(settings)?,
    }
    if target.version.has_transfer() {
        unpack::edit(settings, target)?;
    }
    notes(settings, target, plan);
    if let Some(main) = settings.files.first_mut() {
        let says_something = !main.document.is_empty();
        if main.is_empty() && says_something {
            main.document
                .insert("version", value(target.version.new_schema()));
            main.document.sort_values_by(|one, _, other, _| {
                (one.get() != "version").cmp(&(other.get() != "version"))
            });
        }
    }
    Ok(certs_d)
}

fn proxy_plugin(settings: &mut Settings, target: &Target) -> Result<(), PlanError> {
    let file = settings.file_of("proxy_plugins", SNAPSHOTTER);
    let plugin = ["proxy_plugins", SNAPSHOTTER];
    let mut sets = |path: &[&str], value: toml_edit::Value| {
        let path = [plugin.as_slice(), path].concat();
        set(&mut settings.files[file], &path, value)
    };
    sets(&["type"], "snapshot".into())?;
    sets(&["address"], text(&target.socket).into())?;
    if target.version.knows_capabilities() && target.remaps_ids {
        sets(&["capabilities"], Array::from_iter(["remap-ids"]).into())?;
    }
    if target.version.knows_exports() {
        sets(&["exports", "root"], text(&target.snapshots).into())?;
    }
    if target.version.cri_transfers() {
        sets(
            &["exports", "enable_remote_snapshot_annotations"],
            "true".into(),
        )?;
    }
    Ok(())
}

fn images(settings: &mut Settings, target: &Target, plan: &mut Plan) -> Result<(), PlanError> {
    let before = settings.images(ImageKey::Snapshotter);
    if target.cri != CriSnapshotter::Hawker {
        return Ok(());
    }
    match before.as_ref().and_then(Value::as_str) {
        None | Some("" | "overlayfs" | SNAPSHOTTER) => {}
        Some(other) => plan.note(format!(
            "CRI used the snapshotter {other:?}: from now on it uses {SNAPSHOTTER:?}, and what \
             {other} did beyond plain images is gone"
        )),
    }
    let is_ours = before.as_ref().and_then(Value::as_str) == Some(SNAPSHOTTER);
    let discards = settings.images(ImageKey::DiscardLayers);
    if !is_ours && discards.and_then(|value| value.as_bool()) == Some(true) {
        plan.note(
            "discard_unpacked_layers is set: images that are here already cannot be unpacked for \
             the new snapshotter; pull them again (crictl pull), or drain the node first",
        );
    }
    let annotate = !target.version.cri_transfers() || pulls_itself(settings);
    let file = settings.file_of_images();
    set_images(settings, file, ImageKey::Snapshotter, SNAPSHOTTER.into())?;
    if annotate {
        set_images(settings, file, ImageKey::DisableAnnotations, false.into())?;
    }
    Ok(())
}

/// Takes our snapshotter out, and gives CRI the one that it had.
fn leave_snapshotter(
    settings: &mut Settings,
    target: &Target,
    plan: &mut Plan,
) -> Result<(), PlanError> {
    let used = settings.images(ImageKey::Snapshotter);
    if used.as_ref().and_then(Value::as_str) == Some(SNAPSHOTTER) {
        let at = settings.file_of_images();
        match &target.cri {
            CriSnapshotter::Kept {
                former: Some(former),
            } => set_images(settings, at, ImageKey::Snapshotter, former.as_str().into())?,
            _ => {
                let file = &mut settings.files[at];
                let path = file.place(ImageKey::Snapshotter);
                remove(file, &path)?;
            }
        }
        plan.note(
            "containers made with the snapshotter go on, and cannot be started again: where there \
             are some, drain the node (kubectl drain)",
        );
    }
    for file in &mut settings.files {
        remove(file, &["proxy_plugins", SNAPSHOTTER])?;
    }
    Ok(())
}

/// Whether CRI's settings keep it from pulling through the transfer service.
fn pulls_itself(settings: &Settings) -> bool {
    let is =
        |key, wanted: bool| settings.images(key).and_then(|value| value.as_bool()) == Some(wanted);
    let has_entries = |key| match settings.images(key) {
        Some(Value::Table(table)) => !table.is_empty(),
        _ => false,
    };
    let downloads = settings.images(ImageKey::Downloads);
    is(ImageKey::LocalPull, true)
        || is(ImageKey::DisableAnnotations, false)
        || is(ImageKey::DiscardLayers, true)
        || is(ImageKey::SyncFs, true)
        || downloads.is_some_and(|number| number.as_integer() != Some(3))
        || has_entries(ImageKey::Auths)
        || remaining_configs(settings)
}

/// Whether `registry.configs` has more than the `tls` that is moved.
fn remaining_configs(settings: &Settings) -> bool {
    match settings.images(ImageKey::Configs) {
        Some(Value::Table(configs)) => configs.values().any(|config| {
            let keys = config.as_table().into_iter().flat_map(Table::keys);
            keys.into_iter().any(|key| key != "tls")
        }),
        _ => false,
    }
}

/// Has containerd read hosts.toml files, and moves what excludes them there. Says where they are.
fn registry(
    settings: &mut Settings,
    target: &Target,
    plan: &mut Plan,
) -> Result<PathBuf, PlanError> {
    let there = settings.images(ImageKey::ConfigPath);
    let there = there.as_ref().and_then(Value::as_str).unwrap_or_default();
    let dirs: Vec<&str> = there.split(':').filter(|dir| !dir.is_empty()).collect();
    let file = settings.file_of_images();
    let certs_d = match dirs.as_slice() {
        [] => target.certs_d.clone(),
        [first, ..] => PathBuf::from(first),
    };
    if dirs.is_empty() {
        set_images(settings, file, ImageKey::ConfigPath, text(&certs_d).into())?;
    } else if dirs.len() > 1 && target.version.cri_transfers() {
        // containerd#12808: it takes the list for one directory.
        set_images(settings, file, ImageKey::ConfigPath, text(&certs_d).into())?;
        plan.note(format!(
            "containerd {} takes config_path = {there:?} for one directory and reads no hosts.toml \
             at all: it now names {} alone; what is in the others belongs there",
            target.version,
            certs_d.display()
        ));
    }
    move_mirrors(settings, &certs_d, target, plan)?;
    Ok(certs_d)
}

fn move_mirrors(
    settings: &mut Settings,
    certs_d: &Path,
    target: &Target,
    plan: &mut Plan,
) -> Result<(), PlanError> {
    let table = |key| match settings.images(key) {
        Some(Value::Table(table)) => table,
        _ => Table::new(),
    };
    let (mirrors, configs) = (table(ImageKey::Mirrors), table(ImageKey::Configs));
    let main = settings.file_of_images();
    let moved =
        mirrors::moved(&mirrors, &configs, &target.mirror).map_err(|error| PlanError::Mirrors {
            path: settings.files[main].path.clone(),
            error,
        })?;
    for (name, text) in &moved.files {
        let path = hosts::file_in(certs_d, name);
        if path.exists() {
            return Err(PlanError::BothMirrors(path));
        }
        plan.change(&path, None, text.clone());
    }
    for file in &mut settings.files {
        remove_moved(file)?;
    }
    if !moved.files.is_empty() {
        plan.note(format!(
            "registry.mirrors and registry.configs.*.tls are now hosts.toml files below {}: \
             containerd takes one or the other",
            certs_d.display()
        ));
    }
    if !moved.hawkerd.is_empty() {
        plan.note(format!(
            "hawkerd must know of these registries too; in /etc/hawker/hawkerd.toml:\n{}",
            moved.hawkerd.trim_end()
        ));
    }
    Ok(())
}

/// Removes `registry.mirrors` and every `registry.configs.*.tls`, where there are any.
fn remove_moved(file: &mut SettingsFile) -> Result<(), PlanError> {
    let plugin = file.images_plugin();
    let registry = ["plugins", plugin, "registry"];
    let below = |names: &[&str]| {
        let path = [registry.as_slice(), names].concat();
        path.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let mut gone = Vec::new();
    let has = |table: &Value| table.as_table().is_some_and(|table| !table.is_empty());
    if file
        .lookup(&[registry.as_slice(), &["mirrors"]].concat())
        .is_some_and(has)
    {
        gone.push(below(&["mirrors"]));
    }
    let configs = file.lookup(&[registry.as_slice(), &["configs"]].concat());
    for (host, config) in configs.and_then(Value::as_table).into_iter().flatten() {
        let keys = config.as_table().map_or(0, Table::len);
        match config.get("tls") {
            Some(_) if keys == 1 => gone.push(below(&["configs", host])),
            Some(_) => gone.push(below(&["configs", host, "tls"])),
            None => {}
        }
    }
    for path in gone {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        remove(file, &path)?;
    }
    Ok(())
}

/// The mirror in front of every registry's own hosts, and for all that have none.
fn hosts_files(certs_d: &Path, target: &Target, plan: &mut Plan) -> Result<(), PlanError> {
    let dirs = hosts::read_all(certs_d)?;
    for dir in &dirs {
        let Some(old) = &dir.text else {
            if dir.name != hosts::DEFAULT_DIR {
                plan.note(no_hosts(dir));
            }
            continue;
        };
        match hosts::add_mirror(old, &target.mirror) {
            Ok(Some(new)) => {
                // The file itself, once, whatever links lead to it.
                let file = fs::canonicalize(&dir.file).unwrap_or_else(|_| dir.file.clone());
                if plan.changes.iter().all(|change| change.path != file) {
                    plan.change(&file, Some(old.clone()), new);
                }
            }
            Ok(None) => {}
            Err(error @ (AddMirrorError::Syntax(_) | AddMirrorError::Form)) => {
                plan.note(format!("{} is left as it is: {error}", dir.file.display()))
            }
        }
    }
    let default = hosts::file_in(certs_d, hosts::DEFAULT_DIR);
    let is_planned = plan.changes.iter().any(|change| change.path == default);
    if !is_planned && !default.exists() {
        plan.change(&default, None, hosts::default_file(&target.mirror));
    }
    Ok(())
}

fn no_hosts(dir: &hosts::HostsDir) -> String {
    format!(
        "{} is not there, but its directory is: {}'s images go past the mirror until it has one, \
         with the certificates beside it as `ca` and `client` (see config/examples/containerd)",
        dir.file.display(),
        dir.name
    )
}

fn notes(settings: &Settings, target: &Target, plan: &mut Plan) {
    if settings.is_disabled(&CRI_NAMES) {
        plan.note(
            "CRI is switched off in disabled_plugins (Docker's package does so): a kubelet cannot \
             use this containerd until that line goes",
        );
    }
    if target.profile.has_snapshotter() && target.cri == CriSnapshotter::Hawker {
        for (runtime, snapshotter) in settings.runtime_snapshotters() {
            if snapshotter != SNAPSHOTTER {
                plan.note(format!(
                    "the runtime {runtime:?} has a snapshotter of its own, {snapshotter:?}, and \
                     keeps it: its images come through the mirror only"
                ));
            }
        }
    }
    for file in &settings.files {
        let ignored = file.schema == Schema::Short
            && !target.version.merges_deep()
            && file.plugin(LONG_CRI).is_some();
        if ignored {
            plan.note(format!(
                "{}: containerd {} ignores [plugins.{LONG_CRI:?}], since the file lacks \
                 version = 2: it reads [plugins.cri] instead",
                file.path.display(),
                target.version
            ));
        }
    }
}

fn set_images(
    settings: &mut Settings,
    file: usize,
    key: ImageKey,
    value: toml_edit::Value,
) -> Result<(), PlanError> {
    let file = &mut settings.files[file];
    let path = file.place(key);
    set(file, &path, value)
}

fn set(file: &mut SettingsFile, path: &[&str], value: toml_edit::Value) -> Result<(), PlanError> {
    edit::set(&mut file.document, path, value).map_err(|error| PlanError::Edit {
        path: file.path.clone(),
        error,
    })
}

fn remove(file: &mut SettingsFile, path: &[&str]) -> Result<(), PlanError> {
    edit::remove(&mut file.document, path).map_err(|error| PlanError::Edit {
        path: file.path.clone(),
        error,
    })
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn values(file: &SettingsFile) -> Table {
    file.text().parse().unwrap_or_default()
}

/// The new text must be TOML that differs from the old in nothing but what is ours.
fn check(file: &SettingsFile, before: &Table) -> Result<(), PlanError> {
    let unsound = || PlanError::Unsound(file.path.clone());
    let mut after: Table = file.text().parse().map_err(|_| unsound())?;
    let mut before = before.clone();
    let lengthened = schema::lengthen_values(&before, &after);
    before = lengthened.unwrap_or(before);
    for table in [&mut before, &mut after] {
        forget_ours(table, file);
    }
    match before == after {
        true => Ok(()),
        false => Err(unsound()),
    }
}

fn forget_ours(table: &mut Table, file: &SettingsFile) {
    for key in [
        ImageKey::Snapshotter,
        ImageKey::DisableAnnotations,
        ImageKey::ConfigPath,
        ImageKey::Mirrors,
        ImageKey::Configs,
    ] {
        forget(table, &file.place(key));
    }
    for proxy in [SNAPSHOTTER, CONTENT, DIFFER] {
        forget(table, &["proxy_plugins", proxy]);
    }
    forget(table, &["plugins", TRANSFER, "unpack_config"]);
    forget(table, &["plugins", DIFF_SERVICE, "default"]);
    if let Some(Value::Array(disabled)) = table.get_mut("disabled_plugins") {
        disabled.retain(|name| name.as_str() != Some(LOCAL_CONTENT));
        if disabled.is_empty() {
            table.remove("disabled_plugins");
        }
    }
    if file.is_empty() {
        forget(table, &["version"]);
    }
}

/// Removes what stands at a path, and the tables that are empty then.
fn forget(table: &mut Table, path: &[&str]) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    if rest.is_empty() {
        table.remove(*first);
    } else if let Some(Value::Table(inner)) = table.get_mut(*first) {
        forget(inner, rest);
        if inner.is_empty() {
            table.remove(*first);
        }
    }
}

#[cfg(test)]
mod tests;
