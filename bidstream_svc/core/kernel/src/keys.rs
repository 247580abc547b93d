//! Keys and their ciphers, which are made on first use.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use aes::cipher::{Array, BlockCipherDecrypt, BlockModeDecrypt, BlockSizeUser, InnerIvInit, KeyInit, consts::U16};
use aes::{Aes128, Aes192, Aes256};
use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

pub const GCM_IV_LENGTH: usize = 12;
const CBC_BLOCK_LENGTH: usize = 16;

/// An AES key.
pub struct Key {
    secret: Zeroizing<Box<[u8]>>,
    gcm: OnceLock<LessSafeKey>,
    cbc: OnceLock<Box<Cbc>>,
    is_used_as_master: AtomicBool,
}

impl Key {
    /// None if it does not have 16, 24 or 32 bytes.
    pub fn new(secret: &[u8]) -> Option<Self> {
        let secret = matches!(secret.len(), 16 | 24 | 32).then(|| Zeroizing::new(secret.into()))?;
        Some(Self { secret, gcm: OnceLock::new(), cbc: OnceLock::new(), is_used_as_master: AtomicBool::new(false) })
    }

    /// Remembers that it has opened the outer layer of a token.
    pub fn note_use_as_master(&self) {
        if !self.is_used_as_master() {
            self.is_used_as_master.store(true, Ordering::Relaxed); // only once, because threads share it
        }
    }

    pub fn is_used_as_master(&self) -> bool {
        self.is_used_as_master.load(Ordering::Relaxed)
    }

    /// Whether it can open GCM: ring does not have AES-192, and no operator uses it.
    pub fn has_gcm(&self) -> bool {
        self.secret.len() != 24
    }

    /// Decrypts `ciphertext | tag` in its place; None if the tag does not match, or the key has 24 bytes.
    pub fn open_gcm<'data>(&self, iv: &[u8; GCM_IV_LENGTH], sealed: &'data mut [u8]) -> Option<&'data mut [u8]> {
        let cipher = get_or_make(&self.gcm, || make_gcm(&self.secret))?;
        cipher.open_in_place(Nonce::assume_unique_for_key(*iv), Aad::empty(), sealed).ok()
    }

    /// Decrypts `iv | ciphertext` in its place; None if that is not whole blocks, or the padding is wrong.
    pub fn open_cbc<'data>(&self, sealed: &'data mut [u8]) -> Option<&'data mut [u8]> {
        let (iv, ciphertext) = sealed.split_first_chunk_mut::<CBC_BLOCK_LENGTH>()?;
        let cipher = get_or_make(&self.cbc, || Cbc::new(&self.secret).map(Box::new))?;
        let padded = cipher.decrypt(iv, ciphertext)?;
        let padding = usize::from(*padded.last()?);
        let (plaintext, found) = padded.split_at_mut_checked(padded.len().checked_sub(padding)?)?;
        let is_right =
            (1..=CBC_BLOCK_LENGTH).contains(&padding) && found.iter().all(|byte| usize::from(*byte) == padding);
        is_right.then_some(plaintext)
    }
}

fn get_or_make<T>(cache: &OnceLock<T>, make: impl FnOnce() -> Option<T>) -> Option<&T> {
    match cache.get() {
        None => make().map(|made| cache.get_or_init(|| made)),
        found => found,
    }
}

fn make_gcm(secret: &[u8]) -> Option<LessSafeKey> {
    let algorithm = match secret.len() {
        16 => &aead::AES_128_GCM,
        32 => &aead::AES_256_GCM,
        _ => return None,
    };
    UnboundKey::new(algorithm, secret).ok().map(LessSafeKey::new)
}

/// AES in CBC mode, which ring does not have.
enum Cbc {
    Aes128(Aes128),
    Aes192(Aes192),
    Aes256(Aes256),
}

impl Cbc {
    fn new(secret: &[u8]) -> Option<Self> {
        Some(match secret.len() {
            16 => Self::Aes128(Aes128::new_from_slice(secret).ok()?),
            24 => Self::Aes192(Aes192::new_from_slice(secret).ok()?),
            _ => Self::Aes256(Aes256::new_from_slice(secret).ok()?),
        })
    }

    /// Decrypts in place; None unless these are whole blocks.
    fn decrypt<'data>(&self, iv: &[u8; CBC_BLOCK_LENGTH], blocks: &'data mut [u8]) -> Option<&'data mut [u8]> {
        match self {
            Self::Aes128(cipher) => decrypt_cbc(cipher, iv, blocks),
            Self::Aes192(cipher) => decrypt_cbc(cipher, iv, blocks),
            Self::Aes256(cipher) => decrypt_cbc(cipher, iv, blocks),
        }
    }
}

fn decrypt_cbc<'data, Aes: BlockCipherDecrypt + BlockSizeUser<BlockSize = U16>>(
    cipher: &Aes,
    iv: &[u8; CBC_BLOCK_LENGTH],
    data: &'data mut [u8],
) -> Option<&'data mut [u8]> {
    let (blocks, rest) = Array::slice_as_chunks_mut(data);
    cbc::Decryptor::inner_iv_init(cipher, iv.into()).decrypt_blocks(blocks);
    rest.is_empty().then_some(data)
}

/// A map from ids that never changes. Values are large and stay where they are, in the order in which they were added.
pub struct ById<T> {
    ids: Box<[u32]>,
    values: Box<[T]>,
    places: Places,
}

/// Where the value of an id stands.
enum Places {
    /// For each id from the first one on; [`NO_PLACE`] if it is not there.
    Dense { first: u32, places: Box<[u32]> },
    /// (id, place) in order.
    Sparse(Box<[(u32, u32)]>),
}

