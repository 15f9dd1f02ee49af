//! No secret is in anything that the daemons wrote.

use std::{os::unix::process::ExitStatusExt, path::Path, process::Command, time::Duration};

use anyhow::{Result, ensure};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use http::{Request, header};
use nix::sys::signal::Signal;
use url::form_urlencoded::byte_serialize;

use super::Case;
use crate::{
    bed::Host,
    cluster::{Client, Cluster, Login, Member, Topology},
    http as client,
    image::{self, Image},
    registry::{Action, Fault, RegistrySetup},
    token::{Account, Grant},
};

pub(super) const CASES: &[Case] = &[Case::new(
    "no_secret_is_written_anywhere",
    240,
    written_nowhere,
)];

const LIMIT: Duration = Duration::from_secs(60);
/// With what has to be escaped in URLs and headers.
const ROBOT: &str = "robot$team+ci";
const OWNER: &str = "owner";
const REPOSITORY: &str = "team/image";

/// Everything that nobody may write down.
struct Secrets {
    robot: String,
    owner: String,
    wrong: String,
    signature: String,
    /// All tokens, as they were shown.
    tokens: Vec<String>,
}

fn word() -> String {
    format!("S3cr&t/{:016x}+=", rand::random::<u64>())
}

fn written_nowhere() -> Result<()> {
    let mut secrets = Secrets {
        robot: word(),
        owner: word(),
        wrong: word(),
        signature: format!("{:032x}", rand::random::<u128>()),
        tokens: Vec::new(),
    };
    let cluster = Cluster::start(&Topology {
        nodes: 2,
        log_level: "trace".to_owned(),
        registries: vec![
            RegistrySetup::new("harbor").with_tokens(),
            RegistrySetup::new("vault").with_account(OWNER, &secrets.owner),
        ],
        docker_hub: Some("http://harbor:5000".to_owned()),
        ..Topology::default()
    })?;
    let tokens = cluster.registry_named("harbor")?.tokens()?;
    tokens.add(ROBOT, Account::new(&secrets.robot, &["team/*"]))?;
    log_in_on(&cluster.nodes()[1], &secrets)?;

    pull_with_daemons(&cluster, &secrets)?;
    ask_at_the_mirror(&cluster, &mut secrets)?;
    get_by_url(&cluster, &secrets)?;
    secrets.tokens.extend(tokens.issued()?);

    search(&cluster, &secrets)?;
    let hawkerd = cluster.nodes()[0].hawkerd()?;
    hawkerd.signal(Signal::SIGABRT)?;
    let status = hawkerd.wait(LIMIT)?;
    ensure!(
        !status.core_dumped(),
        "its memory was written to a core file"
    );
    search(&cluster, &secrets)
}

/// The node's own logins, as an operator writes them.
fn log_in_on(node: &Member, secrets: &Secrets) -> Result<()> {
    let logins = [
        ("harbor", ROBOT, &secrets.robot),
        ("vault", OWNER, &secrets.owner),
    ];
    for (name, _, password) in logins {
        let path = format!("/etc/hawker/{name}.password");
        node.host().write(&path, password)?;
        node.host().restrict(&path)?;
    }
    node.restart_with(|settings| {
        logins
            .iter()
            .fold(settings.to_owned(), |text, (name, user, _)| {
                let section = format!("[registries.\"{name}:5000\"]\n");
                let login = format!(
                    "username = '{user}'\npassword_file = \"/etc/hawker/{name}.password\"\n"
                );
                text.replace(&section, &format!("{section}{login}"))
            })
    })
}

fn image(cluster: &Cluster, number: u64) -> Result<Image> {
    let image = image::synthetic(image::Oddity::Whiteouts, 70 + number)?;
    let image = image.renamed(REPOSITORY, &number.to_string());
    for registry in ["harbor", "vault"] {
        cluster.registry_named(registry)?.push(&image)?;
    }
    Ok(image)
}

