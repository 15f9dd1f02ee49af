//! Protocol between hosts and schedulers
