//! The profile full, and changes from one profile to another.

use super::*;

macro_rules! sample {
    ($name:literal) => {
        include_str!(concat!("../samples/", $name))
    };
}

impl Machine {
    fn with_profile(mut self, profile: Profile) -> Self {
        self.use_profile(profile);
        self
    }

    /// As the command does it.
    fn use_profile(&mut self, profile: Profile) {
        self.target.profile = profile;
        self.target.cri = match profile {
            Profile::Mirror => CriSnapshotter::Kept { former: None },
            _ => CriSnapshotter::Hawker,
        };
    }

    /// One more run, with another profile; a second one changes nothing.
    fn change_to(&mut self, profile: Profile) {
        self.use_profile(profile);
        let plan = self.plan().unwrap_or_else(|error| panic!("{error}"));
        let transaction = self.transaction();
        transaction.apply(&plan.changes).unwrap();
        transaction.finish().unwrap();
        assert_eq!(
            self.plan().unwrap().changes,
            [],
            "{profile:?} a second time"
        );
    }

    fn disabled(&self) -> Vec<String> {
        let config = self.table("config.toml");
        let names = config.get("disabled_plugins").and_then(Value::as_array);
        let names = names.into_iter().flatten().filter_map(Value::as_str);
        names.map(str::to_owned).collect()
    }

    fn differs(&self) -> String {
        at(
            &self.table("config.toml"),
            &["plugins", DIFF_SERVICE, "default"],
        )
    }
}

const FULL: Profile = Profile::Full;

#[test]
fn real_settings_of_every_version_get_content_store_and_differ() {
    let changed = [
        "snapshotter =",
        "disable_snapshot",
        "config_path =",
        "disabled_plugins =",
        "default =",
        "differ =",
    ];
    for (containerd, sample) in [
        ("1.6.20", sample!("debian-1.6.toml")),
        ("1.6.36", sample!("default-1.6.toml")),
        ("1.7.3", sample!("kubeadm-1.7.toml")),
        ("1.7.24", sample!("kubeadm-1.7.toml")),
        ("1.7.24", sample!("nvidia-1.7.toml")),
        ("1.7.36", sample!("default-1.7.toml")),
        ("2.0.3", sample!("kubeadm-1.7.toml")),
        ("2.0.5", sample!("nvidia-1.7.toml")),
        ("2.1.0", sample!("inline-2.1.toml")),
        ("2.2.1", sample!("list-2.3.toml")),
        ("2.3.7", sample!("default-2.3.toml")),
    ] {
        let machine = Machine::with(containerd, sample).with_profile(FULL);
        let before = machine.text("config.toml");
        machine.set_up();
        let config = machine.table("config.toml");
        let proxy = |name: &str, key: &str| at(&config, &["proxy_plugins", name, key]);
        assert_eq!(proxy("hawker", "type"), "snapshot", "{containerd}");
        assert_eq!(proxy("hawker-content", "type"), "content");
        for name in ["hawker", "hawker-content"] {
            assert_eq!(proxy(name, "address"), "/run/hawker/containerd.sock");
        }
        assert_eq!(machine.disabled(), [LOCAL_CONTENT], "{containerd}");
        let (differ, order) = match machine.target.version.takes_differs() {
            true => ("diff", "[\"hawker-diff\", \"walking\"]"),
            false => ("-", ""),
        };
        assert_eq!(proxy("hawker-diff", "type"), differ, "{containerd}");
        if !order.is_empty() {
            assert_eq!(machine.differs(), order, "{containerd}");
        }
        if !sample.contains("plugins.\"io.containerd.cri.v1.images\" =") {
            assert_kept(&before, &machine.text("config.toml"), &changed);
        }
    }
}

#[test]
fn containerd_1_6_gets_no_differ_and_is_told_why() {
    let machine = Machine::with("1.6.33", sample!("default-1.6.toml")).with_profile(FULL);
    let notes = machine.set_up().notes.join("\n");
    assert!(notes.contains("takes no differ"), "{notes}");
    assert_eq!(machine.differs(), "[\"walking\"]");
}

