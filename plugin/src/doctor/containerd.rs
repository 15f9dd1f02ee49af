//! containerd: is it told of Hawker, and does it listen?

use std::{
    fs,
    path::{Path, PathBuf},
};

use hawker_config::NodeConfig;
use nix::unistd::Uid;

use super::{Findings, Places, content};
use crate::{
    control::StatusReport,
    setup::{
        containerd::{self, CONTENT, CriSnapshotter, Profile, SNAPSHOTTER, STORES, Target},
        hosts::{self, same_url},
        machine::{self, Containerd},
        settings::{ImageKey, Settings},
        verify::{self, SNAPSHOTTER_KIND, Wanted},
        version::ContainerdVersion,
    },
};

const SETUP: &str = "hawker setup containerd";
const SETTINGS: &str = "containerd settings";
const SERVICE: &str = "containerd";

/// Looks at containerd; `status` is what hawkerd says of itself.
pub(super) async fn examine(
    places: &Places,
    config: &NodeConfig,
    status: Option<&StatusReport>,
    findings: &mut Findings,
) {
    let address = address(places, config);
    let running = Containerd::connect(&address).await;
    let version = match &running {
        Ok(containerd) => running_version(containerd, findings).await,
        Err(error) => {
            let installed = machine::installed_version();
            not_running(installed, &address, error, findings);
            installed
        }
    };
    let Some(version) = version else { return };
    let settings = match Settings::load(&places.containerd_config, version) {
        Ok(settings) => settings,
        Err(error) => return findings.fail(SETTINGS, error, "mend it; nothing was changed"),
    };
    snapshotter_setting(&settings, config, findings);
    let own = settings.address();
    hawkerds_way(own.as_deref(), config, findings);
    let target = target(places, config, &settings, version);
    planned(places, config, &target, findings);
    hosts_files(places, &settings, config, version, findings);
    content::settings(&settings, config, version, findings);
    if let Ok(containerd) = running {
        plugins(&containerd, &target, findings).await;
        content::running(&containerd, &settings, config, status, findings).await;
    }
}

/// What containerd was set up for, by its settings.
fn target(
    places: &Places,
    config: &NodeConfig,
    settings: &Settings,
    version: ContainerdVersion,
) -> Target {
    let profile = match settings.proxies(&STORES).contains(CONTENT) {
        _ if !config.containerd.enabled => Profile::Mirror,
        true => Profile::Full,
        false if names_snapshotter(settings) => Profile::Default,
        false => Profile::Mirror,
    };
    let cri = match uses_snapshotter(settings) || profile == Profile::Mirror {
        true => CriSnapshotter::Hawker,
        false => CriSnapshotter::Kept { former: None },
    };
    Target {
        version,
        profile,
        cri,
        mirror: mirror(config),
        socket: config.containerd.socket.clone(),
        snapshots: config.snapshotter.dir.clone(),
        platform: machine::platform(),
        remaps_ids: machine::remaps_ids(),
        certs_d: places.certs_d.clone(),
    }
}

/// Where containerd answers, by its own settings, else by hawkerd's.
fn address(places: &Places, config: &NodeConfig) -> PathBuf {
    if let Some(address) = &places.containerd {
        return address.clone();
    }
    let settings = Settings::load(&places.containerd_config, ContainerdVersion::new(2, 0, 0));
    let own = settings.ok().and_then(|settings| settings.address());
    own.unwrap_or_else(|| config.containerd.address.clone())
}

async fn running_version(
    containerd: &Containerd,
    findings: &mut Findings,
) -> Option<ContainerdVersion> {
    match containerd.version().await {
        Ok(version) => {
            findings.ok(SERVICE, format!("runs, version {version}"));
            Some(version)
        }
        Err(error) => {
            findings.fail(SERVICE, error, "see journalctl -u containerd");
            None
        }
    }
}

