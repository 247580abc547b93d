//! A strict reader of any JSON text: UTF-8, the grammar of RFC 8259, no surrogate without the other, a limited depth.

use memchr::memchr;

const WORD: usize = 8; // bytes, and bits of each
const LOW_BITS: u64 = u64::MAX / 0xFF; // the lowest bit of each byte of a word
const HIGH_BITS: u64 = LOW_BITS << 7;

/// A string as it is spelled, without the quotation marks.
#[derive(Clone, Copy)]
pub struct Text<'json>(pub &'json [u8]);

impl<'json> Text<'json> {
    /// The string; None if it has an escape.
    pub fn plain(self) -> Option<&'json [u8]> {
        memchr(b'\\', self.0).is_none().then_some(self.0)
    }
}

/// Reads from the beginning of what is left of a text. Each method is None if something else stands there, and then
/// nothing more can be read.
#[derive(Clone, Copy)]
pub struct Scanner<'json> {
    left: &'json [u8],
    levels: u32, // that may still be opened
}

impl<'json> Scanner<'json> {
    /// None if the text is not UTF-8. The depth is at most 64.
    pub fn new(json: &'json [u8], max_depth: u32) -> Option<Self> {
        std::str::from_utf8(json).ok()?;
        Some(Self { left: json, levels: max_depth.min(u64::BITS) })
    }

    pub const fn left(&self) -> usize {
        self.left.len()
    }

    /// Whether nothing but blanks is left.
    pub fn is_at_end(&mut self) -> bool {
        self.peek().is_none()
    }

    /// Skips blanks; returns the first byte of what follows.
    pub fn peek(&mut self) -> Option<u8> {
        self.left = behind_blanks(self.left);
        self.left.first().copied()
    }

    /// Reads an object. `read` is given each name, and reads the value.
    pub fn object(&mut self, mut read: impl FnMut(&mut Self, Text<'json>) -> Option<()>) -> Option<()> {
        self.container(b'{', b'}', |scanner| {
            let name = scanner.string()?;
            scanner.expect(b':')?;
            read(scanner, name)
        })
    }

    /// Reads an array. `read` reads each element.
    pub fn array(&mut self, read: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.container(b'[', b']', read)
    }

    pub fn string(&mut self) -> Option<Text<'json>> {
        self.expect(b'"')?;
        let text = self.left;
        self.left = behind_string(text)?;
        let length = text.len().checked_sub(self.left.len())?.checked_sub(1)?; // without a quotation mark
        text.get(..length).map(Text)
    }

    /// Reads any value.
    pub fn skip(&mut self) -> Option<()> {
        let mut left = self.left; // a local variable, and no recursion, so that it is fast
        let (mut is_object, mut levels) = (0_u64, 0_u32); // a bit for each open level
        loop {
            left = match behind_blanks(left) {
                [b'"', text @ ..] => behind_string(text)?,
                [open @ (b'{' | b'['), inner @ ..] => {
                    levels = levels.checked_add(1).filter(|levels| *levels <= self.levels)?;
                    is_object = is_object << 1 | u64::from(*open == b'{');
                    match (open, behind_blanks(inner)) {
                        (b'{', inner @ [b'}', ..]) | (b'[', inner @ [b']', ..]) => inner,
                        (b'{', inner) => {
                            left = behind_name(inner)?;
                            continue;
                        }
                        (_, inner) => {
                            left = inner;
                            continue;
                        }
                    }
                }
                [b't', b'r', b'u', b'e', left @ ..]
                | [b'f', b'a', b'l', b's', b'e', left @ ..]
                | [b'n', b'u', b'l', b'l', left @ ..] => left,
                number => behind_number(number)?,
            };
            loop {
                if levels == 0 {
                    self.left = left;
                    return Some(());
                }
                match (behind_blanks(left), is_object & 1) {
                    ([b',', next @ ..], 1) => {
                        left = behind_name(next)?;
                        break;
                    }
                    ([b',', next @ ..], _) => {
                        left = next;
                        break;
                    }
                    ([b'}', outer @ ..], 1) | ([b']', outer @ ..], 0) => {
                        left = outer;
                        levels = levels.checked_sub(1)?;
                        is_object >>= 1;
                    }
                    _ => return None,
                }
            }
        }
    }

