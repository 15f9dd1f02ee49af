//! Numbers of tar headers and PAX records.

/// A numeric field of a header: octal digits between blanks and NULs, or base 256 when the first
/// bit is set. Nothing when it is neither, or exceeds 63 bits.
pub(super) fn field(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base_256(field),
        _ => octal(field),
    }
}

/// Octal digits, as far as the first NUL behind them. A field without digits is zero.
pub(super) fn octal(field: &[u8]) -> Option<i64> {
    let is_fill = |byte: &u8| matches!(byte, b' ' | 0);
    let Some(start) = field.iter().position(|byte| !is_fill(byte)) else {
        return Some(0);
    };
    let digits = field[start..].split(|byte| *byte == 0).next()?;
    let end = digits.iter().rposition(|byte| !is_fill(byte))?;
    digits[..=end].iter().try_fold(0_i64, |value, digit| {
        let digit = match digit {
            b'0'..=b'7' => i64::from(digit - b'0'),
            _ => return None,
        };
        value.checked_mul(8)?.checked_add(digit)
    })
}

/// Two's complement, the most significant byte first; the first bit is a mark and the second one
/// the sign.
fn base_256(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    let negative = first & 0x40 != 0;
    let first = i64::from(first & 0x3f) - if negative { 0x40 } else { 0 };
    rest.iter().try_fold(first, |value, byte| {
        value.checked_mul(256)?.checked_add(i64::from(*byte))
    })
}

/// A whole decimal number, with or without a sign.
pub(super) fn decimal(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A time in seconds with a fraction, in nanoseconds; what is finer is cut off.
pub(super) fn time(text: &[u8]) -> Option<i128> {
    const DIGITS: usize = 9;
    let point = text.iter().position(|byte| *byte == b'.');
    let (seconds, fraction) = match point {
        Some(point) => (&text[..point], &text[point + 1..]),
        None => (text, &[][..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().chain(std::iter::repeat(&b'0'));
    let nanos = digits
        .take(DIGITS)
        .fold(0, |nanos, digit| nanos * 10 + i128::from(*digit - b'0'));
    let whole = i128::from(decimal(seconds)?) * NANOS;
    Some(match seconds.starts_with(b"-") {
        true => whole - nanos,
        false => whole + nanos,
    })
}

/// Nanoseconds of a second.
pub(super) const NANOS: i128 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn octal_fields_are_read_as_writers_fill_them() {
        for (text, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"644     ", Some(0o644)),
            (b"00000000017", Some(15)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"", Some(0)),
            (b"        ", Some(0)),
            (b"644\0junk", Some(0o644)),
            (b"777777777777777777777", Some(i64::MAX)),
            (b"1777777777777777777777", None),
            (b"648", None),
            (b"-1", None),
            (b"6 4", None),
            (b"0x1", None),
        ] {
            assert_eq!(field(text), value, "{:?}", text.escape_ascii().to_string());
        }
    }

    #[test]
    fn base_256_fields_may_be_large_and_negative() {
        for (bytes, value) in [
            (&[0x80, 0, 0, 0, 0, 0, 1, 0][..], Some(256)),
            (
                &[0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff][..],
                Some(0x7f_ffff_ffff),
            ),
            (&[0xff; 8][..], Some(-1)),
            (&[0xff; 12][..], Some(-1)),
            (
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe][..],
                Some(-2),
            ),
            (
                &[
                    0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                ][..],
                Some(i64::MAX),
            ),
            (&[0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0][..], None),
            (
                &[
                    0xbf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                ][..],
                None,
            ),
        ] {
            assert_eq!(field(bytes), value, "{bytes:x?}");
        }
    }

    #[test]
    fn times_have_fractions_and_signs() {
        for (text, value) in [
            (
                &b"1350244992.023960108"[..],
                Some(1_350_244_992_023_960_108),
            ),
            (b"1350244992.02396010", Some(1_350_244_992_023_960_100)),
            (b"1350244992.0239601089", Some(1_350_244_992_023_960_108)),
            (b"1350244992.", Some(1_350_244_992_000_000_000)),
            (b"5", Some(5_000_000_000)),
            (b"-1.5", Some(-1_500_000_000)),
            (b"-0.5", Some(-500_000_000)),
            (b"", None),
            (b".5", None),
            (b"1.5.5", None),
            (b"1.-5", None),
            (b"9223372036854775808", None),
        ] {
            let shown = text.escape_ascii().to_string();
            assert_eq!(time(text), value, "{shown}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_upset_it(bytes in proptest::collection::vec(any::<u8>(), 0..24)) {
            field(&bytes);
            octal(&bytes);
            decimal(&bytes);
            time(&bytes);
        }

        #[test]
        fn what_octal_writes_is_read(value in 0..i64::MAX) {
            prop_assert_eq!(field(format!("{value:o}\0").as_bytes()), Some(value));
        }
    }
}
