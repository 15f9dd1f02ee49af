//! What a server wants before it answers: the parser of `WWW-Authenticate` (RFC 9110, 11.6.1).
//!
//! A comma separates both the parameters of a challenge and challenges, and one header may hold
//! several, so that what follows a comma decides: `word =` is a parameter, a word alone begins a
//! challenge. Nonsense is skipped up to the next comma.

use http::{HeaderMap, header::WWW_AUTHENTICATE};

/// Bytes of all challenges together that are read; the rest is ignored.
const LONGEST: usize = 16 * 1024;
/// Challenges, and parameters of one, that are kept.
const MOST: usize = 32;

/// One way to authenticate that a server offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Challenge {
    /// In lower case.
    pub(super) scheme: String,
    /// Names in lower case.
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The first parameter of that name, which is in lower case.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(key, _)| key == name)?;
        Some(&found.1)
    }
}

/// The values of `WWW-Authenticate` as they are, for a client that shall see them.
pub(super) fn raw(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(WWW_AUTHENTICATE).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .map(str::to_owned)
        .collect()
}

/// All challenges of an answer, in the server's order.
pub(super) fn of_headers(headers: &HeaderMap) -> Vec<Challenge> {
    let mut budget = LONGEST;
    let mut all = Vec::new();
    for value in raw(headers) {
        let Some(rest) = budget.checked_sub(value.len()) else {
            break;
        };
        budget = rest;
        all.extend(parse(&value));
    }
    all.truncate(MOST);
    all
}

/// The challenges of one header value.
pub(super) fn parse(value: &str) -> Vec<Challenge> {
    let mut text = Text(value);
    let mut challenges: Vec<Challenge> = Vec::new();
    while challenges.len() <= MOST {
        text.skip(|c| c == ',' || is_space(c));
        if text.0.is_empty() {
            break;
        }
        let word = text.token();
        if word.is_empty() {
            text.skip_item();
        } else if let Some(value) = text.parameter_value() {
            if let Some(challenge) = challenges.last_mut() {
                challenge.add(word, value);
            }
        } else {
            let mut challenge = Challenge {
                scheme: word.to_ascii_lowercase(),
                ..Challenge::default()
            };
            text.first_of(&mut challenge);
            challenges.push(challenge);
        }
    }
    challenges.truncate(MOST);
    challenges
}

impl Challenge {
    fn add(&mut self, name: &str, value: String) {
        if self.parameters.len() < MOST {
            self.parameters.push((name.to_ascii_lowercase(), value));
        }
    }
}

/// What is left to read.
struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    fn skip(&mut self, unwanted: impl Fn(char) -> bool) {
        self.0 = self.0.trim_start_matches(unwanted);
    }

    fn take(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.0.trim_start_matches(wanted);
        let taken = &self.0[..self.0.len() - rest.len()];
        self.0 = rest;
        taken
    }

    fn token(&mut self) -> &'a str {
        self.take(is_token)
    }

    /// Reads up to the next comma outside quotes.
    fn skip_item(&mut self) {
        while let Some(c) = self.0.chars().next() {
            match c {
                ',' => return,
                '"' => drop(self.quoted()),
                _ => self.0 = &self.0[c.len_utf8()..],
            }
        }
    }

    /// `= value`, if that comes next; otherwise nothing is read.
    fn parameter_value(&mut self) -> Option<String> {
        let mut ahead = Text(self.0);
        ahead.skip(is_space);
        ahead.0 = ahead.0.strip_prefix('=')?;
        ahead.skip(is_space);
        let value = match ahead.0.starts_with('"') {
            true => ahead.quoted(),
            // Tolerant: realms are seen without quotes, and no comma can be part of them.
            false => ahead
                .take(|c| c != ',' && c != '"' && !is_space(c))
                .to_owned(),
        };
        ahead.skip_item();
        self.0 = ahead.0;
        Some(value)
    }

    /// A quoted string that begins here; one that does not end extends to the end.
    fn quoted(&mut self) -> String {
        let mut value = String::new();
        let mut chars = self.0.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.0 = &self.0[at + 1..];
                    return value;
                }
                '\\' => value.extend(chars.next().map(|(_, c)| c)),
                c => value.push(c),
            }
        }
        self.0 = "";
        value
    }

    /// What may follow a scheme without a comma: its first parameter, or a token68, which no scheme
    /// we answer has.
    fn first_of(&mut self, challenge: &mut Challenge) {
        if !self.0.starts_with(is_space) {
            return self.skip_item();
        }
        self.skip(is_space);
        let before = self.0;
        let name = self.token();
        // `abc==` is a token68, `abc=def` a parameter.
        let is_token68 = self.0.trim_start_matches('=').trim_start_matches(is_space);
        let is_token68 = is_token68.is_empty() || is_token68.starts_with(',');
        match self.parameter_value() {
            Some(value) if !name.is_empty() && !is_token68 => challenge.add(name, value),
            Some(_) => {}
            None if before.starts_with(',') => {}
            None => self.skip_item(),
        }
    }
}

