//! A host: network, mounts and host name of its own.
//!
//! `/etc` is the machine's with the host's changes on top; `/run` and `/var/lib` start empty. So
//! all daemons run with their default paths, as they do on a machine of their own.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, Ipv6Addr},
    os::unix::{
        fs::PermissionsExt,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use super::{
    Process, Run,
    init::{Init, await_ready},
    namespace::Namespaces,
};
use crate::sys;

/// Programs come from the distribution, whatever the caller's own PATH prefers.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin";

/// One machine of a bed.
#[derive(Debug)]
pub struct Host {
    name: String,
    number: usize,
    inner_pid: String,
    pid: i32,
    namespaces: Namespaces,
    log_dir: PathBuf,
    holder: Mutex<Child>,
    processes: Mutex<Vec<Arc<Process>>>,
    path: Mutex<String>,
}

/// What a finished command left.
#[derive(Debug)]
pub struct Output {
    pub command: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub elapsed: Duration,
}

impl Output {
    /// # Errors
    /// When the command did not exit with 0: says what it printed.
    pub fn success(self) -> Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        let Self {
            command,
            status,
            stdout,
            stderr,
            ..
        } = self;
        bail!("`{command}` failed with {status}\n{stdout}{stderr}")
    }
}

impl Host {
    pub(super) fn start(run: &Run, init: &Init, name: &str, number: usize) -> Result<Self> {
        let dir = run.dir().join("hosts").join(name);
        let log_dir = run.dir().join("logs").join(name);
        for dir in [&dir, &log_dir] {
            fs::create_dir_all(dir).with_context(|| format!("failed to make {}", dir.display()))?;
        }
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("host")
            .arg("--dir")
            .arg(&dir)
            .arg("--name")
            .arg(name)
            .process_group(0);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(log_dir.join("host.log"))?);
        let mut holder = spawn_in_bed(init, &mut command)?;
        let inner_pid = await_ready(holder.stdout.take()).with_context(|| {
            let log = fs::read_to_string(log_dir.join("host.log")).unwrap_or_default();
            format!("failed to start host {name}: {}", log.trim())
        })?;
        let pid = holder.id().cast_signed();
        let namespaces = Namespaces::of(pid, init.namespace())?;
        let holder = Mutex::new(holder);
        let name = name.to_owned();
        let processes = Mutex::default();
        Ok(Self {
            name,
            number,
            inner_pid,
            pid,
            namespaces,
            log_dir,
            holder,
            processes,
            path: Mutex::new(PATH.to_owned()),
        })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same in every bed: no bed sees another.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        let [high, low] = u16::try_from(self.number).unwrap_or(u16::MAX).to_be_bytes();
        Ipv4Addr::new(10, 77, high, low)
    }

    #[must_use]
    pub fn address_v6(&self) -> Ipv6Addr {
        let number = u16::try_from(self.number).unwrap_or(u16::MAX);
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number)
    }

    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// Process id of the host's holder as the bed's processes see it.
    pub(super) fn inner_pid(&self) -> &str {
        &self.inner_pid
    }

    /// Process id of the host's holder as the machine sees it: `nsenter -t PID -a` enters.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// A path of the host as the machine sees it.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.pid)).join(path.trim_start_matches('/'))
    }

    /// Lets the programs of a directory come before those of the distribution.
    pub fn prefer(&self, programs: &Path) {
        let mut path = self.path.lock().unwrap_or_else(PoisonError::into_inner);
        let first = format!("{}:", programs.display());
        if !path.starts_with(&first) {
            path.insert_str(0, &first);
        }
    }

    /// Writes a file of the host, and the directories above it.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) -> Result<()> {
        let outer = self.path(path);
        if let Some(parent) = outer.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&outer, text).with_context(|| format!("failed to write {path} of {}", self.name))
    }

    /// Lets nobody but the owner read a file of the host.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn restrict(&self, path: &str) -> Result<()> {
        let owner = fs::Permissions::from_mode(0o600);
        fs::set_permissions(self.path(path), owner)
            .with_context(|| format!("failed to restrict {path} of {}", self.name))
    }

    /// Runs `work` on a thread inside the host.
    ///
    /// # Errors
    /// When the host has ended.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.namespaces
            .enter(work)
            .with_context(|| format!("cannot enter host {}", self.name))
    }

    /// Starts a program that goes on; its output goes to a log of that name.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(&self, name: &str, command: &mut Command) -> Result<Arc<Process>> {
        let path = self.log_dir.join(format!("{name}.log"));
        let log = File::options().create(true).append(true).open(&path)?;
        command.stdout(log.try_clone()?).stderr(log);
        let child = self.start_child(command)?;
        let process = Arc::new(Process::new(&self.name, name, child, path));
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&process));
        Ok(process)
    }

    /// Runs a program to its end, or kills it at the limit.
    ///
    /// # Errors
    /// When the program cannot be started or takes longer than `limit`.
    pub fn run(&self, command: &mut Command, limit: Duration) -> Result<Output> {
        let started = Instant::now();
        let described = describe(command);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.start_child(command)?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (out, err) = (thread::spawn(|| drain(out)), thread::spawn(|| drain(err)));
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if started.elapsed() > limit {
                child.kill().ok();
                child.wait()?;
                let text = err.join().unwrap_or_default();
                bail!(
                    "`{described}` on {} took longer than {limit:?}\n{text}",
                    self.name
                );
            }
            thread::sleep(Duration::from_millis(3));
        };
        let (stdout, stderr) = (
            out.join().unwrap_or_default(),
            err.join().unwrap_or_default(),
        );
        Ok(Output {
            command: described,
            status,
            stdout,
            stderr,
            elapsed: started.elapsed(),
        })
    }

    /// Every process that was started here and not yet forgotten.
    #[must_use]
    pub fn processes(&self) -> Vec<Arc<Process>> {
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn start_child(&self, command: &mut Command) -> Result<Child> {
        let path = self.path.lock().unwrap_or_else(PoisonError::into_inner);
        command
            .env("PATH", path.clone())
            .stdin(Stdio::null())
            .process_group(0);
        drop(path);
        sys::unblock_signals(command);
        for proxy in [
            "http_proxy",
            "https_proxy",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "no_proxy",
        ] {
            command.env_remove(proxy);
        }
        let spawned = self.namespaces.enter_to_start(|| command.spawn())?;
        spawned.with_context(|| format!("failed to start {} on {}", describe(command), self.name))
    }

    pub(super) fn forget_processes(&self) {
        for process in self.processes() {
            process.forget();
        }
    }

    pub(super) fn stop(&self) {
        for process in self.processes() {
            process.kill();
        }
        let mut holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        holder.kill().ok();
        holder.wait().ok();
    }
}

