//! The answer to a good token, as `server/answers.py` encodes it.

use crate::base64;

const BEFORE_UID: &[u8] = b"{\"status\":\"SUCCESS\",\"uid\":\"";
const BEFORE_ESTABLISHED: &[u8] = b"\",\"established\":";
const END: &[u8] = b"}";

/// A raw uid.
#[derive(Clone, Copy)]
pub enum Uid<'token> {
    /// Its bytes, in version 3 and 4.
    Bytes(&'token [u8]),
    /// Its base64, in version 2: printable ASCII that needs no escape in JSON.
    Text(&'token [u8]),
}

impl Uid<'_> {
    /// The length of its base64.
    #[must_use]
    pub fn length(&self) -> usize {
        match self {
            Self::Bytes(raw) => base64::encoded_length(raw.len()),
            Self::Text(text) => text.len(),
        }
    }

    /// Writes its base64, of exactly this length.
    pub fn write(&self, out: &mut [u8]) {
        match self {
            Self::Bytes(raw) => base64::encode(raw, out),
            Self::Text(text) => out.copy_from_slice(text),
        }
    }
}

/// What is known of a good token.
#[derive(Clone, Copy)]
pub struct Success<'token> {
    pub uid: Uid<'token>,
    pub established_ms: i64,
}

impl Success<'_> {
    /// Calls `make` with the length of the JSON and a function that writes it into a buffer of exactly this length.
    pub fn encode<T>(&self, make: impl FnOnce(usize, &dyn Fn(&mut [u8]) -> Option<()>) -> T) -> T {
        let mut digits = itoa::Buffer::new();
        let established = digits.format(self.established_ms).as_bytes();
        let uid_length = self.uid.length();
        let lengths = [BEFORE_UID.len(), uid_length, BEFORE_ESTABLISHED.len(), established.len(), END.len()];
        make(lengths.into_iter().fold(0, usize::saturating_add), &|out: &mut [u8]| {
            let out = put(out, BEFORE_UID)?;
            let (uid, out) = out.split_at_mut_checked(uid_length)?;
            self.uid.write(uid);
            let out = put(out, BEFORE_ESTABLISHED)?;
            let out = put(out, established)?;
            put(out, END).filter(|rest| rest.is_empty()).map(drop)
        })
    }
}

/// Copies a text to the beginning of `out`; returns the rest.
pub fn put<'out>(out: &'out mut [u8], text: &[u8]) -> Option<&'out mut [u8]> {
    let (place, rest) = out.split_at_mut_checked(text.len())?;
    place.copy_from_slice(text);
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(uid: Uid<'_>, established_ms: i64) -> String {
        Success { uid, established_ms }.encode(|length, write| {
            let mut out = vec![0; length];
            write(&mut out).unwrap();
            assert!(write(&mut vec![0; length + 1]).is_none());
            assert!(write(&mut vec![0; length - 1]).is_none());
            String::from_utf8(out).unwrap()
        })
    }

    #[test]
    fn json() {
        assert_eq!(
            encoded(Uid::Text(b""), i64::MIN),
            format!(r#"{{"status":"SUCCESS","uid":"","established":{}}}"#, i64::MIN)
        );
        assert_eq!(encoded(Uid::Bytes(b"foob"), 0), r#"{"status":"SUCCESS","uid":"Zm9vYg==","established":0}"#);
    }
}
