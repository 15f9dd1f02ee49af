//! containerd's content: has it one store, is all in it, and is it there while hawkerd is not?

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use hawker_config::NodeConfig;
use indicatif::HumanBytes;
use nix::unistd::Uid;

use super::Findings;
use crate::{
    content::ContentTotal,
    control::StatusReport,
    setup::{
        containerd::{CONTENT, DIFF_SERVICE, DIFFER, LOCAL_CONTENT, STORES},
        content,
        machine::Containerd,
        settings::Settings,
        verify::{self, content_stores},
        version::ContainerdVersion,
    },
};

const CHECK: &str = "content store";
const SETUP: &str = "hawker setup containerd --profile full --restart";

/// What containerd's settings say of it.
pub(super) fn settings(
    settings: &Settings,
    config: &NodeConfig,
    version: ContainerdVersion,
    findings: &mut Findings,
) {
    let stores = settings.proxies(&STORES);
    let is_local = !settings.is_disabled(&[LOCAL_CONTENT]);
    if !stores.contains(CONTENT) {
        if !is_local && stores.is_empty() {
            findings.fail(
                CHECK,
                format!("disabled_plugins names {LOCAL_CONTENT}, and no other content store is set up: containerd cannot pull"),
                "remove it from disabled_plugins, or hawker setup containerd --profile full",
            );
        }
        return;
    }
    if is_local || stores.len() > 1 {
        let what = match version.merges_deep() {
            true => "does not start its database with two of them",
            false => "takes one of them at random at every start",
        };
        findings.fail(
            CHECK,
            format!("containerd has another one beside Hawker's, and {what}"),
            SETUP,
        );
    }
    if !config.containerd.enabled {
        findings.fail(
            CHECK,
            "it is Hawker's, which hawkerd's settings do not serve",
            "set containerd.enabled = true and restart hawkerd",
        );
    }
    if version.takes_differs() {
        differ(settings, findings);
    }
    held(&config.containerd.socket, findings);
}

fn differ(settings: &Settings, findings: &mut Findings) {
    const CHECK: &str = "differ";
    let order = settings.of_plugin(DIFF_SERVICE, "default");
    let names = order.and_then(toml::Value::as_array).into_iter().flatten();
    let is_asked = names.into_iter().any(|name| name.as_str() == Some(DIFFER));
    match settings.has_proxy_plugin(DIFFER) && is_asked {
        true => findings.ok(CHECK, DIFFER),
        false => findings.warn(
            CHECK,
            "Hawker's is not set up: containerd reads layers out of Hawker's store in pieces of \
             32 KiB, and unpacks slowly with other snapshotters than Hawker's",
            SETUP,
        ),
    }
}

/// Whether the socket goes on taking connections while hawkerd is restarted.
fn held(socket: &Path, findings: &mut Findings) {
    const CHECK: &str = "socket activation";
    match is_held(socket) {
        Ok(true) => findings.ok(CHECK, "systemd holds containerd's socket"),
        Ok(false) => findings.warn(
            CHECK,
            "systemd does not hold containerd's socket: while hawkerd is restarted, containerd \
             cannot start containers and pull",
            "let systemd do so: systemctl stop hawkerd; systemctl enable --now hawkerd.socket \
             hawkerd",
        ),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            findings.warn(CHECK, "root alone can tell", "run this as root");
        }
        Err(error) => findings.warn(CHECK, error, ""),
    }
}