    fn container(&mut self, open: u8, close: u8, mut read: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.expect(open)?;
        self.levels = self.levels.checked_sub(1)?;
        if self.expect(close).is_none() {
            loop {
                read(self)?;
                if self.expect(b',').is_none() {
                    self.expect(close)?;
                    break;
                }
            }
        }
        self.levels = self.levels.checked_add(1)?;
        Some(())
    }

    /// Skips blanks and this byte.
    fn expect(&mut self, byte: u8) -> Option<()> {
        if self.peek()? != byte {
            return None;
        }
        self.left = self.left.get(1..)?;
        Some(())
    }
}

#[inline]
fn behind_blanks(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\n' | b'\r' | b'\t', left @ ..] = text {
        text = left;
    }
    text
}

/// Skips the name of a member, and the colon.
fn behind_name(text: &[u8]) -> Option<&[u8]> {
    let text = behind_blanks(text).strip_prefix(b"\"")?;
    behind_blanks(behind_string(text)?).strip_prefix(b":")
}

/// Skips a string behind its first quotation mark.
#[inline]
fn behind_string(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        text = behind_plain(text);
        match text {
            [b'"', left @ ..] => return Some(left),
            [b'\\', left @ ..] => text = behind_escape(left)?,
            _ => return None,
        }
    }
}

fn behind_number(text: &[u8]) -> Option<&[u8]> {
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let text = if let [b'0', left @ ..] = text { left } else { behind_digits(text)? };
    let text = if let [b'.', left @ ..] = text { behind_digits(left)? } else { text };
    match text {
        [b'e' | b'E', b'+' | b'-', left @ ..] | [b'e' | b'E', left @ ..] => behind_digits(left),
        _ => Some(text),
    }
}

/// Skips one digit or more.
fn behind_digits(text: &[u8]) -> Option<&[u8]> {
    let [b'0'..=b'9', left @ ..] = text else { return None };
    let mut text = left;
    while let [b'0'..=b'9', left @ ..] = text {
        text = left;
    }
    Some(text)
}

/// Skips up to a quotation mark, a backslash or a control character.
#[inline]
fn behind_plain(mut text: &[u8]) -> &[u8] {
    while let Some((word, left)) = text.split_first_chunk() {
        let special = special_bytes(u64::from_le_bytes(*word));
        if special != 0 {
            return text.get(special.trailing_zeros() as usize / WORD..).unwrap_or_default();
        }
        text = left;
    }
    while let [b' '..=b'!' | b'#'..=b'[' | b']'.., left @ ..] = text {
        text = left;
    }
    text
}

/// The highest bit of the first byte that ends a plain text, and perhaps bits above it; 0 if there is none.
const fn special_bytes(word: u64) -> u64 {
    // A byte is below a number if the subtraction sets its highest bit, which was not set. What it borrows only reaches
    // the bytes above one that is.
    let backslashes = word ^ LOW_BITS.wrapping_mul(b'\\' as u64);
    let is_backslash = backslashes.wrapping_sub(LOW_BITS) & !backslashes;
    // With the bit flipped in which it differs from a blank, a quotation mark comes directly behind control characters.
    let flipped = word ^ LOW_BITS.wrapping_mul((b'"' ^ b' ') as u64);
    let is_control_or_quote = flipped.wrapping_sub(LOW_BITS.wrapping_mul(b'!' as u64)) & !word;
    (is_backslash | is_control_or_quote) & HIGH_BITS
}

