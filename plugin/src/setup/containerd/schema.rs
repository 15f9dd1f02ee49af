//! Settings of version 1 that become settings of version 2.
//!
//! containerd 1.x switches plugins off by their short names where its settings are of version 1, and
//! "content" is both the content store and the API in front of it. Only version 2 names the one.

use toml::{Table, Value};

use super::{FullError, LONG_CRI, PlanError, set};
use crate::setup::{
    edit,
    settings::{Schema, Settings},
    version::ContainerdVersion,
};

/// Short names that mean one plugin, as containerd 2 reads them.
const LONG: [(&str, &str); 17] = [
    ("aufs", "io.containerd.snapshotter.v1.aufs"),
    ("bolt", "io.containerd.metadata.v1.bolt"),
    ("btrfs", "io.containerd.snapshotter.v1.btrfs"),
    ("cgroups", "io.containerd.monitor.v1.cgroups"),
    ("cri", LONG_CRI),
    ("devmapper", "io.containerd.snapshotter.v1.devmapper"),
    ("linux", "io.containerd.runtime.v1.linux"),
    ("native", "io.containerd.snapshotter.v1.native"),
    ("opt", "io.containerd.internal.v1.opt"),
    ("otlp", "io.containerd.tracing.processor.v1.otlp"),
    ("overlayfs", "io.containerd.snapshotter.v1.overlayfs"),
    ("restart", "io.containerd.internal.v1.restart"),
    ("scheduler", "io.containerd.gc.v1.scheduler"),
    ("task", "io.containerd.runtime.v2.task"),
    ("tracing", "io.containerd.internal.v1.tracing"),
    ("zfs", "io.containerd.snapshotter.v1.zfs"),
    ("diff-service", super::DIFF_SERVICE),
];

const LISTS: [&str; 2] = ["disabled_plugins", "required_plugins"];

fn long(name: &str) -> Option<&str> {
    let found = LONG.iter().find(|(short, _)| *short == name);
    match found {
        Some((_, long)) => Some(long),
        None => name.starts_with("io.containerd.").then_some(name),
    }
}

/// Makes settings of version 1 settings of version 2, where containerd takes them for what they
/// are; later versions do that themselves.
pub(super) fn lengthen(
    settings: &mut Settings,
    version: ContainerdVersion,
) -> Result<(), PlanError> {
    let is_short = |settings: &Settings| settings.files.iter().any(|f| f.schema == Schema::Short);
    if version.merges_deep() || !is_short(settings) {
        return Ok(());
    }
    for file in &mut settings.files {
        for name in names(&file.text().parse().unwrap_or_default()) {
            let Some(long) = long(&name) else {
                return Err(FullError::ShortName(name).into());
            };
            edit::rename(&mut file.document, "plugins", &name, long);
            for list in LISTS {
                edit::rename_text(&mut file.document, list, &name, long);
            }
        }
        if !file.is_empty() {
            set(file, &["version"], 2.into())?;
        }
        file.schema = Schema::Grpc;
        file.take_edits();
    }
    Ok(())
}

/// The names of plugins that settings use.
fn names(values: &Table) -> Vec<String> {
    let plugins = values.get("plugins").and_then(Value::as_table);
    let plugins = plugins.into_iter().flat_map(Table::keys).cloned();
    let lists = LISTS
        .iter()
        .filter_map(|list| values.get(*list)?.as_array());
    let listed = lists.flatten().filter_map(Value::as_str);
    plugins.chain(listed.map(str::to_owned)).collect()
}

/// What the values mean in version 2, where the new ones are of it and they are not.
pub(super) fn lengthen_values(before: &Table, after: &Table) -> Option<Table> {
    let version = |table: &Table| table.get("version").and_then(Value::as_integer);
    if version(after) != Some(2) || version(before).is_some_and(|version| version >= 2) {
        return None;
    }
    let mut lengthened = before.clone();
    let whole = |name: &str| long(name).unwrap_or(name).to_owned();
    if let Some(Value::Table(plugins)) = lengthened.get_mut("plugins") {
        let old = std::mem::take(plugins);
        plugins.extend(old.into_iter().map(|(name, value)| (whole(&name), value)));
    }
    for list in LISTS {
        if let Some(Value::Array(names)) = lengthened.get_mut(list) {
            for name in names {
                if let Value::String(name) = name {
                    *name = whole(name);
                }
            }
        }
    }
    lengthened.insert("version".to_owned(), Value::Integer(2));
    Some(lengthened)
}
