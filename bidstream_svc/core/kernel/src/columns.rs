//! Columns of tokens, in the memory layout of Apache Arrow, to columns of verdicts.
//!
//! A row is answered only if its verdict is certain. Python decides about the others: it is given what they have, and the
//! fields of tokens that were opened. Offsets that do not fit their buffers are refused.

use crate::Kernel;
use crate::answer::Success;
use crate::reason::Reason;
use crate::{base64, token};

/// The statuses of rows, which are indices into `STATUS_NAMES` of `bulk/verdict_columns.py`; or a [`Reason`].
pub const SUCCESS: u8 = 0;
pub const DAMAGED: u8 = 1;
pub const LEFT: u8 = 2;

/// Instead of the number of a programme.
pub const NO_SCOPE: u8 = 2;

/// The length of every operator's raw uids in base64. There is room for as many characters a row.
const UID_LENGTH: usize = 44;
/// So that offsets have 32 bits.
const MAX_ROWS: usize = 1 << 25;

/// Buffers are too short, or offsets are wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Bits of which rows are not null; all if there are none. The first row has the bit of number `first`.
#[derive(Clone, Copy)]
pub struct Validity<'data> {
    pub bits: Option<&'data [u8]>,
    pub first: usize,
}

impl Validity<'_> {
    fn is_valid(&self, row: usize) -> Result<bool, Malformed> {
        let Some(bits) = self.bits else { return Ok(true) };
        let place = self.first.checked_add(row).ok_or(Malformed)?;
        let byte = bits.get(place / 8).ok_or(Malformed)?;
        Ok(byte >> (place % 8) & 1 == 1)
    }
}

/// A column of texts or bytes.
#[derive(Clone, Copy)]
pub struct Texts<'data> {
    pub validity: Validity<'data>,
    /// Numbers of 64 bits, not 32.
    pub is_large: bool,
    /// Where each text begins in `data`, and where the last one ends. The first row has that of number `first`.
    pub offsets: &'data [u8],
    pub data: &'data [u8],
}

impl<'data> Texts<'data> {
    fn get(&self, row: usize) -> Result<Option<&'data [u8]>, Malformed> {
        if !self.validity.is_valid(row)? {
            return Ok(None);
        }
        let place = self.validity.first.checked_add(row).ok_or(Malformed)?;
        let range = self.offset(place)?..self.offset(place.checked_add(1).ok_or(Malformed)?)?;
        self.data.get(range).map(Some).ok_or(Malformed)
    }

    fn offset(&self, place: usize) -> Result<usize, Malformed> {
        let found = if self.is_large {
            element(self.offsets, place).and_then(|bytes| usize::try_from(i64::from_ne_bytes(bytes)).ok())
        } else {
            element(self.offsets, place).and_then(|bytes| usize::try_from(i32::from_ne_bytes(bytes)).ok())
        };
        found.ok_or(Malformed)
    }
}

/// The programme of each row: its number, or [`NO_SCOPE`]; any other one is damaged.
#[derive(Clone, Copy)]
pub enum Scopes<'data> {
    Same(u8),
    Each(&'data [u8]),
}

impl Scopes<'_> {
    fn get(&self, row: usize) -> Result<u8, Malformed> {
        match self {
            Self::Same(scope) => Ok(*scope),
            Self::Each(scopes) => scopes.get(row).copied().ok_or(Malformed),
        }
    }
}

/// As of when each row is judged, Unix ms; damaged where it is null.
#[derive(Clone, Copy)]
pub enum Times<'data> {
    Same(i64),
    Each(Validity<'data>, &'data [u8]),
}

impl Times<'_> {
    fn get(&self, row: usize) -> Result<Option<i64>, Malformed> {
        match self {
            Self::Same(time_ms) => Ok(Some(*time_ms)),
            Self::Each(validity, _) if !validity.is_valid(row)? => Ok(None),
            Self::Each(validity, values) => {
                let place = validity.first.checked_add(row).ok_or(Malformed)?;
                element(values, place).map(i64::from_ne_bytes).map(Some).ok_or(Malformed)
            }
        }
    }
}

/// The columns that decide.
pub struct Columns<'data> {
    pub count: usize,
    pub tokens: Texts<'data>,
    pub domains: Option<Texts<'data>>,
    pub scopes: Scopes<'data>,
    pub times: Times<'data>,
}

