//! Opens the two layers of a token. The layouts are those of `core/token/v2.py` and `core/token/v3.py`.

use crate::answer::{Success, Uid};
use crate::base64;
use crate::keys::{ById, GCM_IV_LENGTH, Key};
use crate::reason::Reason;

pub const CLIENT_SIDE_GENERATED: u32 = 0x2;
pub const OPTED_OUT: u32 = 0x4;
pub const SCOPE_BIT: u8 = 0x10;

const V2_PREFIX: u8 = 0x02;
const V3_VERSION: u8 = 112;
const V4_VERSION: u8 = 128;
const MIN_RAW_UID_LENGTH: usize = 32;

/// The fields of a token that decide, and what is answered if all of them are in order.
pub struct Opened<'token> {
    pub expires_ms: i64,
    /// The current time for version 2, which does not have it.
    pub generated_ms: i64,
    pub site_id: u32,
    pub privacy_bits: u32,
    pub is_v2: bool,
    pub success: Success<'token>,
}

/// Why a token does not open. None: Python knows.
pub type Unopened = Option<Reason>;

/// Decodes and decrypts a token in `buffer`, which has `base64::max_decoded_length` of its bytes.
///
/// The order of the checks is that of `v3.open_token`, so that a reason is the one that Python gives.
///
/// Inlined, as `open_v3`, so that the fields are not copied through memory.
#[inline(always)]
#[allow(clippy::inline_always)]
pub fn open<'buffer>(
    text: &[u8],
    buffer: &'buffer mut [u8],
    keys: &ById<Key>,
    scope_bit: u8,
    now_ms: i64,
) -> Result<Opened<'buffer>, Unopened> {
    let prefix = base64::first_byte(text).ok_or(None)?; // before all of it, because half of the tokens may be of the other programme
    if prefix != V2_PREFIX && prefix & SCOPE_BIT != scope_bit {
        return Err(None);
    }
    let (raw, is_padded_standard) = base64::decode(text, buffer).ok_or(None)?;
    match *raw {
        [V2_PREFIX, ..] if is_padded_standard => open_v2(raw, keys, now_ms).ok_or(None),
        [V2_PREFIX, ..] => Err(None),
        [_, V4_VERSION, ..] => open_v3(raw, keys, now_ms),
        [_, V3_VERSION, ..] if is_padded_standard => open_v3(raw, keys, now_ms),
        _ => Err(None),
    }
}

/// Why a text is no token of any version, if that is certain.
pub fn reason_of_text(text: &[u8], buffer: &mut [u8]) -> Option<Reason> {
    if text.len() < base64::MIN_CHARACTERS {
        return Some(Reason::NotAToken);
    }
    let Some((raw, _)) = base64::decode(text, buffer) else { return Some(Reason::BadEncoding) };
    match *raw {
        [V2_PREFIX, ..] | [_, V3_VERSION | V4_VERSION, ..] => None,
        _ => Some(Reason::VersionUnknown),
    }
}

