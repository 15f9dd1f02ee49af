//! Settings as they are found on machines, what becomes of them, and the way back.

use std::{collections::BTreeMap, fs};

use proptest::prelude::*;

use super::*;
use crate::setup::{
    disk::Disk,
    transaction::{Foreign, Transaction},
};

mod full;

const MIRROR: &str = "http://127.0.0.1:65001";

macro_rules! sample {
    ($name:literal) => {
        include_str!(concat!("samples/", $name))
    };
}

fn version(text: &str) -> ContainerdVersion {
    ContainerdVersion::parse(text).unwrap()
}

/// A machine with containerd's settings in a directory of its own.
struct Machine {
    dir: tempfile::TempDir,
    target: Target,
}

impl Machine {
    fn new(containerd: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let target = Target {
            version: version(containerd),
            profile: Profile::Default,
            cri: CriSnapshotter::Hawker,
            mirror: MIRROR.to_owned(),
            socket: "/run/hawker/containerd.sock".into(),
            snapshots: "/var/lib/hawker/snapshotter".into(),
            platform: "linux/amd64".to_owned(),
            remaps_ids: true,
            certs_d: dir.path().join("certs.d"),
        };
        Self { dir, target }
    }

    /// With this as containerd's own file; places of samples become places in the directory.
    fn with(containerd: &str, config: &str) -> Self {
        let machine = Self::new(containerd);
        machine.write("config.toml", config);
        machine
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let certs_d = self.target.certs_d.to_str().unwrap();
        fs::write(path, text.replace("/etc/containerd/certs.d", certs_d)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn table(&self, name: &str) -> Table {
        self.text(name).parse().unwrap()
    }

    fn hosts(&self, name: &str) -> Vec<String> {
        let text = self.text(&format!("certs.d/{name}/hosts.toml"));
        hosts::parse(&text).unwrap().hosts
    }

    fn plan(&self) -> Result<Plan, PlanError> {
        plan(&self.path("config.toml"), &self.target)
    }

    fn error(&self) -> String {
        self.plan().unwrap_err().to_string()
    }

    fn transaction(&self) -> Transaction<'static> {
        Transaction::open(&self.path("state"), "containerd", Disk::new()).unwrap()
    }

    /// Every file with its bytes.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut dirs = vec![self.dir.path().to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true if path.ends_with("state") => {}
                    true => dirs.push(path),
                    false => {
                        found.insert(path.clone(), fs::read(path).unwrap());
                    }
                }
            }
        }
        found
    }

    /// Sets up; a second time changes nothing, and undoing and setting up again is the same.
    fn set_up(&self) -> Plan {
        let before = self.files();
        let plan = self.plan().unwrap_or_else(|error| panic!("{error}"));
        let transaction = self.transaction();
        transaction.apply(&plan.changes).unwrap();
        transaction.finish().unwrap();
        let again = self.plan().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(again.changes, [], "a second time");
        transaction.undo(Foreign::Refuse).unwrap();
        assert_eq!(self.files(), before, "undone");
        transaction.apply(&plan.changes).unwrap();
        transaction.finish().unwrap();
        plan
    }
}

/// What stands at a path, as text; `-` for nothing.
fn at(table: &Table, path: &[&str]) -> String {
    match crate::setup::settings::lookup(table, path) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "-".to_owned(),
    }
}

const GRPC: [&str; 2] = ["plugins", LONG_CRI];
const SPLIT: [&str; 2] = ["plugins", CRI_IMAGES];

