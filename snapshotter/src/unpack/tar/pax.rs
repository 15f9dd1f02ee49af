//! PAX records: `"<length> <key>=<value>\n"`, where the length counts the whole record. Values are
//! any bytes, newlines included.

use std::ops::Range;

use super::{super::error::TarFault, number, sparse::PaxSparse};

/// What the records of one header say about the entry behind it. Texts are places in the records.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) path: Option<Range<usize>>,
    pub(super) link: Option<Range<usize>>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) size: Option<i64>,
    pub(super) modified: Option<i128>,
    pub(super) accessed: Option<i128>,
    pub(super) sparse: PaxSparse,
}

/// Name and value of one attribute, as places in the records.
pub(super) type Attribute = (Range<usize>, Range<usize>);

const ATTRIBUTE: &[u8] = b"SCHILY.xattr.";

impl Records {
    /// Reads the records of one header. Of several with one key the last one counts, as POSIX has
    /// it; an empty value leaves what the header says.
    pub(super) fn parse(bytes: &[u8], attributes: &mut Vec<Attribute>) -> Result<Self, TarFault> {
        let mut records = Self::default();
        attributes.clear();
        let mut at = 0;
        while at < bytes.len() {
            let (key, value) = record(bytes, &mut at)?;
            let name = &bytes[key.clone()];
            if name.starts_with(ATTRIBUTE) {
                attributes.push((key.start + ATTRIBUTE.len()..key.end, value));
            } else {
                records.take(name, &bytes[value.clone()], value)?;
            }
        }
        Ok(records)
    }

    fn take(&mut self, key: &[u8], value: &[u8], span: Range<usize>) -> Result<(), TarFault> {
        match key {
            b"path" => self.path = text(value, span, "the path")?,
            b"linkpath" => self.link = text(value, span, "the link's target")?,
            b"uname" | b"gname" if value.contains(&0) => return Err(TarFault::Nul("a name")),
            b"uid" => self.uid = some(value, number::decimal, "the owner")?,
            b"gid" => self.gid = some(value, number::decimal, "the group")?,
            b"size" => self.size = some(value, number::decimal, "the size")?,
            b"mtime" => self.modified = some(value, number::time, "the time")?,
            b"atime" => self.accessed = some(value, number::time, "the access time")?,
            b"ctime" => drop(some(value, number::time, "the change time")?),
            b"GNU.sparse.name" => self.sparse.name = text(value, span, "the path")?,
            _ => {
                if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.take(key, value)?;
                }
            }
        }
        Ok(())
    }
}

/// The record at `at`, which moves behind it: the places of key and value.
fn record(bytes: &[u8], at: &mut usize) -> Result<(Range<usize>, Range<usize>), TarFault> {
    let rest = &bytes[*at..];
    let split = || {
        // 20 digits are more than any length has.
        let blank = rest.iter().take(20).position(|byte| *byte == b' ')?;
        let len = usize::try_from(number::decimal(&rest[..blank])?).ok()?;
        let body = rest.get(blank + 1..len)?.strip_suffix(b"\n")?;
        let equals = body.iter().position(|byte| *byte == b'=')?;
        let key = &body[..equals];
        (!key.is_empty() && !key.contains(&0)).then_some((blank + 1, equals, len))
    };
    let (key, equals, len) = split().ok_or(TarFault::Records)?;
    let start = *at;
    *at += len;
    Ok((
        start + key..start + key + equals,
        start + key + equals + 1..start + len - 1,
    ))
}

fn text(
    value: &[u8],
    span: Range<usize>,
    what: &'static str,
) -> Result<Option<Range<usize>>, TarFault> {
    match value.contains(&0) {
        true => Err(TarFault::Nul(what)),
        false => Ok((!span.is_empty()).then_some(span)),
    }
}

fn some<T>(
    value: &[u8],
    parse: impl Fn(&[u8]) -> Option<T>,
    what: &'static str,
) -> Result<Option<T>, TarFault> {
    match value.is_empty() {
        true => Ok(None),
        false => parse(value).map(Some).ok_or(TarFault::Number(what)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(bytes: &[u8]) -> Result<(Records, Vec<Attribute>), TarFault> {
        let mut attributes = Vec::new();
        Records::parse(bytes, &mut attributes).map(|records| (records, attributes))
    }

    #[test]
    fn records_count_themselves() {
        for (bytes, path) in [
            (&b"6 k=1\n"[..], None),
            (b"008 k=1\n", None),
            (b"10 path=a\n", Some("a")),
            (b"10 path=a\n10 path=b\n", Some("b")),
            (b"10 path=a\n8 path=\n", None),
            (b"13 path=a=b\n\n", Some("a=b\n")),
        ] {
            let records = parse(bytes).unwrap().0;
            let found = records.path.map(|span| &bytes[span]);
            assert_eq!(found, path.map(str::as_bytes), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        for bytes in [
            &b"6 k=1"[..],
            b"5 k=1\n",
            b"7 k=1\n",
            b"6 k1=\nx",
            b"x k=1\n",
            b"-6 k=1\n",
            b"0 \n",
            b"4 =\n",
            b"5 =v\n",
            b"5 kv\n",
            b" 6 k=1\n",
            b"99999999999999999999 k=1\n",
            b"18446744073709551615 k=1\n",
            b"\0\0\0\0",
            b"7 k\0=1\n",
        ] {
            let error = parse(bytes).unwrap_err();
            assert_eq!(error, TarFault::Records, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn bad_values_are_named() {
        let error = |bytes: &[u8]| parse(bytes).unwrap_err();
        assert_eq!(error(b"9 size=x\n"), TarFault::Number("the size"));
        assert_eq!(error(b"12 mtime=1x\n"), TarFault::Number("the time"));
        assert_eq!(error(b"12 path=a\0b\n"), TarFault::Nul("the path"));
    }

    #[test]
    fn attributes_are_any_bytes() {
        let record = [b"28 SCHILY.xattr.user.k=".as_slice(), b"\0\n=\xff\n"].concat();
        assert_eq!(record.len(), 28);
        let (_, attributes) = parse(&record).unwrap();
        let [(name, value)] = &attributes[..] else {
            panic!("{attributes:?}")
        };
        assert_eq!(&record[name.clone()], b"user.k");
        assert_eq!(&record[value.clone()], b"\0\n=\xff");
    }

    proptest! {
        #[test]
        fn no_bytes_upset_it(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(parse(&bytes));
        }

        #[test]
        fn no_almost_record_upsets_it(bytes in "([0-9]{1,3} ?[a-z.]{0,9}=?[0-9,\n]{0,9}\n?){0,4}") {
            drop(parse(bytes.as_bytes()));
        }
    }
}
