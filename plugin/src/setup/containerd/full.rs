//! The profile in which containerd keeps its content in Hawker's store.
//!
//! containerd takes one content store: its own is switched off. Before 2.0 it would otherwise take
//! either of the two at random; since then it would start without its database.

use toml::Value;

use super::{
    CONTENT, DIFF_SERVICE, DIFFER, LOCAL_CONTENT, PlanError, Target, WALKING, k3s, remove, set,
    text,
};
use crate::setup::{
    edit::{self, NoTable, Place},
    plan::Plan,
    settings::{Settings, SettingsFile},
    version::ContainerdVersion,
};

/// containerd's database, which has the rule by which namespaces share content.
const METADATA: &str = "io.containerd.metadata.v1.bolt";

/// What proxy plugins that are content stores call their type.
pub(crate) const STORES: [&str; 2] = ["content", "io.containerd.content.v1"];

/// Why containerd cannot keep its content in Hawker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FullError {
    #[error(
        "containerd {0} is not known to work with a content store outside of itself: update it to \
         1.6 or later, or use --profile default"
    )]
    Old(ContainerdVersion),
    #[error(
        "containerd has another content store already, [proxy_plugins.{0}], and takes one only: \
         remove that, or use --profile default"
    )]
    Another(String),
    #[error(
        "required_plugins names {LOCAL_CONTENT}, which has to be switched off: remove it there, or \
         use --profile default"
    )]
    Required,
    #[error(
        "the settings are of version 1, in which {0:?} has no sure name of version 2, and which \
         cannot switch off containerd's own content store alone: write version = 2 and the long \
         names (containerd's own docs/PLUGINS.md lists them), or use --profile default"
    )]
    ShortName(String),
    #[error(
        "k3s and RKE2 write containerd's settings anew at every start, so that content could not \
         be moved along with them: use --profile default"
    )]
    Generated,
}

/// Fails where it cannot be.
pub(super) fn check(settings: &Settings, target: &Target) -> Result<(), FullError> {
    if !target.version.takes_content() {
        return Err(FullError::Old(target.version));
    }
    if k3s::is_generated(settings) {
        return Err(FullError::Generated);
    }
    let stores = settings.proxies(&STORES);
    if let Some(other) = stores.into_iter().find(|name| *name != CONTENT) {
        return Err(FullError::Another(other.to_owned()));
    }
    match settings.is_required(&[LOCAL_CONTENT]) {
        true => Err(FullError::Required),
        false => Ok(()),
    }
}

/// Makes Hawker's the content store, and the differ that is asked first.
pub(super) fn enter(
    settings: &mut Settings,
    target: &Target,
    plan: &mut Plan,
) -> Result<(), PlanError> {
    proxy(settings, CONTENT, "content", target)?;
    if !settings.is_disabled(&[LOCAL_CONTENT]) {
        let at = settings.file_with(&["disabled_plugins"]);
        let path = ["disabled_plugins"];
        let file = &mut settings.files[at];
        listed(file, |file| {
            edit::list(&mut file.document, &path, LOCAL_CONTENT, &[], Place::Last)
        })?;
    }
    if target.version.takes_differs() {
        proxy(settings, DIFFER, "diff", target)?;
        let at = settings.file_of_plugin(DIFF_SERVICE);
        let path = ["plugins", DIFF_SERVICE, "default"];
        listed(&mut settings.files[at], |file| {
            edit::list(&mut file.document, &path, DIFFER, &[WALKING], Place::First)
        })?;
    } else {
        plan.note(format!(
            "containerd {} takes no differ from outside (1.7.4 and later do): it reads layers out \
             of Hawker's store in small pieces, and unpacks large ones slowly with other \
             snapshotters than Hawker's",
            target.version
        ));
    }
    let policy = settings.of_plugin(METADATA, "content_sharing_policy");
    if policy.and_then(Value::as_str) == Some("isolated") {
        plan.note(
            "content_sharing_policy is \"isolated\": containerd then asks for no content before it \
             fetches it, so that every layer is sent through the mirror and written once more",
        );
    }
    Ok(())
}

/// Gives containerd its own content store and differ again, where they were taken from it.
pub(super) fn leave(settings: &mut Settings) -> Result<(), PlanError> {
    let was_ours = settings.has_proxy_plugin(CONTENT);
    for file in &mut settings.files {
        for name in [CONTENT, DIFFER] {
            remove(file, &["proxy_plugins", name])?;
        }
        let order = ["plugins", DIFF_SERVICE, "default"];
        edit::unlist(&mut file.document, &order, DIFFER);
        if was_ours {
            edit::unlist(&mut file.document, &["disabled_plugins"], LOCAL_CONTENT);
        }
    }
    Ok(())
}

fn proxy(
    settings: &mut Settings,
    name: &str,
    kind: &str,
    target: &Target,
) -> Result<(), PlanError> {
    let at = settings.file_of("proxy_plugins", name);
    let file = &mut settings.files[at];
    set(file, &["proxy_plugins", name, "type"], kind.into())?;
    let address = text(&target.socket);
    set(file, &["proxy_plugins", name, "address"], address.into())
}

fn listed(
    file: &mut SettingsFile,
    edit: impl FnOnce(&mut SettingsFile) -> Result<(), NoTable>,
) -> Result<(), PlanError> {
    edit(file).map_err(|error| PlanError::Edit {
        path: file.path.clone(),
        error,
    })
}