fn pull_with_daemons(cluster: &Cluster, secrets: &Secrets) -> Result<()> {
    let node = &cluster.nodes()[0];
    let containerd = node.containerd()?;
    image(cluster, 1)?;
    let robot = format!("{ROBOT}:{}", secrets.robot);
    let owner = format!("{OWNER}:{}", secrets.owner);
    for client in [Client::Crictl, Client::Ctr] {
        let session = |account: &str| containerd.client(client).with_account(account);
        for (account, registry) in [(&robot, "harbor:5000"), (&owner, "vault:5000")] {
            let reference = format!("{registry}/{REPOSITORY}:1");
            session(account).pull(&reference)?;
            let wrong = session(&format!("{ROBOT}:{}", secrets.wrong));
            let wrong = wrong.try_pull(&reference)?;
            ensure!(
                !wrong.status.success(),
                "{registry} let a wrong password in"
            );
        }
    }
    image(cluster, 2)?;
    let docker = node.start_docker()?;
    let login = Login {
        registry: "https://index.docker.io/v1/".to_owned(),
        account: robot,
    };
    let pulled = docker.try_pull(&format!("{REPOSITORY}:2"), Some(&login))?;
    pulled.success().map(drop)
}

fn ask_at_the_mirror(cluster: &Cluster, secrets: &mut Secrets) -> Result<()> {
    let harbor = cluster.registry_named("harbor")?;
    let image = image(cluster, 3)?;
    let service = harbor.tokens()?;
    let right = service.mint(ROBOT, &[Grant::pull(REPOSITORY)])?;
    let old = service.mint_for(ROBOT, &[Grant::pull(REPOSITORY)], -9)?;
    let basic = |password: &str| STANDARD.encode(format!("{OWNER}:{password}"));
    let shown = [
        ("harbor:5000", format!("Bearer {right}")),
        ("harbor:5000", format!("Bearer {old}")),
        ("vault:5000", format!("Basic {}", basic(&secrets.owner))),
        ("vault:5000", format!("Basic {}", basic(&secrets.wrong))),
    ];
    secrets.tokens.extend([right, old]);
    // The storage wants no credential but a signature in the URL.
    harbor.set_faults(&[Fault::new(
        "/blobs/",
        Action::RedirectTo {
            base: format!("http://registry:5000/{}", secrets.signature),
        },
    )])?;
    for node in cluster.nodes() {
        for (registry, authorization) in &shown {
            for what in ["manifests/3", &format!("blobs/{}", image.manifest.digest)] {
                let url = format!("http://127.0.0.1:65001/v2/{REPOSITORY}/{what}?ns={registry}");
                let request = Request::get(url).header(header::AUTHORIZATION, authorization);
                let request = request.body(Bytes::new())?;
                node.host().enter(|| client::send(request, LIMIT))??;
            }
        }
        // The node's own logins, where it has any.
        for registry in ["harbor:5000", "vault:5000"] {
            let url = format!("http://127.0.0.1:65001/v2/{REPOSITORY}/manifests/3?ns={registry}");
            node.host().enter(|| client::get(&url, LIMIT))??;
        }
    }
    harbor.set_faults(&[])
}

/// URLs that carry what lets people in.
fn get_by_url(cluster: &Cluster, secrets: &Secrets) -> Result<()> {
    let node = &cluster.nodes()[0];
    let path = cluster.registry.push_bytes(
        "any",
        &image::digest_of(b"file"),
        Bytes::from_static(b"file"),
    )?;
    let password: String = byte_serialize(secrets.owner.as_bytes()).collect();
    let urls = [
        format!(
            "http://registry:5000{path}?X-Amz-Signature={}",
            secrets.signature
        ),
        format!("http://{OWNER}:{password}@registry:5000{path}"),
    ];
    for url in urls {
        // What is seen of it is what counts.
        node.hawker(&["get", &url, "-o", "/run/testbed-file"], LIMIT)?;
    }
    Ok(())
}

