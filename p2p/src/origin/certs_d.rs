//! Settings of registries as containerd and Docker keep them: one directory for each registry, with
//! a `hosts.toml`, or with certificates alone. They are read as those programs read them; what
//! cannot be read is told, and passed over, since it must not keep hawkerd from starting where
//! containerd would start.
//!
//! Read once, when the client of origins is made.

pub(super) mod hosts;

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use hawker_model::RegistryHost;
use url::Url;

use hosts::{HostEntry, HostsFile};

/// The directory of registries that have none of their own.
const DEFAULT_DIR: &str = "_default";
const HOSTS_FILE: &str = "hosts.toml";

/// What all directories say.
#[derive(Debug, Default)]
pub(super) struct CertsD {
    pub(super) registries: BTreeMap<RegistryHost, Dir>,
    /// For registries that have no directory.
    pub(super) default: Dir,
    /// What could not be read, each with file and, where there is one, line.
    pub(super) warnings: Vec<String>,
}

/// What one directory says, or several of the same registry.
#[derive(Debug, Default)]
pub(super) struct Dir {
    /// Where it is.
    pub(super) path: PathBuf,
    pub(super) hosts: Option<HostsFile>,
    /// `*.crt`: authorities.
    pub(super) authorities: Vec<PathBuf>,
    /// `*.cert` with its `*.key`.
    pub(super) client: Option<(PathBuf, PathBuf)>,
}

impl CertsD {
    /// Reads the directories below each of `roots`; an earlier one wins. `own`: where this program
    /// is a registry.
    pub(super) fn read(roots: &[PathBuf], own: &[SocketAddr]) -> Self {
        let mut found = Self::default();
        for root in roots {
            if let Err(error) = found.read_root(root, own) {
                let warning = format!("{}: {error}: it is passed over", root.display());
                found.warnings.push(warning);
            }
        }
        found
    }

