//! Core files: they would hold every credential that a daemon has in memory.

use std::{env, io};

use nix::sys::{
    prctl,
    resource::{Resource, getrlimit, setrlimit},
};

/// "1" lets a daemon leave core files, and its user look into it: for developers.
const SWITCH: &str = "HAWKER_CORE_DUMPS";

/// From here on this process leaves no core file and can be looked into by root alone: credentials
/// stay in its memory. With `HAWKER_CORE_DUMPS=1` nothing is changed. Whether it was done.
pub fn forbid_core_dumps() -> io::Result<bool> {
    if env::var_os(SWITCH).is_some_and(|value| value == "1") {
        return Ok(false);
    }
    // Also where the kernel hands cores to a program, which takes no heed of the limit.
    prctl::set_dumpable(false)?;
    // For what clears that flag; children, such as credential helpers, hold passwords too. The hard
    // limit as well: nothing raises it again.
    if getrlimit(Resource::RLIMIT_CORE)? != (0, 0) {
        setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    }
    Ok(true)
}