/// Whether the first process of the machine has the socket open.
fn is_held(socket: &Path) -> io::Result<bool> {
    let listed = fs::read_to_string("/proc/net/unix")?;
    let inodes = inodes(&listed, &socket.to_string_lossy());
    for entry in fs::read_dir("/proc/1/fd")? {
        // One may be closed meanwhile.
        let Ok(target) = fs::read_link(entry?.path()) else {
            continue;
        };
        let target = target.to_string_lossy();
        let inode = target
            .strip_prefix("socket:[")
            .and_then(|rest| rest.strip_suffix(']'));
        if inode.is_some_and(|inode| inodes.contains(&inode)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The inodes of a path's sockets, from `/proc/net/unix`.
fn inodes<'a>(listed: &'a str, path: &str) -> Vec<&'a str> {
    let fields = listed.lines().map(|line| line.split_whitespace());
    fields
        .filter_map(|mut fields| {
            let inode = fields.nth(6)?;
            (fields.next()? == path).then_some(inode)
        })
        .collect()
}

/// What the running containerd has; `status` is what hawkerd says of itself.
pub(super) async fn running(
    containerd: &Containerd,
    settings: &Settings,
    config: &NodeConfig,
    status: Option<&StatusReport>,
    findings: &mut Findings,
) {
    // That containerd does not answer is told elsewhere.
    let Ok(plugins) = containerd.plugins().await else {
        return;
    };
    let stores = content_stores(&plugins);
    if !settings.proxies(&STORES).contains(CONTENT) {
        let kept = status.and_then(|status| status.content.as_ref());
        let kept = kept.map(|content| content.committed).unwrap_or_default();
        return own(&stores, kept, findings);
    }
    if stores != [CONTENT] {
        findings.fail(
            CHECK,
            format!("the running containerd has {stores:?}"),
            "let containerd be restarted by hawker setup containerd --profile full --restart, \
             which takes its content along",
        );
        return;
    }
    let is_complete = complete(containerd, config, findings).await;
    let dir = content::local_dir(Some(&plugins), Some(settings));
    leftovers(&dir, &config.store.dir, is_complete, findings);
}

/// What is wrong where settings do not name Hawker's store, in which `kept` is containerd's.
fn own(stores: &[&str], kept: ContentTotal, findings: &mut Findings) {
    if stores.contains(&CONTENT) {
        return findings.fail(
            CHECK,
            "the running containerd has its content in Hawker's, and its settings do not say so: \
             after its next start its images lack content",
            "give --restart with the profile that it shall have: hawker setup containerd --restart",
        );
    }
    if kept.blobs > 0 {
        findings.warn(
            CHECK,
            format!(
                "hawkerd keeps {} blobs ({}) as containerd's content, and containerd does not have \
                 it there: their room is never free",
                kept.blobs,
                HumanBytes(kept.bytes)
            ),
            "hawker setup containerd with its --profile, or --undo, ends what an earlier run left; \
             hawker setup containerd --undo --without-content in any case",
        );
    }
}

/// Whether hawkerd has all that containerd says that it has.
async fn complete(containerd: &Containerd, config: &NodeConfig, findings: &mut Findings) -> bool {
    let lists = async {
        let wanted = verify::content::all(containerd).await;
        let wanted = wanted.map_err(|error| error.to_string())?;
        let hawkerd = Containerd::connect(&config.containerd.socket).await;
        let hawkerd = hawkerd.map_err(|error| error.to_string())?;
        let has = verify::content::listed(hawkerd.channel(), None).await;
        Ok((wanted, has.map_err(|error| error.to_string())?))
    };
    let (wanted, has) = match lists.await {
        Ok(lists) => lists,
        Err(error) => {
            let error: String = error;
            findings.warn(CHECK, error, "run this as root, with hawkerd running");
            return false;
        }
    };
    let missing: Vec<&str> = wanted
        .keys()
        .filter(|digest| !has.contains_key(*digest))
        .map(String::as_str)
        .collect();
    match missing.first() {
        None => findings.ok(
            CHECK,
            format!("hawkerd has all {} blobs that containerd has", wanted.len()),
        ),
        Some(first) => findings.fail(
            CHECK,
            format!(
                "{} of containerd's {} blobs are not in Hawker's store, such as {first}: images \
                 that need them cannot be unpacked, pushed or saved",
                missing.len(),
                wanted.len()
            ),
            "hawker setup containerd --profile full again takes in what containerd's own store \
             still has; what is missing then has to be pulled again",
        ),
    }
    missing.is_empty()
}

/// What lies in containerd's own store, which it does not use. Only what Hawker has too, and has
/// itself, may go.
fn leftovers(dir: &Path, store: &Path, is_complete: bool, findings: &mut Findings) {
    const CHECK: &str = "old content";
    let looked = Left::in_dir(&dir.join("blobs/sha256"));
    let looked = looked.and_then(|left| Ok((left, led_to(&store.join("blobs"), dir)?)));
    let (left, used) = match looked {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(_) if !Uid::effective().is_root() => {
            return findings.warn(CHECK, "root alone can tell", "run this as root");
        }
        Err(error) => return findings.warn(CHECK, format!("{}: {error}", dir.display()), ""),
    };
    if left.blobs == 0 {
        return;
    }
    let what = format!(
        "{} blobs in {} are those of containerd's own store, which it does not use now; {} of them \
         are nowhere else",
        left.blobs,
        dir.display(),
        HumanBytes(left.own_bytes)
    );
    match (used, is_complete) {
        (0, true) => findings.info(
            CHECK,
            format!(
                "{what}. They may go (rm -r {}); --undo writes anew what is needed",
                dir.join("blobs").display()
            ),
        ),
        (0, false) => findings.info(CHECK, format!("{what}. Leave them: Hawker lacks content")),
        (used, _) => findings.warn(
            CHECK,
            format!("{what}. {used} of Hawker's blobs are read there in place"),
            "leave them: without them containerd's images lose content",
        ),
    }
}

/// How many names below `blobs` lead into another directory instead of being files.
fn led_to(blobs: &Path, dir: &Path) -> io::Result<u64> {
    // As links name it.
    let dir = fs::canonicalize(dir)?;
    let (mut count, mut left) = (0, vec![blobs.to_owned()]);
    while let Some(inner) = left.pop() {
        for entry in fs::read_dir(inner)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                left.push(entry.path());
            } else if kind.is_symlink() && fs::read_link(entry.path())?.starts_with(&dir) {
                count += 1;
            }
        }
    }
    Ok(count)
}