const NO_PLACE: u32 = u32::MAX;
/// So many ids may be missing for each that is there.
const MAX_GAPS: usize = 16;

impl<T> ById<T> {
    /// The ids are distinct; each has a value.
    pub fn new(ids: Vec<u32>, values: Vec<T>) -> Self {
        Self { places: Places::new(&ids), ids: ids.into(), values: values.into() }
    }

    pub fn get(&self, id: u32) -> Option<&T> {
        self.values.get(self.places.get(id)? as usize)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.ids.iter().copied().zip(&self.values)
    }
}

impl Places {
    fn new(ids: &[u32]) -> Self {
        Self::dense(ids).unwrap_or_else(|| {
            let mut places: Vec<_> = ids.iter().copied().zip(0..).collect();
            places.sort_unstable();
            Self::Sparse(places.into())
        })
    }

    /// None if most of the table would be gaps.
    fn dense(ids: &[u32]) -> Option<Self> {
        let (first, last) = (*ids.iter().min()?, *ids.iter().max()?);
        let length = usize::try_from(last.checked_sub(first)?).ok()?.checked_add(1)?;
        if length > ids.len().checked_mul(MAX_GAPS)? {
            return None;
        }
        let mut places = vec![NO_PLACE; length];
        for (id, place) in ids.iter().zip(0..) {
            *places.get_mut(usize::try_from(id.checked_sub(first)?).ok()?)? = place;
        }
        Some(Self::Dense { first, places: places.into() })
    }

    /// That of an id that is not there is none, or has no value.
    fn get(&self, id: u32) -> Option<u32> {
        match self {
            Self::Dense { first, places } => places.get(id.checked_sub(*first)? as usize).copied(),
            Self::Sparse(places) => {
                let found = places.binary_search_by_key(&id, |(id, _)| *id).ok()?;
                places.get(found).map(|(_, place)| *place)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{seal_cbc, seal_gcm};

    const LENGTHS: [usize; 3] = [16, 24, 32];

    #[test]
    fn a_key_has_16_24_or_32_bytes() {
        for length in 0..100 {
            assert_eq!(Key::new(&vec![0; length]).is_some(), LENGTHS.contains(&length));
        }
    }

    #[test]
    fn gcm_of_every_length_and_with_every_bit_changed() {
        assert!(Key::new(&[7; 24]).unwrap().open_gcm(&[3; 12], &mut [0; 32]).is_none());
        for secret in [16, 32].map(|length| vec![7; length]) {
            let key = Key::new(&secret).unwrap();
            for length in 0..80 {
                let good = seal_gcm(&secret, &[3; 12], &vec![9; length]);
                assert_eq!(key.open_gcm(&[3; 12], &mut good.clone()).unwrap(), vec![9; length]);
                assert!(key.open_gcm(&[4; 12], &mut good.clone()).is_none());
                for bit in 0..good.len() * 8 {
                    let mut bad = good.clone();
                    bad[bit / 8] ^= 1 << (bit % 8);
                    assert!(key.open_gcm(&[3; 12], &mut bad).is_none());
                }
            }
            for length in 0..16 {
                assert!(key.open_gcm(&[3; 12], &mut vec![0; length]).is_none());
            }
        }
    }

    #[test]
    fn cbc_of_every_length() {
        for secret in LENGTHS.map(|length| vec![7; length]) {
            let key = Key::new(&secret).unwrap();
            for length in 0..80 {
                let plaintext: Vec<u8> = (0..length).collect();
                assert_eq!(key.open_cbc(&mut seal_cbc(&secret, &plaintext)).unwrap(), plaintext);
                if length % 16 != 0 || length < 32 {
                    assert!(key.open_cbc(&mut vec![0; usize::from(length)]).is_none());
                }
            }
        }
    }

    #[test]
    fn cbc_padding_is_strict() {
        let (secret, iv) = ([7; 16], [0; 16]);
        let key = Key::new(&secret).unwrap();
        for last in 0..=255_u8 {
            for count in 0..=16_u8 {
                let mut padded = [0xAA; 32];
                padded[32 - usize::from(count)..].fill(last);
                padded[31] = last;
                let mut sealed = iv.to_vec();
                sealed.extend(crate::tests::cbc_blocks(&secret, &iv, &padded));
                let is_right = (1..=16).contains(&last) && (last <= count || last == 1);
                assert_eq!(key.open_cbc(&mut sealed).is_some(), is_right, "{last} {count}");
            }
        }
    }

    #[test]
    fn sparse_ids() {
        let map = ById::new(vec![7, u32::MAX, 0], vec!['a', 'b', 'c']);
        assert!(matches!(map.places, Places::Sparse(_)));
        assert_eq!(map.iter().collect::<Vec<_>>(), [(7, &'a'), (u32::MAX, &'b'), (0, &'c')]);
        assert_eq!([7, u32::MAX, 0, 1].map(|id| map.get(id).copied()), [Some('a'), Some('b'), Some('c'), None]);
        assert!(ById::<char>::new(vec![], vec![]).get(0).is_none());
    }

    #[test]
    fn dense_ids() {
        let map = ById::new(vec![9, 7, 12], vec!['a', 'b', 'c']);
        assert!(matches!(map.places, Places::Dense { .. }));
        let found: Vec<_> = (0..20).filter_map(|id| map.get(id).map(|value| (id, *value))).collect();
        assert_eq!(found, [(7, 'b'), (9, 'a'), (12, 'c')]);
        assert_eq!(map.get(u32::MAX), None);
        assert_eq!(ById::new(vec![u32::MAX], vec!['d']).get(u32::MAX), Some(&'d'));
    }
}