#[test]
fn transfer_unpacks_with_our_differ_into_plain_directories() {
    let unpacked = |containerd, sample| {
        let machine = Machine::with(containerd, sample).with_profile(FULL);
        machine.set_up();
        unpacks(&machine.table("config.toml"))
    };
    assert_eq!(
        unpacked("2.3.7", sample!("default-2.3.toml")),
        ["overlayfs/hawker-diff", "hawker/hawker-diff", "erofs/erofs"]
    );
    assert_eq!(
        unpacked("2.2.1", sample!("list-2.3.toml")),
        ["overlayfs/hawker-diff", "hawker/hawker-diff"]
    );
    // Of two that fit, containerd leaves one out.
    assert_eq!(
        unpacked("2.1.0", sample!("inline-2.1.toml")),
        ["native/walking", "hawker/hawker-diff"]
    );
}

#[test]
fn other_profile_is_one_run_and_undo_gives_the_first_bytes() {
    use Profile::{Default, Full, Mirror};
    for (containerd, sample) in [
        ("1.6.20", sample!("debian-1.6.toml")),
        ("1.7.36", sample!("default-1.7.toml")),
        ("1.7.24", sample!("nvidia-1.7.toml")),
        ("2.2.1", sample!("list-2.3.toml")),
        ("2.3.7", sample!("default-2.3.toml")),
        ("2.3.7", ""),
    ] {
        let fresh = |profile| {
            let machine = Machine::with(containerd, sample).with_profile(profile);
            machine.set_up();
            (machine.table("config.toml"), machine.target.certs_d)
        };
        for way in [
            [Default, Full, Default],
            [Full, Default, Full],
            [Full, Mirror, Full],
            [Mirror, Full, Mirror],
            [Default, Mirror, Default],
        ] {
            let mut machine = Machine::with(containerd, sample);
            let before = machine.files();
            for profile in way {
                machine.change_to(profile);
                let (expected, certs_d) = fresh(profile);
                let now = meaning(machine.table("config.toml"), &machine.target.certs_d);
                assert_eq!(now, meaning(expected, &certs_d), "{containerd} {way:?}");
            }
            machine.transaction().undo(Foreign::Refuse).unwrap();
            assert_eq!(machine.files(), before, "{containerd} {way:?}");
        }
    }
}

/// What settings mean, without what says the same as nothing.
fn meaning(mut table: Table, certs_d: &Path) -> Table {
    let text = toml::to_string(&table).unwrap();
    table = text
        .replace(certs_d.to_str().unwrap(), "D")
        .parse()
        .unwrap();
    if table.get("disabled_plugins") == Some(&Value::Array(Vec::new())) {
        table.remove("disabled_plugins");
    }
    let walking = Value::Array(vec!["walking".into()]);
    let order = ["plugins", DIFF_SERVICE, "default"];
    if crate::setup::settings::lookup(&table, &order) == Some(&walking) {
        forget(&mut table, &order);
    }
    for plugin in [LONG_CRI, CRI_IMAGES] {
        // Annotations stay switched on, for whoever uses a snapshotter that reads them.
        forget(
            &mut table,
            &["plugins", plugin, "disable_snapshot_annotations"],
        );
        let old = [
            "plugins",
            plugin,
            "containerd",
            "disable_snapshot_annotations",
        ];
        forget(&mut table, &old);
        for path in [
            ["plugins", plugin, "snapshotter"].as_slice(),
            &["plugins", plugin, "containerd", "snapshotter"],
        ] {
            let there = crate::setup::settings::lookup(&table, path);
            if there.and_then(Value::as_str) == Some("overlayfs") {
                forget(&mut table, path);
            }
        }
    }
    // Their order says nothing.
    let transfer = table
        .get_mut("plugins")
        .and_then(|all| all.get_mut(TRANSFER));
    if let Some(Value::Array(list)) = transfer.and_then(|it| it.get_mut("unpack_config")) {
        list.sort_by_key(Value::to_string);
    }
    // A list that is containerd's own says nothing.
    let unpacks_to_hawker = toml::to_string(&table)
        .unwrap()
        .contains("snapshotter = \"hawker\"");
    if !unpacks_to_hawker {
        forget(&mut table, &["plugins", TRANSFER, "unpack_config"]);
    }
    table
}

