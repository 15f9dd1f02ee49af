//! `hawker join`: a new host's certificate, from a scheduler, with a token.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use clap::Args;
use hawker_config::{NODE_CONFIG_PATH, NodeConfig, SCHEDULER_CONFIG_PATH, SchedulerConfig};
use hawker_enrol::{Granted, JoinToken, issuer_address, join};
use hawker_identity::{
    AuthorityPin, Identity, NewKey, TlsFiles, TlsPem, date, replace_pair, write_public,
};
use hawker_model::{HostId, Role};
use toml_edit::{DocumentMut, Item, Table, value};

use super::CliError;

/// Where every daemon looks for its certificate.
const TLS_DIR: &str = "/etc/hawker/tls";

/// Gets this host's certificate from the cluster's scheduler.
#[derive(Debug, Args)]
pub(super) struct JoinArgs {
    /// The scheduler that issues certificates, as HOST or HOST:PORT (8003)
    #[arg(long, value_name = "HOST")]
    scheduler: String,
    /// The token; others on this machine can see it while this runs: --token-file is better
    #[arg(
        long,
        value_name = "TOKEN",
        env = "HAWKER_TOKEN",
        hide_env_values = true
    )]
    token: Option<String>,
    /// A file that holds the token; "-" reads it from standard input
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// This host's name; otherwise the one in its settings, or the machine's
    #[arg(long, value_name = "NAME")]
    host: Option<HostId>,
    /// The directory for the host's files
    #[arg(long, value_name = "DIR", default_value = TLS_DIR)]
    out: PathBuf,
    /// The settings that learn where certificates are renewed; made when they are not there. By the
    /// token's role /etc/hawker/hawkerd.toml or /etc/hawker/scheduler.toml
    #[arg(long, value_name = "FILE", conflicts_with = "no_config")]
    config: Option<PathBuf>,
    /// Leave the settings alone
    #[arg(long)]
    no_config: bool,
    /// Replace the certificate that is there
    #[arg(long)]
    force: bool,
}

pub(super) async fn run(args: JoinArgs) -> Result<(), CliError> {
    let token = read_token(&args)?;
    let host = host(&args)?;
    let files = TlsFiles::in_dir(&args.out);
    prepare(&args, &files)?;
    let address = issuer_address(&args.scheduler);
    let key = NewKey::generate(&host).map_err(CliError::failed)?;
    let granted = join(&address, &token, &host, &key.request_pem).await;
    let granted = granted.map_err(CliError::failed)?;
    let identity = check(&granted, &key, &token, &host, &files)?;
    write(&files, &granted, &key)?;
    let (role, until) = (identity.role(), date(identity.not_after()));
    println!(
        "{host} is a {role} of cluster {} until {until}: {}",
        identity.cluster(),
        args.out.display()
    );
    if !args.no_config {
        let path = args.config.clone().unwrap_or_else(|| {
            PathBuf::from(match role {
                Role::Scheduler => SCHEDULER_CONFIG_PATH,
                Role::Node | Role::Seed => NODE_CONFIG_PATH,
            })
        });
        settle(&path, &address, &identity, &args.out)?;
        println!("{} knows where the certificate is renewed", path.display());
    }
    Ok(())
}

fn read_token(args: &JoinArgs) -> Result<JoinToken, CliError> {
    let text = match (&args.token, &args.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(path)) if path.as_os_str() == "-" => {
            let mut text = String::new();
            let read = std::io::stdin().take(4096).read_to_string(&mut text);
            read.map_err(|error| CliError::Failed(format!("cannot read the token: {error}")))?;
            text
        }
        (None, Some(path)) => fs::read_to_string(path).map_err(|error| {
            CliError::Failed(format!("cannot read {}: {error}", path.display()))
        })?,
        (None, None) => {
            return Err(CliError::Failed(
                "no token is given: --token-file, or the variable HAWKER_TOKEN".to_owned(),
            ));
        }
    };
    text.parse().map_err(CliError::failed)
}

