//! Every example file is what it says: settings that load, files that containerd, Docker and
//! systemd take.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use hawker_config::{NodeConfig, SchedulerConfig};
use hawker_model::Role;
use toml::{Table, Value};

const MIRROR: &str = "http://127.0.0.1:65001";
const CERTS_D: &str = "/etc/containerd/certs.d";

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn toml_of(path: &Path) -> Table {
    read(path)
        .parse()
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All files below a directory, by their path in it.
fn files(dir: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        match path.is_dir() {
            true => found.extend(
                files(&path)
                    .into_iter()
                    .map(|file| format!("{name}/{file}")),
            ),
            false => {
                found.insert(name);
            }
        }
    }
    found
}

#[test]
fn no_example_is_left_unread() {
    let known = [
        "containerd/certs.d/_default/hosts.toml",
        "containerd/certs.d/harbor.example_8443_/hosts.toml",
        "containerd/containerd-1.6-full.toml",
        "containerd/containerd-1.6.toml",
        "containerd/containerd-1.7-full.toml",
        "containerd/containerd-1.7.toml",
        "containerd/containerd-2-full.toml",
        "containerd/containerd-2.toml",
        "docker/daemon.json",
        "hawkerd.toml",
        "scheduler.toml",
        "seed.toml",
    ];
    let found = files(&here("examples"));
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), known);
}

#[test]
fn the_daemons_take_their_examples() {
    let node = NodeConfig::read(Some(&here("examples/hawkerd.toml")), None).unwrap();
    assert_eq!(node.node.role, Role::Node);
    assert!(node.mirror.enabled && !node.is_standalone());
    assert_eq!(format!("http://{}", node.mirror.listen), MIRROR);

    let seed = NodeConfig::read(Some(&here("examples/seed.toml")), None).unwrap();
    assert_eq!(seed.node.role, Role::Seed);
    assert!(!seed.mirror.enabled);
    assert_eq!(seed.p2p.seeds, node.p2p.seeds, "the same on every host");
    assert_eq!(seed.p2p.schedulers, node.p2p.schedulers);
    assert!(
        seed.p2p
            .seeds
            .iter()
            .any(|entry| entry.name == seed.node.name)
    );

    let scheduler = SchedulerConfig::read(Some(&here("examples/scheduler.toml"))).unwrap();
    let port = scheduler.scheduler.listen.socket().port();
    assert!(
        node.p2p
            .schedulers
            .iter()
            .all(|endpoint| endpoint.port() == port)
    );
}

#[test]
fn the_mirror_listens_by_default_where_the_examples_look_for_it() {
    let config = NodeConfig::default();
    assert!(config.mirror.enabled);
    assert_eq!(format!("http://{}", config.mirror.listen), MIRROR);
}

#[test]
fn containerd_finds_hosts_toml_in_every_version() {
    for (file, version, plugin) in [
        ("containerd-1.6.toml", 2, "io.containerd.grpc.v1.cri"),
        ("containerd-1.7.toml", 2, "io.containerd.grpc.v1.cri"),
        ("containerd-2.toml", 3, "io.containerd.cri.v1.images"),
        ("containerd-1.6-full.toml", 2, "io.containerd.grpc.v1.cri"),
        ("containerd-1.7-full.toml", 2, "io.containerd.grpc.v1.cri"),
        ("containerd-2-full.toml", 3, "io.containerd.cri.v1.images"),
    ] {
        let config = toml_of(&here("examples/containerd").join(file));
        assert_eq!(config["version"].as_integer(), Some(version), "{file}");
        let registry = &config["plugins"][plugin]["registry"];
        // containerd 2.x takes a list with a colon for one directory.
        assert_eq!(registry["config_path"].as_str(), Some(CERTS_D), "{file}");
        let keys = if file.contains("full") { 4 } else { 3 };
        assert_eq!(config.len(), keys, "{file} is a fragment");
    }
}

