//! The domain and app names that a site has registered.
//!
//! A name that is not ASCII, its IDNA form, and a name written with an escape are left out: Python decides about those.

use std::ops::Range;

use crate::scanner::Scanner;

const MAX_CHARACTERS: usize = 255;
const A_LABEL_PREFIX: &[u8] = b"xn--";

/// The normalised names of one site, one behind the other, and where each one stands, in the order of the names.
#[derive(Default)]
pub struct Names {
    text: Box<[u8]>,
    places: Box<[Range<u32>]>,
}

impl Names {
    /// `raw` is the JSON of `domain_names`. There are no names if it is not a list of strings.
    pub fn new(raw: &[u8]) -> Self {
        Self::read(raw).unwrap_or_default()
    }

    /// Whether `name`, as it is given, is one of the names.
    pub fn contain(&self, name: &[u8]) -> bool {
        is_normal(name) && self.places.binary_search_by(|place| at(&self.text, place).cmp(name)).is_ok()
    }

    /// Reads a JSON list of strings; None for any other JSON.
    fn read(raw: &[u8]) -> Option<Self> {
        let mut text = Vec::with_capacity(raw.len());
        let mut places = Vec::new();
        let mut scanner = Scanner::new(raw, 1)?;
        scanner.array(|scanner| {
            if let Some(name) = scanner.string()?.plain().and_then(normalised) {
                let start = u32::try_from(text.len()).ok()?;
                text.extend(name.iter().map(u8::to_ascii_lowercase));
                places.push(start..u32::try_from(text.len()).ok()?);
            }
            Some(())
        })?;
        if !scanner.is_at_end() {
            return None;
        }
        places.sort_unstable_by(|one, other| at(&text, one).cmp(at(&text, other)));
        Some(Self { text: text.into(), places: places.into() })
    }
}

fn at<'text>(text: &'text [u8], place: &Range<u32>) -> &'text [u8] {
    text.get(place.start as usize..place.end as usize).unwrap_or_default()
}

/// As `core/domains.py` normalises it, except for case. None if it is not ASCII, or perhaps an IDNA form.
fn normalised(name: &[u8]) -> Option<&[u8]> {
    let is_ours = name.is_ascii() && name.len() <= MAX_CHARACTERS && !has_a_label(name);
    let name = name.trim_ascii();
    is_ours.then_some(name.strip_suffix(b".").unwrap_or(name))
}

/// Whether normalisation leaves a name as it is, and it is ASCII and not empty.
fn is_normal(name: &[u8]) -> bool {
    let is_usual = |byte: u8| u8::from(matches!(byte, b' '..=b'@')) | u8::from(matches!(byte, b'['..=b'~'));
    let are_usual = name.iter().fold(1, |all, byte| all & is_usual(*byte)) == 1; // no branch, so that it is fast
    !name.is_empty() && are_usual && normalised(name) == Some(name)
}

fn has_a_label(name: &[u8]) -> bool {
    let has_two_hyphens = name.windows(2).any(|pair| pair == b"--"); // rare, and cheaper to look for
    has_two_hyphens && name.windows(A_LABEL_PREFIX.len()).any(|part| part.eq_ignore_ascii_case(A_LABEL_PREFIX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(raw: &str) -> impl Fn(&str) -> bool {
        let names = Names::new(raw.as_bytes());
        move |name| names.contain(name.as_bytes())
    }

    #[test]
    fn names_are_normalised() {
        let is_listed =
            listed(r#"[ "Example.COM.", " com.acme.shooter ", "a b","z..", "", "xn--bcher-kva.de" ,"é.de"]"#);
        for name in ["example.com", "com.acme.shooter", "a b"] {
            assert!(is_listed(name), "{name}");
        }
        for name in [
            "Example.com",
            "example.com.",
            " example.com",
            "www.example.com",
            "",
            "z.",
            "xn--bcher-kva.de",
            "é.de",
            "example.co",
            "a b\t",
            "com.acme.shooterexample.com",
        ] {
            assert!(!is_listed(name), "{name}");
        }
    }

    #[test]
    fn what_is_no_list_of_strings_has_no_names() {
        for raw in [
            "",
            "null",
            "[",
            r#"["a""#,
            r#"["a",]"#,
            r#"["a"]]"#,
            r#"["a",7]"#,
            r#"[["a"]]"#,
            r#"{"a":1}"#,
            r#"["a","\ud800"]"#,
            r#"["a","\ud800\ud800"]"#,
            r#"["a","\udc00\ud800"]"#,
            r#"["a","\ud800\u0061"]"#,
            r#"["a","\x"]"#,
            r#"["a","\u00g0"]"#,
            r#"["a","\u00"]"#,
            "[\"a\",\"\u{1}\"]",
        ] {
            assert!(!listed(raw)("a"), "{raw}");
        }
        assert!(!Names::new(b"[\"a\",\"\xff\"]").contain(b"a"));
    }

    #[test]
    fn a_name_with_an_escape_does_not_hide_the_others() {
        assert!(listed(r#"["b\u00fccher.de","\/\\\n\\","\"\\\"","\uD83d\uDe00","a"]"#)("a"));
        assert!(listed("[]")("a") == listed(r#"["b"]"#)("a"));
    }

    #[test]
    fn a_name_has_at_most_255_characters() {
        let long = "a".repeat(256);
        assert!(!listed(&format!(r#"["{long}"]"#))(&long));
        let (long, _) = long.split_at(255);
        assert!(listed(&format!(r#"["{long}"]"#))(long));
    }
}
