//! Whether a raw uid may have been opted out: a filter in memory that all processes of a host share.
//!
//! It has no false negative: an id that was added is never said to be absent. Where there is any doubt, it may have been
//! opted out, and Python asks the store.
//!
//! The filter is a blocked Bloom filter. A keyed hash of an id chooses a block of 64 bytes, one line of the processor's
//! cache, and a bit in each of its 8 words. The key is random, so that nobody can choose ids that collide.

use std::sync::RwLock;
use std::sync::atomic::{AtomicI64, Ordering, fence};

use siphasher::sip128::SipHasher13;

use crate::answer::Uid;
use crate::base64;
use crate::optout_ids::TIMES_LENGTH;

/// The words of `optouts/control_words.py`, by their places.
const GENERATION: usize = 1;
const FRESH_UNTIL_MS: usize = 3;

const BLOCK_WORDS: usize = 8;
/// Of the raw uid's bytes. Ids of another length are not filtered.
const RAW_UID_LENGTHS: std::ops::RangeInclusive<usize> = 32..=33;
const MAX_MESSAGE_LENGTH: usize = 34;
/// Ids that are added together.
const GROUP_IDS: usize = 16;

/// Words of shared memory.
pub type Words = Box<dyn AsRef<[AtomicI64]> + Send + Sync>;

/// The filters of a store, one at a time, and the words that control them.
pub struct OptOuts {
    control: Words,
    /// Whether no id is absent for sure while the store is not synced.
    withholds: bool,
    mapped: RwLock<Option<Mapped>>,
}

/// Why ids were not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAdded {
    NothingMapped,
    NotAnId,
}

struct Mapped {
    generation: i64,
    filter: Filter,
}

impl OptOuts {
    /// None if the control words are too few.
    #[must_use]
    pub fn new(control: Words, withholds: bool) -> Option<Self> {
        let is_whole = (*control).as_ref().len() > FRESH_UNTIL_MS;
        is_whole.then(|| Self { control, withholds, mapped: RwLock::new(None) })
    }

    /// Uses a filter as long as `generation` is the one in use; None if that is 0, or if the words are not blocks.
    #[must_use]
    pub fn map(&self, words: Words, key: [u8; 16], generation: i64) -> Option<()> {
        let filter = Filter::new(words, key).filter(|_| generation != 0)?;
        self.replace(Some(Mapped { generation, filter }))
    }

    /// Releases the words of the filter.
    pub fn unmap(&self) {
        self.replace(None);
    }

    /// What was mapped is released after the lock, because that may wait for Python, which may wait for the lock.
    fn replace(&self, mapped: Option<Mapped>) -> Option<()> {
        let before = std::mem::replace(&mut *self.mapped.write().ok()?, mapped);
        drop(before);
        Some(())
    }

    /// The generation of the filter that is mapped.
    #[must_use]
    pub fn generation(&self) -> Option<i64> {
        self.mapped.read().ok()?.as_ref().map(|mapped| mapped.generation)
    }

    /// Adds ids, each a byte with the programme and the raw uid; all of them or none.
    ///
    /// # Errors
    ///
    /// Nothing is mapped, or one of them is not an id.
    pub fn add(&self, ids: &[&[u8]]) -> Result<(), NotAdded> {
        self.add_all(ids.iter().map(|id| Message::of(id)).collect())
    }

    /// Adds the ids of records of the store, which are of one programme; all of them or none.
    ///
    /// # Errors
    ///
    /// As of `add`.
    pub fn add_records(&self, scope: u8, records: &[&[u8]]) -> Result<(), NotAdded> {
        let id_of = |record: &[u8]| Message::new(scope, record.get(..record.len().checked_sub(TIMES_LENGTH)?)?);
        self.add_all(records.iter().map(|record| id_of(record)).collect())
    }