#[test]
fn containerd_uses_the_snapshotter_where_hawkerd_serves_it() {
    let hawkerd = NodeConfig::default();
    for (file, cri) in [
        (
            "containerd-1.6.toml",
            &["io.containerd.grpc.v1.cri", "containerd"][..],
        ),
        (
            "containerd-1.7.toml",
            &["io.containerd.grpc.v1.cri", "containerd"],
        ),
        ("containerd-2.toml", &["io.containerd.cri.v1.images"]),
        (
            "containerd-1.6-full.toml",
            &["io.containerd.grpc.v1.cri", "containerd"],
        ),
        (
            "containerd-1.7-full.toml",
            &["io.containerd.grpc.v1.cri", "containerd"],
        ),
        ("containerd-2-full.toml", &["io.containerd.cri.v1.images"]),
    ] {
        let config = toml_of(&here("examples/containerd").join(file));
        let plugin = &config["proxy_plugins"]["hawker"];
        assert_eq!(plugin["type"].as_str(), Some("snapshot"), "{file}");
        let path = |value: &Value| value.as_str().map(PathBuf::from);
        assert_eq!(
            path(&plugin["address"]),
            Some(hawkerd.containerd.socket.clone())
        );
        let root = &plugin["exports"]["root"];
        assert_eq!(path(root), Some(hawkerd.snapshotter.dir.clone()), "{file}");
        let settings = cri.iter().fold(&config["plugins"], |at, name| &at[*name]);
        assert_eq!(settings["snapshotter"].as_str(), Some("hawker"), "{file}");
        // Before 2.1 layers come with the name of their image only if CRI is told so.
        let annotations = settings.get("disable_snapshot_annotations");
        assert_eq!(
            annotations.and_then(Value::as_bool).is_some(),
            cri.len() == 2
        );
    }
    let config = toml_of(&here("examples/containerd/containerd-2.toml"));
    let unpack = &config["plugins"]["io.containerd.transfer.v1.local"]["unpack_config"];
    let snapshotters = unpack.as_array().unwrap().iter();
    let snapshotters: Vec<_> = snapshotters
        .map(|entry| entry["snapshotter"].as_str())
        .collect();
    assert_eq!(snapshotters, [Some("overlayfs"), Some("hawker")]);
    // Two differs fit; without a name containerd skips one.
    assert!(
        unpack
            .as_array()
            .unwrap()
            .iter()
            .all(|e| e.get("differ").is_some())
    );
}

#[test]
fn containerd_has_one_content_store_and_asks_its_differ_first() {
    let hawkerd = NodeConfig::default();
    for (file, has_differ) in [
        ("containerd-1.6-full.toml", false),
        ("containerd-1.7-full.toml", true),
        ("containerd-2-full.toml", true),
    ] {
        let config = toml_of(&here("examples/containerd").join(file));
        let disabled = config["disabled_plugins"].as_array().unwrap();
        let local: Value = "io.containerd.content.v1.content".into();
        assert_eq!(disabled, &[local], "{file}: two would be one too many");
        let proxies = config["proxy_plugins"].as_table().unwrap();
        let mut kinds = BTreeSet::new();
        for (name, proxy) in proxies {
            kinds.insert(proxy["type"].as_str().unwrap());
            let address = proxy["address"].as_str().map(PathBuf::from);
            assert_eq!(address.as_ref(), Some(&hawkerd.containerd.socket), "{name}");
        }
        let mut expected = BTreeSet::from(["content", "snapshot"]);
        let service = config["plugins"].get("io.containerd.service.v1.diff-service");
        let order = service.map(|service| service["default"].as_array().unwrap());
        match has_differ {
            true => {
                expected.insert("diff");
                // What the first does not know, the second does.
                let names: Vec<Value> = vec!["hawker-diff".into(), "walking".into()];
                assert_eq!(order, Some(&names), "{file}");
            }
            false => assert_eq!(order, None, "{file}: 1.6 does not start with it"),
        }
        assert_eq!(kinds, expected, "{file}");
    }
}

