//! Strict base64, as `core/token/text.py` decodes it: either alphabet but no mixture, all of the padding or none, and
//! unused bits are zero.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const ONLY_STANDARD: u32 = 1 << 30;
const ONLY_URL_SAFE: u32 = 1 << 31;
/// What a mixture of alphabets sets as well.
const INVALID: u32 = ONLY_STANDARD | ONLY_URL_SAFE;
const MIN_CHARACTERS: usize = 4;

/// For each place of a character in its group of four: its bits in their place, and its flags.
static DECODED: [[u32; 256]; 4] = [decoded_at(18), decoded_at(12), decoded_at(6), decoded_at(0)];

#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)] // evaluated by the compiler
const fn decoded_at(shift: u32) -> [u32; 256] {
    let mut table = [INVALID; 256];
    let mut sextet: u8 = 0;
    while sextet < 62 {
        table[ALPHABET[sextet as usize] as usize] = (sextet as u32) << shift;
        sextet += 1;
    }
    table[b'+' as usize] = 62 << shift | ONLY_STANDARD;
    table[b'/' as usize] = 63 << shift | ONLY_STANDARD;
    table[b'-' as usize] = 62 << shift | ONLY_URL_SAFE;
    table[b'_' as usize] = 63 << shift | ONLY_URL_SAFE;
    table
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
    let [first, second, third, fourth] = &DECODED;
    let groups = digits.chunks_exact(4);
    let last = groups.remainder();
    let out = out.get_mut(..groups.len().checked_mul(3)?.checked_add(last.len().saturating_sub(1))?)?;
    let mut triples = out.chunks_exact_mut(3);
    let mut seen = 0;
    for (group, triple) in groups.zip(triples.by_ref()) {
        let &[a, b, c, d] = group else { return None };
        let bits = first[a as usize] | second[b as usize] | third[c as usize] | fourth[d as usize];
        seen |= bits;
        let [_, high, middle, low] = bits.to_be_bytes();
        triple.copy_from_slice(&[high, middle, low]);
    }
    let (bits, unused) = match *last {
        [] => (0, 0),
        [a, b] => (first[a as usize] | second[b as usize], 0xFFFF),
        [a, b, c] => (first[a as usize] | second[b as usize] | third[c as usize], 0xFF),
        _ => return None,
    };
    for (byte, value) in triples.into_remainder().iter_mut().zip(bits.to_be_bytes().into_iter().skip(1)) {
        *byte = value;
    }
    seen |= bits;
    if seen & INVALID == INVALID || bits & unused != 0 {
        return None;
    }
    Some((out, is_whole && seen & ONLY_URL_SAFE == 0))
}

/// The first byte that `decode` gives, if it decodes a text.
#[allow(clippy::indexing_slicing)] // as above
pub fn first_byte(text: &[u8]) -> Option<u8> {
    let [first, second] = *text.first_chunk()?;
    let [_, byte, ..] = (DECODED[0][first as usize] | DECODED[1][second as usize]).to_be_bytes();
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
        group.copy_from_slice(&[digit(bits >> 18), digit(bits >> 12), digit(bits >> 6), digit(bits)]);
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
