use std::time::SystemTime;

use proptest::prelude::*;

use super::*;

fn info(name: &str, parent: &str, kind: Kind, labels: &[(&str, &str)]) -> Info {
    let labels = labels
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Info {
        name: name.to_owned(),
        parent: parent.to_owned(),
        kind,
        labels: labels.collect(),
        created: SystemTime::UNIX_EPOCH,
        updated: SystemTime::UNIX_EPOCH,
    }
}

fn corpus() -> Vec<Info> {
    vec![
        info("foo", "", Kind::Committed, &[("foo", "true")]),
        info("bar", "foo", Kind::Active, &[]),
        info(
            "quoted",
            "foo",
            Kind::View,
            &[("more complex label", "present")],
        ),
        info(
            "odd",
            "",
            Kind::Active,
            &[("label with \\ and \".post", "present")],
        ),
        info("list", "too complex, yo", Kind::Committed, &[]),
        info(
            "punct",
            "abc",
            Kind::Committed,
            &[("foo", "omg_asdf.asdf-qwer")],
        ),
        info(
            "cri",
            "",
            Kind::Committed,
            &[("containerd.io/snapshot.ref", "sha256:1")],
        ),
    ]
}

fn matching(filter: &str) -> Vec<String> {
    let filter = Filter::parse(filter).unwrap();
    let infos = corpus().into_iter().filter(|info| filter.matches(info));
    infos.map(|info| info.name).collect()
}

#[test]
fn filters_choose_what_containerd_says_they_choose() {
    let all: Vec<_> = corpus().into_iter().map(|info| info.name).collect();
    for everything in ["", "name", "kind", "parent", "name!=none", "kind~=e"] {
        assert_eq!(matching(everything), all, "{everything}");
    }
    for (filter, wanted) in [
        ("name==foo", &["foo"][..]),
        ("name!=foo,kind==committed", &["list", "punct", "cri"]),
        ("labels.foo", &["foo", "punct"]),
        ("labels.foo,name", &["foo", "punct"]),
        ("labels.foo==true", &["foo"]),
        ("labels.foo==omg_asdf.asdf-qwer", &["punct"]),
        ("labels.\"more complex label\"", &["quoted"]),
        (r#"labels."label with \\ and \"".post==present"#, &["odd"]),
        ("parent==\"too complex, yo\"", &["list"]),
        ("parent~=[abc]+,name!=list", &["punct"]),
        ("parent~=/^[abc]{1,3}$/", &["punct"]),
        ("parent~=|oo/?|,kind==view", &["quoted"]),
        ("parent!=\"\",kind==active", &["bar"]),
        (
            "labels.\"containerd.io/snapshot.ref\"==sha256:1,parent==\"\"",
            &["cri"],
        ),
        (
            "labels.\"containerd.io/snapshot.ref\"==\"sha256:1\"",
            &["cri"],
        ),
        ("name == foo , kind == committed", &["foo"]),
        ("name==\"\\x66\\157\\u006f\"", &["foo"]),
        ("unknown", &[]),
        ("unknown==x", &[]),
        ("labels", &[]),
        ("name==牛", &[]),
    ] {
        assert_eq!(matching(filter), wanted, "{filter}");
    }
}

#[test]
fn what_is_missing_is_empty_for_all_but_presence_and_equality() {
    assert_eq!(matching("labels.foo==\"\""), Vec::<String>::new());
    assert_eq!(matching("labels.foo!=true").len(), corpus().len() - 1);
    assert_eq!(matching("labels.foo~=^$").len(), corpus().len() - 2);
}

#[test]
fn what_is_no_filter_is_refused_with_its_place() {
    for (text, why) in [
        ("labels.|foo|==x", "expected a field at byte 7"),
        ("labels.?\"x\"==present", "expected a field at byte 7"),
        ("name==foo,", "expected a field at byte 10"),
        ("labels.", "expected a field at byte 7"),
        ("name~=,id==x", "expected a value at byte 6"),
        ("name=", "expected ==, != or ~= at byte 4"),
        ("name=foo", "expected ==, != or ~= at byte 4"),
        ("name===foo", "expected ==, != or ~= at byte 4"),
        ("name==", "expected a value at byte 6"),
        ("name foo", "expected ==, != or ~= at byte 5"),
        ("name==foo bar", "unexpected character at byte 10"),
        ("labels.ns/key==value", "expected ==, != or ~= at byte 9"),
        (
            "labels.key==/value/",
            "only values of ~= may be quoted by / and | at byte 12",
        ),
        ("name~=/value", "the quote does not end at byte 6"),
        ("name==\"a\nb\"", "the quote does not end at byte 6"),
        ("name==\"\\g\"", "illegal escape at byte 8"),
        ("name==\"\\xaz\"", "illegal escape at byte 8"),
        ("name==\"\\777\"", "illegal escape at byte 8"),
        ("name==\"\\ud800\"", "illegal escape at byte 8"),
        ("name==\"\\xff\"", "the quoted text is not UTF-8 at byte 6"),
        ("name~=[", "no regular expression at byte 4"),
        ("name\0", "expected ==, != or ~= at byte 4"),
        (" ", "expected a field at byte 1"),
    ] {
        let error = Filter::parse(text).unwrap_err().to_string();
        assert_eq!(error, format!("filter {text:?}: {why}"));
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,40}") {
        if let Ok(filter) = Filter::parse(&text) {
            for info in corpus() {
                filter.matches(&info);
            }
        }
    }

    #[test]
    fn no_text_of_the_grammars_letters_panics(text in "[nameklbs\"\\\\/|.,=!~xuU079 \n牛]{0,30}") {
        drop(Filter::parse(&text));
    }

    #[test]
    fn a_quoted_value_is_found_again(name in "[^\\x00-\\x1f]{1,20}") {
        let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
        let filter = Filter::parse(&format!("name==\"{quoted}\"")).unwrap();
        prop_assert!(filter.matches(&info(&name, "", Kind::View, &[])));
    }
}
