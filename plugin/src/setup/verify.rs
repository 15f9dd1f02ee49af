//! Whether what was set up works: asked of the running containerd, and of the mirror.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use containerd_client::{
    services::v1::{
        DeleteImageRequest, TransferRequest,
        images_client::ImagesClient,
        snapshots::{
            PrepareSnapshotRequest, RemoveSnapshotRequest, snapshots_client::SnapshotsClient,
        },
        transfer_client::TransferClient,
    },
    to_any,
    types::{Mount, transfer},
};
use hawker_model::{Digest, Reference};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use serde_json::Value;
use tokio::{process::Command, time::timeout};
use tonic::{Request, metadata::MetadataValue};
use url::Url;

use super::{
    containerd::{CONTENT, DIFFER, Profile, SNAPSHOTTER, Target},
    http::{self, AskError},
    machine::{self, Containerd, ContainerdError, Plugin, within},
};

pub(crate) mod content;

/// The namespace in which trials are made; they leave nothing in it.
const NAMESPACE: &str = "hawker";
/// How long a pull may take.
const PULL_TIME: Duration = Duration::from_secs(600);
/// The kind of a snapshotter plugin.
pub(crate) const SNAPSHOTTER_KIND: &str = "io.containerd.snapshotter.v1";
/// The kind of a content store.
pub(crate) const CONTENT_KIND: &str = "io.containerd.content.v1";
/// The kind of a differ.
pub(crate) const DIFFER_KIND: &str = "io.containerd.differ.v1";
/// containerd's database, which needs exactly one content store.
pub(crate) const METADATA: (&str, &str) = ("io.containerd.metadata.v1", "bolt");

/// What does not work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerifyError {
    #[error(transparent)]
    Containerd(#[from] ContainerdError),
    #[error(
        "containerd has no snapshotter {SNAPSHOTTER:?}: it reads other settings than those that \
         were edited (--config), or was not restarted"
    )]
    NoSnapshotter,
    #[error(
        "containerd keeps its content in {}, and not in {wanted} alone: it reads other settings \
         than those that were edited (--config), or was not restarted", found.join(" and in ")
    )]
    OtherContent {
        found: Vec<String>,
        wanted: &'static str,
    },
    #[error(
        "containerd has no differ {DIFFER:?}: it reads other settings than those that were edited \
         (--config), or was not restarted"
    )]
    NoDiffer,
    #[error("containerd's content: {0}")]
    Content(#[from] content::ContentError),
    #[error("containerd's plugin {plugin} does not work: {why}")]
    Plugin { plugin: String, why: String },
    #[error(
        "the snapshotter {SNAPSHOTTER:?} cannot {action}: {why}; is hawkerd running? (systemctl \
         status hawkerd)"
    )]
    Snapshot { action: &'static str, why: String },
    #[error("cannot pull {image} {how}: {why}")]
    Pull {
        image: String,
        how: &'static str,
        why: String,
    },
    #[error("the mirror: {0}; is hawkerd running? (systemctl status hawkerd)")]
    Mirror(#[from] AskError),
}

/// CRI's service, by kind and id, in every version.
const CRI: (&str, &str) = ("io.containerd.grpc.v1", "cri");
/// Plugins that a setup can break, as they are called in every version.
const CONCERNED: [(&str, &str); 10] = [
    (SNAPSHOTTER_KIND, SNAPSHOTTER),
    (CONTENT_KIND, CONTENT),
    (DIFFER_KIND, DIFFER),
    METADATA,
    ("io.containerd.service.v1", "diff-service"),
    CRI,
    ("io.containerd.cri.v1", "images"),
    ("io.containerd.cri.v1", "runtime"),
    ("io.containerd.transfer.v1", "local"),
    (CONTENT_KIND, "content"),
];

/// What containerd is to have of Hawker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) snapshotter: bool,
    /// The content store.
    pub(crate) content: &'static str,
    pub(crate) differ: bool,
}

impl Wanted {
    pub(crate) fn of(target: &Target) -> Self {
        Self {
            snapshotter: target.profile.has_snapshotter(),
            content: match target.profile {
                Profile::Full => CONTENT,
                Profile::Mirror | Profile::Default => "content",
            },
            differ: target.profile.has_content() && target.version.takes_differs(),
        }
    }

    /// Nothing of ours.
    pub(crate) fn stock() -> Self {
        Self {
            snapshotter: false,
            content: "content",
            differ: false,
        }
    }
}

