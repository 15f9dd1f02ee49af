//! Unpacks one layer again and again and says how fast: `unpack-bench <blob> [dir] [rounds]`.
//!
//! The directory should be on the filesystem of the snapshots. What is made below it is deleted
//! when all rounds are over: ext4 is slow to make files for half a minute after many were deleted
//! (`recently_deleted`), so do not run it again at once.

use std::{
    env,
    error::Error,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

use hawker_model::Digest;
use hawker_snapshotter::{FileSource, LayerKind, UnpackOptions, Unpacked};
use sha2::{Digest as _, Sha256};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1);
    let blob = PathBuf::from(arguments.next().ok_or("which blob?")?);
    let dir = arguments.next().map_or_else(env::temp_dir, PathBuf::from);
    let rounds = match arguments.next() {
        Some(rounds) => rounds.to_string_lossy().parse()?,
        None => 3,
    };
    let digest = digest_of(&blob)?;
    let places = dir.join(format!("unpack-bench-{}", std::process::id()));
    for round in 0..rounds {
        let place = places.join(format!("{round}"));
        fs::create_dir_all(&place)?;
        let (cpu, start) = (cpu()?, Instant::now());
        let unpacked = unpack(&blob, digest, &place);
        report(&unpacked?, start.elapsed(), self::cpu()? - cpu);
    }
    fs::remove_dir_all(&places)?;
    Ok(())
}

fn digest_of(blob: &Path) -> Result<Digest, Box<dyn Error>> {
    let mut file = File::open(blob)?;
    let mut hash = Sha256::new();
    let mut step = vec![0; 1 << 20];
    while let len @ 1.. = file.read(&mut step)? {
        hash.update(&step[..len]);
    }
    Ok(Digest::from_bytes(hash.finalize().into()))
}

fn unpack(blob: &Path, digest: Digest, place: &Path) -> Result<Unpacked, Box<dyn Error>> {
    let mut source = FileSource::open(blob, digest)?;
    let options = UnpackOptions::new(digest, LayerKind::Base);
    let cancelled = AtomicBool::new(false);
    let unpacked = hawker_snapshotter::unpack(place, &mut source, &options, &cancelled);
    Ok(unpacked?)
}

/// CPU time of this process so far, in steps of 10 ms.
fn cpu() -> Result<Duration, Box<dyn Error>> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').ok_or("no name in /proc/self/stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks = ticks.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}

fn report(unpacked: &Unpacked, took: Duration, cpu: Duration) {
    let seconds = took.as_secs_f64();
    println!(
        "{:.2} s, {:.2} s of CPU, {:.0} MB/s, {:.0} entries/s ({} bytes, {} entries)",
        seconds,
        cpu.as_secs_f64(),
        unpacked.size as f64 / seconds / 1e6,
        unpacked.entries as f64 / seconds,
        unpacked.size,
        unpacked.entries,
    );
}
