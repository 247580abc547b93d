//! Strict base64, as `core/token/text.py` decodes it: either alphabet but no mixture, all of the padding or none, and
//! unused bits are zero.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// The highest byte of what is looked up has flags.
const ONLY_STANDARD: u32 = 1 << 24;
const ONLY_URL_SAFE: u32 = 1 << 25;
/// What a mixture of alphabets sets as well.
const INVALID: u32 = ONLY_STANDARD | ONLY_URL_SAFE;
pub const MIN_CHARACTERS: usize = 4;
const BLOCK_CHARACTERS: usize = 16;
const BLOCK_BYTES: usize = 12;

/// For each place of a character in its group of four: what it adds to the three bytes, of which the first one is the
/// lowest, and its flags.
static DECODED: [[u32; 256]; 4] = [decoded_at(18), decoded_at(12), decoded_at(6), decoded_at(0)];

#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)] // evaluated by the compiler
const fn decoded_at(shift: u32) -> [u32; 256] {
    let mut table = [INVALID; 256];
    let mut sextet: u8 = 0;
    while sextet < 62 {
        table[ALPHABET[sextet as usize] as usize] = bytes_of((sextet as u32) << shift);
        sextet += 1;
    }
    table[b'+' as usize] = bytes_of(62 << shift) | ONLY_STANDARD;
    table[b'/' as usize] = bytes_of(63 << shift) | ONLY_STANDARD;
    table[b'-' as usize] = bytes_of(62 << shift) | ONLY_URL_SAFE;
    table[b'_' as usize] = bytes_of(63 << shift) | ONLY_URL_SAFE;
    table
}

const fn bytes_of(bits: u32) -> u32 {
    bits.swap_bytes() >> 8
}

/// A bound of the length that `decode` writes.
pub const fn max_decoded_length(characters: usize) -> usize {
    characters.div_ceil(4).saturating_mul(3)
}

/// Decodes a token into the beginning of `out`; also returns whether it is padded and in the standard alphabet.
///
/// None if it is not base64, or has fewer than 4 characters.
#[allow(clippy::indexing_slicing)] // tables of 256 elements, indexed by bytes
pub fn decode<'out>(text: &[u8], out: &'out mut [u8]) -> Option<(&'out mut [u8], bool)> {
    if text.len() < MIN_CHARACTERS {
        return None;
    }
    let is_whole = text.len() % 4 == 0;
    let digits = match text {
        [digits @ .., b'=', b'='] | [digits @ .., b'='] if is_whole => digits,
        _ => text,
    };
    let groups = digits.chunks_exact(4);
    let last = groups.remainder();
    let out = out.get_mut(..groups.len().checked_mul(3)?.checked_add(last.len().saturating_sub(1))?)?;
    let (decoded, mut seen) = decode_blocks(digits, out);
    let groups = digits.get(decoded.checked_mul(BLOCK_CHARACTERS)?..)?.chunks_exact(4);
    let mut triples = out.get_mut(decoded.checked_mul(BLOCK_BYTES)?..)?.chunks_exact_mut(3);
    for (group, triple) in groups.zip(triples.by_ref()) {
        let bits = decode_group(*group.first_chunk()?);
        seen |= bits;
        triple.copy_from_slice(bits.to_le_bytes().first_chunk::<3>()?);
    }
    let [first, second, third, _] = &DECODED;
    let (bits, unused) = match *last {
        [] => (0, 0),
        [a, b] => (first[a as usize] | second[b as usize], bytes_of(0xFFFF)),
        [a, b, c] => (first[a as usize] | second[b as usize] | third[c as usize], bytes_of(0xFF)),
        _ => return None,
    };
    for (byte, value) in triples.into_remainder().iter_mut().zip(bits.to_le_bytes()) {
        *byte = value;
    }
    seen |= bits;
    if seen & INVALID == INVALID || bits & unused != 0 {
        return None;
    }
    Some((out, is_whole && seen & ONLY_URL_SAFE == 0))
}

/// Decodes most of the groups; returns how many blocks, and all flags.
///
/// Each store has a byte more than the group, which the next one overwrites: one of four bytes takes less time than those
/// of three. So the last block is left if nothing follows it in `out`.
fn decode_blocks(digits: &[u8], out: &mut [u8]) -> (usize, u32) {
    let (mut decoded, mut seen, mut rest): (usize, _, _) = (0, 0, out);
    for block in digits.chunks_exact(BLOCK_CHARACTERS) {
        let (Some(block), Some(window)) = (block.first_chunk(), rest.first_chunk_mut()) else { break };
        seen |= decode_block(block, window);
        rest = rest.get_mut(BLOCK_BYTES..).unwrap_or_default();
        decoded = decoded.saturating_add(1);
    }
    (decoded, seen)
}

#[inline(always)]
#[allow(clippy::inline_always)]
fn decode_block(block: &[u8; BLOCK_CHARACTERS], out: &mut [u8; BLOCK_BYTES + 1]) -> u32 {
    let mut groups = [0; BLOCK_CHARACTERS / 4];
    for (group, characters) in groups.iter_mut().zip(block.chunks_exact(4)) {
        *group = characters.first_chunk().map_or(INVALID, |characters| decode_group(*characters));
    }
    let [first, second, third, fourth] = groups.map(u32::to_le_bytes);
    out[..4].copy_from_slice(&first);
    out[3..7].copy_from_slice(&second);
    out[6..10].copy_from_slice(&third);
    out[9..].copy_from_slice(&fourth);
    groups.into_iter().fold(0, |all, flags| all | flags)
}