/// A block of memory for the verdicts on so many rows. Its parts stand one behind the other, the widest first.
pub struct Layout {
    count: usize,
    lengths: [usize; 5],
}

impl Layout {
    /// None if there are too many rows.
    #[must_use]
    pub fn new(count: usize) -> Option<Self> {
        let lengths = [
            count.checked_mul(size_of::<i64>())?,
            count.checked_add(1)?.checked_mul(size_of::<i32>())?,
            count.div_ceil(8),
            count,
            count.checked_mul(UID_LENGTH)?,
        ];
        (count <= MAX_ROWS).then_some(Self { count, lengths })
    }

    #[must_use]
    pub fn length(&self) -> usize {
        self.lengths.iter().fold(0, |sum, length| sum.saturating_add(*length))
    }

    /// The lengths of the parts: established, offsets of uids, validity of both, statuses, uids.
    #[must_use]
    pub const fn lengths(&self) -> [usize; 5] {
        self.lengths
    }

    /// Splits a block of this length, all of it zero.
    fn split<'out>(&self, block: &'out mut [u8]) -> Option<Parts<'out>> {
        let [established, offsets, validity, statuses, uids] = self.lengths;
        let (established, rest) = block.split_at_mut_checked(established)?;
        let (offsets, rest) = rest.split_at_mut_checked(offsets)?;
        let (validity, rest) = rest.split_at_mut_checked(validity)?;
        let (statuses, rest) = rest.split_at_mut_checked(statuses)?;
        let uids = rest.split_at_mut_checked(uids)?.0;
        Some(Parts { established, offsets, validity, statuses, uids, used: 0 })
    }
}

struct Parts<'out> {
    established: &'out mut [u8],
    offsets: &'out mut [u8],
    validity: &'out mut [u8],
    statuses: &'out mut [u8],
    uids: &'out mut [u8],
    /// How many bytes of `uids` are written.
    used: usize,
}

impl Parts<'_> {
    /// Writes what is answered; None if there is no room for the uid, which is longer than any of an operator.
    fn put(&mut self, row: usize, success: &Success<'_>) -> Option<()> {
        let end = self.used.checked_add(success.uid.length())?;
        success.uid.write(self.uids.get_mut(self.used..end)?);
        set_element(self.established, row, success.established_ms.to_ne_bytes())?;
        *self.validity.get_mut(row / 8)? |= 1 << (row % 8);
        self.used = end;
        Some(())
    }

    fn finish(&mut self, row: usize, status: u8) -> Option<()> {
        *self.statuses.get_mut(row)? = status;
        let end = i32::try_from(self.used).ok()?;
        set_element(self.offsets, row.checked_add(1)?, end.to_ne_bytes())
    }
}

/// A row that is left although its token opens, and what that contains.
#[derive(Debug, PartialEq, Eq)]
pub struct OpenedRow<'data> {
    pub row: usize,
    /// Which kernel has opened the token.
    pub kernel: usize,
    pub expires_ms: i64,
    /// Version 2 does not have it.
    pub generated_ms: Option<i64>,
    pub site_id: u32,
    pub privacy_bits: u32,
    pub established_ms: i64,
    pub uid: String,
    pub domain: Option<&'data [u8]>,
    pub at_ms: i64,
}

/// Another row that is left.
#[derive(Debug, PartialEq, Eq)]
pub struct LeftRow<'data> {
    pub row: usize,
    pub token: Option<&'data [u8]>,
    pub domain: Option<&'data [u8]>,
    pub scope: u8,
    pub at_ms: i64,
}

/// What was written, and what is left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Written<'data> {
    /// The length of all uids.
    pub uid_bytes: usize,
    pub opened: Vec<OpenedRow<'data>>,
    pub left: Vec<LeftRow<'data>>,
}

