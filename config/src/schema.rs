//! The sections of each file.

use crate::{
    ContainerdSettings, ControlSettings, CredentialSettings, HostSettings, HttpSettings,
    IssuerSettings, LimitSettings, LogSettings, MetricsSettings, MirrorSettings, NodeConfig,
    OriginSettings, P2pSettings, RegistrySettings, SchedulerConfig, SchedulerControlSettings,
    SchedulerSettings, SeedSettings, SnapshotterSettings, StoreSettings, SwarmSettings,
    TlsSettings,
    section::{Form, SectionSchema},
};

/// A struct that is a whole file.
pub(crate) trait File {
    /// What the file is, for its head.
    const ABOUT: &'static str;
    /// Its sections. A section within another follows it.
    const SECTIONS: &'static [SectionSchema];
}

impl File for NodeConfig {
    const ABOUT: &'static str = "Settings of hawkerd, as node and as seed";
    const SECTIONS: &'static [SectionSchema] = &[
        SectionSchema::table::<HostSettings>("node"),
        SectionSchema::table::<P2pSettings>("p2p"),
        SectionSchema::of::<SeedSettings>(
            "p2p.seeds",
            Form::Repeated,
            "name = \"seed-1\"\naddress = \"seed-1.example:4005\"",
        ),
        SectionSchema::table::<LimitSettings>("limits"),
        SectionSchema::table::<TlsSettings>("tls"),
        SectionSchema::table::<StoreSettings>("store"),
        SectionSchema::table::<MirrorSettings>("mirror"),
        SectionSchema::of::<RegistrySettings>(
            "registries",
            Form::Named,
            "endpoint = \"https://harbor.example:8443\"\nca = \"/etc/hawker/harbor-ca.pem\"",
        ),
        SectionSchema::table::<OriginSettings>("origin"),
        SectionSchema::table::<ContainerdSettings>("containerd"),
        SectionSchema::table::<SnapshotterSettings>("snapshotter"),
        SectionSchema::table::<CredentialSettings>("credentials"),
        SectionSchema::table::<ControlSettings>("control"),
        SectionSchema::table::<MetricsSettings>("metrics"),
        SectionSchema::table::<LogSettings>("log"),
    ];
}

impl File for SchedulerConfig {
    const ABOUT: &'static str = "Settings of hawker-scheduler";
    const SECTIONS: &'static [SectionSchema] = &[
        SectionSchema::table::<SchedulerSettings>("scheduler"),
        SectionSchema::table::<TlsSettings>("tls"),
        SectionSchema::table::<IssuerSettings>("issuer"),
        SectionSchema::table::<SchedulerControlSettings>("control"),
        SectionSchema::table::<SwarmSettings>("swarm"),
        SectionSchema::table::<HttpSettings>("http"),
        SectionSchema::table::<LogSettings>("log"),
    ];
}