    fn add_all(&self, ids: Option<Vec<Message>>) -> Result<(), NotAdded> {
        let mapped = self.mapped.read().map_err(|_| NotAdded::NothingMapped)?;
        let filter = &mapped.as_ref().ok_or(NotAdded::NothingMapped)?.filter;
        for group in ids.ok_or(NotAdded::NotAnId)?.chunks(GROUP_IDS) {
            filter.add(group);
        }
        // Whatever Python stores next, such as another generation, is not seen before the bits.
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// Whether an id may have been added to the filter in use.
    #[must_use]
    pub fn may_contain(&self, scope: u8, raw_uid: &[u8]) -> bool {
        let Some(id) = Message::new(scope, raw_uid) else { return true };
        let Ok(mapped) = self.mapped.read() else { return true };
        let Some(mapped) = mapped.as_ref() else { return true };
        mapped.filter.may_contain(&id) || self.word(GENERATION) != Some(mapped.generation)
    }

    /// Whether a raw uid may have been opted out, or must not be answered because the store is not synced.
    pub fn may_forbid(&self, scope: u8, uid: Uid<'_>, now_ms: i64) -> bool {
        if self.withholds && self.word(FRESH_UNTIL_MS).is_none_or(|until_ms| now_ms > until_ms) {
            return true;
        }
        match uid {
            Uid::Bytes(raw) => self.may_contain(scope, raw),
            Uid::Text(text) => {
                let mut buffer = [0; MAX_MESSAGE_LENGTH + 2];
                match base64::decode(text, &mut buffer) {
                    Some((raw, true)) => self.may_contain(scope, raw),
                    _ => true,
                }
            }
        }
    }

    fn word(&self, place: usize) -> Option<i64> {
        (*self.control).as_ref().get(place).map(|word| word.load(Ordering::SeqCst))
    }
}

/// What is hashed: the programme and the raw uid.
struct Message {
    bytes: [u8; MAX_MESSAGE_LENGTH],
    length: usize,
}

impl Message {
    fn new(scope: u8, raw_uid: &[u8]) -> Option<Self> {
        if !RAW_UID_LENGTHS.contains(&raw_uid.len()) {
            return None;
        }
        let mut bytes = [scope; MAX_MESSAGE_LENGTH];
        let length = raw_uid.len().checked_add(1)?;
        bytes.get_mut(1..length)?.copy_from_slice(raw_uid);
        Some(Self { bytes, length })
    }

    fn of(id: &[u8]) -> Option<Self> {
        let (scope, raw_uid) = id.split_first()?;
        Self::new(*scope, raw_uid)
    }
}

struct Filter {
    words: Words,
    blocks: u64,
    hasher: SipHasher13,
}

impl Filter {
    fn new(words: Words, key: [u8; 16]) -> Option<Self> {
        let length = (*words).as_ref().len();
        let blocks = u64::try_from(length / BLOCK_WORDS).ok()?;
        (blocks > 0 && length % BLOCK_WORDS == 0).then(|| Self {
            words,
            blocks,
            hasher: SipHasher13::new_with_key(&key),
        })
    }

    /// Looks at all of the blocks first: the processor fetches them from memory at the same time.
    fn add(&self, ids: &[Message]) {
        let mut places = [const { None }; GROUP_IDS];
        for (place, id) in places.iter_mut().zip(ids) {
            *place = self.place(id);
        }
        let are_set = places.each_ref().map(|place| place.as_ref().is_none_or(Place::is_set));
        for (place, is_set) in places.iter().zip(are_set) {
            if let (Some(place), false) = (place, is_set) {
                place.set();
            }
        }
    }

    fn may_contain(&self, id: &Message) -> bool {
        self.place(id).is_none_or(|place| place.is_set())
    }

    fn place(&self, id: &Message) -> Option<Place<'_>> {
        let hash = self.hasher.hash(id.bytes.get(..id.length).unwrap_or_default());
        let block = u128::from(hash.h1).wrapping_mul(u128::from(self.blocks)) >> u64::BITS; // less than their number
        let start = usize::try_from(block).unwrap_or_default().wrapping_mul(BLOCK_WORDS);
        let block = (*self.words).as_ref().get(start..)?.first_chunk()?;
        // A shift takes the last six bits of a byte.
        Some(Place { block, bits: hash.h2.to_le_bytes().map(|byte| 1_i64.wrapping_shl(u32::from(byte))) })
    }
}

/// An id's block, and its bit in each of the words.
struct Place<'a> {
    block: &'a [AtomicI64; BLOCK_WORDS],
    bits: [i64; BLOCK_WORDS],
}

