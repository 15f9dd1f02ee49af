//! How a layer's media type says it is packed, as containerd reads it.
//!
//! It decompresses by the first bytes wherever the type tells of any compression, or is Docker's;
//! only OCI's plain tar is taken as it is.

/// Docker's types, which have no suffixes.
const DOCKER: [&str; 5] = [
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];
const OCI: [&str; 2] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
];

/// How a layer is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Whatever its first bytes say: gzip, zstd or a plain tar.
    Detected,
    /// A tar, whatever its first bytes look like.
    Plain,
}

/// `None`: encrypted, or of another kind.
pub(super) fn form(media_type: &str) -> Option<Form> {
    if DOCKER.contains(&media_type) {
        return Some(Form::Detected);
    }
    match media_type.split_once('+') {
        None if OCI.contains(&media_type) => Some(Form::Plain),
        Some((base, "gzip" | "zstd")) if OCI.contains(&base) => Some(Form::Detected),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_of_docker_and_oci_are_known() {
        for (media_type, expected) in [
            (
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                Form::Detected,
            ),
            (
                "application/vnd.docker.image.rootfs.diff.tar",
                Form::Detected,
            ),
            (
                "application/vnd.oci.image.layer.v1.tar+gzip",
                Form::Detected,
            ),
            (
                "application/vnd.oci.image.layer.v1.tar+zstd",
                Form::Detected,
            ),
            ("application/vnd.oci.image.layer.v1.tar", Form::Plain),
        ] {
            assert_eq!(form(media_type), Some(expected), "{media_type}");
        }
    }

    #[test]
    fn encrypted_and_other_types_are_not() {
        for media_type in [
            "",
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "application/vnd.oci.image.layer.v1.tar+encrypted",
            "application/vnd.docker.image.rootfs.diff.tar.gzip+encrypted",
            "application/vnd.erofs.layer.v1",
            "application/vnd.oci.image.layer.v1.tar+br",
            "application/octet-stream",
        ] {
            assert_eq!(form(media_type), None, "{media_type}");
        }
    }
}
