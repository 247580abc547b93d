//! Whole bid requests: the answer, or the bid request with raw uids in the place of tokens, if every token of ours in it
//! is a SUCCESS. Otherwise Python decides (`core/openrtb`).

use memchr::memmem;

use crate::Kernel;
use crate::answer::Uid;
pub use crate::bid_reader::Sources;
use crate::bid_reader::{BidRequest, Entry, Name};
use crate::scanner::Scanner;

/// The number of programmes; the value of `IdentityScope` is an index.
pub const PROGRAMMES: usize = 2;
const SCOPE_NAMES: [&str; PROGRAMMES] = ["UID2", "EUID"];
/// A longer bid request is not read: this one takes a few hundredths of a millisecond.
const MAX_BYTES: usize = 32 * 1024;
/// Room for an entry in the answer.
const USUAL_ENTRY_LENGTH: usize = 256;

/// The body of an answer.
pub struct Answered {
    pub body: Vec<u8>,
    /// The number of entries, of which each is a SUCCESS.
    pub entries: usize,
    /// The number of distinct tokens, by programme.
    pub tokens: [usize; PROGRAMMES],
}

/// Decrypts the tokens in bid requests.
pub struct BidRequests<'kernels> {
    pub kernels: [Option<&'kernels Kernel>; PROGRAMMES],
    pub sources: &'kernels Sources,
}

impl BidRequests<'_> {
    /// The answer to `POST /openrtb`.
    #[must_use]
    pub fn find(&self, body: &[u8], now_ms: i64) -> Option<Answered> {
        let mut request = self.read(body)?;
        request.entries.sort_by_key(|entry| entry.is_in_ext);
        let capacity = request.entries.len().saturating_mul(USUAL_ENTRY_LENGTH).saturating_add(USUAL_ENTRY_LENGTH);
        let mut out = Vec::with_capacity(capacity);
        out.extend_from_slice(b"{\"id\":");
        match request.id {
            Some(id) => [b"\"", id.0, b"\""].into_iter().for_each(|part| out.extend_from_slice(part)),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"ids\":[");
        let prefix = if request.is_3_0 { "/openrtb/request/context" } else { "" };
        let name = request.first_name();
        for (index, entry) in request.entries.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            self.write_entry(prefix, entry, name, now_ms, &mut out)?;
        }
        out.extend_from_slice(b"]}");
        Some(Answered::new(out, &request))
    }

    /// The answer to `POST /openrtb/rewrite`.
    #[must_use]
    pub fn rewrite(&self, body: &[u8], now_ms: i64) -> Option<Answered> {
        let request = self.read(body)?;
        let name = request.first_name().map(|(_, name)| name);
        let mut out = Vec::with_capacity(body.len());
        let mut done = 0;
        for entry in &request.entries {
            out.extend_from_slice(body.get(done..entry.start)?);
            let kernel = self.kernel(entry)?;
            kernel.decrypt(entry.token, name, now_ms, |success| write_uid(success.uid, &mut out))?;
            done = entry.start.checked_add(entry.token.len())?;
        }
        out.extend_from_slice(body.get(done..)?);
        Some(Answered::new(out, &request))
    }

    fn read<'body>(&self, body: &'body [u8]) -> Option<BidRequest<'body>> {
        if body.len() > MAX_BYTES { None } else { BidRequest::read(body, self.sources) }
    }

    fn kernel(&self, entry: &Entry<'_>) -> Option<&Kernel> {
        self.kernels.get(entry.programme).copied().flatten()
    }

    fn write_entry(
        &self,
        prefix: &str,
        entry: &Entry<'_>,
        name: Option<Name<'_>>,
        now_ms: i64,
        out: &mut Vec<u8>,
    ) -> Option<()> {
        let (field, name) = name.unzip();
        let mut digits = itoa::Buffer::new();
        let place = if entry.is_in_ext { "/user/ext/eids/" } else { "/user/eids/" };
        put(out, &["{\"path\":\"", prefix, place, digits.format(entry.eid), "/uids/"]);
        put(out, &[digits.format(entry.uid), "\",\"source\":\""]);
        out.extend_from_slice(entry.source);
        put(out, &["\",\"scope\":\"", SCOPE_NAMES.get(entry.programme)?, "\",\"status\":\"SUCCESS\",\"uid\":\""]);
        self.kernel(entry)?.decrypt_as_of(entry.token, name, now_ms, now_ms, |success, needs_name| {
            write_uid(success.uid, out)?;
            put(out, &["\",\"established\":", digits.format(success.established_ms), ",\"matched\":"]);
            match field {
                Some(field) if needs_name => put(out, &["\"", field, "\"}"]),
                _ => put(out, &["null}"]),
            }
            Some(())
        })
    }
}

