//! What is wrong in a config file is told with file, line, key and remedy.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{fs, path::Path};

use hawker_config::{ConfigError, NodeConfig, SchedulerConfig};
use hawker_model::Role;
use proptest::prelude::*;

fn node(text: &str) -> Result<NodeConfig, ConfigError> {
    NodeConfig::parse(text, Path::new("h.toml"), None)
}

fn node_error(text: &str) -> String {
    match node(text) {
        Ok(_) => panic!("{text:?} is taken"),
        Err(error) => error.to_string(),
    }
}

fn scheduler_error(text: &str) -> String {
    match SchedulerConfig::parse(text, Path::new("s.toml")) {
        Ok(_) => panic!("{text:?} is taken"),
        Err(error) => error.to_string(),
    }
}

/// Each text's error, whole or, behind a `..`, its end.
fn assert_errors(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        let error = node_error(text);
        match expected.split_once("..") {
            None => assert_eq!(error, *expected),
            Some((start, end)) => assert!(
                error.starts_with(start) && error.ends_with(end),
                "{text:?}: {error}"
            ),
        }
    }
}

#[test]
fn an_unknown_key_names_the_one_that_was_meant() {
    assert_errors(&[
        (
            "[log]\nlevel = \"info\"\n\n[store]\nquotta = \"1GB\"",
            "h.toml, line 5: store.quotta: there is no such key; did you mean quota?",
        ),
        (
            "[stroe]",
            "h.toml, line 1: stroe: there is no such section; did you mean [store]?",
        ),
        (
            "quota = 1",
            "h.toml, line 1: quota: this key stands in no section; it belongs under [store]",
        ),
        (
            "[node]\nquota = 1",
            "h.toml, line 2: node.quota: there is no such key; it belongs under [store]",
        ),
        (
            "[registries.\"r.lan:5000\"]\nendpont = \"x\"",
            "h.toml, line 2: registries.\"r.lan:5000\".endpont: there is no such key; did you mean \
             endpoint?",
        ),
        (
            "[[p2p.seeds]]\nname = \"s\"\nadress = \"x:1\"",
            "h.toml, line 3: p2p.seeds.adress: there is no such key; did you mean address?",
        ),
        (
            "[log]\nbanana = 1",
            "h.toml, line 2: log.banana: there is no such key; there are level, format",
        ),
    ]);
    assert_eq!(
        scheduler_error("[swarm]\nparnets = 1"),
        "s.toml, line 2: swarm.parnets: there is no such key; did you mean parents?"
    );
}

#[test]
fn a_wrong_value_says_what_is_allowed() {
    assert_errors(&[
        (
            "[store]\nquota = \"lots\"",
            "h.toml, line 2: store.quota: \"lots\" is neither a size nor a share; write a size such as \"100GiB\", \
             a share of the file system such as \"50%\" (1% to 100%), or \"\" for no limit",
        ),
        (
            "[store]\nquota = true",
            "h.toml, line 2: store.quota: it is boolean `true`, expected a size ..or \"\"",
        ),
        (
            "[origin]\nread_timeout = 3",
            "h.toml, line 2: origin.read_timeout: ..such as \"300ms\", \"3s\" or \"5m\"",
        ),
        (
            "[p2p]\nschedulers = [\"s:8002\",\n \"http://s:8002\"]",
            "h.toml, line 3: p2p.schedulers: \"http://s:8002\" is a URL; write host:port without \
             the scheme, such as \"s:8002\"",
        ),
        (
            "[node]\nadvertise = [\"10.0.0.7\", \"0.0.0.0\"]",
            "h.toml, line 2: node.advertise: \"0.0.0.0\" is every address and so none; ..to have it \
             found",
        ),
        (
            "[node]\nrole = \"sed\"",
            "h.toml, line 2: node.role: there is no `sed`, expected ..`seed`",
        ),
        (
            "[registries.\"r.lan\"]\nendpoint = \"ftp://x\"",
            "h.toml, line 2: registries.\"r.lan\".endpoint: \"ftp://x\" has the scheme \"ftp\"; \
             write https:// (or http:// without TLS)",
        ),
        (
            "[registries.\"r lan\"]\n",
            "h.toml, line 1: registries.\"r lan\": registry \"r lan\" is not host or host:port",
        ),
        (
            "[[p2p.seeds]]\nname = \"s\"",
            "h.toml, line 1: p2p.seeds: it lacks the key `address`",
        ),
        (
            "[p2p]\nmax_neighbours = 70000",
            "h.toml, line 2: p2p.max_neighbours: it is integer `70000`, expected a whole number \
             from 0 to 65535",
        ),
        (
            "store = 3",
            "h.toml, line 1: store: it is integer `3`, expected a section",
        ),
        (
            "[store]\ndir = /var",
            "h.toml, line 2: this is not TOML: ..with texts in quotes, or comment the line out with #",
        ),
        (
            "[store]\n[store]",
            "h.toml, line 2: this is not TOML: ..write every key and section once",
        ),
    ]);
}

