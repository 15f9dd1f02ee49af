//! Sans-IO swarm: download, upload, piece picking, back-to-source, simulator