fn below<'a>(plugin: &[&'a str], path: &[&'a str]) -> Vec<&'a str> {
    [plugin, path].concat()
}

/// Whether all lines are still there, in their order, but for those that begin with one of `gone`.
fn assert_kept(before: &str, after: &str, gone: &[&str]) {
    let mut rest = after.lines();
    for line in before.lines() {
        if gone
            .iter()
            .any(|start| line.trim_start().starts_with(start))
        {
            continue;
        }
        assert!(
            rest.any(|kept| kept == line),
            "{line:?} is gone or elsewhere:\n{after}"
        );
    }
}

#[test]
fn settings_of_version_2_get_snapshotter_annotations_and_config_path() {
    let changed = ["snapshotter =", "disable_snapshot", "config_path ="];
    for (containerd, sample) in [
        ("1.6.20", sample!("debian-1.6.toml")),
        ("1.6.20", sample!("default-1.6.toml")),
        ("1.7.24", sample!("kubeadm-1.7.toml")),
        ("1.7.24", sample!("nvidia-1.7.toml")),
        ("2.0.3", sample!("kubeadm-1.7.toml")),
    ] {
        let machine = Machine::with(containerd, sample);
        let before = machine.text("config.toml");
        let plan = machine.set_up();
        let discards = sample.contains("discard_unpacked_layers = true");
        assert_eq!(plan.notes.len(), usize::from(discards), "{:?}", plan.notes);
        let config = machine.table("config.toml");
        let cri = |path: &[&str]| at(&config, &below(&GRPC, path));
        assert_eq!(cri(&["containerd", "snapshotter"]), "hawker");
        assert_eq!(
            cri(&["containerd", "disable_snapshot_annotations"]),
            "false"
        );
        let certs_d = machine.target.certs_d.to_str().unwrap();
        assert_eq!(cri(&["registry", "config_path"]), certs_d);
        assert_eq!(
            at(&config, &["proxy_plugins", "hawker", "type"]),
            "snapshot"
        );
        assert_eq!(
            at(&config, &["proxy_plugins", "hawker", "address"]),
            "/run/hawker/containerd.sock"
        );
        assert_kept(&before, &machine.text("config.toml"), &changed);
        assert_eq!(machine.hosts("_default"), [MIRROR]);
    }
}

#[test]
fn proxy_plugin_has_only_what_its_containerd_knows() {
    let of = |containerd| {
        let machine = Machine::with(containerd, "");
        machine.set_up();
        let config = machine.table("config.toml");
        let mut keys: Vec<_> = config["proxy_plugins"]["hawker"]
            .as_table()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        keys.sort();
        (
            keys.join(" "),
            at(&config, &["proxy_plugins", "hawker", "exports"]),
        )
    };
    assert_eq!(of("1.6.20").0, "address type");
    assert_eq!(of("1.6.32").0, "address exports type");
    assert_eq!(of("1.7.15").0, "address type");
    assert_eq!(of("1.7.23").0, "address capabilities exports type");
    let (keys, exports) = of("2.1.0");
    assert_eq!(keys, "address capabilities exports type");
    assert!(
        exports.contains("enable_remote_snapshot_annotations = \"true\""),
        "{exports}"
    );
    assert!(!of("2.0.5").1.contains("enable_remote"));
}

#[test]
fn settings_of_version_4_leave_annotations_to_the_transfer_service() {
    let machine = Machine::with("2.3.7", sample!("default-2.3.toml"));
    let before = machine.text("config.toml");
    machine.set_up();
    let config = machine.table("config.toml");
    assert_eq!(at(&config, &["version"]), "4");
    let images = |path: &[&str]| at(&config, &below(&SPLIT, path));
    assert_eq!(images(&["snapshotter"]), "hawker");
    assert_eq!(images(&["disable_snapshot_annotations"]), "true");
    assert_eq!(
        unpacks(&config),
        ["overlayfs/walking", "hawker/walking", "erofs/erofs"]
    );
    assert_kept(
        &before,
        &machine.text("config.toml"),
        &["snapshotter = 'overlayfs'", "config_path ="],
    );
}

fn unpacks(config: &Table) -> Vec<String> {
    let list = config["plugins"][TRANSFER]["unpack_config"]
        .as_array()
        .unwrap();
    let of = |entry: &Value, key: &str| {
        entry
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or("-")
            .to_owned()
    };
    list.iter()
        .map(|e| format!("{}/{}", of(e, "snapshotter"), of(e, "differ")))
        .collect()
}

#[test]
fn no_file_and_an_empty_one_become_a_file_of_the_newest_schema() {
    for text in [None, Some(""), Some("# only\n# words\n")] {
        for (containerd, schema, plugin) in [("1.6.20", "2", GRPC), ("2.1.0", "3", SPLIT)] {
            let machine = Machine::new(containerd);
            if let Some(text) = text {
                machine.write("config.toml", text);
            }
            machine.set_up();
            let config = machine.table("config.toml");
            assert_eq!(at(&config, &["version"]), schema);
            assert_ne!(
                at(&config, &below(&plugin, &["registry", "config_path"])),
                "-"
            );
            let now = machine.text("config.toml");
            assert!(now.starts_with(text.unwrap_or_default()), "{now}");
            let first = now
                .lines()
                .find(|line| !line.is_empty() && !line.starts_with('#'));
            assert_eq!(first, Some(format!("version = {schema}").as_str()), "{now}");
        }
    }
}

#[test]
fn docker_package_with_cri_switched_off_is_set_up_and_told() {
    let machine = Machine::with("1.7.24", sample!("docker-package.toml"));
    let plan = machine.set_up();
    assert!(
        plan.notes
            .iter()
            .any(|note| note.contains("disabled_plugins")),
        "{:?}",
        plan.notes
    );
    let config = machine.table("config.toml");
    assert_eq!(
        at(&config, &["version"]),
        "-",
        "what is there must not change its meaning"
    );
    assert_eq!(
        at(&config, &["plugins", "cri", "containerd", "snapshotter"]),
        "hawker"
    );
    assert_eq!(
        at(&config, &["proxy_plugins", "hawker", "type"]),
        "snapshot"
    );
}

#[test]
fn short_names_stay_short_and_ignored_tables_are_told() {
    let machine = Machine::with("1.6.20", sample!("short-names-1.6.toml"));
    assert_eq!(machine.set_up().notes, Vec::<String>::new());
    let config = machine.table("config.toml");
    assert_eq!(
        at(&config, &["plugins", "cri", "containerd", "snapshotter"]),
        "hawker"
    );

    let machine = Machine::with("1.6.20", sample!("no-version-1.6.toml"));
    let notes = machine.set_up().notes;
    assert!(notes[0].contains("lacks version = 2"), "{notes:?}");
    let config = machine.table("config.toml");
    assert_eq!(
        at(&config, &["plugins", "cri", "containerd", "snapshotter"]),
        "hawker"
    );
    // containerd 2 takes the long name there.
    let machine = Machine::with("2.1.0", sample!("no-version-1.6.toml"));
    assert_eq!(machine.set_up().notes, Vec::<String>::new());
    let config = machine.table("config.toml");
    let certs_d = machine.target.certs_d.to_str().unwrap();
    assert_eq!(
        at(&config, &below(&GRPC, &["registry", "config_path"])),
        certs_d
    );
}

#[test]
fn what_containerd_2_loses_of_old_files_stands_in_the_new_table() {
    for sample in [
        sample!("debian-1.6.toml"),
        sample!("docker-package.toml"),
        sample!("no-version-1.6.toml"),
        sample!("old-mirrors-1.6.toml"),
        sample!("short-names-1.6.toml"),
    ] {
        let machine = Machine::with("2.0.3", sample);
        machine.set_up();
        let config = machine.table("config.toml");
        let images = |path: &[&str]| at(&config, &below(&SPLIT, path));
        assert_eq!(images(&["snapshotter"]), "hawker");
        assert_eq!(images(&["disable_snapshot_annotations"]), "false");
        assert_eq!(images(&["registry"]), "-", "it is taken from the old table");
    }
}

#[test]
fn mirrors_of_the_old_style_become_hosts_toml_files() {
    let machine = Machine::with("1.6.20", sample!("old-mirrors-1.6.toml"));
    let plan = machine.set_up();
    assert_eq!(
        machine.hosts("docker.io"),
        [
            MIRROR,
            "https://mirror.gcr.io",
            "https://registry-1.docker.io"
        ]
    );
    assert_eq!(machine.hosts("registry.lan_5000_"), [MIRROR]);
    let harbor = machine.table("certs.d/harbor.lan/hosts.toml");
    assert_eq!(at(&harbor, &["ca"]), "/etc/ssl/harbor.pem");
    let config = machine.table("config.toml");
    let registry = |path: &[&str]| at(&config, &below(&below(&GRPC, &["registry"]), path));
    assert_eq!(registry(&["mirrors"]), "-");
    assert_eq!(registry(&["configs", "harbor.lan", "tls"]), "-");
    assert_eq!(
        registry(&["configs", "harbor.lan", "auth", "username"]),
        "robot"
    );
    assert_eq!(at(&config, &["debug", "level"]), "info");
    let notes = plan.notes.join("\n");
    assert!(
        notes.contains("endpoint = \"http://registry.lan:5000\""),
        "{notes}"
    );
    assert!(notes.contains("ca = \"/etc/ssl/harbor.pem\""), "{notes}");

    let both = Machine::with("1.6.20", sample!("old-mirrors-1.6.toml"));
    both.write("certs.d/docker.io/hosts.toml", "");
    assert!(
        both.error().contains("keep one of the two"),
        "{}",
        both.error()
    );
}

#[test]
fn config_path_with_a_colon_is_one_directory_where_containerd_takes_it_for_one() {
    let machine = Machine::with("2.3.4", sample!("list-2.3.toml"));
    let notes = machine.set_up().notes;
    assert!(notes[0].contains("one directory"), "{notes:?}");
    let config = machine.table("config.toml");
    let certs_d = machine.target.certs_d.to_str().unwrap();
    assert_eq!(
        at(&config, &below(&SPLIT, &["registry", "config_path"])),
        certs_d
    );
    assert_eq!(unpacks(&config), ["overlayfs/walking", "hawker/walking"]);

    let old = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n\
               config_path = \"/etc/containerd/certs.d:/other\"\n";
    let machine = Machine::with("1.7.20", old);
    machine.set_up();
    let path = at(
        &machine.table("config.toml"),
        &below(&GRPC, &["registry", "config_path"]),
    );
    assert!(path.ends_with(":/other"), "{path}");
    assert_eq!(machine.hosts("_default"), [MIRROR]);
}

#[test]
fn annotations_are_asked_for_where_cri_pulls_by_itself() {
    let machine = Machine::with("2.1.0", sample!("inline-2.1.toml"));
    let notes = machine.set_up().notes;
    assert!(notes[0].contains("\"native\""), "{notes:?}");
    let config = machine.table("config.toml");
    assert_eq!(
        at(&config, &below(&SPLIT, &["disable_snapshot_annotations"])),
        "false"
    );
    assert_eq!(at(&config, &below(&SPLIT, &["snapshotter"])), "hawker");
    assert_eq!(unpacks(&config), ["native/-", "hawker/walking"]);
}

#[test]
fn the_imported_file_that_counts_is_the_one_that_is_edited() {
    let main = "version = 2\nimports = [\"conf.d/*.toml\"]\n\
                [plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"a\"\n";
    let cri = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\n  default_runtime_name = \"x\"\n";
    for containerd in ["1.7.24", "2.0.0"] {
        let machine = Machine::with(containerd, main);
        machine.write("conf.d/10-cri.toml", cri);
        machine.write(
            "conf.d/20-other.toml",
            "version = 2\n[debug]\nlevel = \"info\"\n",
        );
        machine.write("conf.d/notes.txt", "not TOML");
        machine.set_up();
        let path = match containerd {
            "2.0.0" => below(&SPLIT, &["snapshotter"]),
            _ => below(&GRPC, &["containerd", "snapshotter"]),
        };
        assert_eq!(at(&machine.table("conf.d/10-cri.toml"), &path), "hawker");
        assert_eq!(at(&machine.table("config.toml"), &path), "-");
        let proxy = ["proxy_plugins", "hawker", "type"];
        assert_eq!(at(&machine.table("config.toml"), &proxy), "snapshot");
    }
    let machine = Machine::with(
        "1.7.24",
        "version = 2\nimports = [\"/nonexistent/x.toml\"]\n",
    );
    assert!(
        machine.error().contains("/nonexistent/x.toml"),
        "{}",
        machine.error()
    );
}

#[test]
fn relative_patterns_of_old_containerds_are_not_looked_for_beside_the_file() {
    let main = "version = 2\nimports = [\"conf.d/*.toml\"]\n";
    let cri = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n";
    for (containerd, edited) in [("1.6.20", "config.toml"), ("1.6.32", "conf.d/x.toml")] {
        let machine = Machine::with(containerd, main);
        machine.write("conf.d/x.toml", cri);
        machine.set_up();
        let path = below(&GRPC, &["containerd", "snapshotter"]);
        assert_eq!(at(&machine.table(edited), &path), "hawker", "{containerd}");
    }
}

#[test]
fn imports_that_import_each_other_end() {
    let machine = Machine::with("2.1.0", "version = 3\nimports = [\"b.toml\"]\n");
    machine.write("b.toml", "version = 3\nimports = [\"config.toml\"]\n");
    machine.set_up();
}

#[test]
fn imports_that_are_links_to_one_file_are_planned_once() {
    let main = "version = 3\nimports = [\"conf.d/*.toml\"]\n";
    let images = "version = 3\n[plugins.\"io.containerd.cri.v1.images\"]\n";
    let machine = Machine::with("2.1.0", main);
    machine.write("conf.d/10-a.toml", images);
    machine.write("conf.d/20-b.toml", images);
    for (link, file) in [
        ("30-c.toml", "10-a.toml"),
        ("40-main.toml", "../config.toml"),
    ] {
        let link = machine.path("conf.d").join(link);
        std::os::unix::fs::symlink(file, link).unwrap();
    }
    let plan = machine.set_up();
    let paths: Vec<_> = plan.changes.iter().map(|change| &change.path).collect();
    let is_a = |path: &&&PathBuf| path.ends_with("conf.d/10-a.toml");
    assert_eq!(paths.iter().filter(is_a).count(), 1, "{paths:?}");
    let snapshotter = below(&SPLIT, &["snapshotter"]);
    // containerd reads it again after the other one.
    assert_eq!(
        at(&machine.table("conf.d/10-a.toml"), &snapshotter),
        "hawker"
    );
    assert_eq!(at(&machine.table("conf.d/20-b.toml"), &snapshotter), "-");
}

#[test]
fn hosts_of_registries_keep_theirs_behind_the_mirror() {
    let machine = Machine::with("1.6.20", sample!("debian-1.6.toml"));
    machine.write(
        "certs.d/quay.io/hosts.toml",
        "server = \"https://quay.io\"\n\n[host.\"https://q\"]\n",
    );
    machine.write("certs.d/bad.io/hosts.toml", "[host\n");
    machine.write("certs.d/certs.io/ca.crt", "x");
    machine.write("certs.d/_default/hosts.toml", "[host.\"https://all\"]\n");
    let notes = machine.set_up().notes.join("\n");
    assert_eq!(machine.hosts("quay.io"), [MIRROR, "https://q"]);
    assert_eq!(machine.hosts("_default"), [MIRROR, "https://all"]);
    assert!(
        notes.contains("bad.io/hosts.toml is left as it is"),
        "{notes}"
    );
    assert!(
        notes.contains("certs.io's images go past the mirror"),
        "{notes}"
    );
}

#[test]
fn registries_that_are_links_to_one_are_edited_once() {
    let machine = Machine::with("1.7.27", "version = 2\n");
    let text = "[host.\"https://m\"]\n";
    machine.write("certs.d/quay.io/hosts.toml", text);
    std::os::unix::fs::symlink("quay.io", machine.path("certs.d/ghcr.io")).unwrap();
    machine.write("shared.toml", text);
    fs::create_dir(machine.path("certs.d/gcr.io")).unwrap();
    let link = machine.path("certs.d/gcr.io/hosts.toml");
    std::os::unix::fs::symlink("../../shared.toml", &link).unwrap();
    machine.set_up();
    for registry in ["quay.io", "ghcr.io", "gcr.io"] {
        assert_eq!(machine.hosts(registry), [MIRROR, "https://m"], "{registry}");
    }
    assert!(link.is_symlink());
}

#[test]
fn mirror_profile_leaves_the_snapshotter_alone() {
    let mut machine = Machine::with("2.3.4", sample!("list-2.3.toml"));
    machine.target.profile = Profile::Mirror;
    machine.set_up();
    let config = machine.table("config.toml");
    assert_eq!(at(&config, &below(&SPLIT, &["snapshotter"])), "overlayfs");
    assert_eq!(at(&config, &["proxy_plugins"]), "-");
    assert_eq!(unpacks(&config), ["overlayfs/walking"]);
    assert_eq!(machine.hosts("_default"), [MIRROR]);
}

#[test]
fn file_that_k3s_writes_is_left_and_its_template_named() {
    let machine = Machine::with("1.7.21", sample!("k3s-generated.toml"));
    let error = machine.error();
    assert!(error.contains("config.toml.tmpl"), "{error}");
    assert!(error.contains("[proxy_plugins.hawker]"), "{error}");
    assert!(error.contains("registries.yaml"), "{error}");
}

#[test]
fn file_that_k3s_writes_from_a_good_template_is_done() {
    let certs_d = "config_path = \"/etc/containerd/certs.d\"\n";
    let text = sample!("k3s-generated.toml")
        .replace("\"overlayfs\"", "\"hawker\"")
        .replace("annotations = true", "annotations = false")
        .replace(
            "config_path = \"/var/lib/rancher/k3s/agent/etc/containerd/certs.d\"\n",
            certs_d,
        );
    let proxy = "[proxy_plugins.hawker]\ntype = \"snapshot\"\n\
                 address = \"/run/hawker/containerd.sock\"\n\
                 exports = { root = \"/var/lib/hawker/snapshotter\" }\n";
    let machine = Machine::with("1.7.21", &(text + proxy));
    assert!(machine.error().contains("registries.yaml"), "no mirror yet");
    let hosts = format!("[host.\"{MIRROR}/v2\"]\n");
    machine.write("certs.d/_default/hosts.toml", &hosts);
    assert_eq!(machine.plan().unwrap().changes, []);
}

#[test]
fn what_containerd_refuses_is_refused_with_its_line() {
    let machine = Machine::with("1.6.20", "version = 2\n[plugins\nx = 1\n");
    assert!(
        machine
            .error()
            .contains("config.toml, line 2: this is not TOML"),
        "{}",
        machine.error()
    );
    let machine = Machine::with("1.7.24", "version = 3\n");
    let error = machine.error();
    assert!(
        error.contains("version = 3; containerd 1.7.24 reads up to 2"),
        "{error}"
    );
    let machine = Machine::with("1.7.24", "version = 2\nproxy_plugins = 3\n");
    assert!(
        machine.error().contains("proxy_plugins is no table"),
        "{}",
        machine.error()
    );
}

#[test]
fn link_to_the_file_stays_a_link() {
    let machine = Machine::new("1.6.20");
    machine.write("real.toml", sample!("debian-1.6.toml"));
    std::os::unix::fs::symlink(machine.path("real.toml"), machine.path("config.toml")).unwrap();
    machine.set_up();
    assert!(
        fs::symlink_metadata(machine.path("config.toml"))
            .unwrap()
            .is_symlink()
    );
    assert!(machine.text("real.toml").contains("proxy_plugins"));
}

#[test]
fn other_address_of_hawkerd_is_written_over_the_old_one() {
    let mut machine = Machine::with("2.1.0", "");
    machine.set_up();
    machine.target.socket = "/run/other.sock".into();
    let plan = machine.plan().unwrap();
    assert_eq!(plan.changes.len(), 1);
    assert!(
        plan.changes[0]
            .diff()
            .contains("+address = \"/run/other.sock\"")
    );
}

#[test]
fn runtime_with_a_snapshotter_of_its_own_is_told() {
    for (containerd, text) in [
        (
            "1.7.24",
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.kata]\n\
             snapshotter = \"blockfile\"\n",
        ),
        (
            "2.1.0",
            "version = 3\n[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.kata]\n\
             snapshotter = \"blockfile\"\n",
        ),
    ] {
        let notes = Machine::with(containerd, text).set_up().notes;
        assert!(notes[0].contains("\"kata\""), "{notes:?}");
    }
}