#[inline(always)]
#[allow(clippy::inline_always, clippy::indexing_slicing)] // tables of 256 elements, indexed by bytes
fn decode_group([a, b, c, d]: [u8; 4]) -> u32 {
    let [first, second, third, fourth] = &DECODED;
    first[a as usize] | second[b as usize] | third[c as usize] | fourth[d as usize]
}

/// The first byte that `decode` gives, if it decodes a text.
#[allow(clippy::indexing_slicing)] // as above
pub fn first_byte(text: &[u8]) -> Option<u8> {
    let [first, second] = *text.first_chunk()?;
    let [byte, ..] = (DECODED[0][first as usize] | DECODED[1][second as usize]).to_le_bytes();
    Some(byte)
}

/// The length of `raw_length` bytes in padded base64.
pub const fn encoded_length(raw_length: usize) -> usize {
    raw_length.div_ceil(3).saturating_mul(4)
}

/// Encodes in padded standard base64; `out` has exactly the length of the result.
pub fn encode(raw: &[u8], out: &mut [u8]) {
    let triples = raw.chunks_exact(3);
    let last = triples.remainder();
    let mut groups = out.chunks_exact_mut(4);
    for (triple, group) in triples.zip(groups.by_ref()) {
        let &[a, b, c] = triple else { return };
        let bits = u32::from_be_bytes([0, a, b, c]);
        let ([first, second], [third, fourth]) = (pair(bits >> 12), pair(bits));
        group.copy_from_slice(&[first, second, third, fourth]);
    }
    let (bits, is_pair) = match *last {
        [a, b] => (u32::from_be_bytes([0, a, b, 0]), true),
        [a] => (u32::from_be_bytes([0, a, 0, 0]), false),
        _ => return,
    };
    if let Some(group) = groups.next() {
        let third = if is_pair { digit(bits >> 6) } else { b'=' };
        group.copy_from_slice(&[digit(bits >> 18), digit(bits >> 12), third, b'=']);
    }
}

/// Two digits are looked up at once.
static PAIRS: [[u8; 2]; 1 << 12] = pairs();

#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)] // evaluated by the compiler
const fn pairs() -> [[u8; 2]; 1 << 12] {
    let mut pairs = [[0; 2]; 1 << 12];
    let mut bits = 0;
    while bits < pairs.len() {
        pairs[bits] = [ALPHABET[bits >> 6], ALPHABET[bits & 63]];
        bits += 1;
    }
    pairs
}

#[allow(clippy::indexing_slicing)] // as many elements as there are values of twelve bits
fn pair(bits: u32) -> [u8; 2] {
    PAIRS[(bits & 0xFFF) as usize]
}

#[allow(clippy::indexing_slicing)] // 64 elements, indexed by six bits
fn digit(bits: u32) -> u8 {
    ALPHABET[(bits & 63) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(text: &str) -> Option<(Vec<u8>, bool)> {
        let mut out = vec![0; max_decoded_length(text.len())];
        decode(text.as_bytes(), &mut out).map(|(raw, is_padded_standard)| (raw.to_vec(), is_padded_standard))
    }

    fn encoded(raw: &[u8]) -> String {
        let mut out = vec![0; encoded_length(raw.len())];
        encode(raw, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_length_in_four_spellings() {
        for length in 3..200_u8 {
            let raw: Vec<u8> = (0..length).map(|number| number.wrapping_mul(73) ^ 0xFB).collect();
            let standard = encoded(&raw);
            let url_safe = standard.replace('+', "-").replace('/', "_");
            assert_eq!(decoded(&standard), Some((raw.clone(), true)));
            assert_eq!(decoded(&url_safe).unwrap().0, raw);
            assert_eq!(decoded(standard.trim_end_matches('=')).unwrap().0, raw);
            assert_eq!(decoded(url_safe.trim_end_matches('=')).unwrap().0, raw);
            assert_eq!([first_byte(standard.as_bytes()), first_byte(url_safe.as_bytes())], [raw.first().copied(); 2]);
        }
    }

    #[test]
    fn examples_of_rfc_4648() {
        for (raw, text) in [("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")]
        {
            assert_eq!(encoded(raw.as_bytes()), text);
            assert_eq!(decoded(text), Some((raw.as_bytes().to_vec(), true)));
        }
    }

    #[test]
    fn what_is_refused() {
        for text in [
            "", "AA", "AAA", "====", "A===", "AAAA=", "AAAAA", "AAAAAA=", "AAAAAAB=", "AAAAAB==", "+AA-", "A A=",
            "AA\u{e9}",
        ] {
            assert_eq!(decoded(text), None, "{text}");
        }
        assert!(first_byte(b"").is_none() && first_byte(b"A").is_none());
        for code in (0..=255_u8).filter(|code| !code.is_ascii_alphanumeric() && !b"+/-_".contains(code)) {
            assert!(decode(&[b'A', code, b'A', b'A'], &mut [0; 3]).is_none(), "{code}");
        }
    }

    #[test]
    fn a_buffer_that_is_too_short_is_no_panic() {
        assert!(decode(b"AAAAAAAA", &mut [0; 5]).is_none());
    }
}