    fn read_root(&mut self, root: &Path, own: &[SocketAddr]) -> io::Result<()> {
        let entries = match fs::read_dir(root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        // "host_port_" stands before "host:port", as containerd looks for them.
        paths.sort_by_key(|path| path.to_string_lossy().replace('_', "\0"));
        for path in paths.into_iter().filter(|path| path.is_dir()) {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if name == DEFAULT_DIR {
                let dir = self.read_dir(&path, own);
                self.default.merge(dir);
            } else if let Some(registry) = registry_of(name) {
                let dir = self.read_dir(&path, own);
                self.registries.entry(registry).or_default().merge(dir);
            }
        }
        Ok(())
    }

    fn read_dir(&mut self, path: &Path, own: &[SocketAddr]) -> Dir {
        let mut dir = Dir {
            path: path.to_owned(),
            ..Dir::default()
        };
        let file = path.join(HOSTS_FILE);
        let mut warn = |line: Option<usize>, what: &str| {
            let line = line.map_or_else(String::new, |line| format!(", line {line}"));
            let warning = format!("{}{line}: {what}", file.display());
            self.warnings.push(warning);
        };
        match fs::read_to_string(&file) {
            Ok(text) if !text.is_empty() => match hosts::parse(&text, path) {
                Ok(mut hosts) => {
                    for (line, what) in std::mem::take(&mut hosts.warnings) {
                        warn(line, &what);
                    }
                    hosts.forget(|entry| is_own(entry, own));
                    dir.hosts = Some(hosts);
                    return dir;
                }
                Err(error) => {
                    let what = format!(
                        "{}: containerd passes the file over, and so does Hawker",
                        error.what
                    );
                    warn(error.line, &what);
                }
            },
            Ok(_empty) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => warn(None, &format!("{error}: it is passed over")),
        }
        self.certificates(&mut dir);
        dir
    }

    /// Docker's form: files by their endings.
    fn certificates(&mut self, dir: &mut Dir) {
        let entries = match fs::read_dir(&dir.path) {
            Ok(entries) => entries,
            Err(error) => {
                let warning = format!("{}: {error}: it is passed over", dir.path.display());
                return self.warnings.push(warning);
            }
        };
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        let ending = |path: &Path, ending: &str| path.extension().is_some_and(|e| e == ending);
        for file in files.iter().filter(|path| !path.is_dir()) {
            if ending(file, "crt") {
                dir.authorities.push(file.clone());
            } else if ending(file, "cert") {
                let key = file.with_extension("key");
                if !files.contains(&key) {
                    self.warnings.push(format!(
                        "{}: the key {} is missing; an authority's certificate must end in .crt",
                        file.display(),
                        key.display()
                    ));
                } else if dir.client.is_none() {
                    dir.client = Some((file.clone(), key));
                }
            } else if ending(file, "key") && !files.contains(&file.with_extension("cert")) {
                self.warnings.push(format!(
                    "{}: the certificate {} is missing",
                    file.display(),
                    file.with_extension("cert").display()
                ));
            }
        }
    }
}

impl Dir {
    /// Adds what a later directory says: the first `hosts.toml` stands, certificates add up.
    fn merge(&mut self, other: Self) {
        if self.path.as_os_str().is_empty() || (self.hosts.is_none() && other.hosts.is_some()) {
            self.path = other.path;
        }
        self.hosts = self.hosts.take().or(other.hosts);
        self.authorities.extend(other.authorities);
        self.client = self.client.take().or(other.client);
    }
}

/// The registry that a directory is for.
fn registry_of(name: &str) -> Option<RegistryHost> {
    let with_port = name.strip_suffix('_').and_then(|name| {
        let (host, port) = name.rsplit_once('_')?;
        RegistryHost::parse(&format!("{host}:{port}")).ok()
    });
    with_port.or_else(|| RegistryHost::parse(name).ok())
}

/// Whether an entry is this very program.
fn is_own(entry: &HostEntry, own: &[SocketAddr]) -> bool {
    entry.api.as_ref().is_some_and(|api| is_at(api, own))
}

fn is_at(url: &Url, own: &[SocketAddr]) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let ip: Option<IpAddr> = bare.parse().ok();
    let is_loopback = host == "localhost" || ip.is_some_and(|ip| ip.to_canonical().is_loopback());
    own.iter().any(|own| {
        let reaches = match own.ip().to_canonical() {
            any if any.is_unspecified() => is_loopback || ip.is_some_and(|ip| ip.is_unspecified()),
            loopback if loopback.is_loopback() => is_loopback,
            address => ip.is_some_and(|ip| ip.to_canonical() == address),
        };
        reaches && url.port_or_known_default() == Some(own.port())
    })
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn host(text: &str) -> RegistryHost {
        RegistryHost::parse(text).unwrap()
    }

    fn tree(files: &[(&str, &str)]) -> TempDir {
        let dir = TempDir::new().unwrap();
        for (path, content) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        dir
    }

    fn read(dir: &TempDir) -> CertsD {
        let own = ["127.0.0.1:65001".parse().unwrap()];
        CertsD::read(&[dir.path().to_owned()], &own)
    }

    #[test]
    fn directories_are_named_for_registries_in_both_forms() {
        for (name, registry) in [
            ("quay.io", Some("quay.io")),
            ("harbor.example_8443_", Some("harbor.example:8443")),
            ("harbor.example:8443", Some("harbor.example:8443")),
            ("[fd00::1]_5000_", Some("[fd00::1]:5000")),
            ("a_b", Some("a_b")),
            ("10.0.0.5_5000_", Some("10.0.0.5:5000")),
            (".hidden", None),
            ("a b", None),
            ("_", Some("_")),
        ] {
            let found = registry_of(name).map(|host| host.to_string());
            assert_eq!(found.as_deref(), registry, "{name}");
        }
    }