/// Judges each row by the kernels, in this order, and writes the verdicts into `block`, which is zero.
///
/// `now_ms` is the time of opt-outs.
///
/// # Errors
///
/// A column or the block is too short, or offsets are wrong.
pub fn decrypt<'data>(
    columns: &Columns<'data>,
    kernels: &[&Kernel],
    now_ms: i64,
    layout: &Layout,
    block: &mut [u8],
) -> Result<Written<'data>, Malformed> {
    if columns.count != layout.count {
        return Err(Malformed);
    }
    let mut parts = layout.split(block).ok_or(Malformed)?;
    let mut written = Written::default();
    let mut buffer = Vec::new();
    for row in 0..columns.count {
        let status = match decrypt_row(columns, row, kernels, now_ms, &mut buffer, &mut parts)? {
            Outcome::Success => SUCCESS,
            Outcome::Damaged => DAMAGED,
            Outcome::Failure(reason) => reason as u8,
            Outcome::Opened(opened) => {
                written.opened.push(opened);
                LEFT
            }
            Outcome::Left(left) => {
                written.left.push(left);
                LEFT
            }
        };
        parts.finish(row, status).ok_or(Malformed)?;
    }
    written.uid_bytes = parts.used;
    Ok(written)
}

enum Outcome<'data> {
    Success,
    Damaged,
    Failure(Reason),
    Opened(OpenedRow<'data>),
    Left(LeftRow<'data>),
}

fn decrypt_row<'data>(
    columns: &Columns<'data>,
    row: usize,
    kernels: &[&Kernel],
    now_ms: i64,
    buffer: &mut Vec<u8>,
    parts: &mut Parts<'_>,
) -> Result<Outcome<'data>, Malformed> {
    let token = columns.tokens.get(row)?;
    let domain = match &columns.domains {
        Some(domains) => domains.get(row)?,
        None => None,
    };
    let scope = columns.scopes.get(row)?;
    let (Some(at_ms), true) = (columns.times.get(row)?, scope <= NO_SCOPE) else { return Ok(Outcome::Damaged) };
    let length = base64::max_decoded_length(token.map_or(0, <[u8]>::len));
    if buffer.len() < length {
        buffer.resize(length, 0);
    }
    let is_asked = |kernel: &Kernel| scope == NO_SCOPE || scope == u8::from(kernel.is_of_euid());
    let mut can_judge_texts = false;
    for (place, kernel) in kernels.iter().enumerate().filter(|(_, kernel)| is_asked(kernel)) {
        can_judge_texts |= kernel.is_fresh(at_ms);
        let opened = match token.map(|token| kernel.open_in(buffer, token, at_ms)) {
            Some(Ok(opened)) => opened,
            Some(Err(Some(reason))) => return Ok(Outcome::Failure(reason)),
            Some(Err(None)) | None => continue,
        };
        match kernel.judge(&opened, domain, at_ms) {
            Err(Some(reason)) => return Ok(Outcome::Failure(reason)),
            Ok(()) if !kernel.may_forbid(&opened, now_ms) && parts.put(row, &opened.success).is_some() => {
                return Ok(Outcome::Success);
            }
            _ => {}
        }
        if let Some(opened) = opened_row(row, place, &opened, domain, at_ms) {
            return Ok(Outcome::Opened(opened));
        }
    }
    // Whichever keys judge such a text, unless they have expired.
    let reason = match token {
        _ if !can_judge_texts => None,
        Some(token) => token::reason_of_text(token, buffer),
        None => Some(Reason::NotAToken),
    };
    Ok(reason.map_or(Outcome::Left(LeftRow { row, token, domain, scope, at_ms }), Outcome::Failure))
}

fn opened_row<'data>(
    row: usize,
    kernel: usize,
    opened: &token::Opened<'_>,
    domain: Option<&'data [u8]>,
    at_ms: i64,
) -> Option<OpenedRow<'data>> {
    let Success { uid, established_ms } = opened.success;
    let mut text = vec![0; uid.length()];
    uid.write(&mut text);
    Some(OpenedRow {
        row,
        kernel,
        expires_ms: opened.expires_ms,
        generated_ms: (!opened.is_v2).then_some(opened.generated_ms),
        site_id: opened.site_id,
        privacy_bits: opened.privacy_bits,
        established_ms,
        uid: String::from_utf8(text).ok()?,
        domain,
        at_ms,
    })
}

fn element<const LENGTH: usize>(bytes: &[u8], place: usize) -> Option<[u8; LENGTH]> {
    bytes.get(place.checked_mul(LENGTH)?..)?.first_chunk().copied()
}