/// Fails when a plugin that setup touches is worse off than before, or is not there.
pub(crate) fn plugins(
    now: &[Plugin],
    before: Option<&[Plugin]>,
    wanted: Wanted,
) -> Result<(), VerifyError> {
    // First what is missing, since that may be the old containerd's answer.
    if wanted.snapshotter && !has(now, SNAPSHOTTER_KIND, SNAPSHOTTER) {
        return Err(VerifyError::NoSnapshotter);
    }
    content_store(now, wanted.content)?;
    if wanted.differ && !has(now, DIFFER_KIND, DIFFER) {
        return Err(VerifyError::NoDiffer);
    }
    for plugin in now {
        let is = |other: &&Plugin| other.is(&plugin.kind, &plugin.id);
        let was_broken = before.and_then(|before| before.iter().find(is));
        let was_broken = was_broken.is_some_and(|before| before.error.is_some());
        let concerned = CONCERNED.contains(&(plugin.kind.as_str(), plugin.id.as_str()));
        if let Some(why) = plugin.error.as_ref().filter(|_| concerned && !was_broken) {
            return Err(VerifyError::Plugin {
                plugin: format!("{}.{}", plugin.kind, plugin.id),
                why: why.clone(),
            });
        }
    }
    Ok(())
}

fn has(plugins: &[Plugin], kind: &str, id: &str) -> bool {
    plugins.iter().any(|plugin| plugin.is(kind, id))
}

/// The content stores that containerd has, by name.
pub(crate) fn content_stores(plugins: &[Plugin]) -> Vec<&str> {
    let stores = plugins.iter().filter(|plugin| plugin.kind == CONTENT_KIND);
    stores.map(|plugin| plugin.id.as_str()).collect()
}

/// containerd must have one content store, and that one. Somebody else's is left alone where ours
/// is not wanted.
fn content_store(plugins: &[Plugin], wanted: &'static str) -> Result<(), VerifyError> {
    let found = content_stores(plugins);
    let is_right = match wanted {
        CONTENT => found == [CONTENT],
        _ => !found.contains(&CONTENT),
    };
    match is_right {
        true => Ok(()),
        false => Err(VerifyError::OtherContent {
            found: found.into_iter().map(str::to_owned).collect(),
            wanted,
        }),
    }
}

/// Whether containerd serves CRI: it does not where CRI is switched off (Docker's package does so).
pub(crate) fn has_cri(plugins: &[Plugin]) -> bool {
    let mut plugins = plugins.iter();
    plugins.any(|plugin| plugin.is(CRI.0, CRI.1) && plugin.error.is_none())
}

/// Prepares a snapshot through containerd, mounts it, writes to it, and removes it.
pub(crate) async fn snapshot(containerd: &Containerd) -> Result<(), VerifyError> {
    let failed = |action| {
        move |status: tonic::Status| VerifyError::Snapshot {
            action,
            why: status.message().to_owned(),
        }
    };
    let key = format!("hawker-trial-{}", std::process::id());
    let mut client = SnapshotsClient::new(containerd.channel());
    let prepare = PrepareSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        key: key.clone(),
        ..Default::default()
    };
    let prepared = within(client.prepare(request(prepare))).await;
    let mounts = prepared.map_err(failed("prepare"))?.mounts;
    let written = tokio::task::spawn_blocking(move || write_in(&mounts)).await;
    let remove = RemoveSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        key,
    };
    let removed = within(client.remove(request(remove))).await;
    let why = match written {
        Ok(Ok(())) => return removed.map(drop).map_err(failed("remove")),
        Ok(Err(why)) => why,
        Err(error) => error.to_string(),
    };
    Err(VerifyError::Snapshot {
        action: "be mounted",
        why,
    })
}

/// Mounts where nobody else sees it, and writes a file. A thread of its own has a mount namespace of
/// its own.
fn write_in(mounts: &[Mount]) -> Result<(), String> {
    let work = || {
        unshare(CloneFlags::CLONE_NEWNS).map_err(|error| format!("unshare: {error}"))?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
            .map_err(|error| format!("making mounts private: {error}"))?;
        let target = std::env::temp_dir().join(format!("hawker-trial-{}", std::process::id()));
        std::fs::create_dir_all(&target).map_err(|error| error.to_string())?;
        let written = mount_and_write(mounts, &target);
        let _ = std::fs::remove_dir(&target);
        written
    };
    std::thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|_| Err("the trial broke off".to_owned()))
}