    #[test]
    fn certificates_are_found_by_their_endings() {
        let dir = tree(&[
            ("r.lan:5000/ca.crt", ""),
            ("r.lan:5000/other.crt", ""),
            ("r.lan:5000/client.cert", ""),
            ("r.lan:5000/client.key", ""),
            ("r.lan:5000/README", ""),
            ("lonely/x.cert", ""),
            ("lonely/y.key", ""),
            ("file", ""),
        ]);
        let found = read(&dir);
        let r = &found.registries[&host("r.lan:5000")];
        assert_eq!(r.authorities.len(), 2);
        let (cert, key) = r.client.as_ref().unwrap();
        assert!(cert.ends_with("client.cert") && key.ends_with("client.key"));
        assert_eq!(found.registries[&host("lonely")].client, None);
        assert_eq!(found.warnings.len(), 2, "{:?}", found.warnings);
        assert!(found.warnings[0].contains("x.key is missing"));
        assert!(found.warnings[1].contains("y.cert is missing"));
    }

    #[test]
    fn a_file_that_is_not_understood_leaves_the_certificates() {
        let dir = tree(&[
            ("r.lan/hosts.toml", "server = \"https://x\"\n[host\n"),
            ("r.lan/ca.crt", ""),
            ("s.lan/hosts.toml", "server = \"https://x\""),
            ("s.lan/ca.crt", ""),
            ("t.lan/hosts.toml", ""),
            ("t.lan/ca.crt", ""),
        ]);
        let found = read(&dir);
        let of = |name| &found.registries[&host(name)];
        assert!(of("r.lan").hosts.is_none() && of("r.lan").authorities.len() == 1);
        assert!(of("s.lan").hosts.is_some() && of("s.lan").authorities.is_empty());
        assert!(of("t.lan").hosts.is_none() && of("t.lan").authorities.len() == 1);
        let [warning] = &found.warnings[..] else {
            panic!("{:?}", found.warnings)
        };
        assert!(warning.contains("r.lan/hosts.toml, line 2"), "{warning}");
    }

    #[test]
    fn hawkers_own_entry_is_passed_over() {
        let text = "server = \"http://localhost:65001\"\n\
                    [host.\"http://127.0.0.1:65001\"]\n[host.\"http://[::1]:65001\"]\n\
                    [host.\"http://127.0.0.1:65002\"]\n[host.\"https://m.lan:65001\"]\n";
        let dir = tree(&[("_default/hosts.toml", text)]);
        let hosts = read(&dir).default.hosts.unwrap();
        assert_eq!(hosts.server.api, None);
        let left: Vec<_> = hosts
            .mirrors
            .iter()
            .filter_map(|host| host.api.clone())
            .collect();
        let left: Vec<_> = left.iter().map(Url::as_str).collect();
        assert_eq!(
            left,
            ["http://127.0.0.1:65002/v2", "https://m.lan:65001/v2"]
        );
        let any = ["[::]:65001".parse().unwrap()];
        assert!(is_at(&Url::parse("http://localhost:65001").unwrap(), &any));
        assert!(!is_at(&Url::parse("http://m.lan:65001").unwrap(), &any));
    }

    #[test]
    fn of_several_roots_the_first_hosts_file_stands_and_certificates_add_up() {
        let containerd = tree(&[("r.lan_5000_/hosts.toml", "server = \"https://one\"")]);
        let docker = tree(&[
            ("r.lan:5000/hosts.toml", "server = \"https://two\""),
            ("r.lan:5000/ca.crt", ""),
            ("only.lan/ca.crt", ""),
        ]);
        let absent = docker.path().join("absent");
        let roots = [
            absent,
            containerd.path().to_owned(),
            docker.path().to_owned(),
        ];
        let found = CertsD::read(&roots, &[]);
        assert_eq!(found.warnings, Vec::<String>::new());
        let hosts = found.registries[&host("r.lan:5000")]
            .hosts
            .as_ref()
            .unwrap();
        assert_eq!(
            hosts.server.api.as_ref().unwrap().as_str(),
            "https://one/v2"
        );
        assert_eq!(found.registries[&host("only.lan")].authorities.len(), 1);
    }

    #[test]
    fn a_root_that_is_no_directory_is_told_and_passed_over() {
        let dir = tree(&[("file", "")]);
        let found = CertsD::read(&[dir.path().join("file")], &[]);
        assert_eq!(found.warnings.len(), 1);
        assert!(
            found.warnings[0].contains("/file: "),
            "{:?}",
            found.warnings
        );
    }
}
