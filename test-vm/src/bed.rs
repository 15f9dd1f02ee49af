//! A bed: hosts on a bridge, in namespaces of their own.
//!
//! Invariant: everything of a bed lives in one PID namespace, whose first process ([`init`]) dies
//! with the testbed's process. Processes, network namespaces, links, mounts and containers vanish
//! with it, by the kernel's own hand; the init removes the directory and the control groups. So a
//! bed cleans up after a panic and after `kill -9` as it does after success, and beds that run
//! side by side share nothing: each has its own bridge, addresses, `/etc`, `/run` and `/var/lib`.

mod host;
pub mod init;
mod leftover;
mod link;
mod namespace;
mod process;
pub mod relay;
mod run;

use std::{
    path::Path,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

pub use host::{Host, Output, hold};
pub use init::{clean_up_on_signals, stop_all};
pub use leftover::{Leftover, clean};
pub use link::{Link, Rate};
pub use process::{Process, Usage};
pub use run::{Place, Run, base_dir};

use init::Init;

/// A private network of hosts.
#[derive(Debug)]
pub struct Bed {
    run: Run,
    init: Arc<Init>,
    switch: Arc<Host>,
    hosts: Mutex<Vec<Arc<Host>>>,
}

impl Bed {
    /// An empty bed: a bridge without hosts.
    ///
    /// # Errors
    /// When not root, or when the kernel refuses namespaces.
    pub fn start() -> Result<Self> {
        Self::start_in(Place::Anywhere)
    }

    /// An empty bed whose files are where they are wanted.
    ///
    /// # Errors
    /// When not root, or when the kernel refuses namespaces.
    pub fn start_in(place: Place) -> Result<Self> {
        crate::require_root()?;
        let run = Run::create(place)?;
        let init = Init::start(&run)?;
        let switch = Arc::new(Host::start(&run, &init, "switch", 0)?);
        let bed = Self {
            run,
            init,
            switch,
            hosts: Mutex::default(),
        };
        bed.ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0")?;
        bed.ip("link set br0 up")?;
        link::bypass_firewall(&bed.switch)?;
        Ok(bed)
    }

    /// Adds a host that is reached by its name from all hosts of the bed.
    ///
    /// # Errors
    /// When the name is taken, or the kernel refuses a link.
    pub fn add_host(&self, name: &str, link: &Link) -> Result<Arc<Host>> {
        ensure!(
            self.host(name).is_none(),
            "the bed has a host {name} already"
        );
        let number = self.hosts().len() + 1;
        let host = Arc::new(Host::start(&self.run, &self.init, name, number)?);
        link::connect(&self.switch, &host, link)
            .with_context(|| format!("failed to connect host {name}"))?;
        self.hosts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&host));
        self.write_hosts_files()?;
        Ok(host)
    }

    #[must_use]
    pub fn host(&self, name: &str) -> Option<Arc<Host>> {
        self.hosts().into_iter().find(|host| host.name() == name)
    }

    #[must_use]
    pub fn hosts(&self) -> Vec<Arc<Host>> {
        self.hosts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// From now on whatever is sent to a host and from it is lost, as when its power is gone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn unplug(&self, host: &Host) -> Result<()> {
        link::plug(&self.switch, host, false)
    }

    /// The reverse of [`Self::unplug`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn plug_in(&self, host: &Host) -> Result<()> {
        link::plug(&self.switch, host, true)
    }

    /// Short and unique among the beds of this machine.
    #[must_use]
    pub fn id(&self) -> &str {
        self.run.id()
    }

    /// Holds everything that the bed writes; removed with it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.run.dir()
    }

    /// Leaves the bed running when this value is dropped, until `hawker-test-vm clean --kept`.
    ///
    /// # Errors
    /// When the bed's init is gone.
    pub fn keep(&self) -> Result<()> {
        self.init.keep()
    }

    /// How links with delay or loss are made on this kernel, as one line for people.
    #[must_use]
    pub fn emulation(&self) -> &'static str {
        if link::kernel_has_netem(&self.switch) {
            "delay and loss by the kernel's netem"
        } else {
            "delay and loss by the testbed's own frame relay (this kernel has no netem)"
        }
    }

    /// The last lines of every log, for a report of a failure.
    #[must_use]
    pub fn log_tails(&self, lines: usize) -> String {
        let hosts = self.hosts();
        hosts
            .iter()
            .flat_map(|host| host.processes())
            .map(|it| it.log_tail(lines))
            .collect()
    }

    fn ip(&self, arguments: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(arguments.split(' '));
        self.switch
            .run(&mut command, Duration::from_secs(20))?
            .success()
            .map(drop)
    }

    fn write_hosts_files(&self) -> Result<()> {
        let hosts = self.hosts();
        let lines = hosts.iter().map(|host| {
            let (name, v4, v6) = (host.name(), host.address(), host.address_v6());
            format!("{v4} {name}\n{v6} {name}\n")
        });
        let text: String = ["127.0.0.1 localhost\n::1 localhost\n".to_owned()]
            .into_iter()
            .chain(lines)
            .collect();
        for host in &hosts {
            host.write("/etc/hosts", &text)?;
        }
        Ok(())
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if self.init.is_kept() {
            for host in self.hosts() {
                host.forget_processes();
            }
            return;
        }
        for host in self.hosts() {
            host.stop();
        }
        self.switch.stop();
        self.init.stop();
    }
}
