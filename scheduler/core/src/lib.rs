//! Sans-IO scheduler: swarms, seed choice, liveness
