//! Recognises the heads of HTTP requests by shapes that Python has checked; see `server/fastpath/shapes.py`.

use memchr::memchr;

/// A head's limit in bytes, as in `server/fastpath/heads.py`.
const MAX_HEAD_LENGTH: usize = 4096;
const MAX_DIGITS: usize = 10;
/// Of a `traceparent` with four fields.
const TRACEPARENT_LENGTH: usize = 55;

/// What stands between two parts of a shape.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// The value of Content-Length: digits.
    Length,
    /// Printable ASCII.
    Text,
    /// The `traceparent` of a request that is not sampled: of the length of the usual ones, with an even last digit.
    Unsampled,
}

impl Value {
    /// The value with this number in Python.
    #[must_use]
    pub const fn of(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Length),
            1 => Some(Self::Text),
            2 => Some(Self::Unsampled),
            _ => None,
        }
    }
}

/// The bytes of a head but for some values.
#[derive(PartialEq, Eq)]
pub struct Shape {
    /// Bytes, and the value behind them.
    pub parts: Vec<(Vec<u8>, Value)>,
    /// The bytes behind the last value, with the empty line.
    pub end: Vec<u8>,
}

impl Shape {
    /// Returns the body if these bytes are one request whose head has this shape, no less and no more.
    #[must_use]
    pub fn body<'data>(&self, data: &'data [u8]) -> Option<&'data [u8]> {
        let mut left = data;
        let mut body_length = None;
        for (fixed, kind) in &self.parts {
            left = left.strip_prefix(fixed.as_slice())?;
            if *kind == Value::Length {
                let (length, behind) = digits(left)?;
                body_length = Some(length);
                left = behind;
            } else {
                let (value, behind) = left.split_at_checked(memchr(b'\r', left)?)?;
                let is_allowed = *kind == Value::Text || is_unsampled(value);
                if !is_allowed || !is_printable(value) {
                    return None;
                }
                left = behind;
            }
        }
        let body = left.strip_prefix(self.end.as_slice())?;
        let head_length = data.len().checked_sub(body.len())?;
        (head_length <= MAX_HEAD_LENGTH && body_length == Some(body.len())).then_some(body)
    }
}

/// Splits off a decimal number.
fn digits(data: &[u8]) -> Option<(usize, &[u8])> {
    let count = data.iter().take(MAX_DIGITS.saturating_add(1)).take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 || count > MAX_DIGITS {
        return None;
    }
    let (number, behind) = data.split_at_checked(count)?;
    let number = number.iter().fold(0usize, |number, digit| {
        number.saturating_mul(10).saturating_add(usize::from(digit.saturating_sub(b'0')))
    });
    Some((number, behind))
}

/// Whether all bytes are printable ASCII. Without a branch per byte, so that the compiler makes it SIMD.
fn is_printable(value: &[u8]) -> bool {
    value.iter().fold(true, |all, byte| all & (byte.wrapping_sub(b' ') <= b'~' - b' '))
}

fn is_unsampled(value: &[u8]) -> bool {
    value.len() == TRACEPARENT_LENGTH
        && matches!(value.last(), Some(b'0' | b'2' | b'4' | b'6' | b'8' | b'a' | b'c' | b'e'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(kinds: &[(&str, Value)]) -> Shape {
        Shape {
            parts: kinds.iter().map(|(fixed, kind)| (fixed.as_bytes().to_vec(), *kind)).collect(),
            end: b"\r\n\r\n".to_vec(),
        }
    }

    #[test]
    fn whole_requests() {
        let shape = shape(&[("POST /x HTTP/1.1\r\nX: ", Value::Text), ("\r\nContent-Length: ", Value::Length)]);
        let data = |value: &str, length: &str, body: &str| {
            format!("POST /x HTTP/1.1\r\nX: {value}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
        };
        assert_eq!(shape.body(&data("a b~", "2", "{}")), Some(b"{}".as_slice()));
        assert_eq!(shape.body(&data("", "0002", "{}")), Some(b"{}".as_slice()));
        assert_eq!(shape.body(&data("", "0", "")), Some(b"".as_slice()));
        for (value, length, body) in [
            ("a", "1", "{}"),
            ("a", "3", "{}"),
            ("a", "", "{}"),
            ("a", "+2", "{}"),
            ("a", "2 ", "{}"),
            ("a", "99999999999", "{}"),
            ("a", "00000000002", "{}"),
            ("\t", "2", "{}"),
            ("a\r\nY: b", "2", "{}"),
            ("a\n", "2", "{}"),
            ("\u{e9}", "2", "{}"),
            ("\x7f", "2", "{}"),
        ] {
            assert_eq!(shape.body(&data(value, length, body)), None, "{value} {length}");
        }
        let whole = data("a", "2", "{}");
        for end in 0..whole.len() {
            assert_eq!(shape.body(&whole[..end]), None);
        }
        assert_eq!(shape.body(&data(&"x".repeat(MAX_HEAD_LENGTH), "2", "{}")), None);
    }

    #[test]
    fn sampled_requests() {
        let shape = shape(&[("t: ", Value::Unsampled), ("\r\nl: ", Value::Length)]);
        let data = |flags: &str| format!("t: 00-{:032x}-{:016x}-{flags}\r\nl: 0\r\n\r\n", 1, 1).into_bytes();
        for flags in ["00", "02", "fe"] {
            assert!(shape.body(&data(flags)).is_some());
        }
        for flags in ["01", "ff", "0", "00-x", "0g", "0A"] {
            assert!(shape.body(&data(flags)).is_none());
        }
    }

    #[test]
    fn numbers() {
        assert!(Value::of(0) == Some(Value::Length) && Value::of(1) == Some(Value::Text));
        assert!(Value::of(2) == Some(Value::Unsampled) && Value::of(3).is_none());
    }
}
