//! Docker: does it ask the mirror?

use std::{fs, io, path::Path};

use hawker_config::NodeConfig;
use serde_json::Value;

use super::{Findings, Places, containerd::mirror};
use crate::setup::{docker, hosts::same_url};

const CHECK: &str = "Docker";
const SOCKET: &str = "/var/run/docker.sock";

pub(super) fn examine(places: &Places, config: &NodeConfig, findings: &mut Findings) {
    if !config.mirror.enabled {
        return;
    }
    let path = &places.docker_config;
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match Path::new(SOCKET).exists() {
                true => no_mirror(findings),
                false => findings.info(CHECK, "not on this machine, as far as its socket tells"),
            };
        }
        Err(error) => return findings.warn(CHECK, format!("{}: {error}", path.display()), ""),
    };
    let settings: Value = match serde_json::from_str(&text) {
        Ok(settings) => settings,
        Err(error) => {
            let what = format!("{}: {error}", path.display());
            return findings.fail(CHECK, what, "mend it: Docker does not start so");
        }
    };
    let wanted = mirror(config);
    let mirrors = docker::mirrors(&settings).unwrap_or_default();
    match mirrors.iter().position(|there| same_url(there, &wanted)) {
        None => no_mirror(findings),
        Some(0) => findings.ok(CHECK, "asks the mirror first for images of docker.io"),
        Some(_) => findings.info(CHECK, "asks other mirrors before Hawker's"),
    }
}

/// Whether Docker asks the mirror.
pub(super) fn uses_mirror(places: &Places, config: &NodeConfig) -> bool {
    let text = fs::read_to_string(&places.docker_config).unwrap_or_default();
    let settings: Value = serde_json::from_str(&text).unwrap_or_default();
    let mirrors = docker::mirrors(&settings).unwrap_or_default();
    mirrors.iter().any(|there| same_url(there, &mirror(config)))
}

fn no_mirror(findings: &mut Findings) {
    findings.info(
        CHECK,
        "does not ask the mirror for images of docker.io: hawker setup docker lets it",
    );
}