fn mount_and_write(mounts: &[Mount], target: &Path) -> Result<(), String> {
    let [one] = mounts else {
        return Err(format!("{} mounts instead of one", mounts.len()));
    };
    let (mut flags, mut data) = (MsFlags::empty(), Vec::new());
    for option in &one.options {
        match option.as_str() {
            "bind" => flags |= MsFlags::MS_BIND,
            "rbind" => flags |= MsFlags::MS_BIND | MsFlags::MS_REC,
            "ro" => flags |= MsFlags::MS_RDONLY,
            "rw" => {}
            other => data.push(other),
        }
    }
    let (source, kind) = (one.source.as_str(), one.r#type.as_str());
    let data = data.join(",");
    mount(Some(source), target, Some(kind), flags, Some(data.as_str()))
        .map_err(|error| format!("mount of {source} ({kind}): {error}"))?;
    let file = target.join("hawker-trial");
    let written = std::fs::write(&file, "x").and_then(|()| std::fs::remove_file(&file));
    let unmounted = umount2(target, MntFlags::MNT_DETACH);
    written.map_err(|error| format!("writing to it: {error}"))?;
    unmounted.map_err(|error| format!("unmounting: {error}"))
}

/// Pulls an image the way this machine's clients do, as near as that is possible. Says how.
pub(crate) async fn pull(
    containerd: &Containerd,
    image: &Reference,
    route: &Route,
) -> Result<String, VerifyError> {
    match route {
        Route::Crictl { program, address } => {
            let pulled = crictl(program, address, &image.to_string()).await;
            pulled.map_err(|why| pull_error(image, "through CRI (crictl)", why))?;
            Ok(format!("pulled {image} through CRI"))
        }
        Route::Transfer { certs_d } => {
            transfer(containerd, image, certs_d).await?;
            Ok(format!(
                "pulled {image} through containerd's transfer service"
            ))
        }
        Route::Mirror { url } => {
            let bytes = through_mirror(url, image).await?;
            Ok(format!(
                "fetched the manifest and a layer ({bytes} bytes) of {image} from the mirror; \
                 a pull through CRI takes crictl, and CRI switched on"
            ))
        }
    }
}

/// How a pull is tried.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    /// With crictl, as the kubelet does.
    Crictl { program: PathBuf, address: PathBuf },
    /// containerd's transfer service, into the snapshotter.
    Transfer { certs_d: PathBuf },
    /// A manifest and a layer from the mirror, where there is no other way.
    Mirror { url: String },
}

fn pull_error(image: &Reference, how: &'static str, why: impl Into<String>) -> VerifyError {
    VerifyError::Pull {
        image: image.to_string(),
        how,
        why: why.into(),
    }
}

/// Why a pull that had its time was given up.
fn too_long(limit: Duration) -> String {
    format!(
        "it was not done after {} s; try a smaller image, or look at what hawkerd and containerd log",
        limit.as_secs()
    )
}

async fn crictl(program: &Path, address: &Path, image: &str) -> Result<(), String> {
    let endpoint = format!("unix://{}", address.display());
    let mut command = Command::new(program);
    command
        .args(["--runtime-endpoint", &endpoint])
        .args(["--image-endpoint", &endpoint])
        .args(["--timeout", "600s", "pull", image]);
    run(command, PULL_TIME).await
}

/// Runs a program, and kills it when its time is over.
async fn run(mut command: Command, limit: Duration) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(limit, output).await.map_err(|_| too_long(limit))?;
    let output = output.map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

async fn transfer(
    containerd: &Containerd,
    image: &Reference,
    certs_d: &Path,
) -> Result<(), VerifyError> {
    let name = image.to_string();
    let pulled = transferred(containerd, &name, certs_d, PULL_TIME).await;
    let delete = DeleteImageRequest {
        name,
        sync: true,
        ..Default::default()
    };
    let mut images = ImagesClient::new(containerd.channel());
    // Where the pull failed there may be none.
    let _ = within(images.delete(request(delete))).await;
    pulled.map_err(|why| pull_error(image, "through containerd's transfer service", why))
}

async fn transferred(
    containerd: &Containerd,
    name: &str,
    certs_d: &Path,
    limit: Duration,
) -> Result<(), String> {
    let source = transfer::OciRegistry {
        reference: name.to_owned(),
        resolver: Some(transfer::RegistryResolver {
            host_dir: certs_d.to_string_lossy().into_owned(),
            ..Default::default()
        }),
    };
    let wanted = TransferRequest {
        source: Some(to_any(&source)),
        destination: Some(to_any(&machine::unpacked_image(name, SNAPSHOTTER))),
        options: None,
    };
    let mut client = TransferClient::new(containerd.channel());
    // containerd stops when nobody waits for its answer any more.
    match timeout(limit, client.transfer(request(wanted))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err(too_long(limit)),
    }
}

