//! hawkerd itself: does it run, does it answer, are its sockets and certificates right?

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _},
        net::UnixStream,
    },
    path::Path,
    time::SystemTime,
};

use hawker_config::{NodeConfig, Transport};
use hawker_enrol::is_ending_soon;
use hawker_identity::Identity;
use hawker_p2p::Security;
use http_body_util::BodyExt as _;

use super::{Findings, Places};
use crate::{
    cli::client::{Client, ClientError},
    containerd::SOCKET_MODE,
    control::StatusReport,
    settings::security,
    setup::http,
};

const START: &str =
    "start it (systemctl start hawkerd), and see why it ended: journalctl -u hawkerd";
const DAY: u64 = 24 * 3600;

/// Looks at hawkerd. Gives what it says of itself.
pub(super) async fn examine(
    places: &Places,
    config: &NodeConfig,
    findings: &mut Findings,
) -> Option<StatusReport> {
    let control = places.control.as_deref().unwrap_or(&config.control.socket);
    let status = ask(control, findings).await;
    if let Some(status) = &status {
        for warning in &status.node.warnings {
            findings.warn("hawkerd", warning, "");
        }
    }
    if config.containerd.enabled {
        socket(&config.containerd.socket, findings);
    }
    if config.mirror.enabled {
        let listens = status.as_ref().and_then(|status| status.mirror.first());
        let address = listens
            .copied()
            .unwrap_or_else(|| config.mirror.listen.socket());
        mirror(config, address, findings).await;
    }
    certificates(config, findings);
    status
}

async fn ask(control: &Path, findings: &mut Findings) -> Option<StatusReport> {
    match status(control).await {
        Ok(status) => {
            let (role, version) = (status.node.role.as_str(), &status.version);
            if version == env!("CARGO_PKG_VERSION") {
                findings.ok("hawkerd", format!("runs as {role}, version {version}"));
            } else {
                findings.warn(
                    "hawkerd",
                    format!(
                        "runs in version {version}, hawker is {}",
                        env!("CARGO_PKG_VERSION")
                    ),
                    "restart hawkerd after an update",
                );
            }
            Some(status)
        }
        Err(ClientError::Connect { source, .. })
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            findings.warn(
                "hawkerd",
                "it can be asked by root only",
                "run this as root",
            );
            None
        }
        Err(error) => {
            findings.fail("hawkerd", error, START);
            None
        }
    }
}

async fn status(control: &Path) -> Result<StatusReport, ClientError> {
    let client = Client::connect(control).await?;
    let body = client
        .ask("/v1/status")
        .await?
        .into_body()
        .collect()
        .await?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| ClientError::Refused {
        status: ::http::StatusCode::OK,
        message: format!("something that is not understood ({error}): is it of another version?"),
    })
}

/// The socket that containerd calls.
fn socket(path: &Path, findings: &mut Findings) {
    const CHECK: &str = "snapshotter socket";
    let place = path.display();
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return findings.fail(CHECK, format!("{place} is not there"), START);
        }
        Err(error) => return findings.warn(CHECK, format!("{place}: {error}"), "run this as root"),
    };
    if !found.file_type().is_socket() {
        let remedy = "remove it, and restart hawkerd";
        return findings.fail(CHECK, format!("{place} is no socket"), remedy);
    }
    let mode = found.mode() & 0o777;
    if found.uid() != 0 || mode & !SOCKET_MODE != 0 {
        findings.warn(
            CHECK,
            format!("{place} has mode {mode:o} and owner {}", found.uid()),
            "whoever may use it is root on this machine: give it mode 600 (hawkerd.socket: \
             SocketMode=0600)",
        );
    }
    match UnixStream::connect(path) {
        Ok(_) => findings.ok(CHECK, format!("{place} takes connections")),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            findings.warn(CHECK, "it can be tried by root only", "run this as root");
        }
        Err(error) => findings.fail(CHECK, format!("{place}: {error}"), START),
    }
}

async fn mirror(config: &NodeConfig, mut address: SocketAddr, findings: &mut Findings) {
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let Ok(url) = format!("http://{address}/v2/").parse() else {
        return;
    };
    match http::get(&url).await {
        // 401 is a registry's challenge, passed on.
        Ok(answer) if answer.status.is_success() || answer.status.as_u16() == 401 => {
            findings.ok("mirror", format!("{url} answers"));
        }
        Ok(answer) if answer.status.is_server_error() => {
            let registry = &config.mirror.default_registry;
            let said = said(&answer.body).unwrap_or_else(|| answer.status.to_string());
            findings.warn(
                "mirror",
                format!("it answers, and cannot reach {registry}: {said}"),
                "let this machine reach it; where it is not to, name another one \
                 (mirror.default_registry). Images of other registries are not concerned",
            );
        }
        Ok(answer) => findings.fail(
            "mirror",
            format!("{url} answers {}", answer.status),
            "is another program listening there? (ss -ltnp); else see journalctl -u hawkerd",
        ),
        Err(error) => findings.fail("mirror", error, START),
    }
}

/// The message of a registry's error.
fn said(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    Some(body["errors"][0]["message"].as_str()?.to_owned())
}

fn certificates(config: &NodeConfig, findings: &mut Findings) {
    const CHECK: &str = "certificate";
    if config.is_standalone() || config.p2p.transport == Transport::Plain {
        return;
    }
    if let Err(error) = fs::File::open(&config.tls.key)
        && error.kind() == io::ErrorKind::PermissionDenied
    {
        return findings.warn(CHECK, "root alone may read the key", "run this as root");
    }
    // Whether they belong together, to this host, to its role, and are good today.
    match security(config) {
        Ok(Security::Tls(identity)) => expiry(config, &identity, findings),
        Ok(Security::Plain { .. }) => {}
        Err(error) => {
            let remedy = "make this host's files anew (hawker ca issue), or mend the clock";
            findings.fail(CHECK, error, remedy);
        }
    }
}

fn expiry(config: &NodeConfig, identity: &Identity, findings: &mut Findings) {
    const CHECK: &str = "certificate";
    let now = SystemTime::now();
    let (from, until) = (identity.not_before(), identity.not_after());
    let left = until.duration_since(now).unwrap_or_default();
    let what = format!(
        "{} ({}) of cluster {}, good for {} days",
        identity.host(),
        identity.role().as_str(),
        identity.cluster(),
        left.as_secs() / DAY
    );
    match (is_ending_soon(from, until, now), &config.tls.issuer) {
        (false, _) => findings.ok(CHECK, what),
        (true, None) => findings.warn(
            CHECK,
            what,
            "put the next one in its place in time (hawker ca issue --force): hawkerd takes it up \
             by itself. Hosts that joined with `hawker join` renew theirs",
        ),
        (true, Some(issuer)) => findings.warn(
            CHECK,
            format!("{what}, and it should have been renewed at {issuer} (tls.issuer)"),
            "see why that fails: journalctl -u hawkerd | grep renew",
        ),
    }
}
