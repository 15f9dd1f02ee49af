//! Typed settings of every Hawker daemon
