//! Cluster CA, role certificates, mutual TLS and piece-list signatures
