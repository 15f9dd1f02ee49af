//! Private registries as people run them.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use bytes::Bytes;

use super::Case;
use crate::{
    bed::Host,
    cluster::{Cluster, Member, Topology},
    http as client,
    image::digest_of,
    pki::PrivateCa,
    proxy::Proxy,
    registry::{Registry, RegistrySetup},
    token::Account,
};

pub(super) const CASES: &[Case] = &[Case::new(
    "private_registries_work_as_people_run_them",
    180,
    as_people_run_them,
)];

const LIMIT: Duration = Duration::from_secs(40);
const PASSWORD: &str = "horse-battery-staple";
const ACCOUNT: &str = "proxy-user:proxy-word";

/// `hosts.toml` of containerd: the mirror before the registry, whose authority it names.
const HOSTS: &str = "\
server = \"https://kube\"
[host.\"http://127.0.0.1:65001\"]
capabilities = [\"pull\", \"resolve\"]
[host.\"https://kube\"]
capabilities = [\"pull\", \"resolve\"]
ca = \"/etc/containerd/certs.d/kube/ca.crt\"
";

/// What hawkerd is told where containerd and Docker know nothing.
const SETTINGS: &str = "\
[registries.\"guarded\"]
ca = \"/etc/hawker/company-ca.pem\"
client_cert = \"/etc/hawker/client.cert\"
client_key = \"/etc/hawker/client.key\"

[registries.\"lax\"]
skip_verify = true

[registries.\"behind\"]
ca = \"/etc/hawker/company-ca.pem\"
proxy = \"http://proxy:3128\"
proxy_username = \"proxy-user\"
proxy_password_file = \"/etc/hawker/proxy.password\"

[registries.\"twice.example\"]
endpoints = [\"http://registry:5999\", \"http://registry:5000\"]

[registries.\"named.example\"]
endpoint = \"http://named.example:5000\"
resolve = { \"named.example\" = [\"REGISTRY\"] }
";

fn as_people_run_them() -> Result<()> {
    let ca = Arc::new(PrivateCa::create("company")?);
    let tls = |name: &str| RegistrySetup::new(name).with_tls(&ca);
    let topology = Topology {
        nodes: 1,
        has_containerd: false,
        registries: vec![
            tls("kube"),
            tls("dock"),
            tls("guarded").wanting_certificates(),
            tls("lax"),
            tls("behind"),
            RegistrySetup::new("vault").with_account("owner", PASSWORD),
            RegistrySetup::new("harbor").with_tokens(),
        ],
        // The first host of the bed.
        settings: SETTINGS.replace("REGISTRY", "10.77.0.1"),
        ..Topology::default()
    };
    let cluster = Cluster::prepare(&topology)?;
    ensure!(cluster.registry.host().address().to_string() == "10.77.0.1");
    let proxy_host = cluster.bed().add_host("proxy", &topology.link)?;
    let proxy = Proxy::start(&proxy_host, Some(ACCOUNT), None)?;
    let service = cluster.registry_named("harbor")?.tokens()?;
    service.change(|rules| rules.token_seconds = 2)?;
    service.add("robot$ci", Account::new(PASSWORD, &["team/*"]))?;
    for member in cluster.nodes().iter().chain(cluster.seeds()) {
        install(member.host(), &ca)?;
    }
    let node = &cluster.nodes()[0];
    log_in(node.host())?;
    let cluster = cluster.begin(&topology)?;
    try_each(&cluster)?;

    let went = proxy.tally()?;
    ensure!(
        went.connects.keys().eq(["behind:443"]),
        "not this one by the proxy: {went:?}"
    );
    Ok(())
}

/// The files as operators have them, on every host that fetches.
fn install(host: &Host, ca: &PrivateCa) -> Result<()> {
    let client = ca.client("hawkerd")?;
    let files = [
        ("/etc/containerd/certs.d/kube/hosts.toml", HOSTS),
        ("/etc/containerd/certs.d/kube/ca.crt", ca.cert_pem()),
        ("/etc/docker/certs.d/dock/ca.crt", ca.cert_pem()),
        ("/etc/hawker/company-ca.pem", ca.cert_pem()),
        ("/etc/hawker/client.cert", &client.cert_pem),
        ("/etc/hawker/client.key", &client.key_pem),
        ("/etc/hawker/proxy.password", "proxy-word\n"),
    ];
    for (path, text) in files {
        host.write(path, text)?;
    }
    host.restrict("/etc/hawker/client.key")?;
    host.restrict("/etc/hawker/proxy.password")
}

/// The node's logins; the seed has none.
fn log_in(host: &Host) -> Result<()> {
    const SETTINGS: &str = "/etc/hawker/hawkerd.toml";
    let mut text = std::fs::read_to_string(host.path(SETTINGS))?;
    for (registry, user) in [("vault:5000", "owner"), ("harbor:5000", "robot$ci")] {
        let path = format!("/etc/hawker/{user}.password");
        host.write(&path, PASSWORD)?;
        host.restrict(&path)?;
        let section = format!("[registries.\"{registry}\"]\n");
        let login = format!("username = '{user}'\npassword_file = '{path}'\n");
        text = text.replace(&section, &format!("{section}{login}"));
    }
    host.write(SETTINGS, text)
}

fn try_each(cluster: &Cluster) -> Result<()> {
    let open = &cluster.registry;
    let named = |name: &str| cluster.registry_named(name);
    let cases: [(&str, &Registry); 9] = [
        ("kube", named("kube")?),
        ("dock", named("dock")?),
        ("guarded", named("guarded")?),
        ("lax", named("lax")?),
        ("behind", named("behind")?),
        ("vault:5000", named("vault")?),
        ("harbor:5000", named("harbor")?),
        ("twice.example", open),
        ("named.example", open),
    ];
    let node = &cluster.nodes()[0];
    let mut failed = Vec::new();
    for (name, registry) in cases {
        // Twice: the second time long after the first token has ended.
        for _ in 0..2 {
            if let Err(error) = fetch(node, name, registry) {
                failed.push(format!("{name}: {error:#}"));
            }
        }
    }
    std::thread::sleep(Duration::from_secs(3));
    fetch(node, "harbor:5000", named("harbor")?)?;
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

/// A blob that nobody has yet, by the mirror, without a credential.
fn fetch(node: &Member, name: &str, registry: &Registry) -> Result<()> {
    let blob: Vec<u8> = (0..70_000).map(|_| rand::random()).collect();
    let digest = digest_of(&blob);
    let path = registry.push_bytes("team/image", &digest, Bytes::from(blob.clone()))?;
    let url = format!("http://127.0.0.1:65001{path}?ns={name}");
    let answer = node.host().enter(|| client::get(&url, LIMIT))??;
    ensure!(
        answer.status == 200 && answer.body == blob,
        "{}: {}",
        answer.status,
        answer.text().chars().take(300).collect::<String>()
    );
    Ok(())
}
