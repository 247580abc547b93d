//! The plain spelling of a batch: `{"requests":[...]}` with 1 to 1,000 requests in the plain spelling, and blanks.

use std::ops::Range;

use crate::Kernel;
use crate::answer::Success;
use crate::json::{Reader, is_plain};

/// A longer body is not read. This one takes less than a millisecond, whatever it contains.
pub const MAX_BATCH_BYTES: usize = 512 * 1024;
const MAX_REQUESTS: usize = 1_000;
/// Python refuses a batch with a longer one; `STEP_BYTES` of `server/batch_body.py`.
const MAX_REQUEST_BYTES: usize = 32 * 1024;

/// A request whose token is not known to be good.
pub struct Left {
    /// Offset in the answer at which the verdict on it is missing.
    pub gap: usize,
    /// Where the request stands in the body.
    pub request: Range<usize>,
}

/// The answer to a batch, without the verdicts on the requests that are left.
pub struct BatchAnswer {
    pub json: Vec<u8>,
    /// The number of verdicts in it.
    pub answered: usize,
    pub left: Vec<Left>,
}

impl Kernel {
    /// Answers a batch in the plain spelling; None if it is not.
    #[must_use]
    pub fn answer_batch(&self, body: &[u8], now_ms: i64) -> Option<BatchAnswer> {
        if body.len() > MAX_BATCH_BYTES {
            return None;
        }
        let mut reader = Reader::new(body);
        reader.expect(b"{")?;
        reader.expect(b"\"requests\"")?;
        reader.expect(b":")?;
        reader.expect(b"[")?;
        let mut answer = BatchAnswer { json: Vec::with_capacity(body.len()), answered: 0, left: Vec::new() };
        answer.json.extend_from_slice(b"{\"results\":[");
        for _ in 0..MAX_REQUESTS {
            reader.skip_blanks();
            let start = body.len().checked_sub(reader.left())?;
            let request = reader.request()?;
            let end = body.len().checked_sub(reader.left())?;
            if end.checked_sub(start)? > MAX_REQUEST_BYTES {
                return None;
            }
            let written =
                self.decrypt(request.token, request.domain, now_ms, |success| append(success, &mut answer.json));
            if written.is_some() {
                answer.answered = answer.answered.checked_add(1)?;
            } else if is_plain(request.token) {
                answer.left.push(Left { gap: answer.json.len(), request: start..end });
            } else {
                return None;
            }
            if !reader.either(b',', b']')? {
                reader.expect(b"}")?;
                answer.json.extend_from_slice(b"]}");
                return reader.is_at_end().then_some(answer);
            }
            answer.json.push(b',');
        }
        None
    }
}

fn append(success: &Success<'_>, json: &mut Vec<u8>) -> Option<()> {
    success.encode(|length, write| {
        let start = json.len();
        json.resize(start.checked_add(length)?, 0);
        write(json.get_mut(start..)?)
    })
}