#[test]
fn hosts_toml_sends_pulls_to_the_mirror_and_falls_back() {
    let dir = here("examples/containerd/certs.d");
    for file in files(&dir) {
        let hosts = toml_of(&dir.join(&file));
        let host = hosts["host"].as_table().unwrap();
        assert_eq!(host.len(), 1, "{file}: 1.6 ignores a file without a host");
        let mirror = host[MIRROR].as_table().unwrap();
        let capabilities: Vec<_> = mirror["capabilities"].as_array().unwrap().iter().collect();
        assert_eq!(
            capabilities
                .into_iter()
                .filter_map(Value::as_str)
                .collect::<Vec<_>>(),
            ["pull", "resolve"],
            "{file}"
        );
        // With them an http:// mirror is tried as HTTPS first.
        assert!(mirror.keys().all(|key| key == "capabilities"), "{file}");
        check_server(&file, &hosts);
    }
}

/// `_default` names no server, so that each registry stays its own; any other names the registry
/// that its directory is called after.
fn check_server(file: &str, hosts: &Table) {
    let server = hosts.get("server").and_then(Value::as_str);
    match file.split_once('/') {
        Some(("_default", _)) => assert_eq!(server, None),
        Some((directory, _)) => {
            let registry = directory.replacen('_', ":", 1).replace('_', "");
            assert_eq!(server, Some(format!("https://{registry}").as_str()));
        }
        None => panic!("{file} lies in no directory"),
    }
}

#[test]
fn docker_asks_the_mirror() {
    let text = read(&here("examples/docker/daemon.json"));
    let daemon: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(daemon["registry-mirrors"], serde_json::json!([MIRROR]));
}

/// The binaries of the product, and which member builds them.
const BINARIES: [(&str, &str); 3] = [
    ("hawker", "plugin"),
    ("hawkerd", "plugin"),
    ("hawker-scheduler", "scheduler"),
];

/// The binaries that a member builds, as Cargo names them.
fn binaries_of(member: &str) -> BTreeSet<String> {
    let dir = here("..").join(member);
    let manifest = toml_of(&dir.join("Cargo.toml"));
    let declared = manifest.get("bin").and_then(Value::as_array);
    let mut found: BTreeSet<_> = declared
        .into_iter()
        .flatten()
        .map(|bin| bin["name"].as_str().unwrap().to_owned())
        .collect();
    if dir.join("src/main.rs").exists() {
        found.insert(manifest["package"]["name"].as_str().unwrap().to_owned());
    }
    if dir.join("src/bin").exists() {
        let sources = files(&dir.join("src/bin"));
        found.extend(
            sources
                .iter()
                .filter_map(|file| Some(file.strip_suffix(".rs")?.to_owned())),
        );
    }
    found
}

#[test]
fn the_members_build_the_binaries_that_units_and_documents_name() {
    for member in ["plugin", "scheduler"] {
        let named: BTreeSet<_> = BINARIES
            .iter()
            .filter(|(_, builder)| *builder == member)
            .map(|(binary, _)| (*binary).to_owned())
            .collect();
        let built = binaries_of(member);
        assert!(
            built.is_empty() || built == named,
            "{member} builds {built:?}"
        );
    }
}

/// The settings of one section of a unit file, in order.
fn unit(text: &str, section: &str) -> Vec<(String, String)> {
    let mut inside = false;
    let mut settings = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            inside = name == section;
        } else if inside && !line.is_empty() && !line.starts_with('#') {
            let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{line:?}"));
            settings.push((key.to_owned(), value.to_owned()));
        }
    }
    settings
}