/// As it was asked for, as the settings have it, or as the machine is called.
fn host(args: &JoinArgs) -> Result<HostId, CliError> {
    if let Some(host) = &args.host {
        return Ok(host.clone());
    }
    let path = args.config.as_deref();
    let path = path.unwrap_or_else(|| Path::new(NODE_CONFIG_PATH));
    match path.exists() {
        // The file of a scheduler is none of a node.
        true => match NodeConfig::read(Some(path), None) {
            Ok(config) => Ok(config.node.name),
            Err(error) => SchedulerConfig::read(Some(path))
                .map(|config| config.scheduler.name)
                .map_err(|_| CliError::failed(error)),
        },
        false => Ok(NodeConfig::default().node.name),
    }
}

/// All that can go wrong here goes wrong before the token is used.
fn prepare(args: &JoinArgs, files: &TlsFiles) -> Result<(), CliError> {
    let taken = [&files.cert, &files.key];
    let taken = taken.iter().find(|file| file.symlink_metadata().is_ok());
    if let (Some(file), false) = (taken, args.force) {
        return Err(CliError::Failed(format!(
            "{} is there already: this host has a certificate (--force replaces it)",
            file.display()
        )));
    }
    let place = args.out.display();
    fs::create_dir_all(&args.out)
        .map_err(|error| CliError::Failed(format!("cannot make {place}: {error}")))?;
    let probe = args.out.join(".hawker-join");
    let writable = fs::write(&probe, "").and_then(|()| fs::remove_file(&probe));
    writable.map_err(|error| CliError::Failed(format!("cannot write to {place}: {error}")))
}

/// Whether what came is what was asked for.
fn check(
    granted: &Granted,
    key: &NewKey,
    token: &JoinToken,
    host: &HostId,
    files: &TlsFiles,
) -> Result<Identity, CliError> {
    let wrong =
        |what: String| CliError::Failed(format!("what the issuer sent is of no use: {what}"));
    let pem = TlsPem {
        ca: granted.authorities.as_bytes(),
        cert: granted.certificate.as_bytes(),
        key: key.key_pem.as_bytes(),
    };
    let identity = Identity::from_pem(pem, files, SystemTime::now());
    let identity = identity.map_err(|error| wrong(error.to_string()))?;
    let pins: Vec<AuthorityPin> = identity.authority_pins();
    if !pins.contains(&token.authority) {
        return Err(wrong("its authorities are not the token's".to_owned()));
    }
    match identity.host() == host {
        true => Ok(identity),
        false => Err(wrong(format!("it is for host {}", identity.host()))),
    }
}

fn write(files: &TlsFiles, granted: &Granted, key: &NewKey) -> Result<(), CliError> {
    write_public(&files.ca, &granted.authorities).map_err(CliError::failed)?;
    if !granted.revocations.is_empty() {
        write_public(&files.crl, &granted.revocations).map_err(CliError::failed)?;
    }
    replace_pair(files, &granted.certificate, &key.key_pem).map_err(CliError::failed)
}

/// Writes into the settings where the certificate is and who renews it; in new ones, also who this
/// host is and where the scheduler is.
fn settle(path: &Path, issuer: &str, identity: &Identity, out: &Path) -> Result<(), CliError> {
    let failed =
        |what: &dyn std::fmt::Display| CliError::Failed(format!("{}: {what}", path.display()));
    let text = match fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(&error)),
    };
    let mut document: DocumentMut = match &text {
        Some(text) => text.parse().map_err(|error| failed(&error))?,
        None => new_settings(issuer, identity),
    };
    let tls = document.entry("tls").or_insert(Item::Table(Table::new()));
    tls["issuer"] = value(issuer);
    if out != Path::new(TLS_DIR) {
        let files = TlsFiles::in_dir(out);
        for (key, file) in [
            ("ca", &files.ca),
            ("cert", &files.cert),
            ("key", &files.key),
            ("crl", &files.crl),
        ] {
            tls[key] = value(file.display().to_string());
        }
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(|error| failed(&error))?;
    }
    write_public(path, &document.to_string()).map_err(|error| failed(&error))
}