impl Secrets {
    /// All forms in which somebody might write them.
    fn forms(&self) -> Vec<String> {
        let mut forms = vec![self.signature.clone()];
        for (user, password) in [
            (ROBOT, &self.robot),
            (OWNER, &self.owner),
            (OWNER, &self.wrong),
            (ROBOT, &self.wrong),
        ] {
            let both = format!("{user}:{password}");
            forms.push(password.clone());
            forms.extend([password, &both].map(|it| byte_serialize(it.as_bytes()).collect()));
            forms.extend([password, &both].map(|it| STANDARD_NO_PAD.encode(it)));
            forms.extend([password, &both].map(|it| URL_SAFE_NO_PAD.encode(it)));
            // As a program prints text with quotes.
            forms.push(password.replace('/', "\\/"));
        }
        // Of a token, what makes it one: the signature, or all of what is no JSON web token.
        let ends = self.tokens.iter().map(|token| {
            let end = token.rsplit('.').next();
            end.unwrap_or(token).to_owned()
        });
        forms.extend(ends);
        forms.retain(|form| form.len() >= 12);
        forms.sort();
        forms.dedup();
        forms
    }
}

/// Looks through all that Hawker's daemons have written or say.
fn search(cluster: &Cluster, secrets: &Secrets) -> Result<()> {
    let forms = secrets.forms();
    let patterns = cluster.bed().dir().join("secrets.txt");
    std::fs::write(&patterns, forms.join("\n"))?;
    let mut found = Vec::new();
    for host in cluster.bed().hosts() {
        found.extend(files_with(&host, &patterns)?);
    }
    // That it is looked for in the right places: this is no secret.
    std::fs::write(&patterns, REPOSITORY)?;
    for member in cluster.nodes() {
        let logs = files_with(member.host(), &patterns)?;
        ensure!(!logs.is_empty(), "nothing is found on {}", member.name());
    }
    for (name, text) in said(cluster) {
        let is_there = forms.iter().any(|form| text.contains(form.as_str()));
        found.extend(is_there.then_some(name));
    }
    println!("{} forms of secrets looked for", forms.len());
    ensure!(found.is_empty(), "secrets are in {}", found.join(", "));
    Ok(())
}

/// Hawker's own files and logs on a host that have one of the patterns.
fn files_with(host: &Host, patterns: &Path) -> Result<Vec<String>> {
    const OWN: [&str; 4] = [
        "/var/lib/hawker",
        "/var/lib/hawker-scheduler",
        "/run/hawker",
        "/run/hawker-scheduler",
    ];
    let logs = host.processes().into_iter();
    let logs = logs.filter(|it| it.name().starts_with("hawker"));
    let mut command = Command::new("grep");
    command.args(["-rlaFs", "-D", "skip", "-f"]).arg(patterns);
    command.args(logs.map(|it| it.log().to_owned())).args(OWN);
    let output = host.run(&mut command, LIMIT)?;
    let files = output.stdout.lines();
    let at = |file| format!("{file} of {}", host.name());
    Ok(files.map(at).collect())
}

/// What the daemons tell those who ask.
fn said(cluster: &Cluster) -> Vec<(String, String)> {
    let mut said = Vec::new();
    for member in cluster.nodes().iter().chain(cluster.seeds()) {
        for words in [
            &["status"][..],
            &["status", "--json"],
            &["rights"],
            &["doctor"],
        ] {
            if let Ok(output) = member.hawker(words, LIMIT) {
                let name = format!("hawker {} of {}", words.join(" "), member.name());
                said.push((name, format!("{}{}", output.stdout, output.stderr)));
            }
        }
        said.extend(page(member.host(), "http://127.0.0.1:4002/metrics"));
    }
    if let Some(host) = cluster.bed().host("scheduler") {
        for path in ["/", "/metrics", "/healthy", "/api/v1/hosts", "/console"] {
            said.extend(page(&host, &format!("http://127.0.0.1:8000{path}")));
        }
    }
    said
}

fn page(host: &Host, url: &str) -> Option<(String, String)> {
    let answer = host.enter(|| client::get(url, LIMIT)).ok()?.ok()?;
    let name = format!("{url} of {}", host.name());
    Some((name, format!("{:?}{}", answer.headers, answer.text())))
}
