//! Reads a filter from left to right. Blanks between parts are skipped.

use regex::Regex;

use super::{FilterError, Selector, Test};

/// What quotes a regular expression besides `"`.
const REGEX_QUOTES: [char; 2] = ['/', '|'];

pub(super) struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    pub(super) fn selectors(mut self) -> Result<Vec<Selector>, FilterError> {
        let mut selectors = vec![self.selector()?];
        loop {
            match self.next_part() {
                None => return Ok(selectors),
                Some(',') => {
                    self.at += 1;
                    selectors.push(self.selector()?);
                }
                Some(_) => return Err(self.error("unexpected character")),
            }
        }
    }

    fn selector(&mut self) -> Result<Selector, FilterError> {
        let path = self.path()?;
        let test = match self.next_part() {
            None | Some(',') => Test::Present,
            Some(_) => self.test()?,
        };
        Ok(Selector { path, test })
    }

    fn path(&mut self) -> Result<Vec<String>, FilterError> {
        let mut path = vec![self.field()?];
        while self.next_part() == Some('.') {
            self.at += 1;
            path.push(self.field()?);
        }
        Ok(path)
    }

    fn field(&mut self) -> Result<String, FilterError> {
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        match self.next_part() {
            Some('"') => self.quoted('"'),
            Some(letter) if is_plain(letter) => Ok(self.take_while(is_plain).to_owned()),
            _ => Err(self.error("expected a field")),
        }
    }

    fn test(&mut self) -> Result<Test, FilterError> {
        let start = self.at;
        let operator = self.take_while(|letter| matches!(letter, '=' | '!' | '~'));
        match operator {
            "==" => Ok(Test::Equal(self.value(&[])?)),
            "!=" => Ok(Test::NotEqual(self.value(&[])?)),
            "~=" => {
                let value = self.value(&REGEX_QUOTES)?;
                let regex = Regex::new(&value);
                regex
                    .map(Test::Matches)
                    .map_err(|_| self.error_at(start, "no regular expression"))
            }
            _ => Err(self.error_at(start, "expected ==, != or ~=")),
        }
    }

    fn value(&mut self, quotes: &[char]) -> Result<String, FilterError> {
        match self.next_part() {
            None | Some(',' | '.') => Err(self.error("expected a value")),
            Some('"') => self.quoted('"'),
            Some(quote) if quotes.contains(&quote) => self.quoted(quote),
            Some(quote) if REGEX_QUOTES.contains(&quote) => {
                Err(self.error("only values of ~= may be quoted by / and |"))
            }
            Some(_) => {
                let is_plain = |c: char| c != ',' && !c.is_whitespace() && !c.is_control();
                match self.take_while(is_plain) {
                    "" => Err(self.error("expected a value")),
                    value => Ok(value.to_owned()),
                }
            }
        }
    }

    /// What stands between two quotes, as Go reads it.
    fn quoted(&mut self, quote: char) -> Result<String, FilterError> {
        let start = self.at;
        self.at += quote.len_utf8();
        let mut bytes = Vec::new();
        loop {
            let letter = match self.bump() {
                None | Some('\n') => return Err(self.error_at(start, "the quote does not end")),
                Some(letter) => letter,
            };
            if letter == quote {
                break;
            }
            match letter {
                '\\' => self.escaped(quote, &mut bytes)?,
                letter => push(&mut bytes, letter),
            }
        }
        String::from_utf8(bytes).map_err(|_| self.error_at(start, "the quoted text is not UTF-8"))
    }

    /// What follows a backslash.
    fn escaped(&mut self, quote: char, bytes: &mut Vec<u8>) -> Result<(), FilterError> {
        let start = self.at;
        let illegal = "illegal escape";
        let simple = match self.bump() {
            Some('a') => 0x07,
            Some('b') => 0x08,
            Some('f') => 0x0c,
            Some('n') => b'\n',
            Some('r') => b'\r',
            Some('t') => b'\t',
            Some('v') => 0x0b,
            Some('\\') => b'\\',
            Some(letter) if letter == quote => {
                push(bytes, quote);
                return Ok(());
            }
            Some('x') => self.byte(start, 2, 16)?,
            Some('0'..='7') => {
                self.at = start;
                self.byte(start, 3, 8)?
            }
            Some(kind @ ('u' | 'U')) => {
                let number = self.number(start, if kind == 'u' { 4 } else { 8 }, 16)?;
                let letter = char::from_u32(number);
                push(bytes, letter.ok_or_else(|| self.error_at(start, illegal))?);
                return Ok(());
            }
            _ => return Err(self.error_at(start, illegal)),
        };
        bytes.push(simple);
        Ok(())
    }

    fn byte(&mut self, start: usize, digits: usize, base: u32) -> Result<u8, FilterError> {
        let number = self.number(start, digits, base)?;
        u8::try_from(number).map_err(|_| self.error_at(start, "illegal escape"))
    }

    fn number(&mut self, start: usize, digits: usize, base: u32) -> Result<u32, FilterError> {
        let text = self.text.get(self.at..self.at + digits).unwrap_or("");
        let is_digits = !text.is_empty() && text.chars().all(|digit| digit.is_digit(base));
        let number = u32::from_str_radix(text, base).ok().filter(|_| is_digits);
        self.at += text.len();
        number.ok_or_else(|| self.error_at(start, "illegal escape"))
    }

    /// The next letter that is no blank.
    fn next_part(&mut self) -> Option<char> {
        self.take_while(char::is_whitespace);
        self.rest().chars().next()
    }

    fn take_while(&mut self, is_wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let len = rest.find(|letter| !is_wanted(letter)).unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    fn bump(&mut self) -> Option<char> {
        let letter = self.rest().chars().next()?;
        self.at += letter.len_utf8();
        Some(letter)
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn error(&self, why: &str) -> FilterError {
        self.error_at(self.at, why)
    }

    fn error_at(&self, at: usize, why: &str) -> FilterError {
        FilterError {
            filter: self.text.to_owned(),
            at,
            why: why.to_owned(),
        }
    }
}

fn push(bytes: &mut Vec<u8>, letter: char) {
    bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
}
