//! hawkerd, the node daemon, and hawker, the CLI