fn not_running(
    installed: Option<ContainerdVersion>,
    address: &Path,
    error: &machine::ContainerdError,
    findings: &mut Findings,
) {
    let is_root = Uid::effective().is_root();
    match installed {
        None => findings.info(
            SERVICE,
            "not on this machine, as far as PATH and socket tell",
        ),
        Some(_) if !is_root => findings.warn(SERVICE, error, "run this as root"),
        Some(version) => findings.fail(
            SERVICE,
            format!("{error} (installed: {version})"),
            &format!(
                "start it (systemctl start containerd); if its socket is not {}, set \
                 containerd.address in hawkerd's settings",
                address.display()
            ),
        ),
    }
}

fn names_snapshotter(settings: &Settings) -> bool {
    settings.has_proxy_plugin(SNAPSHOTTER) || uses_snapshotter(settings)
}

/// Whether CRI does.
fn uses_snapshotter(settings: &Settings) -> bool {
    let of_cri = settings.images(ImageKey::Snapshotter);
    of_cri.and_then(|name| Some(name.as_str()? == SNAPSHOTTER)) == Some(true)
}

fn has_cri(settings: &Settings) -> bool {
    !settings.is_disabled(&containerd::CRI_NAMES)
}

fn snapshotter_setting(settings: &Settings, config: &NodeConfig, findings: &mut Findings) {
    const CHECK: &str = "CRI snapshotter";
    let name = settings.images(ImageKey::Snapshotter);
    let name = name.as_ref().and_then(toml::Value::as_str);
    match name.unwrap_or("overlayfs") {
        SNAPSHOTTER if !config.containerd.enabled => findings.fail(
            CHECK,
            "it is hawker, which hawkerd's settings do not serve",
            "set containerd.enabled = true, or take it back: hawker setup containerd --undo",
        ),
        SNAPSHOTTER => findings.ok(CHECK, SNAPSHOTTER),
        other if settings.proxies(&STORES).contains(CONTENT) => findings.info(
            CHECK,
            format!("{other}: layers come out of Hawker's content store"),
        ),
        other if settings.has_proxy_plugin(SNAPSHOTTER) && has_cri(settings) => findings.warn(
            CHECK,
            format!("{other}, though containerd has Hawker's: CRI unpacks without it"),
            "hawker setup containerd makes it hawker; with --keep-snapshotter that is meant",
        ),
        other => findings.info(
            CHECK,
            format!("{other}: images come through the mirror, and containerd unpacks them ({SETUP} makes it hawker)"),
        ),
    }
}

/// Whether hawkerd asks containerd where that listens by its own settings.
fn hawkerds_way(own: Option<&Path>, config: &NodeConfig, findings: &mut Findings) {
    let Some(own) = own.filter(|_| config.containerd.enabled) else {
        return;
    };
    let asked = &config.containerd.address;
    // /var/run is /run.
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if real(own) != real(asked) {
        findings.warn(
            SERVICE,
            format!(
                "listens on {} by its settings, and hawkerd asks {}: layers that are slow are left \
                 to containerd after 2 s",
                own.display(),
                asked.display()
            ),
            "set containerd.address in hawkerd's settings, and restart hawkerd",
        );
    }
}

/// Whether setup would change anything.
fn planned(places: &Places, config: &NodeConfig, target: &Target, findings: &mut Findings) {
    if !config.mirror.enabled {
        return;
    }
    let plan = match containerd::plan(&places.containerd_config, target) {
        Ok(plan) => plan,
        Err(error) => return findings.warn(SETTINGS, error, ""),
    };
    for note in &plan.notes {
        findings.warn(SETTINGS, note, "");
    }
    if plan.changes.is_empty() {
        return findings.ok(SETTINGS, places.containerd_config.display());
    }
    if target.profile == Profile::Mirror && super::docker::uses_mirror(places, config) {
        let what = "not told of Hawker, and Docker is: hawker setup containerd, if it is used";
        return findings.info(SETTINGS, what);
    }
    let files: Vec<_> = plan
        .changes
        .iter()
        .map(|c| c.path.display().to_string())
        .collect();
    findings.fail(
        SETTINGS,
        format!("not as Hawker needs them: {}", files.join(", ")),
        match target.profile {
            Profile::Full => {
                "hawker setup containerd --profile full --dry-run shows what is missing, without \
                 --dry-run it is done"
            }
            _ => "hawker setup containerd --dry-run shows what is missing, without it is done",
        },
    );
}

