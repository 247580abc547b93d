//! Opt-outs from lines of text, as sorted records of the store; see `optouts/optout_import.py`.
//!
//! A plain line is a raw uid in base64, and perhaps a comma and a time in Unix seconds. Whatever else a line is, Python
//! decides about it.

use crate::base64;

/// Of both times, which follow a raw id in a record.
pub const TIMES_LENGTH: usize = 8;
/// Of the key of all records in LMDB, which is in front of each one in pairs: a zero byte.
pub const KEY_LENGTH: usize = 1;
const SHORT_LENGTH: usize = 32;
const LONG_LENGTH: usize = 33;
const SHORT_RECORD: usize = SHORT_LENGTH + TIMES_LENGTH;
const LONG_RECORD: usize = LONG_LENGTH + TIMES_LENGTH;
/// In the first byte of a long id: it is of EUID.
const SCOPE_BIT: u8 = 0x10;
/// Some room more than a raw id needs, so that `decode` can tell that an id is too long.
const BUFFER_LENGTH: usize = 48;

/// Records of each length of ids.
#[derive(Default)]
pub struct Run {
    short: Records<SHORT_RECORD>,
    long: Records<LONG_RECORD>,
}

impl Run {
    /// Adds opt-outs that arrived at the same time. Returns the numbers of lines that are not plain, from 0, and how
    /// many lines there are.
    pub fn add_lines(&mut self, lines: &[u8], arrived_s: u32) -> (Vec<usize>, usize) {
        let mut others = Vec::new();
        let mut count = 0_usize;
        for line in lines.split(|byte| *byte == b'\n') {
            let line = line.trim_ascii();
            if !line.is_empty() && self.add(line, arrived_s).is_none() {
                others.push(count);
            }
            count = count.saturating_add(1);
        }
        if lines.is_empty() || lines.ends_with(b"\n") {
            count = count.saturating_sub(1); // there is no line behind the last line end
        }
        (others, count)
    }

    fn add(&mut self, line: &[u8], arrived_s: u32) -> Option<()> {
        let mut parts = line.splitn(2, |byte| *byte == b',');
        let text = parts.next()?.trim_ascii_end();
        let entry_s = parts.next().map_or(Some(0), |digits| time_s(digits.trim_ascii_start()))?;
        if base64::max_decoded_length(text.len()) > BUFFER_LENGTH {
            return None;
        }
        let mut buffer = [0; BUFFER_LENGTH];
        let (raw, _) = base64::decode(text, &mut buffer)?;
        self.add_record(raw, arrived_s, entry_s)
    }

    fn add_record(&mut self, raw: &[u8], arrived_s: u32, entry_s: u32) -> Option<()> {
        match raw.len() {
            SHORT_LENGTH => self.short.add(raw, arrived_s, entry_s),
            LONG_LENGTH => self.long.add(raw, arrived_s, entry_s),
            _ => None,
        }
    }

    /// Adds a record that Python has made; None if it is none.
    pub fn add_made(&mut self, record: &[u8]) -> Option<()> {
        let (raw, times) = record.split_at_checked(record.len().checked_sub(TIMES_LENGTH)?)?;
        let (arrived_s, entry_s) = times.split_first_chunk()?;
        self.add_record(raw, u32::from_le_bytes(*arrived_s), u32::from_le_bytes(*entry_s.first_chunk()?))
    }

    #[must_use]
    pub fn record_count(&self) -> usize {
        self.short.list.len().saturating_add(self.long.list.len())
    }

    /// Sorts the records, and leaves only the first one of each id.
    pub fn sort(&mut self) {
        self.short.sort();
        self.long.sort();
    }

    /// Removes all records: those of short ids, and those of long ones, separately those with the bit of the programme
    /// if they are to be split.
    pub fn take(&mut self, splits: bool) -> (Vec<[u8; SHORT_RECORD]>, [Vec<[u8; LONG_RECORD]>; 2]) {
        let has_bit = |record: &[u8; LONG_RECORD]| splits && record.first().is_some_and(|first| first & SCOPE_BIT != 0);
        let (with, without) = std::mem::take(&mut self.long.list).into_iter().partition(has_bit);
        (std::mem::take(&mut self.short.list), [without, with])
    }
}

#[derive(Default)]
struct Records<const LENGTH: usize> {
    list: Vec<[u8; LENGTH]>,
}

