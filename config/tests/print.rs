//! `--print-config` documents every key, and what it prints is the settings.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;

use hawker_config::{NodeConfig, SchedulerConfig};
use hawker_model::Role;

/// A text that differs from the default in every kind of value.
const UNUSUAL: &str = r#"
[node]
name = "node-7"
advertise = ["10.0.0.7", "[fd00::7]:4005", "interface:eth1"]
zone = "rack-3"
[p2p]
listen = "0.0.0.0:14005"
transport = "plain"
schedulers = ["a.example:8002", "[fd00::1]:8002"]
upload_slots = 5
[[p2p.seeds]]
name = "seed-1"
address = "seed-1.example:4005"
[[p2p.seeds]]
name = "seed-2"
address = "10.0.0.2:4005"
[store]
dir = "/with \"quotes\" and \\"
quota = "1.5GiB"
high_water = "90%"
low_water = "400GiB"
ttl = "36h"
keep = false
[mirror]
allow_private = ["10.0.0.0/8", "registry.lan:5000"]
default_registry = "harbor.example:8443"
registries = ["harbor.example:8443", "*.example.com"]
names = ["mirror.example"]
[registries."harbor.example:8443"]
ca = "/etc/hawker/harbor.pem"
username = "robot$pull"
password_file = "/etc/hawker/harbor.password"
proxy = "https://proxy.example:3128"
proxy_username = "hawker"
proxy_password_file = "/etc/hawker/proxy.password"
trust_group = "ours"
[registries."harbor.example:8443".resolve]
"harbor.example" = ["10.0.0.5", "fd00::5"]
[registries."[fd00::5]:5000"]
endpoint = "http://[fd00::5]:5000"
[registries."two.example"]
endpoints = ["https://a.example:8443", "https://b.example/prefix"]
client_cert = "/etc/hawker/two.cert"
client_key = "/etc/hawker/two.key"
proxy = ""
[origin]
read_timeout = "1500ms"
proxy = "http://proxy.example:3128"
proxy_ca = "/etc/hawker/proxy-ca.pem"
no_proxy = ["registry.lan", "10.0.0.0/8"]
certs_d = []
[containerd]
enabled = false
address = "/run/k3s/containerd/containerd.sock"
[snapshotter]
dir = "/data/snapshots"
prepare_wait = "0s"
max_layer_size = "1.5TiB"
[credentials]
docker_config = "/etc/hawker/docker.json"
[metrics]
listen = ""
[log]
level = "debug"
format = "json"
"#;

fn reparse(config: &NodeConfig) -> NodeConfig {
    let text = config.to_documented_toml();
    NodeConfig::parse(&text, Path::new("printed"), None).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

#[test]
fn printed_settings_read_back_as_the_same() {
    let unusual = NodeConfig::parse(UNUSUAL, Path::new("t"), None).unwrap();
    assert_eq!(unusual.registries.len(), 3);
    let mut seed = NodeConfig::for_role(Role::Seed);
    seed.node.name = "s".parse().unwrap();
    for config in [NodeConfig::default(), seed, unusual] {
        assert_eq!(reparse(&config), config);
    }
    let scheduler = SchedulerConfig::default();
    // The machine of the test may be called localhost, which a scheduler may not.
    let text = "[scheduler]\nname = \"s\"\n[http]\nlisten = \"\"\n[swarm]\nparents = 3";
    let changed = SchedulerConfig::parse(text, Path::new("t")).unwrap();
    let printed = changed.to_documented_toml();
    assert_eq!(
        SchedulerConfig::parse(&printed, Path::new("t")).unwrap(),
        changed
    );
    assert_ne!(changed, scheduler);
}

/// Every `key = value` line, also in comments, with the line before it.
fn keys(text: &str) -> Vec<(&str, &str)> {
    let lines: Vec<_> = text.lines().collect();
    lines
        .windows(2)
        .filter(|pair| pair[1].contains(" = ") && !pair[1].starts_with('#'))
        .map(|pair| (pair[0], pair[1]))
        .collect()
}

#[test]
fn every_key_is_printed_below_its_documentation() {
    let unusual = NodeConfig::parse(UNUSUAL, Path::new("t"), None).unwrap();
    for text in [
        unusual.to_documented_toml(),
        SchedulerConfig::default().to_documented_toml(),
    ] {
        let keys = keys(&text);
        for (before, key) in &keys {
            assert!(
                before.starts_with("# "),
                "{key} has no documentation:\n{text}"
            );
        }
        let expected = leaves(&text.parse::<toml::Table>().unwrap());
        assert_eq!(keys.len(), expected);
    }
}

/// How many keys a document has that are no sections.
fn leaves(table: &toml::Table) -> usize {
    let of = |(key, value): (&String, &toml::Value)| match value {
        // One key, with names of hosts in it.
        toml::Value::Table(_) if key == "resolve" => 1,
        toml::Value::Table(table) => leaves(table),
        toml::Value::Array(entries) if entries.iter().any(toml::Value::is_table) => entries
            .iter()
            .filter_map(toml::Value::as_table)
            .map(leaves)
            .sum(),
        _ => 1,
    };
    table.iter().map(of).sum()
}

#[test]
fn every_key_of_the_types_is_printed() {
    let unusual = NodeConfig::parse(UNUSUAL, Path::new("t"), None).unwrap();
    let types = toml::Table::try_from(&unusual).unwrap();
    let printed = unusual.to_documented_toml();
    assert_eq!(leaves(&types), keys(&printed).len(), "{printed}");
    let types = toml::Table::try_from(SchedulerConfig::default()).unwrap();
    let printed = SchedulerConfig::default().to_documented_toml();
    assert_eq!(leaves(&types), keys(&printed).len(), "{printed}");
}

#[test]
fn what_is_not_the_default_says_what_would_be() {
    let unusual = NodeConfig::parse(UNUSUAL, Path::new("t"), None).unwrap();
    let printed = unusual.to_documented_toml();
    assert!(
        printed.contains("# (default: \"tls\")\ntransport = \"plain\"\n"),
        "{printed}"
    );
    let seed = NodeConfig::for_role(Role::Seed).to_documented_toml();
    assert!(!seed.contains("(default: true)"), "{seed}");
}