impl Place<'_> {
    /// Without a branch for each word, which the processor would often predict wrongly.
    fn is_set(&self) -> bool {
        self.block.iter().zip(self.bits).fold(true, |all, (word, bit)| all & (word.load(Ordering::Relaxed) & bit != 0))
    }

    fn set(&self) {
        for (word, bit) in self.block.iter().zip(self.bits) {
            if word.load(Ordering::Relaxed) & bit == 0 {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};
    use std::thread;

    use super::*;

    const KEY: [u8; 16] = [7; 16];

    fn words(count: usize) -> Vec<AtomicI64> {
        (0..count).map(|_| AtomicI64::new(0)).collect()
    }

    /// A filter of generation 1 in use, with so many blocks.
    fn filter(blocks: usize) -> OptOuts {
        let control = words(4);
        control[GENERATION].store(1, Ordering::Relaxed);
        control[FRESH_UNTIL_MS].store(1_000, Ordering::Relaxed);
        let optouts = OptOuts::new(Box::new(control), true).unwrap();
        optouts.map(Box::new(words(blocks * BLOCK_WORDS)), KEY, 1).unwrap();
        optouts
    }

    /// The id with a number: the byte of the programme and 32 or 33 bytes.
    fn id(number: u64) -> Vec<u8> {
        let scope = u8::try_from(number % 2).unwrap();
        let hash = SipHasher13::new().hash(&number.to_le_bytes()).as_bytes();
        [&[scope][..], &hash, &hash, &[3][..usize::from(number % 3 == 0)]].concat()
    }

    fn may_contain(optouts: &OptOuts, id: &[u8]) -> bool {
        optouts.may_contain(id[0], &id[1..])
    }

    fn set(optouts: &OptOuts, place: usize, value: i64) {
        (*optouts.control).as_ref()[place].store(value, Ordering::Relaxed);
    }

    #[test]
    fn what_is_added_is_never_absent() {
        for blocks in [1, 2, 3, 1_000] {
            let optouts = filter(blocks);
            for number in 0..2_000 {
                optouts.add(&[&id(number)]).unwrap();
            }
            assert!((0..2_000).all(|number| may_contain(&optouts, &id(number))));
        }
    }

    #[test]
    fn records_are_added_by_their_ids() {
        let optouts = filter(1_000);
        for length in [32, 33] {
            let ids: Vec<_> = (0..50).map(|number| vec![number; length]).collect();
            let records: Vec<_> = ids.iter().map(|id| [&id[..], &[9; TIMES_LENGTH]].concat()).collect();
            optouts.add_records(1, &records.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
            assert!(ids.iter().all(|id| optouts.may_contain(1, id)));
            assert!(ids.iter().filter(|id| optouts.may_contain(0, id)).count() < 5);
        }
        for length in [0, 7, 39, 42] {
            assert_eq!(optouts.add_records(1, &[&vec![1; length]]), Err(NotAdded::NotAnId));
        }
    }

    #[test]
    fn few_others_are_not_absent() {
        const IDS: u64 = 51_200;
        let optouts = filter(2_000); // 20 bits an id
        let ids: Vec<_> = (0..IDS).map(id).collect();
        optouts.add(&ids.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
        let wrong = (IDS..IDS + 1_000_000).filter(|number| may_contain(&optouts, &id(*number))).count();
        assert!(wrong < 500, "{wrong} of a million"); // 0.05 %
        let other_scope = |number: &u64| optouts.may_contain(2, &id(*number)[1..]);
        assert!((0..IDS).filter(other_scope).count() < 50);
    }

    #[test]
    fn the_key_decides_about_the_places() {
        let places = |key: [u8; 16]| {
            let filter = Filter::new(Box::new(words(8_000)), key).unwrap();
            filter.add(&[Message::of(&id(5)).unwrap()]);
            let words = (*filter.words).as_ref().iter().enumerate();
            words.filter(|(_, word)| word.load(Ordering::Relaxed) != 0).map(|(place, _)| place).collect::<Vec<_>>()
        };
        let first = places(KEY);
        assert!(first.len() == 8 && first[0] % 8 == 0 && first[7] == first[0] + 7);
        assert_eq!(first, places(KEY));
        assert_ne!(first, places([8; 16]));
    }

    #[test]
    fn in_doubt_nothing_is_absent() {
        let optouts = filter(100);
        let id = id(1);
        let may_forbid = |now_ms| optouts.may_forbid(id[0], Uid::Bytes(&id[1..]), now_ms);
        assert!(!may_contain(&optouts, &id) && !may_forbid(1_000));
        assert!(may_forbid(1_001));
        for raw in [&[][..], &[1; 31], &[1; 34], &[1; 100]] {
            assert!(optouts.may_contain(0, raw));
        }
        set(&optouts, GENERATION, 2);
        assert!(may_contain(&optouts, &id) && may_forbid(1_000));
        set(&optouts, GENERATION, 1);
        assert!(!may_contain(&optouts, &id));
        optouts.unmap();
        assert!(may_contain(&optouts, &id) && may_forbid(1_000));
        assert_eq!(optouts.generation(), None);
    }

    #[test]
    fn staleness_matters_only_if_it_withholds() {
        let control = words(4);
        control[GENERATION].store(1, Ordering::Relaxed);
        let optouts = OptOuts::new(Box::new(control), false).unwrap();
        optouts.map(Box::new(words(8)), KEY, 1).unwrap();
        assert!(!optouts.may_forbid(0, Uid::Bytes(&[1; 32]), i64::MAX));
    }

    #[test]
    fn text_of_version_2() {
        let optouts = filter(100);
        let text = |raw: &[u8]| {
            let mut out = vec![0; base64::encoded_length(raw.len())];
            base64::encode(raw, &mut out);
            out
        };
        let may_forbid = |text: &[u8]| optouts.may_forbid(0, Uid::Text(text), 0);
        for length in [32, 33] {
            let (absent, added) = (vec![0xFA; length], vec![0xFB; length]);
            optouts.add(&[&[&[0], &added[..]].concat()]).unwrap();
            assert!(!may_forbid(&text(&absent)) && may_forbid(&text(&added)));
        }
        for raw in [&[0xFA; 31][..], &[0xFA; 34], &[0xFA; 300]] {
            assert!(may_forbid(&text(raw)));
        }
        let canonical = String::from_utf8(text(&[0xFA; 32])).unwrap();
        for other in
            ["", "uid=", canonical.trim_end_matches('='), &canonical.replace('+', "-"), &(canonical.clone() + "=")]
        {
            assert!(other == canonical || may_forbid(other.as_bytes()), "{other}");
        }
        assert!(canonical.contains('+'));
    }

    #[test]
    fn what_cannot_be_used() {
        assert!(OptOuts::new(Box::new(words(3)), false).is_none());
        let optouts = filter(1);
        for (count, generation) in [(0, 1), (7, 1), (9, 1), (8, 0)] {
            assert!(optouts.map(Box::new(words(count)), KEY, generation).is_none());
        }
        assert_eq!(optouts.generation(), Some(1));
        let good = id(1);
        assert_eq!(optouts.add(&[&good, &[0; 32]]), Err(NotAdded::NotAnId));
        assert_eq!(optouts.add(&[&[]]), Err(NotAdded::NotAnId));
        assert!(!may_contain(&optouts, &good));
        optouts.unmap();
        assert_eq!(optouts.add(&[&good]), Err(NotAdded::NothingMapped));
    }

    #[test]
    fn threads_that_add_lose_no_bit() {
        let (together, alone, begun) = (Arc::new(filter(10)), filter(10), Arc::new(Barrier::new(4)));
        let threads = [0, 1, 2, 3].map(|part| {
            let (together, begun) = (Arc::clone(&together), Arc::clone(&begun));
            thread::spawn(move || {
                begun.wait();
                for number in (part..800).step_by(4).map(id) {
                    together.add(&[&number]).unwrap();
                }
            })
        });
        for thread in threads {
            thread.join().unwrap();
        }
        for number in (0..800).map(id) {
            alone.add(&[&number]).unwrap();
        }
        let bits = |optouts: &OptOuts| {
            let mapped = optouts.mapped.read().unwrap();
            let words = (*mapped.as_ref().unwrap().filter.words).as_ref().iter();
            words.map(|word| word.load(Ordering::Relaxed)).collect::<Vec<_>>()
        };
        assert_eq!(bits(&together), bits(&alone));
    }
}
