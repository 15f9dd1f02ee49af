//! The command. All of it is in `hawker_plugin::cli`.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    hawker_plugin::cli::Cli::parse().run()
}