#[test]
fn mirror_gives_cri_the_snapshotter_that_it_had() {
    let text = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\n\
                snapshotter = \"native\"\n";
    let mut machine = Machine::with("1.7.24", text);
    let path = below(&GRPC, &["containerd", "snapshotter"]);
    let plan = machine.plan().unwrap();
    machine.transaction().apply(&plan.changes).unwrap();
    assert_eq!(at(&machine.table("config.toml"), &path), "hawker");
    machine.target.profile = Profile::Mirror;
    machine.target.cri = CriSnapshotter::Kept {
        former: Some("native".to_owned()),
    };
    let plan = machine.plan().unwrap();
    assert!(
        plan.notes[0].contains("cannot be started again"),
        "{:?}",
        plan.notes
    );
    machine.transaction().apply(&plan.changes).unwrap();
    assert_eq!(at(&machine.table("config.toml"), &path), "native");
}

#[test]
fn snapshotter_of_cri_stays_where_that_is_wished() {
    for (containerd, sample) in [
        ("1.7.36", sample!("default-1.7.toml")),
        ("2.3.7", sample!("default-2.3.toml")),
    ] {
        let mut machine = Machine::with(containerd, sample).with_profile(FULL);
        machine.target.cri = CriSnapshotter::Kept { former: None };
        machine.set_up();
        let config = machine.table("config.toml");
        let path = match containerd {
            "2.3.7" => below(&SPLIT, &["snapshotter"]),
            _ => below(&GRPC, &["containerd", "snapshotter"]),
        };
        assert_eq!(at(&config, &path), "overlayfs");
        assert_eq!(
            at(&config, &["proxy_plugins", "hawker", "type"]),
            "snapshot"
        );
        assert_eq!(machine.disabled(), [LOCAL_CONTENT]);
    }
}

#[test]
fn list_of_disabled_plugins_is_added_to_where_it_is() {
    let main = "version = 2\nimports = [\"conf.d/*.toml\"]\n";
    let machine = Machine::with("1.7.24", main).with_profile(FULL);
    let more = "version = 2\ndisabled_plugins = [\n  # no ZFS here\n  \
                \"io.containerd.snapshotter.v1.zfs\",\n]\n";
    machine.write("conf.d/10.toml", more);
    machine.set_up();
    assert_eq!(machine.disabled(), Vec::<String>::new());
    let text = machine.text("conf.d/10.toml");
    assert!(
        text.contains("zfs\",\n  \"io.containerd.content.v1.content\",\n]"),
        "{text}"
    );
    assert!(text.contains("# no ZFS here"));
}

#[test]
fn settings_of_version_1_become_version_2_where_containerd_would_switch_off_too_much() {
    let machine = Machine::with("1.7.24", sample!("docker-package.toml")).with_profile(FULL);
    let before = machine.text("config.toml");
    machine.set_up();
    let config = machine.table("config.toml");
    assert_eq!(at(&config, &["version"]), "2");
    assert_eq!(machine.disabled(), [LONG_CRI, LOCAL_CONTENT]);
    assert_eq!(
        at(&config, &below(&GRPC, &["containerd", "snapshotter"])),
        "hawker"
    );
    assert_kept(&before, &machine.text("config.toml"), &["disabled_plugins"]);

    let machine = Machine::with("1.6.20", sample!("short-names-1.6.toml")).with_profile(FULL);
    machine.set_up();
    let config = machine.table("config.toml");
    assert_eq!(at(&config, &["version"]), "2");
    assert_eq!(at(&config, &["plugins", "cri"]), "-");
    let runtime = below(&GRPC, &["containerd", "default_runtime_name"]);
    assert_eq!(at(&config, &runtime), "runc");

    // containerd 2 reads them as they are.
    let machine = Machine::with("2.1.0", sample!("docker-package.toml")).with_profile(FULL);
    machine.set_up();
    assert_eq!(at(&machine.table("config.toml"), &["version"]), "-");
    assert_eq!(machine.disabled(), ["cri", LOCAL_CONTENT]);

    let unclear = "[plugins.windows]\nx = 1\n";
    let machine = Machine::with("1.7.24", unclear).with_profile(FULL);
    assert!(
        machine.error().contains("\"windows\""),
        "{}",
        machine.error()
    );
}

