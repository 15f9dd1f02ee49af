//! Who gets the bytes: the matrix.

use super::Case;
use crate::{access, cluster::ContainerdVersion};

pub(super) const CASES: &[Case] = &[
    Case::new("access_matrix_of_curl_at_the_mirror", 180, || {
        access::check(&access::run_raw()?)
    }),
    Case::new("access_matrix_of_containerd_1_6_and_docker", 300, || {
        access::check(&access::run_daemons(ContainerdVersion::Debian)?)
    }),
    Case::new("access_matrix_of_containerd_1_7", 300, || {
        access::check(&access::run_daemons(ContainerdVersion::V1_7)?)
    }),
    Case::new("access_matrix_of_containerd_2", 300, || {
        access::check(&access::run_daemons(ContainerdVersion::V2)?)
    }),
];