/// Fetches the manifest and the smallest layer, and checks both.
async fn through_mirror(mirror: &str, image: &Reference) -> Result<u64, VerifyError> {
    let failed = |why: String| pull_error(image, "through the mirror", why);
    let mut manifest = manifest(mirror, image, &image.target.to_string()).await?;
    if let Some(digest) = of_platform(&manifest) {
        manifest = self::manifest(mirror, image, &digest).await?;
    }
    let layers = manifest["layers"].as_array().map(Vec::as_slice);
    let smallest = layers
        .unwrap_or_default()
        .iter()
        .min_by_key(|layer| layer["size"].as_u64());
    let digest = smallest.and_then(|layer| layer["digest"].as_str());
    let digest = digest.ok_or_else(|| failed("its manifest names no layer".to_owned()))?;
    let (found, bytes) = http::digest(&url(mirror, image, "blobs", digest)?).await?;
    match digest.strip_prefix("sha256:") == Some(found.as_str()) {
        true => Ok(bytes),
        false => Err(failed(format!("the layer {digest} came as sha256:{found}"))),
    }
}

async fn manifest(mirror: &str, image: &Reference, target: &str) -> Result<Value, VerifyError> {
    let failed = |why: String| pull_error(image, "through the mirror", why);
    let answer = http::get(&url(mirror, image, "manifests", target)?).await?;
    if !answer.status.is_success() {
        return Err(failed(format!("the mirror answered {}", answer.status)));
    }
    if Digest::parse(target).is_ok_and(|digest| digest != Digest::of(&answer.body)) {
        return Err(failed(format!("the manifest {target} came changed")));
    }
    serde_json::from_slice(&answer.body).map_err(|error| failed(error.to_string()))
}