impl<const LENGTH: usize> Records<LENGTH> {
    fn add(&mut self, raw: &[u8], arrived_s: u32, entry_s: u32) -> Option<()> {
        let mut record = [0; LENGTH];
        let (id, times) = record.split_at_mut_checked(raw.len())?;
        id.copy_from_slice(raw);
        let (arrived, entry) = times.split_at_mut_checked(TIMES_LENGTH / 2)?;
        arrived.copy_from_slice(&arrived_s.to_le_bytes());
        entry.copy_from_slice(&entry_s.to_le_bytes());
        self.list.push(record);
        Some(())
    }

    /// The sort is stable, and fast if the records are sorted already.
    fn sort(&mut self) {
        self.list.sort_by(|one, other| id_of(one).cmp(id_of(other)));
        self.list.dedup_by(|later, first| id_of(later) == id_of(first));
    }
}

fn id_of<const LENGTH: usize>(record: &[u8; LENGTH]) -> &[u8] {
    record.get(..LENGTH.saturating_sub(TIMES_LENGTH)).unwrap_or_default()
}

/// A time of 1 to 2^32 - 1 s.
fn time_s(digits: &[u8]) -> Option<u32> {
    const MAX_DIGITS: usize = 10;
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (seconds > 0).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(first: u8, length: usize) -> String {
        let mut out = vec![0; base64::encoded_length(length)];
        base64::encode(&vec![first; length], &mut out);
        String::from_utf8(out).unwrap()
    }

    type Taken = (Vec<[u8; 40]>, Vec<[u8; 41]>, Vec<usize>, usize);

    fn taken(lines: &str) -> Taken {
        let mut run = Run::default();
        let (others, count) = run.add_lines(lines.as_bytes(), 7);
        run.sort();
        let (short, [long, with_bit]) = run.take(true);
        assert_eq!(run.record_count(), 0);
        assert!(with_bit.is_empty());
        (short, long, others, count)
    }

    #[test]
    fn plain_lines() {
        let lines = format!("{}\n\n  {} \r\n{},1700000000\n{} , 9", text(5, 32), text(3, 32), text(4, 33), text(1, 33));
        let (short, long, others, count) = taken(&lines);
        assert_eq!((others, count), (vec![], 5));
        assert_eq!(short.iter().map(|record| record[0]).collect::<Vec<_>>(), [3, 5]);
        assert_eq!(long.iter().map(|record| record[0]).collect::<Vec<_>>(), [1, 4]);
        assert_eq!(short[0][32..], [7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(long[0][33..], [7, 0, 0, 0, 9, 0, 0, 0]);
        assert_eq!(long[1][37..], 1_700_000_000_u32.to_le_bytes());
    }

    #[test]
    fn the_first_record_of_an_id_is_kept() {
        let (short, _, _, _) = taken(&format!("{0},3\n{1}\n{0},2\n{0}\n", text(5, 32), text(9, 32)));
        assert_eq!(short.len(), 2);
        assert_eq!(short[0][36], 3);
    }

    #[test]
    fn what_is_left_to_python() {
        let id = text(5, 32);
        let others = [
            "x".to_owned(),
            text(5, 31),
            text(5, 34),
            text(5, 300),
            format!("{id},"),
            format!("{id},0"),
            format!("{id},-1"),
            format!("{id},1.5"),
            format!("{id},4294967296"),
            format!("{id},17000000000"),
            format!("{id},1,2"),
            format!("\"{id}\""),
            format!("{id} 5"),
        ];
        for other in others {
            let (short, long, numbers, count) = taken(&format!("{id}\n{other}\n"));
            assert_eq!((short.len(), long.len(), numbers, count), (1, 0, vec![1], 2), "{other}");
        }
    }

    #[test]
    fn lines_are_counted() {
        for (lines, count) in [("", 0), ("\n", 1), ("\n\n", 2), ("x", 1), ("x\n", 1), ("x\ny", 2)] {
            assert_eq!(taken(lines).3, count, "{lines:?}");
        }
    }

    #[test]
    fn records_that_python_made() {
        let mut run = Run::default();
        for record in [&[1; 40][..], &[2; 41], &[0x12; 41], &[0x10; 40]] {
            assert!(run.add_made(record).is_some());
        }
        for length in [0, 7, 8, 39, 42] {
            assert!(run.add_made(&vec![1; length]).is_none());
        }
        let taken = run.take(true);
        assert_eq!(taken, (vec![[1; 40], [0x10; 40]], [vec![[2; 41]], vec![[0x12; 41]]]));
        assert!(run.add_made(&[0x12; 41]).is_some());
        assert_eq!(run.take(false), (vec![], [vec![[0x12; 41]], vec![]]));
    }
}
