//! The piece network of a node: store, transport, origin, scheduler session, driver