/// The manifest of this machine's platform, where it is a list of them.
fn of_platform(index: &Value) -> Option<String> {
    let wanted = machine::platform();
    let manifests = index["manifests"].as_array()?;
    let fits = |entry: &&Value| {
        let part = |key: &str| {
            entry["platform"][key]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        format!("{}/{}", part("os"), part("architecture")) == wanted
    };
    let found = manifests.iter().find(fits).or_else(|| manifests.first())?;
    Some(found["digest"].as_str()?.to_owned())
}

fn url(mirror: &str, image: &Reference, what: &str, target: &str) -> Result<Url, VerifyError> {
    let text = format!(
        "{mirror}/v2/{}/{what}/{target}?ns={}",
        image.repository, image.registry
    );
    Url::parse(&text).map_err(|_| VerifyError::Mirror(AskError::Address(text)))
}

fn request<T>(message: T) -> Request<T> {
    request_in(NAMESPACE, message)
}

/// A request in a namespace of containerd's.
fn request_in<T>(namespace: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    // A name that is none was not had from containerd, which then says so itself.
    if let Ok(namespace) = MetadataValue::try_from(namespace) {
        request
            .metadata_mut()
            .insert("containerd-namespace", namespace);
    }
    request
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn plugin(kind: &str, id: &str, error: Option<&str>) -> Plugin {
        Plugin {
            kind: kind.to_owned(),
            id: id.to_owned(),
            exports: HashMap::new(),
            error: error.map(str::to_owned),
        }
    }

    const SNAPSHOTS: Wanted = Wanted {
        snapshotter: true,
        content: "content",
        differ: false,
    };

    #[test]
    fn plugin_that_setup_broke_is_told_and_one_that_was_broken_is_not() {
        let ours = plugin(SNAPSHOTTER_KIND, "hawker", None);
        let cri = |error| plugin("io.containerd.grpc.v1", "cri", error);
        let zfs = plugin(SNAPSHOTTER_KIND, "zfs", Some("no zfs"));
        let good = [ours.clone(), cri(None), zfs.clone()];
        let bad = [ours, cri(Some("mirrors")), zfs.clone()];
        assert!(plugins(&good, None, SNAPSHOTS).is_ok());
        assert!(plugins(&bad, Some(&bad), SNAPSHOTS).is_ok());
        let error = plugins(&bad, Some(&good), SNAPSHOTS)
            .unwrap_err()
            .to_string();
        assert!(error.contains("io.containerd.grpc.v1.cri") && error.contains("mirrors"));
        assert!(plugins(&bad, None, SNAPSHOTS).is_err());
        assert!(matches!(
            plugins(std::slice::from_ref(&zfs), None, SNAPSHOTS),
            Err(VerifyError::NoSnapshotter)
        ));
        assert!(plugins(&[zfs], None, Wanted::stock()).is_ok());
    }

    #[test]
    fn content_store_must_be_ours_alone_or_not_ours_at_all() {
        let full = Wanted {
            snapshotter: false,
            content: CONTENT,
            differ: true,
        };
        let ours = plugin(CONTENT_KIND, CONTENT, None);
        let local = plugin(CONTENT_KIND, "content", None);
        let differ = plugin(DIFFER_KIND, DIFFER, None);
        let told = |found: &[&Plugin], wanted| {
            let found: Vec<Plugin> = found.iter().map(|plugin| (*plugin).clone()).collect();
            plugins(&found, None, wanted).map_err(|error| error.to_string())
        };
        assert_eq!(told(&[&ours, &differ], full), Ok(()));
        assert_eq!(told(&[&local], Wanted::stock()), Ok(()));
        assert_eq!(told(&[], Wanted::stock()), Ok(()));
        let both = told(&[&ours, &local, &differ], full).unwrap_err();
        assert!(both.contains("hawker-content and in content"), "{both}");
        assert!(told(&[&local, &differ], full).is_err());
        assert!(told(&[&ours], Wanted::stock()).is_err());
        assert!(told(&[&ours], full).unwrap_err().contains("hawker-diff"));
        let bolt = plugin(METADATA.0, METADATA.1, Some("multiple instances"));
        let broken = told(&[&ours, &differ, &bolt], full).unwrap_err();
        assert!(broken.contains("multiple instances"), "{broken}");
    }

    #[test]
    fn cri_that_is_switched_off_or_broken_is_not_pulled_through() {
        let ours = plugin(SNAPSHOTTER_KIND, "hawker", None);
        let cri = |error| plugin(CRI.0, CRI.1, error);
        assert!(has_cri(&[ours.clone(), cri(None)]));
        assert!(!has_cri(&[ours.clone(), cri(Some("mirrors"))]));
        // What is switched off is not listed.
        assert!(!has_cri(&[ours]));
    }

    #[tokio::test]
    async fn pull_that_makes_no_end_is_given_up_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let address = dir.path().join("silent.sock");
        // Connections to it are made, and nothing is ever answered.
        let _silent = std::os::unix::net::UnixListener::bind(&address).unwrap();
        let containerd = Containerd::connect(&address).await.unwrap();
        let limit = Duration::from_secs(1);
        let pulled = transferred(&containerd, "registry.test/image:1", dir.path(), limit).await;
        assert!(pulled.unwrap_err().contains("not done after 1 s"));
    }

    #[tokio::test]
    async fn program_that_makes_no_end_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let id = dir.path().join("id");
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo $$ > $0; exec sleep 1000"])
            .arg(&id);
        let ended = run(command, Duration::from_secs(2)).await;
        assert!(ended.unwrap_err().contains("not done after 2 s"));
        let process = Path::new("/proc").join(std::fs::read_to_string(id).unwrap().trim());
        // What was killed has no command line any more, and is soon gone.
        let lives = || std::fs::read(process.join("cmdline")).is_ok_and(|line| !line.is_empty());
        for _ in 0..100 {
            if !lives() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("it goes on");
    }

    #[test]
    fn list_of_platforms_leads_to_this_machines() {
        let (_, arch) = machine::platform()
            .split_once('/')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .unwrap();
        let index = serde_json::json!({"manifests": [
            {"digest": "sha256:1", "platform": {"os": "linux", "architecture": "mips"}},
            {"digest": "sha256:2", "platform": {"os": "linux", "architecture": arch}},
        ]});
        assert_eq!(of_platform(&index).as_deref(), Some("sha256:2"));
        assert_eq!(of_platform(&serde_json::json!({"layers": []})), None);
    }

    #[test]
    fn snapshot_is_mounted_where_only_the_trial_sees_it() {
        let dir = tempfile::tempdir().unwrap();
        let mounts = [Mount {
            r#type: "bind".to_owned(),
            source: dir.path().to_string_lossy().into_owned(),
            options: vec!["rbind".to_owned(), "rw".to_owned()],
            ..Default::default()
        }];
        assert_eq!(write_in(&mounts), Ok(()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let missing = Mount {
            source: "/nonexistent".to_owned(),
            ..mounts[0].clone()
        };
        assert!(write_in(&[missing]).unwrap_err().contains("/nonexistent"));
        assert!(write_in(&[]).is_err());
    }
}