fn new_settings(issuer: &str, identity: &Identity) -> DocumentMut {
    let mut document = DocumentMut::new();
    let table = |entries: &[(&str, toml_edit::Value)]| {
        let mut table = Table::new();
        for (key, entry) in entries {
            table[key] = value(entry.clone());
        }
        Item::Table(table)
    };
    let (name, role) = (identity.host().as_str(), identity.role());
    if role == Role::Scheduler {
        document["scheduler"] = table(&[("name", name.into())]);
        return document;
    }
    document["node"] = table(&[("name", name.into()), ("role", role.as_str().into())]);
    let scheduler = issuer.rsplit_once(':').map_or(issuer, |(host, _)| host);
    let schedulers = toml_edit::Array::from_iter([format!("{scheduler}:8002")]);
    document["p2p"] = table(&[("schedulers", schedulers.into())]);
    document
}

#[cfg(test)]
mod tests {
    use hawker_identity::{ClusterCa, Subject};

    use super::*;

    fn identity(role: Role, dir: &Path) -> Identity {
        let authority = ClusterCa::create("prod", 30).unwrap();
        let subject = Subject {
            host: HostId::parse("host-1").unwrap(),
            role,
            names: Vec::new(),
        };
        let issued = authority.issue(&subject, 1).unwrap();
        let pem = TlsPem {
            ca: authority.cert_pem().as_bytes(),
            cert: issued.cert_pem.as_bytes(),
            key: issued.key_pem.as_bytes(),
        };
        Identity::from_pem(pem, &TlsFiles::in_dir(dir), SystemTime::now()).unwrap()
    }

    #[test]
    fn settings_that_are_there_keep_all_but_what_joining_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hawkerd.toml");
        let before =
            "# mine\n[p2p]\nschedulers = [\"s:8002\"] # two\n\n[tls]\nca = \"/x/ca.pem\"\n";
        fs::write(&path, before).unwrap();
        let node = identity(Role::Node, dir.path());
        settle(&path, "s:8003", &node, Path::new(TLS_DIR)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{before}issuer = \"s:8003\"\n"));
        settle(&path, "s:8003", &node, dir.path()).unwrap();
        let config = NodeConfig::read(Some(&path), None).unwrap();
        assert_eq!(config.tls.crl, dir.path().join("crl.pem"));
        fs::write(&path, "[tls\n").unwrap();
        let error = settle(&path, "s:8003", &node, dir.path()).unwrap_err();
        assert!(error.to_string().contains("hawkerd.toml"), "{error}");
    }

    #[test]
    fn new_settings_are_complete() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etc/hawkerd.toml");
        let seed = identity(Role::Seed, dir.path());
        settle(&path, "[2001:db8::1]:8003", &seed, Path::new(TLS_DIR)).unwrap();
        let config = NodeConfig::read(Some(&path), None).unwrap();
        assert_eq!(
            (config.node.name.as_str(), config.node.role),
            ("host-1", Role::Seed)
        );
        assert_eq!(config.p2p.schedulers[0].to_string(), "[2001:db8::1]:8002");
        assert_eq!(config.tls.issuer.unwrap().to_string(), "[2001:db8::1]:8003");
        let path = dir.path().join("scheduler.toml");
        let scheduler = identity(Role::Scheduler, dir.path());
        settle(&path, "s:8003", &scheduler, Path::new(TLS_DIR)).unwrap();
        let config = SchedulerConfig::read(Some(&path)).unwrap();
        assert_eq!(config.scheduler.name.as_str(), "host-1");
    }
}