fn is_space(c: char) -> bool {
    c == ' ' || c == '\t'
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn brief(value: &str) -> Vec<String> {
        let show = |c: &Challenge| {
            let parameters = c.parameters.iter().map(|(k, v)| format!(" {k}={v}"));
            format!("{}{}", c.scheme, parameters.collect::<String>())
        };
        parse(value).iter().map(show).collect()
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        for (value, read) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
                vec![
                    "bearer realm=https://auth.docker.io/token service=registry.docker.io \
                     scope=repository:a/b:pull,push",
                ],
            ),
            (
                r#"Basic realm="a \"b\" \\ c""#,
                vec![r#"basic realm=a "b" \ c"#],
            ),
            (
                r#"Negotiate, Basic realm=x , BEARER Realm="y", service = z"#,
                vec!["negotiate", "basic realm=x", "bearer realm=y service=z"],
            ),
            (
                "Negotiate YWJj==, Basic realm=\"x\"",
                vec!["negotiate", "basic realm=x"],
            ),
            ("NTLM", vec!["ntlm"]),
            ("Basic", vec!["basic"]),
            ("Basic, Bearer", vec!["basic", "bearer"]),
            (
                r#"Digest realm="a, Basic realm=b", qop="auth,auth-int""#,
                vec!["digest realm=a, Basic realm=b qop=auth,auth-int"],
            ),
            (r#", ,,Basic realm="open"#, vec!["basic realm=open"]),
            ("", vec![]),
            ("realm=lost", vec![]),
            (r#"{"a"}, Basic realm="x""#, vec!["basic realm=x"]),
        ] {
            assert_eq!(brief(value), read, "{value}");
        }
    }

    #[test]
    fn endless_challenges_are_bounded() {
        assert_eq!(parse(&"a,".repeat(100_000)).len(), MOST);
        let many = format!("a {}", "b=c,".repeat(100_000));
        assert_eq!(parse(&many)[0].parameters.len(), MOST);
        assert!(parse(&"\"".repeat(100_001)).is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,200}") {
            parse(&text);
        }

        #[test]
        fn texts_of_grammar_are_read_without_panic(text in "[a-c=\", \\\\é]{0,60}") {
            parse(&text);
        }

        #[test]
        fn what_is_written_is_read(
            written in prop::collection::vec(("[a-z]{1,8}", prop::collection::vec(("[a-z]{1,8}", "[ -~]{0,20}"), 1..4)), 1..5)
        ) {
            let quoted = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"");
            let text: Vec<String> = written
                .iter()
                .map(|(scheme, parameters)| {
                    let each: Vec<_> =
                        parameters.iter().map(|(k, v)| format!("{k}=\"{}\"", quoted(v))).collect();
                    format!("{scheme} {}", each.join(", "))
                })
                .collect();
            let read: Vec<_> =
                parse(&text.join(", ")).into_iter().map(|c| (c.scheme, c.parameters)).collect();
            prop_assert_eq!(read, written);
        }
    }
}
