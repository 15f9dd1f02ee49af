//! Which snapshotters containerd's transfer service unpacks to, and with which differ.
//!
//! A list of entries replaces the default one, so what is in that has to be in it. Each names its
//! differ: where two fit, containerd leaves one out.

use toml::Value;
use toml_edit::{Table, TableLike, value};

use super::{DIFFER, OVERLAYFS, PlanError, SNAPSHOTTER, Target, WALKING};
use crate::setup::{
    edit::{self, Keep},
    settings::{Settings, SettingsFile, TRANSFER},
};

const LIST: [&str; 3] = ["plugins", TRANSFER, "unpack_config"];

/// Makes the list what the target needs.
pub(super) fn edit(settings: &mut Settings, target: &Target) -> Result<(), PlanError> {
    let found = settings.files.iter().rposition(|f| list(f).is_some());
    let at = found.unwrap_or_else(|| settings.file_of_plugin(TRANSFER));
    let Some(file) = settings.files.get_mut(at) else {
        return Ok(());
    };
    let differ = differ(target);
    let there = list(file).cloned();
    edit::entries(&mut file.document, &LIST, |entry| {
        edit_entry(entry, target, differ)
    });
    let is_ours = |entry: &Value| snapshotter_in(entry) == Some(SNAPSHOTTER);
    let has_ours = there.iter().flatten().any(is_ours);
    if !target.profile.has_snapshotter() || has_ours {
        return Ok(());
    }
    for entry in missing(there.is_none(), target, differ) {
        edit::append(&mut file.document, &LIST, entry).map_err(|error| PlanError::Edit {
            path: file.path.clone(),
            error,
        })?;
    }
    Ok(())
}

/// The differ for layers that become plain directories. What ours cannot do, it asks of containerd's
/// diff service, where the next one does it.
fn differ(target: &Target) -> &'static str {
    match target.profile.has_content() && target.version.takes_differs() {
        true => DIFFER,
        false => WALKING,
    }
}

/// What an entry that is there says from now on.
fn edit_entry(entry: &mut dyn TableLike, target: &Target, differ: &str) -> Keep {
    let text = |key: &str| {
        let text = entry.get(key).and_then(|item| item.as_str());
        text.unwrap_or_default().to_owned()
    };
    let (snapshotter, there) = (text("snapshotter"), text("differ"));
    let wanted = match snapshotter.as_str() {
        SNAPSHOTTER if !target.profile.has_snapshotter() => return Keep::No,
        SNAPSHOTTER if there.is_empty() => differ,
        // What is named there otherwise is of somebody else.
        SNAPSHOTTER | OVERLAYFS if there == WALKING || there == DIFFER => differ,
        OVERLAYFS if there.is_empty() && differ == DIFFER => differ,
        _ if there == DIFFER => WALKING,
        // Ours would fit too, and one of the two would be left out.
        _ if there.is_empty() && differ == DIFFER => WALKING,
        _ => return Keep::Yes,
    };
    if there != wanted {
        edit::set_in(entry, "differ", wanted);
    }
    Keep::Yes
}

/// The entries that belong behind those that are there.
fn missing(is_new: bool, target: &Target, differ: &str) -> Vec<Table> {
    let mut entries = Vec::new();
    if is_new {
        entries.push(entry(&target.platform, OVERLAYFS, differ));
    }
    entries.push(entry(&target.platform, SNAPSHOTTER, differ));
    if is_new && target.version.unpacks_erofs() {
        let platform = target.platform.replacen("linux", "linux(+erofs)", 1);
        let mut erofs = entry(&platform, "erofs", "erofs");
        erofs.insert("optional", value(true));
        entries.push(erofs);
    }
    entries
}

/// The list that a file has.
pub(super) fn list(file: &SettingsFile) -> Option<&Vec<Value>> {
    file.plugin(TRANSFER)?.get("unpack_config")?.as_array()
}

fn snapshotter_in(entry: &Value) -> Option<&str> {
    entry.get("snapshotter")?.as_str()
}

fn entry(platform: &str, snapshotter: &str, differ: &str) -> Table {
    let mut entry = Table::new();
    entry.insert("platform", value(platform));
    entry.insert("snapshotter", value(snapshotter));
    entry.insert("differ", value(differ));
    entry
}