/// Version 3, and version 4, which has the same layout.
#[inline(always)]
#[allow(clippy::inline_always)]
fn open_v3<'token>(raw: &'token mut [u8], keys: &ById<Key>, now_ms: i64) -> Result<Opened<'token>, Unopened> {
    const MASTER_KEY_ID: usize = 2;
    const MASTER_IV: usize = 6;
    const GENERATED: usize = 8;
    const SITE_KEY_ID: usize = 29;
    const SITE_IV: usize = 33;
    const PRIVACY_BITS: usize = 16;
    const ESTABLISHED: usize = 20;
    const RAW_UID: usize = 36;
    let (fields, sealed) = raw.split_at_mut_checked(MASTER_IV + GCM_IV_LENGTH).ok_or(None)?;
    let master_key = keys.get(u32_at(fields, MASTER_KEY_ID).ok_or(None)?).ok_or(Some(Reason::MasterKeyUnknown))?;
    let master_layer = open_layer(master_key, array_at(fields, MASTER_IV), sealed, Reason::MasterLayer)?;
    master_key.note_use_as_master();
    let (fields, sealed) =
        master_layer.split_at_mut_checked(SITE_IV + GCM_IV_LENGTH).ok_or(Some(Reason::MasterLayer))?;
    let expires_ms = i64_at(fields, 0).ok_or(None)?;
    if expires_ms < now_ms {
        return Err(Some(Reason::Expired));
    }
    let site_key = keys.get(u32_at(fields, SITE_KEY_ID).ok_or(None)?).ok_or(Some(Reason::SiteKeyUnknown))?;
    let site_layer = open_layer(site_key, array_at(fields, SITE_IV), sealed, Reason::SiteLayer)?;
    let uid = site_layer.get(RAW_UID..).filter(|uid| uid.len() >= MIN_RAW_UID_LENGTH).ok_or(Some(Reason::SiteLayer))?;
    Ok(Opened {
        expires_ms,
        generated_ms: i64_at(fields, GENERATED).ok_or(None)?,
        site_id: u32_at(site_layer, 0).ok_or(None)?,
        privacy_bits: u32_at(site_layer, PRIVACY_BITS).ok_or(None)?,
        is_v2: false,
        success: Success { uid: Uid::Bytes(uid), established_ms: i64_at(site_layer, ESTABLISHED).ok_or(None)? },
    })
}

#[inline(always)]
#[allow(clippy::inline_always)]
fn open_layer<'data>(
    key: &Key,
    iv: Option<&[u8; GCM_IV_LENGTH]>,
    sealed: &'data mut [u8],
    reason: Reason,
) -> Result<&'data mut [u8], Unopened> {
    key.open_gcm(iv.ok_or(None)?, sealed).ok_or_else(|| key.has_gcm().then_some(reason))
}

fn open_v2<'token>(raw: &'token mut [u8], keys: &ById<Key>, now_ms: i64) -> Option<Opened<'token>> {
    const MASTER_KEY_ID: usize = 1;
    const MASTER_SEALED: usize = 5;
    const SITE_KEY_ID: usize = 8;
    const SITE_SEALED: usize = 12;
    const UID_LENGTH: usize = 4;
    const UID: usize = 8;
    const ESTABLISHED: usize = 4; // behind the id and the privacy bits
    const AFTER_UID: usize = 12;
    let (fields, sealed) = raw.split_at_mut_checked(MASTER_SEALED)?;
    let master_layer = keys.get(u32_at(fields, MASTER_KEY_ID)?)?.open_cbc(sealed)?;
    let (fields, sealed) = master_layer.split_at_mut_checked(SITE_SEALED)?;
    let site_layer: &[u8] = keys.get(u32_at(fields, SITE_KEY_ID)?)?.open_cbc(sealed)?;
    let uid_length = usize::try_from(u32_at(site_layer, UID_LENGTH)?).ok()?;
    let (uid, after_uid) = site_layer.get(UID..)?.split_at_checked(uid_length)?;
    // Nothing has authenticated it. Without a branch, so that the compiler makes vectors of it.
    let is_plain = |byte: u8| u8::from(matches!(byte, b' '..=b'~')) & u8::from(byte != b'"') & u8::from(byte != b'\\');
    let is_plain = uid.iter().fold(1, |all, byte| all & is_plain(*byte)) == 1;
    if after_uid.len() != AFTER_UID || !is_plain {
        return None;
    }
    Some(Opened {
        expires_ms: i64_at(fields, 0)?,
        generated_ms: now_ms,
        site_id: u32_at(site_layer, 0)?,
        privacy_bits: u32_at(after_uid, 0)?,
        is_v2: true,
        success: Success { uid: Uid::Text(uid), established_ms: i64_at(after_uid, ESTABLISHED)? },
    })
}

fn array_at<const LENGTH: usize>(bytes: &[u8], offset: usize) -> Option<&[u8; LENGTH]> {
    bytes.get(offset..)?.first_chunk()
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    array_at(bytes, offset).copied().map(u32::from_be_bytes)
}

fn i64_at(bytes: &[u8], offset: usize) -> Option<i64> {
    array_at(bytes, offset).copied().map(i64::from_be_bytes)
}
