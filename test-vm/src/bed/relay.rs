//! A link with delay and loss for kernels without netem: Ethernet frames between two tap devices,
//! one in the host and one in the switch, each held back for a while or dropped.

use std::{
    collections::VecDeque,
    fs::File,
    io::{Read, Write},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use crate::sys::open_tap;

/// Frames on the way in one direction at most; more are dropped, as a full queue does.
const QUEUE: usize = 20_000;
const MAX_FRAME: usize = 65_536;

#[derive(Debug, Default)]
struct Line {
    frames: Mutex<VecDeque<(Instant, Vec<u8>)>>,
    arrived: Condvar,
}

/// The life of the relay (`hawker-test-vm relay`), started inside the host.
///
/// # Errors
/// When a tap device cannot be made, or ends.
pub fn run(port: &str, switch_pid: i32, delay: Duration, loss: f64) -> Result<()> {
    let host_end = open_tap("eth0").context("failed to make the host's tap device")?;
    let switch = File::open(format!("/proc/{switch_pid}/ns/net"))?;
    setns(&switch, CloneFlags::CLONE_NEWNET).context("failed to enter the switch")?;
    let switch_end = open_tap(port).context("failed to make the switch's tap device")?;
    println!(
        "ready: frames are held {delay:?} and lost at {} %",
        loss * 100.0
    );
    let up = forward(host_end.try_clone()?, switch_end.try_clone()?, delay, loss);
    let down = forward(switch_end, host_end, delay, loss);
    for direction in up.into_iter().chain(down) {
        direction
            .join()
            .map_err(|_| anyhow::anyhow!("a relay thread died"))??;
    }
    Ok(())
}

fn forward(
    mut from: File,
    mut to: File,
    delay: Duration,
    loss: f64,
) -> [thread::JoinHandle<Result<()>>; 2] {
    let line = Arc::new(Line::default());
    let entrance = Arc::clone(&line);
    let reader = thread::spawn(move || {
        let mut frame = vec![0; MAX_FRAME];
        loop {
            let len = match from.read(&mut frame) {
                Ok(len) => len,
                Err(error) => {
                    // The device is down until the host's end is configured.
                    if error.raw_os_error() == Some(nix::libc::EBADFD) {
                        thread::sleep(Duration::from_millis(5));
                        continue;
                    }
                    return Err(error).context("failed to read a frame");
                }
            };
            if loss > 0.0 && rand::random::<f64>() < loss {
                continue;
            }
            entrance.push(Instant::now() + delay, frame[..len].to_vec());
        }
    });
    let writer = thread::spawn(move || {
        loop {
            let frame = line.next();
            // A device that is not up drops, as a cable without a plug does.
            to.write_all(&frame).ok();
        }
    });
    [reader, writer]
}

impl Line {
    fn push(&self, due: Instant, frame: Vec<u8>) {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        if frames.len() < QUEUE {
            frames.push_back((due, frame));
            self.arrived.notify_one();
        }
    }

    fn next(&self) -> Vec<u8> {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let Some((due, frame)) = frames.pop_front() else {
                frames = self
                    .arrived
                    .wait(frames)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(frames);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            return frame;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_leave_in_order_and_not_before_their_time() {
        let line = Line::default();
        let due = Instant::now() + Duration::from_millis(30);
        line.push(due, vec![1]);
        line.push(due, vec![2]);
        assert_eq!(line.next(), [1]);
        assert!(Instant::now() >= due);
        assert_eq!(line.next(), [2]);
    }
}