#[test]
fn settings_that_contradict_each_other_are_refused_with_the_remedy() {
    assert_errors(&[
        (
            "[mirror]\nlisten = \"0.0.0.0:65001\"",
            "h.toml, line 2: mirror.listen, mirror.allow_remote: ..mirror.allow_remote = true if \
             that is wanted",
        ),
        (
            "[store]\nquota = 0",
            "h.toml, line 2: store.quota: a quota of 0 keeps no blob; ..for no limit",
        ),
        (
            "[store]\nhigh_water = 0",
            "h.toml, line 2: store.high_water: every disk is fuller than 0; ..for no limit",
        ),
        (
            "[store]\nlow_water = \"90%\"",
            "h.toml, line 2: store.low_water, store.high_water: 90% is more than 80%; write a \
             low_water below high_water",
        ),
        (
            "[store]\nquota = \"0GB\"",
            "h.toml, line 2: store.quota: a quota of 0 keeps no blob; ..for no limit",
        ),
        (
            "[metrics]\nlisten = \"127.0.0.1:65001\"",
            "h.toml, line 2: metrics.listen, mirror.listen: both listen on port 65001; give each a \
             port of its own",
        ),
        (
            "[node]\nrole = \"scheduler\"",
            "h.toml, line 2: node.role: hawkerd is no scheduler; ..run hawker-scheduler for a \
             scheduler",
        ),
        (
            "[node]\nzone = \"a b\"",
            "h.toml, line 2: node.zone: \"a b\" is no zone; ..",
        ),
        (
            "[store]\ndir = \"cache\"",
            "h.toml, line 2: store.dir: \"cache\" is not an absolute path; ..",
        ),
        (
            "[node]\nname = \"localhost\"\n[p2p]\nschedulers = [\"s:1\"]",
            "h.toml, line 2: node.name: \"localhost\" cannot be told from other hosts; ..",
        ),
        (
            "[node]\nname = \"s\"\n[[p2p.seeds]]\nname = \"s\"\naddress = \"s:1\"",
            "h.toml, line 3: p2p.seeds, node.role, node.name: this host is called \"s\", as a seed \
             is; write node.role = \"seed\", or give the node another name",
        ),
        (
            "[node]\nname = \"n\"\n[p2p]\nseeds = [{ name = \"s\", address = \"a:1\" }, { name = \
             \"s\", address = \"b:1\" }]",
            "h.toml, line 4: p2p.seeds: two seeds are called \"s\"; ..",
        ),
        (
            "[registries.r]\nca = \"/ca.pem\"\nskip_verify = true",
            "h.toml, line 2: registries.\"r\".ca, registries.\"r\".skip_verify: ..checked with the CA",
        ),
        (
            "[registries.r]\nendpoint = \"http://r\"\nskip_verify = true",
            "h.toml, line 2: registries.\"r\".endpoint, ..an http:// endpoint shows no certificate, \
             and asks for none; write https://, or leave ca, skip_verify and client_cert out",
        ),
        (
            "[registries.r]\nusername = \"u\"",
            "h.toml, line 2: registries.\"r\".username, registries.\"r\".password_file: one is \
             there without the other; ..",
        ),
        (
            "[registries.r]\nendpoint = \"https://a\"\nendpoints = [\"https://b\"]",
            "h.toml, line 2: registries.\"r\".endpoint, registries.\"r\".endpoints: both are there; \
             write all of them into endpoints, in the order of asking",
        ),
        (
            "[registries.r]\nendpoints = [\"https://a\", \"https://a/\"]",
            "h.toml, line 2: registries.\"r\".endpoints: https://a is there twice; write each once",
        ),
        (
            "[registries.r]\nclient_cert = \"/c.pem\"",
            "h.toml, line 2: registries.\"r\".client_cert, registries.\"r\".client_key: one is \
             there without the other; ..",
        ),
        (
            "[registries.r]\nclient_cert = \"c.pem\"\nclient_key = \"/k.pem\"",
            "h.toml, line 2: registries.\"r\".client_cert: \"c.pem\" is not an absolute path; ..",
        ),
        (
            "[registries.r]\nproxy = \"http://u:hunter2@p:1\"",
            "h.toml, line 2: registries.r.proxy: the proxy's URL holds credentials; write \
             proxy_username and proxy_password_file instead",
        ),
        (
            "[registries.r]\nproxy = \"p:3128\"",
            "h.toml, line 2: registries.r.proxy: \"p:3128\" is no proxy; write http://HOST:PORT ..",
        ),
        (
            "[registries.r]\nproxy_username = \"u\"\nproxy_password_file = \"/p\"",
            "h.toml, line 2: registries.\"r\".proxy_username, registries.\"r\".proxy: an account at \
             no proxy; ..",
        ),
        (
            "[registries.r]\nresolve = { \"r.lan:5000\" = [\"10.0.0.1\"] }",
            "h.toml, line 2: registries.\"r\".resolve: \"r.lan:5000\" is no name of a host; ..",
        ),
        (
            "[registries.r]\nresolve = { \"r.lan\" = [] }",
            "h.toml, line 2: registries.\"r\".resolve: \"r.lan\" has no address; ..",
        ),
        (
            "[origin]\nproxy_username = \"u\"",
            "h.toml, line 2: origin.proxy_username, origin.proxy_password_file: one is there \
             without the other; ..",
        ),
        (
            "[origin]\nno_proxy = [\"http://x\"]",
            "h.toml, line 2: origin.no_proxy: \"http://x\" is no exception; ..",
        ),
        (
            "[origin]\ncerts_d = [\"certs.d\"]",
            "h.toml, line 2: origin.certs_d: \"certs.d\" is not an absolute path; ..",
        ),
        (
            "[origin]\nendpoint_timeout = \"0s\"",
            "h.toml, line 2: origin.endpoint_timeout: no time at all is too short; ..",
        ),
        (
            "[p2p]\nmax_neighbours = 0",
            "h.toml, line 2: p2p.max_neighbours: 0 is out of range; write a number from 1 to 256",
        ),
        (
            "[origin]\nconnect_timeout = \"0s\"",
            "h.toml, line 2: origin.connect_timeout: no time at all is too short; ..",
        ),
        (
            "[containerd]\nsocket = \"/run/hawker/hawkerd.sock\"",
            "h.toml, line 2: control.socket, containerd.socket: both are /run/hawker/hawkerd.sock; \
             give each a socket of its own",
        ),
        (
            "[containerd]\naddress = \"unix:///run/c.sock\"",
            "h.toml, line 2: containerd.address: \"unix:///run/c.sock\" is not an absolute path; ..",
        ),
        (
            "[snapshotter]\ndir = \"/var/lib/hawker/\"",
            "h.toml, line 2: snapshotter.dir, store.dir: the store lies in the snapshotter's \
             directory; write, for instance, \"/var/lib/hawker/snapshotter\"",
        ),
        (
            "[snapshotter]\ndir = \"/var/lib/hawker/blobs/x\"",
            "h.toml, line 2: snapshotter.dir, store.dir: ..among the store's blobs; write, for \
             instance, \"/var/lib/hawker/snapshotter\"",
        ),
        (
            "[snapshotter]\nmax_layer_size = 0",
            "h.toml, line 2: snapshotter.max_layer_size: ..such as \"64GiB\"",
        ),
        (
            "[snapshotter]\nmax_layer_ratio = 0",
            "h.toml, line 2: snapshotter.max_layer_ratio: 0 is out of range; write a number from 1 \
             to 1000000",
        ),
        (
            "[snapshotter]\nmax_layer_entries = 0",
            "h.toml, line 2: snapshotter.max_layer_entries: 0 is out of range; ..",
        ),
        (
            "[snapshotter]\nunpack_threads = 2000",
            "h.toml, line 2: snapshotter.unpack_threads: 2000 is out of range; ..",
        ),
        (
            "[credentials]\ndocker_config = \"config.json\"",
            "h.toml, line 2: credentials.docker_config: \"config.json\" is not an absolute path; ..",
        ),
    ]);
    let error = scheduler_error("[http]\nlisten = \"127.0.0.1:8002\"");
    assert!(
        error.contains("http.listen, scheduler.listen: both"),
        "{error}"
    );
}