/// Where clients of this machine reach the mirror.
pub(super) fn mirror(config: &NodeConfig) -> String {
    let mut socket = config.mirror.listen.socket();
    if socket.ip().is_unspecified() {
        socket.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    format!("http://{socket}")
}

/// Whether each registry's requests come to the mirror.
fn hosts_files(
    places: &Places,
    settings: &Settings,
    config: &NodeConfig,
    version: ContainerdVersion,
    findings: &mut Findings,
) {
    const CHECK: &str = "hosts.toml";
    let certs_d = settings.certs_d().unwrap_or_else(|| places.certs_d.clone());
    let dirs = match hosts::read_all(&certs_d) {
        Ok(dirs) => dirs,
        Err(error) => return findings.warn(CHECK, error, "run this as root"),
    };
    let mirror = mirror(config);
    let (mut through, mut default) = (0, false);
    for dir in &dirs {
        let place = dir.file.display();
        let Some(text) = &dir.text else { continue };
        match hosts::parse(text) {
            Err(why) => findings.fail(
                CHECK,
                format!("{place}: {why}"),
                "containerd goes past a file that it cannot read: mend it",
            ),
            Ok(found) if found.hosts.is_empty() && version.wants_a_host() => findings.warn(
                CHECK,
                format!("{place} has no [host], and containerd {version} goes past it"),
                SETUP,
            ),
            Ok(found) => {
                if found
                    .tried_as_https
                    .iter()
                    .any(|host| same_url(host, &mirror))
                {
                    findings.warn(
                        CHECK,
                        format!("{place}: {mirror} has ca, client or skip_verify, and is tried as HTTPS first"),
                        "leave them out for the mirror",
                    );
                }
                if found.hosts.iter().any(|host| same_url(host, &mirror)) {
                    through += 1;
                    default |= dir.name == hosts::DEFAULT_DIR;
                }
            }
        }
    }
    if default {
        findings.ok(
            CHECK,
            format!(
                "{through} files below {} name the mirror",
                certs_d.display()
            ),
        );
    }
}

async fn plugins(containerd: &Containerd, target: &Target, findings: &mut Findings) {
    const CHECK: &str = "snapshotter";
    let plugins = match containerd.plugins().await {
        Ok(plugins) => plugins,
        Err(error) => return findings.warn(CHECK, error, ""),
    };
    if !target.profile.has_snapshotter() {
        return;
    }
    let mut found = plugins.iter();
    let ours = found.find(|plugin| plugin.is(SNAPSHOTTER_KIND, SNAPSHOTTER));
    match ours.map(|plugin| &plugin.error) {
        None => findings.fail(
            CHECK,
            "containerd's settings name it, and the running containerd does not know it",
            "restart containerd (systemctl restart containerd)",
        ),
        Some(Some(why)) => findings.fail(CHECK, why, "see journalctl -u containerd"),
        Some(None) => trial(containerd, findings).await,
    }
    if let Err(error) = verify::plugins(&plugins, None, Wanted::of(target)) {
        findings.fail("containerd plugins", error, "see journalctl -u containerd");
    }
}

async fn trial(containerd: &Containerd, findings: &mut Findings) {
    const CHECK: &str = "snapshotter";
    if !Uid::effective().is_root() {
        return findings.warn(
            CHECK,
            "containerd has it; root alone may try it",
            "run this as root",
        );
    }
    match verify::snapshot(containerd).await {
        Ok(()) => findings.ok(
            CHECK,
            "a snapshot was made, mounted, written to and removed",
        ),
        Err(error) => findings.fail(CHECK, error, "see journalctl -u hawkerd -u containerd"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containerd_that_listens_elsewhere_than_hawkerd_asks_is_told() {
        let config = NodeConfig::default();
        let told = |own: Option<&Path>| {
            let mut findings = Findings::default();
            hawkerds_way(own, &config, &mut findings);
            findings.all
        };
        assert_eq!(told(None), []);
        assert_eq!(told(Some(&config.containerd.address)), []);
        let other = told(Some(Path::new("/run/k3s/containerd/containerd.sock")));
        assert!(other[0].what.contains("/run/k3s/"), "{other:?}");
        assert!(other[0].remedy.contains("containerd.address"));
    }
}