impl Answered {
    fn new(body: Vec<u8>, request: &BidRequest<'_>) -> Self {
        let mut tokens = [0_usize; PROGRAMMES];
        for (index, entry) in request.entries.iter().enumerate() {
            let mut before = request.entries.iter().take(index);
            let is_first = before.all(|other| (other.programme, other.token) != (entry.programme, entry.token));
            if let Some(count) = tokens.get_mut(entry.programme).filter(|_| is_first) {
                *count = count.saturating_add(1);
            }
        }
        Self { body, entries: request.entries.len(), tokens }
    }
}

fn put(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

fn write_uid(uid: Uid<'_>, out: &mut Vec<u8>) -> Option<()> {
    let start = out.len();
    out.resize(start.checked_add(uid.length())?, 0);
    uid.write(out.get_mut(start..)?);
    Some(())
}

/// Whether a text is JSON, nested at most `max_depth` levels deep.
#[must_use]
pub fn is_usual_text(json: &[u8], max_depth: u32) -> bool {
    Scanner::new(json, max_depth).is_some_and(|mut scanner| scanner.skip().is_some() && scanner.is_at_end())
}

/// How often a text occurs, without overlaps.
#[must_use]
pub fn count(text: &[u8], part: &[u8]) -> usize {
    memmem::find_iter(text, part).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{NOW_MS, good_token, kernel};
    use crate::token::{CLIENT_SIDE_GENERATED, OPTED_OUT};

    const UID: &str = "+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7";
    /// A list of eids with a good token.
    const EIDS: &str = r#"[{"source":"uidapi.com","uids":[{"id":"@"}]}]"#;

    /// Bodies of both answers, and the number of tokens, with the keys of the crate's tests. `@` stands for a good
    /// token, `%` for one that needs a name.
    fn answer(body: &str) -> Option<(String, String, usize)> {
        let body = body.replace('%', &good_token(CLIENT_SIDE_GENERATED)).replace('@', &good_token(1));
        let (kernel, sources) = (kernel(), Sources(vec![("uidapi.com".into(), 0), ("euid.eu".into(), 1)]));
        let bid_requests = BidRequests { kernels: [Some(&kernel), None], sources: &sources };
        let found = bid_requests.find(body.as_bytes(), NOW_MS);
        let rewritten = bid_requests.rewrite(body.as_bytes(), NOW_MS);
        assert_eq!(found.is_some(), rewritten.is_some());
        let (found, rewritten) = (found?, rewritten?);
        assert_eq!((found.entries, found.tokens), (rewritten.entries, rewritten.tokens));
        Some((String::from_utf8(found.body).unwrap(), String::from_utf8(rewritten.body).unwrap(), found.tokens[0]))
    }

    fn entry(path: &str, source: &str, matched: &str) -> String {
        let verdict = format!(r#""scope":"UID2","status":"SUCCESS","uid":"{UID}","established":7,"matched":{matched}"#);
        format!(r#"{{"path":"{path}","source":"{source}",{verdict}}}"#)
    }

    #[track_caller]
    fn assert_answered(body: &str, id: &str, entries: &[String], tokens: usize) {
        let expected = format!(r#"{{"id":{id},"ids":[{}]}}"#, entries.join(","));
        assert_eq!(answer(body).unwrap(), (expected, body.replace(['@', '%'], UID), tokens));
    }

    #[test]
    fn without_tokens() {
        assert_answered(" {\n} ", "null", &[], 0);
        assert_answered(r#"{"id":"a\"\u00e9é","user":{}}"#, r#""a\"\u00e9é""#, &[], 0);
        assert_answered(r#"{"id":{"id":"x"},"user":{"eids":[{"source":"a","uids":7},{"uids":0}]}}"#, "null", &[], 0);
        assert_answered(r#"{"openrtb":{"request":{"id":"r","context":{}}}}"#, r#""r""#, &[], 0);
        assert_answered(r#"{"device":{"eids":[{"source":"euid.eu","uids":[{"id":"x"}]}]}}"#, "null", &[], 0);
    }

    #[test]
    fn tokens_in_every_place() {
        let ext = r#""ext":{"eids":[{}, {"uids" : [{"a":1, "id" : "@"}] ,"source":"UidAPI.com"}]}"#;
        let body = format!(r#"{{"user":{{{ext},"eids":{EIDS}}}}}"#);
        let entries = [
            entry("/user/eids/0/uids/0", "uidapi.com", "null"),
            entry("/user/ext/eids/1/uids/0", "UidAPI.com", "null"),
        ];
        assert_answered(&body, "null", &entries, 1);
        let path = "/openrtb/request/context/user/eids/0/uids/0";
        let body = format!(r#"{{"openrtb":{{"request":{{"context":{{"user":{{"eids":{EIDS}}}}}}}}}}}"#);
        assert_answered(&body, "null", &[entry(path, "uidapi.com", "null")], 1);
    }

    #[test]
    fn a_name_that_is_needed() {
        let with = |names: &str| format!(r#"{{{names}"user":{{"eids":{EIDS}}}}}"#).replace('@', "%");
        for (names, field) in [
            (r#""site":{"domain":"example.com","page":"x"},"#, r#""site.domain""#),
            (r#""site":{"domain":"https://example.com/\u0061","page":"x"},"#, r#""site.domain""#),
            (r#""site":{"domain":null,"page":"http://example.com?x"},"app":{},"#, r#""site.page""#),
            (r#""app":{"bundle":"example.com"},"site":{"domain":"","page":7},"#, r#""app.bundle""#),
        ] {
            assert_answered(&with(names), "null", &[entry("/user/eids/0/uids/0", "uidapi.com", field)], 1);
        }
        for names in [
            "",
            r#""site":{"domain":"other.org"},"app":{"bundle":"example.com"},"#,
            r#""site":{"domain":"Example.com"},"#,
            r#""site":{"domain":"example.com:80"},"#,
            r#""site":{"domain":"example.com@other.org"},"#,
            r#""site":{"domain":"//example.com"},"#,
            r#""site":{"domain":"example.com\u002e"},"#,
            r#""site":{"page":"x://example.com"},"#,
            r#""app":{"bundle":"example.com/"},"#,
            r#""app":{"bundle":"id7"},"#,
        ] {
            assert!(answer(&with(names)).is_none(), "{names}");
        }
    }

    #[test]
    fn what_python_decides() {
        let bad = good_token(OPTED_OUT);
        for body in [
            "",
            "[]",
            "{} x",
            "\u{feff}{}",
            r#"{"x":01}"#,
            r#"{"x":"\ud800"}"#,
            r#"{"\u0069d":"x"}"#,
            r#"{"id":"a","id":"b"}"#,
            r#"{"user":7}"#,
            r#"{"user":{},"user":{}}"#,
            r#"{"user":{"eids":{}}}"#,
            r#"{"user":{"eids":[],"eids":[]}}"#,
            r#"{"user":{"ext":{},"ext":{}}}"#,
            r#"{"user":{"ext":{"eids":[],"eids":[]}}}"#,
            r#"{"user":{"eids":[7]}}"#,
            r#"{"user":{"eids":[{"source":7}]}}"#,
            r#"{"user":{"eids":[{"source":"\u0075idapi.com"}]}}"#,
            r#"{"user":{"eids":[{"source":"a","source":"uidapi.com"}]}}"#,
            r#"{"user":{"eids":[{"source":"a","uids":[],"uids":[]}]}}"#,
            r#"{"user":{"eids":[{"source":"uidapi.com","uids":7}]}}"#,
            r#"{"user":{"eids":[{"source":"uidapi.com","uids":[{}]}]}}"#,
            r#"{"user":{"eids":[{"source":"uidapi.com","uids":[{"id":7}]}]}}"#,
            r#"{"user":{"eids":[{"source":"uidapi.com","uids":[{"id":"@","id":"@"}]}]}}"#,
            r#"{"user":{"eids":[{"source":"uidapi.com","uids":[{"id":"@"},{"id":""}]}]}}"#,
            r#"{"user":{"eids":[{"source":"euid.eu","uids":[{"id":"@"}]}]}}"#,
            r#"{"site":{},"site":{}}"#,
            r#"{"site":{"domain":"a","domain":"b"}}"#,
            r#"{"site":{"page":"a","page":"b"}}"#,
            r#"{"app":{},"app":{}}"#,
            r#"{"app":{"bundle":"a","bundle":"b"}}"#,
            r#"{"openrtb":{},"user":{}}"#,
            r#"{"openrtb":7}"#,
            r#"{"openrtb":{},"openrtb":{}}"#,
            r#"{"openrtb":{"request":{},"request":{}}}"#,
            r#"{"openrtb":{"request":{"context":{},"context":{}}}}"#,
            &format!(r#"{{"user":{{"eids":[{{"source":"uidapi.com","uids":[{{"id":"{bad}"}}]}}]}}}}"#),
            &format!("{{}}{}", " ".repeat(MAX_BYTES)),
        ] {
            assert!(answer(body).is_none(), "{body}");
        }
    }

    #[test]
    fn how_many() {
        let with = |count: usize| {
            format!(
                r#"{{"user":{{"eids":[{{"source":"uidapi.com","uids":[{}]}}]}}}}"#,
                vec![r#"{"id":"@"}"#; count].join(",")
            )
        };
        assert!(answer(&with(100)).is_some_and(|(_, _, tokens)| tokens == 1));
        assert!(answer(&with(101)).is_none());
    }

    #[test]
    fn parts_are_counted() {
        assert_eq!(count(b"a,aa,,a", b"a"), 4);
        assert_eq!(count(b"aaa", b"aa"), 1);
        assert_eq!(count(b"", b"a"), 0);
    }
}