#[test]
fn a_cluster_without_certificates_is_told_of_the_ca_and_the_alternative() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hawkerd.toml");
    let tls = "[tls]\nca = \"/nowhere/ca.pem\"\n";
    let cluster = format!("[node]\nname = \"n\"\n[p2p]\nschedulers = [\"s:8002\"]\n{tls}");
    fs::write(&file, &cluster).unwrap();

    let error = NodeConfig::load(Some(&file)).unwrap_err();
    assert_eq!(error.keys(), ["p2p.transport", "tls.ca"]);
    let error = error.to_string();
    assert!(error.contains("line 6"), "{error}");
    assert!(error.contains("/nowhere/ca.pem"), "{error}");
    assert!(error.contains("`hawker ca`"), "{error}");
    assert!(error.contains("p2p.transport = \"plain\""), "{error}");
    assert!(NodeConfig::read(Some(&file), None).is_ok());

    let plain = cluster.replace("[p2p]", "[p2p]\ntransport = \"plain\"");
    fs::write(&file, plain).unwrap();
    assert!(NodeConfig::load(Some(&file)).is_ok());

    fs::write(&file, tls).unwrap();
    assert!(NodeConfig::load(Some(&file)).unwrap().is_standalone());
    let seed = NodeConfig::load_as(Some(&file), Some(Role::Seed)).unwrap_err();
    assert!(seed.to_string().contains("`hawker ca`"), "{seed}");

    fs::write(&file, format!("[scheduler]\nname = \"s\"\n{tls}")).unwrap();
    let error = SchedulerConfig::load(Some(&file)).unwrap_err().to_string();
    assert!(error.contains("scheduler.transport = \"plain\""), "{error}");
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("h.toml");
    let error = NodeConfig::load(Some(&missing)).unwrap_err().to_string();
    assert!(
        error.contains("h.toml") && error.contains("--print-config"),
        "{error}"
    );
    let error = NodeConfig::load(Some(dir.path())).unwrap_err().to_string();
    assert!(error.contains("name the file in it"), "{error}");
    fs::write(&missing, [0xff, 0xfe]).unwrap();
    let error = NodeConfig::load(Some(&missing)).unwrap_err().to_string();
    assert!(error.contains("UTF-8"), "{error}");
}