const SAMPLES: [&str; 8] = [
    sample!("debian-1.6.toml"),
    sample!("docker-package.toml"),
    sample!("kubeadm-1.7.toml"),
    sample!("nvidia-1.7.toml"),
    sample!("old-mirrors-1.6.toml"),
    sample!("list-2.3.toml"),
    sample!("inline-2.1.toml"),
    sample!("no-version-1.6.toml"),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Lines of all the samples, some left out: what is edited at all is edited soundly, once, and
    /// gives the same bytes back.
    #[test]
    fn any_mixture_of_settings_is_set_up_or_refused(
        one in 0..SAMPLES.len(),
        other in 0..SAMPLES.len(),
        kept in proptest::collection::vec(proptest::bool::weighted(0.8), 64),
        containerd in prop_oneof![Just("1.6.20"), Just("1.7.24"), Just("2.0.3"), Just("2.3.7")],
    ) {
        // Two versions in one file are refused; that is tried, and not only that.
        let more = SAMPLES[other].lines().filter(|line| !line.starts_with("version"));
        let more = more.take(if one == other { 0 } else { 12 });
        let lines = SAMPLES[one].lines().chain(more);
        let lines = lines.zip(kept.iter().cycle()).filter(|(_, kept)| **kept);
        let text: Vec<&str> = lines.map(|(line, _)| line).collect();
        let machine = Machine::with(containerd, &text.join("\n"));
        if machine.plan().is_ok() {
            machine.set_up();
        }
    }

    #[test]
    fn any_text_is_set_up_or_refused(text in "\\PC{0,80}", deep in "(\\[|\\]|plugins|=|\"|\\.|cri|1|\n){0,24}") {
        for text in [text, deep] {
            let machine = Machine::with("1.6.20", &text);
            if machine.plan().is_ok() {
                machine.set_up();
            }
        }
    }
}
