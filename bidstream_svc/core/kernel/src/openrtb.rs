//! A check of bid requests that Python's decoder does not make, because it skips what it does not need; and a search.
//!
//! Whenever [`is_usual_text`] is true, Python finds the same. Otherwise Python decides.

use memchr::{memchr, memmem};

const BLOCK: usize = 64; // bytes; one bit of a u64 for each
const LOW_BITS: u64 = u64::MAX / 0xFF; // the lowest bit of each byte of a word
const LOW_SEVEN: u64 = 0x7F * LOW_BITS;
const LOWER_CASE: u8 = 0x20; // `[` and `{` differ in this bit, and so do `]` and `}`

/// Whether JSON is UTF-8, and is certainly nested at most `max_depth` levels deep.
#[must_use]
pub fn is_usual_text(json: &[u8], max_depth: u32) -> bool {
    std::str::from_utf8(json).is_ok() && is_shallow(json, max_depth)
}

/// How often a text occurs, without overlaps.
#[must_use]
pub fn count(text: &[u8], part: &[u8]) -> usize {
    memmem::find_iter(text, part).count()
}

/// Counts brackets outside of strings, a block at a time: where a block begins it knows the depth, and within it each
/// opening bracket counts and no closing one does.
fn is_shallow(json: &[u8], max_depth: u32) -> bool {
    let mut depth = 0_i64;
    let mut is_in_string = 0; // a bit for each byte of a block: all or none
    let mut is_escaped = false; // the first byte of the block
    let has_backslashes = memchr(b'\\', json).is_some();
    json.chunks(BLOCK).all(|bytes| {
        let mut block = [b' '; BLOCK];
        block.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        let escaped = if has_backslashes { escaped_by(places_of(&block, b'\\', 0), &mut is_escaped) } else { 0 };
        let quotes = places_of(&block, b'"', 0) & !escaped;
        let in_string = parity_of_bits_up_to_each(quotes) ^ is_in_string;
        is_in_string = if in_string >> (BLOCK - 1) == 1 { u64::MAX } else { 0 };
        let outside = !(in_string | escaped);
        let opened = (places_of(&block, b'{', LOWER_CASE) & outside).count_ones();
        let closed = (places_of(&block, b'}', LOWER_CASE) & outside).count_ones();
        let deepest = depth.saturating_add(i64::from(opened));
        depth = deepest.saturating_sub(i64::from(closed));
        deepest <= i64::from(max_depth)
    })
}

/// The bytes that are equal to `byte` once the bits of `ignored` are set, as bits of a block.
fn places_of(block: &[u8; BLOCK], byte: u8, ignored: u8) -> u64 {
    block.rchunks_exact(8).fold(0, |places, word| {
        let word = <[u8; 8]>::try_from(word).map_or(0, u64::from_le_bytes) | LOW_BITS.wrapping_mul(u64::from(ignored));
        let differs = word ^ LOW_BITS.wrapping_mul(u64::from(byte));
        // The highest bit of each byte that is zero; nothing is carried from one to the next.
        let zeros = !((differs & LOW_SEVEN).wrapping_add(LOW_SEVEN) | differs | LOW_SEVEN);
        places << 8 | (zeros >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
    })
}

/// The bytes that a backslash escapes. `is_first` says so of the first byte of this block, and then of the next one.
fn escaped_by(backslashes: u64, is_first: &mut bool) -> u64 {
    let mut escaped = u64::from(*is_first);
    let mut left = backslashes & !escaped;
    *is_first = false;
    while left != 0 {
        let backslash = left & left.wrapping_neg();
        let next = backslash << 1;
        *is_first = next == 0;
        escaped |= next;
        left &= !(backslash | next);
    }
    escaped
}

/// Each bit is set if an odd number of bits up to it is set: those from an opening quotation mark up to the closing one.
fn parity_of_bits_up_to_each(mut bits: u64) -> u64 {
    for shift in [1, 2, 4, 8, 16, 32] {
        bits ^= bits << shift;
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, count, is_shallow, is_usual_text};

    /// The depth, a byte at a time.
    fn depth_of(json: &[u8]) -> u32 {
        let (mut depth, mut deepest, mut is_in_string, mut is_escaped) = (0_i64, 0_i64, false, false);
        for byte in json {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' => is_escaped = true,
                b'"' => is_in_string = !is_in_string,
                b'[' | b'{' if !is_in_string => depth += 1,
                b']' | b'}' if !is_in_string => depth -= 1,
                _ => {}
            }
            deepest = deepest.max(depth);
        }
        u32::try_from(deepest).unwrap()
    }

    /// Texts of these bytes, from a small generator of random numbers.
    fn texts() -> impl Iterator<Item = Vec<u8>> {
        let mut state = 7_u64;
        let mut next = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        (0..20_000).map(move |_| {
            let length = next(300);
            let shares = [br#"[{]}]}"\\, "#.as_slice(), br#"[{["\\"#, br#"]}["\\xxxxxxxxxxxxxxxxxxxx"#]
                [usize::try_from(next(3)).unwrap()];
            (0..length).map(|_| shares[usize::try_from(next(shares.len() as u64)).unwrap()]).collect()
        })
    }

    #[test]
    fn what_is_called_shallow_is() {
        let mut shallow = 0;
        for text in texts() {
            for max_depth in [0, 1, 3, 8, 64] {
                let is = is_shallow(&text, max_depth);
                assert!(!is || depth_of(&text) <= max_depth, "{:?}", String::from_utf8_lossy(&text));
                shallow += u32::from(is);
            }
        }
        assert!(shallow > 20_000, "it is often certain: {shallow}");
    }

    #[test]
    fn the_depth_is_known_exactly_where_a_block_begins() {
        for depth in 1..130_usize {
            for pause in ["x".repeat(BLOCK), "\\\\".repeat(BLOCK), "\\\"".repeat(BLOCK + 1), "[{".repeat(BLOCK)] {
                let levels = format!("[{}\"{pause}\",", " ".repeat(BLOCK)).repeat(depth);
                let json = format!("{levels}1{}", "]".repeat(depth));
                let limit = u32::try_from(depth).unwrap();
                assert!(is_shallow(json.as_bytes(), limit));
                assert!(!is_shallow(json.as_bytes(), limit - 1));
            }
        }
    }

    #[test]
    fn parts_are_counted() {
        assert_eq!(count(b"a,aa,,a", b"a"), 4);
        assert_eq!(count(b"aaa", b"aa"), 1);
        assert_eq!(count(b"", b"a"), 0);
    }

    #[test]
    fn it_is_utf_8() {
        assert!(is_usual_text("[\"é東😀\"]".as_bytes(), 1));
        assert!(!is_usual_text(b"[\"\xed\xa0\x80\"]", 1));
        assert!(is_usual_text(b"", 0));
    }
}