#[test]
fn the_role_of_the_command_line_wins() {
    let load = |text| NodeConfig::parse(text, Path::new("h.toml"), Some(Role::Seed)).unwrap();
    let seed = load("[node]\nname = \"s\"\nrole = \"node\"");
    assert_eq!(seed.node.role, Role::Seed);
    assert!(!seed.mirror.enabled);
    assert!(!seed.containerd.enabled);
    let seed = load("[node]\nname = \"s\"\n[mirror]\nenabled = true");
    assert!(seed.mirror.enabled && !seed.containerd.enabled);
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
        let _ = node(&text);
        for section in ["node", "p2p", "registries", "store", "mirror", "containerd", "snapshotter"] {
            let _ = node(&format!("[{section}]\n{text}")).map_err(|error| error.to_string());
        }
    }

    #[test]
    fn any_value_is_read_or_refused(
        key in "(node\\.(name|advertise|zone)|p2p\\.(listen|seeds|schedulers)|store\\.(quota|low_water|ttl)\
                |registries\\.[a-z]|snapshotter\\.[a-z_]{3,17}|mirror\\.(listen|allow_private))",
        value in "([0-9]{1,20}|true|\"[ -!#-\\[\\]-~]{0,12}\"|\\[\\]|\\[\"[a-z0-9:./]{0,12}\"\\]|\\{\\})",
    ) {
        let _ = node(&format!("{key} = {value}")).map_err(|error| error.to_string());
    }
}