/// Skips an escape without its backslash, or both of a pair of surrogates.
fn behind_escape(text: &[u8]) -> Option<&[u8]> {
    match text {
        [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', left @ ..] => Some(left),
        [b'u', left @ ..] => match code_unit(left)? {
            (0xD800..0xDC00, [b'\\', b'u', left @ ..]) => match code_unit(left)? {
                (0xDC00..0xE000, left) => Some(left),
                _ => None,
            },
            (0xD800..0xE000, _) => None,
            (_, left) => Some(left),
        },
        _ => None,
    }
}

/// Reads the four digits behind `\u`; also returns what is behind them.
fn code_unit(text: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, left) = text.split_at_checked(4)?;
    let value = digits.iter().try_fold(0, |value, digit| Some(value << 4 | char::from(*digit).to_digit(16)?));
    Some((value?, left))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_json(text: &[u8]) -> bool {
        Scanner::new(text, 64).is_some_and(|mut scanner| scanner.skip().is_some() && scanner.is_at_end())
    }

    #[test]
    fn json() {
        for text in [
            "{}",
            "[]",
            " [ ] ",
            "\t{\r\n}",
            "null",
            "true",
            "false",
            r#""""#,
            "0",
            "-0",
            "10",
            "-1.50",
            "1e400",
            "0E+0",
            "1.0e-1",
            "[1,2 , 3]",
            r#"{"a":[{"b":null}],"":{ } , "c" : "d"}"#,
            r#""\"\\\/\b\f\n\r\t\u00e9\uD83D\uDE00""#,
            "\"é東😀\u{7f}\"",
        ] {
            assert!(is_json(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn no_json() {
        for text in [
            "",
            " ",
            "{",
            "[",
            "}",
            "]",
            "{]",
            "[}",
            "nul",
            "nulL",
            "True",
            "NaN",
            "Infinity",
            "-Infinity",
            "01",
            "-01",
            "-",
            "+1",
            "1.",
            ".5",
            "1.e1",
            "1e",
            "1e+",
            "1_0",
            "0x1",
            "1 2",
            "[1 2]",
            "[,]",
            "[1,]",
            "[,1]",
            "{,}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            r#"{"a" 1}"#,
            "{a:1}",
            "{1:1}",
            r#"{"a":1 "b":2}"#,
            "{}{}",
            "{}x",
            "'a'",
            r#"""#,
            r#""\"#,
            r#""\""#,
            r#""\x""#,
            r#""\u""#,
            r#""\u00g0""#,
            r#""\u00e""#,
            r#""\ud800""#,
            r#""\ud800x""#,
            r#""\ud800\n""#,
            r#""\ud800\ud800""#,
            r#""\udc00""#,
            r#""\udc00\ud800""#,
            "\u{feff}{}",
            "{}\0",
            "[1]\u{b}",
            "/**/1",
            "\"\n\"",
            "\"\0\"",
            "\"\u{1f}\"",
        ] {
            assert!(!is_json(text.as_bytes()), "{text}");
        }
        for text in
            [b"\"\xff\"".as_slice(), b"\"\xed\xa0\x80\"", b"\"\xc0\xa2\"", b"{\"\xe9\":1}", b"\"\xf4\x90\x80\x80\""]
        {
            assert!(!is_json(text), "{text:?}");
        }
    }

    #[test]
    fn depth() {
        for (open, close) in [("[", "]"), ("{\"\":", "}")] {
            let nested = |levels: usize| format!("[{}1{}]", open.repeat(levels - 1), close.repeat(levels - 1));
            for levels in [1, 2, 63, 64] {
                assert!(is_json(nested(levels).as_bytes()));
            }
            assert!(!is_json(nested(65).as_bytes()) && !is_json(nested(100_000).as_bytes()));
        }
        assert!(is_json(format!("[{}1]", "[],{},".repeat(100)).as_bytes()));
    }

    #[test]
    fn the_end_of_a_string_at_every_place() {
        for length in 0..40 {
            for letter in ["a", "!", "#", "[", "]", " ", "\u{7f}", "é"] {
                let text = letter.repeat(length);
                let json = format!("\"{text}\"      ");
                let mut scanner = Scanner::new(json.as_bytes(), 0).unwrap();
                assert_eq!(scanner.string().unwrap().plain(), Some(text.as_bytes()));
                assert_eq!(scanner.left(), 6);
                for place in 0..length {
                    let mut changed = json.clone().into_bytes();
                    let at = 1 + place * letter.len();
                    changed.splice(at..at + letter.len(), *b"\\\"");
                    let mut scanner = Scanner::new(&changed, 0).unwrap();
                    let found = scanner.string().unwrap();
                    assert!(found.plain().is_none() && found.0.len() == text.len() + 2 - letter.len());
                    changed.splice(at..at + 2, *b"\x1f");
                    assert!(Scanner::new(&changed, 0).unwrap().string().is_none());
                }
            }
        }
    }

    #[test]
    fn every_word_of_two_bytes_that_may_be_special() {
        for low in 0..=255_u8 {
            for high in [0, 0x1f, b' ', b'!', b'"', b'#', b'[', b'\\', b']', 0x7f, 0x80, 0xa2, 0xdc, 0xff] {
                let word = [b'a', low, high, b'a', b'a', b'a', b'a', b'a'];
                let first = word.iter().position(|byte| *byte < b' ' || *byte == b'"' || *byte == b'\\');
                let found = special_bytes(u64::from_le_bytes(word));
                assert_eq!((found != 0).then(|| found.trailing_zeros() as usize / 8), first);
            }
        }
    }
}
