//! The plain spelling of a request: `{"token":"...","domain":...}`.
//!
//! The two members stand in any order, and there are no others; the domain is a string, null or absent. Blanks between
//! the parts are those of JSON. No string has an escape.

use memchr::memchr;

/// A request. Its token is not yet checked; its domain is valid in JSON.
pub struct Request<'body> {
    pub token: &'body [u8],
    pub domain: Option<&'body [u8]>,
}

/// Reads from the beginning of what is left of a body. Each method is None if something else stands there.
pub struct Reader<'body> {
    left: &'body [u8],
}

impl<'body> Reader<'body> {
    pub const fn new(body: &'body [u8]) -> Self {
        Self { left: body }
    }

    pub const fn left(&self) -> usize {
        self.left.len()
    }

    /// Skips blanks.
    pub fn skip_blanks(&mut self) {
        while let [b' ' | b'\n' | b'\r' | b'\t', left @ ..] = self.left {
            self.left = left;
        }
    }

    /// Skips blanks and this text.
    pub fn expect(&mut self, text: &[u8]) -> Option<()> {
        self.skip_blanks();
        self.left = self.left.strip_prefix(text)?;
        Some(())
    }

    /// Skips blanks and one of two characters; returns whether it was the first.
    pub fn either(&mut self, first: u8, second: u8) -> Option<bool> {
        self.skip_blanks();
        let (found, left) = self.left.split_first()?;
        self.left = left;
        (*found == first || *found == second).then_some(*found == first)
    }

    /// Whether nothing but blanks is left.
    pub fn is_at_end(&mut self) -> bool {
        self.skip_blanks();
        self.left.is_empty()
    }

    /// Reads up to the next quotation mark. If the string has an escape, the result has a backslash.
    pub fn string(&mut self) -> Option<&'body [u8]> {
        self.expect(b"\"")?;
        let (text, left) = self.left.split_at_checked(memchr(b'"', self.left)?)?;
        self.left = left.strip_prefix(b"\"")?;
        Some(text)
    }

    /// Reads an object in the plain spelling.
    pub fn request(&mut self) -> Option<Request<'body>> {
        self.expect(b"{")?;
        let (mut token, mut domain) = (None, None);
        loop {
            match self.string()? {
                b"token" if token.is_none() => {
                    self.expect(b":")?;
                    token = Some(self.string()?);
                }
                b"domain" if domain.is_none() => {
                    self.expect(b":")?;
                    domain = Some(self.string_or_null()?);
                }
                _ => return None,
            }
            if !self.either(b',', b'}')? {
                return Some(Request { token: token?, domain: domain.flatten() });
            }
        }
    }

    fn string_or_null(&mut self) -> Option<Option<&'body [u8]>> {
        if self.expect(b"null").is_some() {
            return Some(None);
        }
        let text = self.string()?;
        is_plain(text).then_some(Some(text))
    }
}

/// Reads a whole body in the plain spelling.
pub fn read_request(body: &[u8]) -> Option<Request<'_>> {
    let mut reader = Reader::new(body);
    let request = reader.request()?;
    reader.is_at_end().then_some(request)
}

/// Whether a text between two quotation marks is a JSON string without an escape.
pub fn is_plain(text: &[u8]) -> bool {
    // Without a branch, so that the compiler makes vectors of it.
    let special = text.iter().fold(0, |special, byte| special | u8::from(*byte < 0x20) | u8::from(*byte == b'\\'));
    special == 0 && std::str::from_utf8(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Option<(&str, Option<&str>)> {
        let text = |bytes| std::str::from_utf8(bytes).unwrap();
        read_request(body.as_bytes()).map(|request| (text(request.token), request.domain.map(text)))
    }

    #[test]
    fn plain_spellings() {
        assert_eq!(read(r#"{"token":"abc"}"#), Some(("abc", None)));
        assert_eq!(read(r#"{"token":"abc","domain":null}"#), Some(("abc", None)));
        assert_eq!(read(r#"{"domain":"example.com","token":"abc"}"#), Some(("abc", Some("example.com"))));
        assert_eq!(read("\t{ \"token\" :\r\n\"abc\" , \"domain\": \"é\" } \n"), Some(("abc", Some("é"))));
    }

    #[test]
    fn every_other_spelling() {
        for body in [
            "",
            "{",
            "{}",
            "null",
            "[]",
            r#"{"token"}"#,
            r#"{"token":}"#,
            r#"{"token":null}"#,
            r#"{"domain":"a"}"#,
            r#"{"token":"a",}"#,
            r#"{"token":"a"}}"#,
            r#"{"token":"a""#,
            r#"{"token":"a" "domain":"b"}"#,
            r#"{"token":"a","token":"b"}"#,
            r#"{"token":"a","domain":null,"domain":"b"}"#,
            r#"{"token":"a","x":1}"#,
            r#"{"token":"a","domain":"\u0061"}"#,
            r#"{"token":"a","domain":nulL}"#,
            r#"{"token":"a","domain":7}"#,
            "{\"token\":\"a\",\"domain\":\"\u{1f}\"}",
            "\u{feff}{\"token\":\"a\"}",
            r#"{"Token":"a"}"#,
            r#"{"token":"a","domain":"\"}"#,
            r#"{"t\u006fken":"a"}"#,
        ] {
            assert_eq!(read(body), None, "{body}");
        }
        assert!(read_request(b"{\"token\":\"a\",\"domain\":\"\xff\"}").is_none());
    }
}