#[test]
fn units_start_binaries_that_exist_with_or_without_a_settings_file() {
    let units = files(&here("systemd"));
    assert_eq!(units.len(), 4);
    for file in units.iter().filter(|file| file.ends_with(".service")) {
        let text = read(&here("systemd").join(file));
        let service = unit(&text, "Service");
        let value = |key: &str| {
            let mut values = service.iter().filter(|(name, _)| name == key);
            let value = values.next().map(|(_, value)| value.as_str());
            assert!(values.next().is_none(), "{file}: {key} is there twice");
            value.unwrap_or_else(|| panic!("{file} has no {key}"))
        };
        let command: Vec<_> = value("ExecStart").split(' ').collect();
        let binary = command[0].strip_prefix("/usr/local/bin/").unwrap();
        assert!(
            BINARIES.iter().any(|(known, _)| *known == binary),
            "{file}: no binary {binary}"
        );
        // A file that is named must be there; the default one is read when it is.
        assert!(!command.contains(&"--config"), "{file}");
        assert_eq!(value("Type"), "notify", "{file}");
        assert_eq!(value("Restart"), "always", "{file}");
        assert_eq!(value("KillSignal"), "SIGTERM", "{file}");
        assert_eq!(value("ProtectSystem"), "strict", "{file}");
        assert!(value("LimitNOFILE").parse::<u64>().unwrap() >= 65_536);
        assert!(!unit(&text, "Install").is_empty(), "{file}");
    }
}

#[test]
fn units_of_hawkerd_make_the_directories_that_its_defaults_use() {
    let config = NodeConfig::default();
    for file in ["hawkerd.service", "hawker-seed.service"] {
        let service = unit(&read(&here("systemd").join(file)), "Service");
        let directory = |key: &str, parent: &str| {
            let (_, name) = service.iter().find(|(name, _)| name == key).unwrap();
            Path::new(parent).join(name)
        };
        assert_eq!(config.store.dir, directory("StateDirectory", "/var/lib"));
        assert_eq!(
            config.control.socket.parent(),
            Some(directory("RuntimeDirectory", "/run").as_path())
        );
    }
}

#[test]
fn containerds_socket_is_held_by_systemd_where_hawkerd_looks_for_it() {
    let text = read(&here("systemd/hawkerd.socket"));
    let socket = unit(&text, "Socket");
    let value = |key: &str| {
        let found = socket.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    };
    let config = NodeConfig::default();
    let path = value("ListenStream").map(PathBuf::from);
    assert_eq!(path, Some(config.containerd.socket));
    assert_eq!(value("SocketMode"), Some("0600"));
    // A hawkerd that does not start must not take the socket with it.
    assert_eq!(value("TriggerLimitIntervalSec"), Some("0"));
    let service = unit(&read(&here("systemd/hawkerd.service")), "Service");
    let has = |key: &str, value: &str| service.contains(&(key.to_owned(), value.to_owned()));
    assert!(
        has("RuntimeDirectoryPreserve", "yes"),
        "or it goes with hawkerd"
    );
    assert!(has("KillMode", "mixed"));
    // What containerd asks after a crash waits in the socket, which it does for a second.
    assert!(has("RestartSec", "300ms"));
    // One mount for both: links and moves between containerd's files and hawkerd's.
    assert!(has("ReadWritePaths", "/var/lib"));
    assert!(config.store.dir.starts_with("/var/lib"));
    for unit_file in ["hawkerd.socket", "hawkerd.service"] {
        let text = read(&here("systemd").join(unit_file));
        let order = unit(&text, "Unit");
        let before = ("Before".to_owned(), "containerd.service".to_owned());
        assert!(order.contains(&before), "{unit_file}");
    }
    // What unpacking needs.
    let capabilities = service
        .iter()
        .find(|(key, _)| key == "CapabilityBoundingSet");
    let capabilities = &capabilities.unwrap().1;
    for needed in ["CHOWN", "MKNOD", "FOWNER", "FSETID", "SETFCAP", "SYS_ADMIN"] {
        assert!(capabilities.contains(needed), "{needed}");
    }
    for forbidding in ["RestrictSUIDSGID", "PrivateDevices"] {
        assert!(
            !service.iter().any(|(key, _)| key == forbidding),
            "{forbidding}"
        );
    }
}
