//! Settings that k3s or RKE2 write from a template of theirs, anew at every start.
//!
//! An edit of them would be gone with the next start: [`plan`](super::plan) says what belongs into
//! the template instead.

use std::path::Path;

use super::{PlanError, Target, images, proxy_plugin, unpack};
use crate::setup::{
    hosts::{self, ReadHostsError},
    plan::Plan,
    settings::{Settings, SettingsFile},
};

/// k3s and RKE2 write containerd's settings from a template.
pub(super) fn is_generated(settings: &Settings) -> bool {
    let main = settings.files.first();
    let text = main.and_then(|main| main.original.as_deref());
    let head = text.unwrap_or_default().lines().take(5);
    head.collect::<String>()
        .to_lowercase()
        .contains("do not edit")
}

/// What was generated is never edited: nothing may be left to do, or the template is named.
pub(super) fn by_template(
    settings: &Settings,
    certs_d: &Path,
    target: &Target,
) -> Result<(), PlanError> {
    let as_it_was = |file: &SettingsFile| file.original.as_ref() == Some(&file.text());
    let is_done = settings.files.iter().all(as_it_was) && names_mirror(certs_d, target)?;
    let Some(main) = settings.files.first().filter(|_| !is_done) else {
        return Ok(());
    };
    // Registries are in k3s's registries.yaml, and its template has CRI's table already.
    let mut fragment = Settings::load(Path::new("/nonexistent/config.toml"), target.version)?;
    if target.profile.has_snapshotter() {
        proxy_plugin(&mut fragment, target)?;
        images(&mut fragment, target, &mut Plan::default())?;
    }
    if target.version.has_transfer() {
        unpack::edit(&mut fragment, target)?;
    }
    let lines = fragment.files.first().map(SettingsFile::text);
    let template = match target.version.new_schema() {
        2 => "config.toml.tmpl",
        _ => "config-v3.toml.tmpl",
    };
    Err(PlanError::Generated {
        path: main.path.clone(),
        template: main.path.with_file_name(template),
        mirror: target.mirror.clone(),
        lines: lines.unwrap_or_default(),
    })
}

/// Whether some hosts.toml names the mirror, be it with the API's root behind it, as k3s writes it.
fn names_mirror(certs_d: &Path, target: &Target) -> Result<bool, ReadHostsError> {
    let texts = hosts::read_all(certs_d)?.into_iter().filter_map(|d| d.text);
    let mut hosts = texts.flat_map(|text| hosts::parse(&text).map_or(Vec::new(), |it| it.hosts));
    Ok(hosts.any(|host| {
        let host = host.trim_end_matches('/');
        hosts::same_url(host.strip_suffix("/v2").unwrap_or(host), &target.mirror)
    }))
}