fn drain(pipe: Option<impl std::io::Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // A pipe that breaks has given what it had.
        pipe.read_to_end(&mut bytes).ok();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn describe(command: &Command) -> String {
    let words = [command.get_program()]
        .into_iter()
        .chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

fn spawn_in_bed(init: &Init, command: &mut Command) -> Result<Child> {
    let namespace = init.namespace();
    let work = || -> Result<Child> {
        nix::sched::setns(namespace, CloneFlags::CLONE_NEWPID)?;
        Ok(command.spawn()?)
    };
    let joined = thread::scope(|scope| scope.spawn(work).join());
    joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The life of a host's holder (`hawker-test-vm host`): makes the namespaces and keeps them.
///
/// # Errors
/// When the kernel refuses a namespace or a mount.
pub fn hold(dir: &Path, name: &str) -> Result<()> {
    let flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS;
    unshare(flags).context("failed to make namespaces")?;
    nix::unistd::sethostname(name).context("failed to set the host name")?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none)
        .context("failed to make mounts private")?;
    mount_etc(dir)?;
    for path in ["/run", "/var/lib"] {
        let own = dir.join(path.trim_start_matches('/').replace('/', "-"));
        fs::create_dir_all(&own)?;
        mount(Some(&own), path, none, MsFlags::MS_BIND, none)
            .with_context(|| format!("failed to give the host a {path}"))?;
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, none).context("failed to mount /proc")?;
    let status = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()?;
    if !status.success() {
        bail!(
            "failed to bring up the loopback device: {:?}",
            status.into_raw()
        );
    }
    println!("ready {}", std::process::id());
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}

fn mount_etc(dir: &Path) -> Result<()> {
    let (upper, work) = (dir.join("etc"), dir.join("etc-work"));
    for dir in [&upper, &work] {
        fs::create_dir_all(dir)?;
    }
    let options = format!(
        "lowerdir=/etc,upperdir={},workdir={}",
        upper.display(),
        work.display()
    );
    mount(
        Some("overlay"),
        "/etc",
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .context(
        "failed to give the host an /etc (an overlay; the testbed's directory must not \
                  itself be on one)",
    )?;
    // Nobody outside can be reached; names come from /etc/hosts alone.
    let resolv = Path::new("/etc/resolv.conf");
    if resolv.is_symlink() {
        fs::remove_file(resolv)?;
    }
    fs::write(resolv, "")?;
    // Settings of the machine's own daemons are not the host's.
    for own in [
        "/etc/containerd",
        "/etc/docker",
        "/etc/cni",
        "/etc/hawker",
        "/etc/crictl.yaml",
    ] {
        let path = Path::new(own);
        if path.is_dir() {
            fs::remove_dir_all(path)?;
        } else if path.exists() {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}
