//! Every client does everything on every containerd.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::{
    cluster::{Client, Cluster, ContainerdVersion, Profile, Topology},
    image,
    matrix::{self, Step},
};

pub(super) const CASES: &[Case] = &[
    Case::new("clients_work_on_containerd_1_6", 600, || {
        clients_work(ContainerdVersion::Debian)
    }),
    Case::new("clients_work_on_containerd_1_7", 600, || {
        clients_work(ContainerdVersion::V1_7)
    }),
    Case::new("clients_work_on_containerd_2", 600, || {
        clients_work(ContainerdVersion::V2)
    }),
    Case::new(
        "clients_work_with_all_of_hawker_on_containerd_1_6",
        200,
        || clients_do(ContainerdVersion::Debian, Profile::Full, CHOSEN),
    ),
    Case::new(
        "clients_work_with_all_of_hawker_on_containerd_1_7",
        200,
        || clients_do(ContainerdVersion::V1_7, Profile::FullOverlayfs, CHOSEN),
    ),
    Case::new(
        "clients_work_with_all_of_hawker_on_containerd_2",
        200,
        || clients_do(ContainerdVersion::V2, Profile::FullOverlayfs, CHOSEN),
    ),
    Case::new(
        "docker_with_containerds_images_works_on_containerd_2",
        900,
        || {
            [Profile::Snapshotter, Profile::Full, Profile::FullOverlayfs]
                .into_iter()
                .try_for_each(docker_works)
        },
    )
    .long(),
    Case::new("clients_work_with_every_profile", 7_200, every_profile).long(),
    Case::new(
        "containers_go_on_while_hawkerd_is_away",
        180,
        containers_go_on,
    ),
];

/// What is tried of each profile without `--long`; `hawker-test-vm matrix` tries all.
const CHOSEN: &[Step] = &[Step::Pull, Step::Run, Step::Commit, Step::Remove];

fn clients_work(version: ContainerdVersion) -> Result<()> {
    let clients = [Client::Crictl, Client::Nerdctl, Client::Ctr];
    matrix::check(&matrix::run(
        version,
        Profile::Snapshotter,
        &clients,
        &Step::ALL,
    )?)
}

fn clients_do(version: ContainerdVersion, profile: Profile, steps: &[Step]) -> Result<()> {
    let clients = Client::all_of(version).iter().copied();
    // It takes minutes to build, and has a case of its own.
    let clients: Vec<_> = clients.filter(|it| *it != Client::Docker).collect();
    matrix::check(&matrix::run(version, profile, &clients, steps)?)
}

fn docker_works(profile: Profile) -> Result<()> {
    let clients = [Client::Docker];
    matrix::check(&matrix::run(
        ContainerdVersion::V2,
        profile,
        &clients,
        CHOSEN,
    )?)
}

fn every_profile() -> Result<()> {
    for profile in Profile::ALL {
        for version in ContainerdVersion::ALL {
            clients_do(version, profile, &Step::ALL)?;
        }
    }
    Ok(())
}

fn containers_go_on() -> Result<()> {
    let cluster = Cluster::start(&Topology {
        nodes: 1,
        ..Topology::default()
    })?;
    let node = &cluster.nodes()[0];
    let containerd = node.containerd()?;
    let reference = cluster.registry.push(&image::python()?)?;
    containerd.pull(&reference)?;
    let running = containerd.start(&reference, &["/bin/sleep", "1000"])?;
    let python = ["python3", "-c", "import json; print(json.__name__)"];

    node.kill_hawkerd()?;
    let away = containerd.execute(&running, &python)?;
    node.start_hawkerd()?;
    node.wait_until_healthy(Duration::from_secs(20))?;
    let back = containerd.execute(&running, &python)?;
    // containerd itself tries again only three seconds later when a connection was refused.
    let began = Instant::now();
    let another = loop {
        let run = containerd.run(&reference, image::PYTHON_COMMAND);
        if run.is_ok() || began.elapsed() > Duration::from_secs(10) {
            break run;
        }
        thread::sleep(Duration::from_millis(100));
    };
    println!(
        "new containers after {:.1} s",
        began.elapsed().as_secs_f64()
    );

    ensure!(away == "json\n" && back == "json\n", "{away:?} {back:?}");
    let another = another.context("a container after hawkerd came back")?;
    ensure!(another.contains("numpy"), "{another}");
    containerd.end(&running)
}
