//! A host's link to the bridge: rate, delay, loss.

use std::{fmt, process::Command, str::FromStr, time::Duration};

use anyhow::{Context, Result, bail};

use super::Host;

const LIMIT: Duration = Duration::from_secs(20);

/// Speed of a link, in bits per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(u64);

impl Rate {
    #[must_use]
    pub fn mbit(mbit: u64) -> Self {
        Self(mbit.saturating_mul(1_000_000))
    }

    #[must_use]
    pub fn bits_per_second(self) -> u64 {
        self.0
    }

    #[must_use]
    pub fn bytes_per_second(self) -> f64 {
        self.0 as f64 / 8.0
    }
}

impl FromStr for Rate {
    type Err = anyhow::Error;

    /// `100mbit`, `1gbit`, `500kbit`.
    fn from_str(text: &str) -> Result<Self> {
        let digits = text
            .find(|it: char| !it.is_ascii_digit())
            .unwrap_or(text.len());
        let unit = match &text[digits..] {
            "kbit" => 1_000,
            "mbit" => 1_000_000,
            "gbit" => 1_000_000_000,
            _ => bail!("rate {text:?} is not like 100mbit, 1gbit or 500kbit"),
        };
        let number: u64 = text[..digits]
            .parse()
            .with_context(|| format!("rate {text:?}"))?;
        match number.checked_mul(unit) {
            Some(0) | None => bail!("rate {text:?} is out of range"),
            Some(bits) => Ok(Self(bits)),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bits if bits % 1_000_000_000 == 0 => write!(f, "{}gbit", bits / 1_000_000_000),
            bits if bits % 1_000_000 == 0 => write!(f, "{}mbit", bits / 1_000_000),
            bits => write!(f, "{}kbit", bits / 1_000),
        }
    }
}

/// What a host is connected by. The default is as fast as the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Link {
    /// In each direction.
    pub rate: Option<Rate>,
    /// In each direction; a round trip takes twice as long.
    pub delay: Duration,
    /// Share of the frames that are lost in each direction, 0 to 1.
    pub loss: f64,
}

impl Link {
    #[must_use]
    pub fn of_rate(rate: Rate) -> Self {
        Self {
            rate: Some(rate),
            ..Self::default()
        }
    }

    fn is_lossy_or_late(&self) -> bool {
        !self.delay.is_zero() || self.loss > 0.0
    }
}

/// Whether this kernel can delay and drop by itself.
pub(super) fn kernel_has_netem(switch: &Host) -> bool {
    let tried = tc(switch, "qdisc add dev lo root netem delay 1ms");
    if tried.is_ok() {
        tc(switch, "qdisc del dev lo root").ok();
    }
    tried.is_ok()
}

/// Connects the host with the bridge in the switch.
pub(super) fn connect(switch: &Host, host: &Host, link: &Link) -> Result<()> {
    let port = port_of(host);
    let is_relayed = link.is_lossy_or_late() && !kernel_has_netem(switch);
    if is_relayed {
        start_relay(switch, host, link, &port)?;
    } else {
        let peer = host.inner_pid();
        ip(
            switch,
            &format!("link add {port} type veth peer name eth0 netns {peer}"),
        )?;
    }
    ip(switch, &format!("link set {port} master br0 up"))?;
    ip(host, &format!("addr add {}/16 dev eth0", host.address()))?;
    ip(
        host,
        &format!("addr add {}/64 dev eth0 nodad", host.address_v6()),
    )?;
    ip(host, "link set eth0 up")?;
    use_reno(host)?;
    let netem = (link.is_lossy_or_late() && !is_relayed).then_some(link);
    shape(host, "eth0", link.rate, netem)?;
    shape(switch, &port, link.rate, netem)
}

/// Takes the host off the bridge, or puts it back: whatever is sent to it and from it is lost meanwhile,
/// and nobody is told.
pub(super) fn plug(switch: &Host, host: &Host, plugged: bool) -> Result<()> {
    let master = if plugged { "master br0" } else { "nomaster" };
    ip(switch, &format!("link set {} {master}", port_of(host)))
}

/// The switch's end of a host's link.
fn port_of(host: &Host) -> String {
    format!("p{}", host.number())
}

/// All hosts use the one congestion control that every kernel allows in a namespace, whatever this
/// machine prefers. (bbr sends by a timer per connection: with 20 hosts on two cores, the timers
/// cost more than the transfer that is measured.)
fn use_reno(host: &Host) -> Result<()> {
    write_sysctl(host, "net/ipv4/tcp_congestion_control", "reno")
}

/// Frames cross the bridge without a look at the machine's firewall, where that module is loaded.
pub(super) fn bypass_firewall(switch: &Host) -> Result<()> {
    for family in ["ip", "ip6", "arp"] {
        let key = format!("net/bridge/bridge-nf-call-{family}tables");
        write_sysctl(switch, &key, "0")?;
    }
    Ok(())
}

fn write_sysctl(host: &Host, key: &str, value: &str) -> Result<()> {
    let mut command = Command::new("sh");
    let script = format!("[ ! -e /proc/sys/{key} ] || echo {value} > /proc/sys/{key}");
    command.args(["-c", &script]);
    host.run(&mut command, LIMIT)?.success().map(drop)
}

/// Limits what leaves through a device.
fn shape(host: &Host, device: &str, rate: Option<Rate>, netem: Option<&Link>) -> Result<()> {
    let parent = if let Some(link) = netem {
        let (delay, loss) = (link.delay.as_micros(), link.loss * 100.0);
        let line = format!("delay {delay}us loss {loss}% limit 100000");
        tc(
            host,
            &format!("qdisc add dev {device} root handle 1: netem {line}"),
        )?;
        "parent 1:1"
    } else {
        "root"
    };
    let Some(rate) = rate else { return Ok(()) };
    let bits = rate.bits_per_second();
    // One timer tick's worth (250 Hz), and more than the largest offloaded segment with its
    // headers: tbf would cut those to frames, which costs several times the processor.
    let burst = (bits / 8 / 250).max(128 * 1024);
    let limit = burst + bits / 8 / 20;
    tc(
        host,
        &format!("qdisc add dev {device} {parent} tbf rate {bits}bit burst {burst} limit {limit}"),
    )
}

fn start_relay(switch: &Host, host: &Host, link: &Link, port: &str) -> Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["relay", "--port", port, "--switch-pid", switch.inner_pid()]);
    command.args(["--delay-us", &link.delay.as_micros().to_string()]);
    command.args(["--loss", &link.loss.to_string()]);
    let process = host.spawn("relay", &mut command)?;
    process.wait_until(LIMIT, || process.log_text().contains("ready"))
}

fn ip(host: &Host, arguments: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(arguments.split(' '));
    host.run(&mut command, LIMIT)?.success().map(drop)
}

fn tc(host: &Host, arguments: &str) -> Result<()> {
    let mut command = Command::new("tc");
    command.args(arguments.split(' '));
    host.run(&mut command, LIMIT)?.success().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_written_alike() -> Result<()> {
        for text in ["100mbit", "1gbit", "500kbit", "2500mbit"] {
            assert_eq!(text.parse::<Rate>()?.to_string(), text);
        }
        assert_eq!("100mbit".parse::<Rate>()?.bytes_per_second(), 12_500_000.0);
        Ok(())
    }

    #[test]
    fn wrong_rates_are_refused() {
        for text in [
            "",
            "100",
            "mbit",
            "0mbit",
            "10mb",
            "99999999999999999999gbit",
            "-1mbit",
        ] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
