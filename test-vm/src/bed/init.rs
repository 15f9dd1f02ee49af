//! The first process of a bed's PID namespace, from both sides.
//!
//! The testbed holds the writing end of the init's standard input. When it closes, because the bed
//! is dropped or because the testbed died in whatever way, the init kills all that runs in the
//! bed, removes the bed's directory and control groups, and exits, which ends the namespace.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    sys::{
        signal::{SigSet, Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};

use super::{Run, leftover};

/// How long an end of a bed may take before the testbed goes on without it.
const STOP_LIMIT: Duration = Duration::from_secs(30);
const KEEP: u8 = b'k';

static LIVE: Mutex<Vec<Weak<Init>>> = Mutex::new(Vec::new());

/// The testbed's end.
#[derive(Debug)]
pub(crate) struct Init {
    pid: i32,
    stdin: Mutex<Option<ChildStdin>>,
    kept: AtomicBool,
    namespace: File,
}

impl Init {
    pub(crate) fn start(run: &Run) -> Result<Arc<Self>> {
        let dir = run.dir().to_owned();
        let id = run.id().to_owned();
        // Only children of the thread that unshared are born in the new namespace.
        let spawned = thread::spawn(move || -> Result<_> {
            unshare(CloneFlags::CLONE_NEWPID).context("failed to make a PID namespace")?;
            let log = File::create(dir.join("init.log"))?;
            let mut command = Command::new(std::env::current_exe()?);
            command
                .arg("init")
                .arg("--dir")
                .arg(&dir)
                .arg("--id")
                .arg(&id);
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(log)
                .process_group(0);
            command.spawn().context("failed to start the bed's init")
        });
        let mut child = spawned
            .join()
            .map_err(|_| anyhow::anyhow!("the spawner died"))??;
        let pid = child.id().cast_signed();
        await_ready(child.stdout.take())?;
        leftover::record(run.dir(), pid)?;
        let namespace = File::open(format!("/proc/{pid}/ns/pid"))?;
        let stdin = Mutex::new(child.stdin.take());
        let init = Arc::new(Self {
            pid,
            stdin,
            kept: AtomicBool::new(false),
            namespace,
        });
        LIVE.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::downgrade(&init));
        Ok(init)
    }

    /// The PID namespace of the bed.
    pub(crate) fn namespace(&self) -> &File {
        &self.namespace
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.kept.load(Ordering::SeqCst)
    }

    pub(crate) fn keep(&self) -> Result<()> {
        let mut stdin = self.stdin.lock().unwrap_or_else(PoisonError::into_inner);
        stdin
            .as_mut()
            .context("the bed has ended")?
            .write_all(&[KEEP])?;
        self.kept.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Ends the bed and waits for the end. The testbed's own children in the bed must have been
    /// waited for, or the namespace cannot end.
    pub(crate) fn stop(&self) {
        drop(
            self.stdin
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let deadline = Instant::now() + STOP_LIMIT;
        while !is_gone(self.pid) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn is_gone(pid: i32) -> bool {
    match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
        Ok(status) => status.pid().is_some(),
        Err(error) => error == Errno::ECHILD,
    }
}

/// Reads the one line with which an init says that it is set up; returns its last word.
pub(crate) fn await_ready(stdout: Option<impl Read>) -> Result<String> {
    let mut line = Vec::new();
    let mut stdout = stdout.context("no output")?;
    let mut byte = [0];
    while stdout.read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    let line = String::from_utf8_lossy(&line).into_owned();
    match line.strip_prefix("ready ") {
        Some(word) => Ok(word.to_owned()),
        None => bail!("it said {line:?} instead of being ready"),
    }
}

/// Ends every bed of this process; for the way out after a signal.
pub fn stop_all() {
    let live: Vec<_> = LIVE
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .drain(..)
        .collect();
    for init in live
        .iter()
        .filter_map(Weak::upgrade)
        .filter(|init| !init.is_kept())
    {
        drop(
            init.stdin
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let deadline = Instant::now() + STOP_LIMIT;
        // Whatever of the bed is our child is waited for as well: nobody else will any more.
        while Instant::now() < deadline && Path::new(&format!("/proc/{}", init.pid)).exists() {
            if waitpid(None, Some(WaitPidFlag::WNOHANG)) == Err(Errno::ECHILD) {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Makes SIGINT, SIGTERM and SIGHUP end all beds before the process. Must be called before the
/// process has a second thread.
///
/// # Errors
/// When the signals cannot be blocked.
pub fn clean_up_on_signals() -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().context("failed to block signals")?;
    thread::spawn(move || {
        let Ok(signal) = signals.wait() else { return };
        eprintln!("\n{signal}: cleaning up");
        stop_all();
        std::process::exit(128 + signal as i32);
    });
    Ok(())
}

/// The life of the init itself (`hawker-test-vm init`).
///
/// # Errors
/// When it is not the first process of a PID namespace.
pub fn run(dir: &Path, id: &str) -> Result<()> {
    if std::process::id() != 1 {
        bail!("init is for the testbed's own use");
    }
    println!("ready 1");
    thread::spawn(reap_orphans);
    let mut kept = false;
    let mut byte = [0];
    while matches!(std::io::stdin().read(&mut byte), Ok(1)) {
        kept |= byte[0] == KEEP;
    }
    if kept {
        // Ended by `hawker-test-vm clean --kept`, with SIGKILL.
        loop {
            thread::park();
        }
    }
    end_processes();
    leftover::remove(dir, id);
    Ok(())
}

fn reap_orphans() {
    loop {
        if waitpid(None, None) == Err(Errno::ECHILD) {
            thread::sleep(Duration::from_millis(200));
        }
    }
}

/// Kills all other processes of the namespace and waits until none runs.
fn end_processes() {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if kill(Pid::from_raw(-1), Signal::SIGKILL) == Err(Errno::ESRCH) || !anyone_runs() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a process of this namespace other than the init is more than a zombie. The init has no
/// `/proc` of its own namespace, so it asks the outer one for processes in the same namespace.
fn anyone_runs() -> bool {
    let Ok(own) = fs::read_link("/proc/self/ns/pid") else {
        return true;
    };
    let Ok(me) = fs::read_link("/proc/self") else {
        return true;
    };
    let Ok(entries) = fs::read_dir("/proc") else {
        return true;
    };
    entries.flatten().any(|entry| {
        entry.file_name() != me.as_os_str()
            && fs::read_link(entry.path().join("ns/pid")).is_ok_and(|it| it == own)
            && fs::read_to_string(entry.path().join("stat")).is_ok_and(|it| !it.contains(") Z "))
    })
}
