//! The testbed: hosts as network namespaces, real daemons, end-to-end cases, benchmarks