fn set_element<const LENGTH: usize>(bytes: &mut [u8], place: usize, element: [u8; LENGTH]) -> Option<()> {
    *bytes.get_mut(place.checked_mul(LENGTH)?..)?.first_chunk_mut()? = element;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{NOW_MS, good_token, kernel};

    /// The offsets and the data of texts.
    fn buffers(texts: &[&str]) -> (Vec<u8>, Vec<u8>) {
        let mut end = 0;
        let mut offsets = 0_i32.to_ne_bytes().to_vec();
        for text in texts {
            end += i32::try_from(text.len()).unwrap();
            offsets.extend(end.to_ne_bytes());
        }
        (offsets, texts.concat().into_bytes())
    }

    const NOT_A_TOKEN: u8 = Reason::NotAToken as u8;
    const BAD_ENCODING: u8 = Reason::BadEncoding as u8;
    const DOMAIN_MISSING: u8 = Reason::DomainMissing as u8;
    const GENERATED_IN_FUTURE: u8 = Reason::GeneratedInFuture as u8;
    const ALL: Validity<'_> = Validity { bits: None, first: 0 };

    fn texts(buffers: &(Vec<u8>, Vec<u8>)) -> Texts<'_> {
        Texts { validity: ALL, is_large: false, offsets: &buffers.0, data: &buffers.1 }
    }

    fn columns(count: usize, tokens: Texts<'_>) -> Columns<'_> {
        Columns { count, tokens, domains: None, scopes: Scopes::Same(NO_SCOPE), times: Times::Same(NOW_MS) }
    }

    fn run<'data>(columns: &Columns<'data>) -> Result<(Written<'data>, Vec<u8>), Malformed> {
        let layout = Layout::new(columns.count).unwrap();
        let mut block = vec![0; layout.length()];
        decrypt(columns, &[&kernel()], NOW_MS, &layout, &mut block).map(|written| (written, block))
    }

    fn statuses(columns: &Columns<'_>) -> Vec<u8> {
        let (written, block) = run(columns).unwrap();
        let [established, offsets, validity, statuses, _] = Layout::new(columns.count).unwrap().lengths();
        let start = established + offsets + validity;
        let found = block[start..start + statuses].to_vec();
        let left: Vec<_> = (0..found.len()).filter(|row| found[*row] == LEFT).collect();
        let opened = written.opened.iter().map(|opened| opened.row);
        let mut handed_over: Vec<_> = written.left.iter().map(|left| left.row).chain(opened).collect();
        handed_over.sort_unstable();
        assert_eq!(handed_over, left);
        for (row, status) in found.iter().enumerate() {
            let is_valid = block[established + offsets + row / 8] >> (row % 8) & 1 == 1;
            assert_eq!(is_valid, *status == SUCCESS);
        }
        found
    }

    #[test]
    fn a_block_has_what_is_answered() {
        let good = good_token(1);
        let data = buffers(&["no token", &good, "", &good]);
        let (written, block) = run(&columns(4, texts(&data))).unwrap();
        assert_eq!(written, Written { uid_bytes: 88, opened: vec![], left: vec![] });
        let offsets: Vec<_> =
            (0..5).map(|place| element(&block[32..], place).map(i32::from_ne_bytes).unwrap()).collect();
        assert_eq!(offsets, [0, 0, 44, 44, 88]);
        assert_eq!(block[52..57], [0b1010, BAD_ENCODING, SUCCESS, NOT_A_TOKEN, SUCCESS]);
        assert_eq!(block[57..101], block[101..145]);
        assert_eq!(block.len(), 57 + 4 * UID_LENGTH);
    }

    #[test]
    fn what_was_opened_is_handed_over() {
        let (data, domains) = (buffers(&[&good_token(1), &good_token(2)]), buffers(&["", "www.example.com"]));
        let with_domains = Columns { domains: Some(texts(&domains)), ..columns(2, texts(&data)) };
        let (written, _) = run(&with_domains).unwrap();
        let ([opened], []) = (&written.opened[..], &written.left[..]) else { panic!("{written:?}") };
        assert_eq!((opened.row, opened.kernel, opened.privacy_bits), (1, 0, 2));
        assert_eq!(
            (opened.uid.len(), opened.domain, opened.at_ms),
            (UID_LENGTH, Some(&b"www.example.com"[..]), NOW_MS)
        );
        assert!(opened.generated_ms.is_some());
    }

    #[test]
    fn nulls_slices_programmes_and_times() {
        let (good, named) = (good_token(1), good_token(2));
        let data = buffers(&[&good, &good, &named, &named, &good]);
        assert_eq!(statuses(&columns(5, texts(&data))), [SUCCESS, SUCCESS, DOMAIN_MISSING, DOMAIN_MISSING, SUCCESS]);
        let validity = Validity { bits: Some(&[0b1_1101]), first: 0 };
        let nulls = Texts { validity, ..texts(&data) };
        assert_eq!(statuses(&columns(5, nulls)), [SUCCESS, NOT_A_TOKEN, DOMAIN_MISSING, DOMAIN_MISSING, SUCCESS]);
        let slice = Texts { validity: Validity { bits: Some(&[0b1_1101]), first: 1 }, ..texts(&data) };
        assert_eq!(statuses(&columns(4, slice)), [NOT_A_TOKEN, DOMAIN_MISSING, DOMAIN_MISSING, SUCCESS]);
        let domains = buffers(&["", "", "example.com", "example.org", ""]);
        let with_domains = Columns { domains: Some(texts(&domains)), ..columns(5, texts(&data)) };
        assert_eq!(statuses(&with_domains), [SUCCESS, SUCCESS, SUCCESS, LEFT, SUCCESS]);
        let scopes = Columns { scopes: Scopes::Each(&[0, 1, 2, 3, 255]), ..columns(5, texts(&data)) };
        assert_eq!(statuses(&scopes), [SUCCESS, LEFT, DOMAIN_MISSING, DAMAGED, DAMAGED]);
        let times: Vec<_> = [0, NOW_MS, i64::MAX, i64::MIN, NOW_MS].into_iter().flat_map(i64::to_ne_bytes).collect();
        let validity = Validity { bits: Some(&[0b0_1111]), first: 0 };
        let times = Columns { times: Times::Each(validity, &times), ..columns(5, texts(&data)) };
        assert_eq!(statuses(&times), [GENERATED_IN_FUTURE, SUCCESS, LEFT, DOMAIN_MISSING, DAMAGED]);
    }

    #[test]
    fn large_offsets() {
        let good = good_token(1);
        let end = i64::try_from(good.len()).unwrap();
        let offsets: Vec<_> = [0, end, 2 * end].into_iter().flat_map(i64::to_ne_bytes).collect();
        let data = good.repeat(2).into_bytes();
        let large = Texts { validity: ALL, is_large: true, offsets: &offsets, data: &data };
        assert_eq!(statuses(&columns(2, large)), [SUCCESS, SUCCESS]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let data = buffers(&["abcd", "efgh"]);
        let good = texts(&data);
        assert!(run(&columns(2, good)).is_ok());
        let bad: [&[i32]; 5] = [&[0, 4], &[0, 9, 8], &[0, 4, 9], &[0, -1, 8], &[5, 4, 8]];
        for offsets in bad {
            let offsets: Vec<_> = offsets.iter().flat_map(|offset| offset.to_ne_bytes()).collect();
            assert_eq!(run(&columns(2, Texts { offsets: &offsets, ..good })).unwrap_err(), Malformed);
            let tokens = Texts { offsets: &offsets, ..good };
            assert!(run(&Columns { domains: Some(tokens), ..columns(2, good) }).is_err());
        }
        for first in [1, usize::MAX] {
            assert!(run(&columns(2, Texts { validity: Validity { bits: None, first }, ..good })).is_err());
        }
        assert!(run(&columns(2, Texts { validity: Validity { bits: Some(&[]), first: 0 }, ..good })).is_err());
        assert!(run(&columns(2, Texts { is_large: true, ..good })).is_err());
        assert!(run(&Columns { scopes: Scopes::Each(&[0]), ..columns(2, good) }).is_err());
        assert!(run(&Columns { times: Times::Each(ALL, &[0; 15]), ..columns(2, good) }).is_err());
        assert!(Layout::new(MAX_ROWS + 1).is_none() && Layout::new(usize::MAX).is_none());
        let layout = Layout::new(2).unwrap();
        assert!(decrypt(&columns(2, good), &[], 0, &layout, &mut vec![0; layout.length() - 1]).is_err());
        assert!(decrypt(&columns(1, good), &[], 0, &layout, &mut vec![0; layout.length()]).is_err());
    }
}