/// Blobs in a directory.
#[derive(Debug, Default, PartialEq, Eq)]
struct Left {
    blobs: u64,
    /// Of files that have no other name; Hawker's store may share their blocks all the same.
    own_bytes: u64,
}

impl Left {
    fn in_dir(dir: &Path) -> io::Result<Self> {
        let mut left = Self::default();
        for entry in fs::read_dir(dir)? {
            let found = entry?.metadata()?;
            left.blobs += 1;
            if found.nlink() == 1 {
                left.own_bytes += found.blocks() * 512;
            }
        }
        Ok(left)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::doctor::Verdict;

    const FULL: &str = "version = 2\n\
        disabled_plugins = [\"io.containerd.content.v1.content\"]\n\
        [proxy_plugins.hawker-content]\ntype = \"content\"\n\
        [proxy_plugins.hawker-diff]\ntype = \"diff\"\n\
        [plugins.\"io.containerd.service.v1.diff-service\"]\n\
        default = [\"hawker-diff\", \"walking\"]\n";

    /// The verdicts on settings, without that on the socket, which depends on the machine.
    fn told(text: &str, containerd: &str) -> Vec<(Verdict, String)> {
        let version = ContainerdVersion::parse(containerd).unwrap();
        let path = PathBuf::from("config.toml");
        let parsed = Settings::parse(&path, text, version).unwrap();
        let mut findings = Findings::default();
        settings(&parsed, &NodeConfig::default(), version, &mut findings);
        let all = findings.all.into_iter();
        all.filter(|finding| finding.check != "socket activation")
            .map(|finding| (finding.verdict, finding.what))
            .collect()
    }

    #[test]
    fn settings_without_fault_are_well_and_others_are_none_of_ours() {
        let found = told(FULL, "1.7.24");
        assert_eq!(found, [(Verdict::Ok, DIFFER.to_owned())]);
        assert_eq!(told("version = 2\n", "1.7.24"), []);
        // 1.6 knows no differs.
        let (stores, _) = FULL.split_once("[proxy_plugins.hawker-diff]").unwrap();
        assert_eq!(told(stores, "1.6.20"), []);
    }

    #[test]
    fn two_content_stores_and_none_are_told() {
        let both = FULL.replace("disabled_plugins", "#");
        let (verdict, what) = &told(&both, "1.7.24")[0];
        assert!(
            *verdict == Verdict::Fail && what.contains("random"),
            "{what}"
        );
        let (_, what) = &told(&both, "2.1.0")[0];
        assert!(what.contains("database"), "{what}");
        let (none, _) = FULL.split_once("[proxy_plugins").unwrap();
        let (verdict, what) = &told(none, "2.1.0")[0];
        assert!(
            *verdict == Verdict::Fail && what.contains("cannot pull"),
            "{what}"
        );
    }

    #[test]
    fn content_that_is_kept_for_nobody_is_told() {
        let told = |stores: &[&str], blobs| {
            let mut findings = Findings::default();
            let kept = ContentTotal { blobs, bytes: 2048 };
            own(stores, kept, &mut findings);
            findings.all.into_iter().next()
        };
        assert_eq!(told(&["content"], 0), None);
        let kept = told(&["content"], 7).unwrap();
        assert_eq!(kept.verdict, Verdict::Warn);
        assert!(kept.what.contains("7 blobs (2.00 KiB)"), "{kept:?}");
        let unsaid = told(&[CONTENT], 7).unwrap();
        assert_eq!(unsaid.verdict, Verdict::Fail);
        assert!(unsaid.what.contains("its next start"), "{unsaid:?}");
    }

    #[test]
    fn differ_that_is_not_asked_is_told() {
        let unasked = FULL.replace("[\"hawker-diff\", ", "[");
        let (verdict, what) = &told(&unasked, "1.7.24")[0];
        assert!(
            *verdict == Verdict::Warn && what.contains("32 KiB"),
            "{what}"
        );
    }

    #[test]
    fn sockets_of_a_path_are_found_in_the_kernels_list() {
        let listed = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 17 /run/a.sock\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 18\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 19 /run/a.sock\n";
        assert_eq!(inodes(listed, "/run/a.sock"), ["17", "19"]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(matches!(is_held(&path), Ok(false) | Err(_)));
    }

    #[test]
    fn old_content_is_given_free_only_where_hawker_has_it_itself() {
        let (old, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (blobs, shard) = (
            old.path().join("blobs/sha256"),
            store.path().join("blobs/a/b"),
        );
        fs::create_dir_all(&blobs).unwrap();
        fs::create_dir_all(&shard).unwrap();
        let told = |is_complete| {
            let mut findings = Findings::default();
            leftovers(old.path(), store.path(), is_complete, &mut findings);
            findings.all
        };
        assert_eq!(told(true), []);
        fs::write(blobs.join("1"), "x").unwrap();
        fs::write(shard.join("1"), "x").unwrap();
        assert!(told(true)[0].what.contains("rm -r"));
        assert!(told(false)[0].what.contains("Leave them"));
        std::os::unix::fs::symlink("/elsewhere", shard.join("2")).unwrap();
        assert!(told(true)[0].what.contains("rm -r"));
        std::os::unix::fs::symlink(blobs.join("1"), shard.join("3")).unwrap();
        let all = told(true);
        let [finding] = &all[..] else {
            panic!("{all:?}")
        };
        assert_eq!(finding.verdict, Verdict::Warn);
        assert!(finding.what.contains("1 of Hawker's"), "{finding:?}");
        assert!(!finding.what.contains("rm -r"), "{finding:?}");
    }

    #[test]
    fn files_with_another_name_take_no_room_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("1"), dir.path().join("2"));
        fs::write(&one, [1; 8192]).unwrap();
        fs::write(&other, [1; 8192]).unwrap();
        let left = Left::in_dir(dir.path()).unwrap();
        assert!(left.blobs == 2 && left.own_bytes >= 16384, "{left:?}");
        let elsewhere = tempfile::tempdir_in(dir.path().parent().unwrap()).unwrap();
        fs::hard_link(&one, elsewhere.path().join("1")).unwrap();
        let shared = Left::in_dir(dir.path()).unwrap();
        assert!(shared.own_bytes < left.own_bytes, "{shared:?}");
    }
}