#[test]
fn containerd_that_cannot_is_refused_with_what_to_do() {
    for (containerd, text, why) in [
        ("1.5.18", "version = 2\n", "update it to 1.6"),
        (
            "1.7.24",
            "version = 2\n[proxy_plugins.other]\ntype = \"io.containerd.content.v1\"\n",
            "[proxy_plugins.other]",
        ),
        (
            "2.1.0",
            "version = 3\nrequired_plugins = [\"io.containerd.content.v1.content\"]\n",
            "required_plugins",
        ),
        ("1.7.21", sample!("k3s-generated.toml"), "k3s"),
    ] {
        let machine = Machine::with(containerd, text).with_profile(FULL);
        let error = machine.error();
        assert!(error.contains(why), "{error}");
        assert!(error.contains("--profile default"), "{error}");
    }
}

#[test]
fn rule_that_makes_the_store_useless_is_told() {
    let text = "version = 2\n[plugins.\"io.containerd.metadata.v1.bolt\"]\n\
                content_sharing_policy = \"isolated\"\n";
    let machine = Machine::with("1.7.24", text).with_profile(FULL);
    let notes = machine.set_up().notes.join("\n");
    assert!(notes.contains("isolated"), "{notes}");
}

#[test]
fn examples_are_what_setup_writes() {
    for (containerd, profile, example) in [
        (
            "1.6.36",
            FULL,
            include_str!("../../../../../config/examples/containerd/containerd-1.6-full.toml"),
        ),
        (
            "1.7.36",
            FULL,
            include_str!("../../../../../config/examples/containerd/containerd-1.7-full.toml"),
        ),
        (
            "2.2.1",
            FULL,
            include_str!("../../../../../config/examples/containerd/containerd-2-full.toml"),
        ),
        (
            "1.6.36",
            Profile::Default,
            include_str!("../../../../../config/examples/containerd/containerd-1.6.toml"),
        ),
        (
            "1.7.36",
            Profile::Default,
            include_str!("../../../../../config/examples/containerd/containerd-1.7.toml"),
        ),
        (
            "2.2.1",
            Profile::Default,
            include_str!("../../../../../config/examples/containerd/containerd-2.toml"),
        ),
    ] {
        let machine = Machine::with(containerd, "").with_profile(profile);
        machine.set_up();
        let certs_d = machine.target.certs_d.to_str().unwrap();
        let written = machine
            .text("config.toml")
            .replace(certs_d, "/etc/containerd/certs.d");
        let written: Table = written.parse().unwrap();
        let example: Table = example.parse().unwrap();
        assert_eq!(written, example, "{containerd} {profile:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// As with the default profile, from one profile to the other.
    #[test]
    fn any_mixture_of_settings_changes_its_profile_or_is_refused(
        one in 0..SAMPLES.len(),
        kept in proptest::collection::vec(proptest::bool::weighted(0.8), 64),
        containerd in prop_oneof![Just("1.6.20"), Just("1.7.24"), Just("2.0.3"), Just("2.3.7")],
    ) {
        let lines = SAMPLES[one].lines().zip(kept.iter().cycle());
        let text: Vec<&str> = lines.filter(|(_, kept)| **kept).map(|(line, _)| line).collect();
        let mut machine = Machine::with(containerd, &text.join("\n")).with_profile(FULL);
        let before = machine.files();
        if machine.plan().is_ok() {
            for profile in [FULL, Profile::Mirror, FULL, Profile::Default, FULL] {
                machine.change_to(profile);
            }
            machine.transaction().undo(Foreign::Refuse).unwrap();
            prop_assert_eq!(machine.files(), before);
        }
    }
}
