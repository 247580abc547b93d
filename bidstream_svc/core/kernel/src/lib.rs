//! The native kernel: the answer to a request for a good token, from the bytes of the body to those of the answer.
//!
//! Two sentences specify it:
//!
//! 1. **Whenever it answers, Python gives the same bytes.**
//! 2. **Every SUCCESS in the plain spelling is answered by it.** The spelling is described in [`json`]. The exceptions:
//!    the domain of a token that was generated on the client side has to be normalised, or is an IDNA form, or the key
//!    response spells the name with an escape ([`names`]), unless Python has decided about it before ([`passed`]); the
//!    id in a version 2 token is not printable ASCII or has to be escaped ([`token`]); a batch is longer than [`MAX_BATCH_BYTES`](batch::MAX_BATCH_BYTES);
//!    a key of 24 bytes has sealed a token of version 3 or 4 ([`keys`]).
//!
//! For columns of tokens, [`columns`], the same holds of each row; the fields of a token that it has opened are handed
//! over, so that Python need not open it again. For whole bid requests, [`openrtb`], the same holds: it answers those in the plain spelling of [`bid_reader`] in which
//! every token of ours is a SUCCESS.
//!
//! It gives no other answer to a request. Every failure and every doubtful input is decided in Python
//! (`core/decrypt.py`, `server/handlers.py`). Many rows of a log fail, and Python judges one at a time, so for columns the
//! kernel also gives the reason where it is certain of it ([`reason`]), by the same checks in the same order.
//!
//! Keys and registered names never change, and the names of [`passed`] are behind a lock, so that any number of threads
//! share a kernel. It holds no reference to a Python object.

#![deny(unsafe_code)] // allowed in `shared`
#![warn(clippy::pedantic)]
#![allow(clippy::option_option)] // not there, there and empty, there
#![cfg_attr(
    not(test),
    warn(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

mod answer;
mod base64;
mod batch;
mod bid_reader;
pub mod columns;
mod json;
mod keys;
mod names;
pub mod openrtb;
pub mod optout_ids;
pub mod optouts;
mod passed;
mod reason;
mod scanner;
mod shape;
mod token;

#[cfg(feature = "python")]
mod bid_python;
#[cfg(feature = "python")]
mod columns_python;
#[cfg(feature = "python")]
mod lane;
#[cfg(feature = "python")]
mod optout_ids_python;
#[cfg(feature = "python")]
mod optouts_python;
#[cfg(feature = "python")]
mod python;
#[cfg(feature = "python")]
mod receiver;
#[cfg(feature = "python")]
mod row;
#[cfg(feature = "python")]
mod shared;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use answer::Success;
use keys::{ById, Key};
use names::Names;
use optouts::OptOuts;
use passed::Passed;
use reason::Reason;
use token::Unopened;

/// A panic is a fault of this crate. It is no answer, and Python decides.
#[cfg(any(feature = "python", test))]
fn unless_it_panics<T>(work: impl FnOnce() -> Option<T>) -> Option<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).ok().flatten()
}

/// What a key response says about all tokens. Times are Unix milliseconds.
#[derive(Clone, Copy)]
pub struct Rules {
    /// The bit that the first byte of a version 3 or 4 token must have: 0 or [`token::SCOPE_BIT`].
    pub scope_bit: u8,
    /// Whether a token that was generated on the client side needs a registered name.
    pub checks_domains: bool,
    /// None for no limit.
    pub max_lifetime_ms: Option<i128>,
    pub clock_skew_ms: i128,
    /// When the last key expires.
    pub last_expiry_ms: i128,
}

/// Collects keys and sites for a [`Kernel`].
pub struct Builder {
    rules: Rules,
    keys: (Vec<u32>, Vec<Key>),
    sites: (Vec<u32>, Vec<Names>),
}

impl Builder {
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self { rules, keys: Default::default(), sites: Default::default() }
    }

    /// Adds a key; None if it does not have 16, 24 or 32 bytes. Ids are distinct; no token has one beyond 32 bits.
    #[must_use]
    pub fn add_key(&mut self, id: i64, secret: &[u8]) -> Option<()> {
        let key = Key::new(secret)?;
        self.keys.extend(u32::try_from(id).ok().map(|id| (id, key)));
        Some(())
    }

    /// Adds a site and the JSON of its names. Ids are distinct; no token has one beyond 32 bits.
    pub fn add_site(&mut self, id: i64, raw_names: &[u8]) {
        self.sites.extend(u32::try_from(id).ok().map(|id| (id, Names::new(raw_names))));
    }

    #[must_use]
    pub fn build(self) -> Kernel {
        let ((key_ids, keys), (site_ids, sites)) = (self.keys, self.sites);
        let (keys, sites) = (ById::new(key_ids, keys), ById::new(site_ids, sites));
        Kernel { rules: self.rules, keys, sites, passed: Passed::default(), optouts: OnceLock::new() }
    }
}

/// The keys of one key response, and the rules of their use.
pub struct Kernel {
    rules: Rules,
    keys: ById<Key>,
    sites: ById<Names>,
    passed: Passed,
    optouts: OnceLock<Arc<OptOuts>>,
}

impl Kernel {
    /// Calls `use_success` if the body of a request is in the plain spelling and its token is good at `now_ms`.
    pub fn answer<T>(
        &self,
        body: &[u8],
        now_ms: i64,
        use_success: impl FnOnce(&Success<'_>) -> Option<T>,
    ) -> Option<T> {
        let request = json::read_request(body)?;
        self.decrypt(request.token, request.domain, now_ms, use_success)
    }

    /// Calls `use_success` if a token is good at `now_ms`. `domain` is the name on which it is used.
    pub fn decrypt<T>(
        &self,
        token: &[u8],
        domain: Option<&[u8]>,
        now_ms: i64,
        use_success: impl FnOnce(&Success<'_>) -> Option<T>,
    ) -> Option<T> {
        self.decrypt_as_of(token, domain, now_ms, now_ms, |success, _| use_success(success))
    }

    /// `decrypt` of a token as of `at_ms`, which also says whether it needs a name. Opt-outs are as of `now_ms`.
    fn decrypt_as_of<T>(
        &self,
        token: &[u8],
        domain: Option<&[u8]>,
        at_ms: i64,
        now_ms: i64,
        use_success: impl FnOnce(&Success<'_>, bool) -> Option<T>,
    ) -> Option<T> {
        self.open_as_of(token, at_ms, |opened| {
            let needs_name = self.needs_name(opened);
            if self.is_good(opened, domain, at_ms, now_ms) { use_success(&opened.success, needs_name) } else { None }
        })
    }

    /// Calls `use_opened` if the keys have not expired at `at_ms` and both layers of a token open.
    fn open_as_of<T>(
        &self,
        token: &[u8],
        at_ms: i64,
        use_opened: impl FnOnce(&token::Opened<'_>) -> Option<T>,
    ) -> Option<T> {
        with_buffer(base64::max_decoded_length(token.len()), |buffer| {
            use_opened(&self.open_in(buffer, token, at_ms).ok()?)
        })
    }

    /// Opens a token as `open_as_of` does, in a buffer of `base64::max_decoded_length` of its bytes.
    #[inline(always)]
    #[allow(clippy::inline_always)] // as [`token::open`] is
    fn open_in<'buffer>(
        &self,
        buffer: &'buffer mut [u8],
        token: &[u8],
        at_ms: i64,
    ) -> Result<token::Opened<'buffer>, Unopened> {
        if !self.is_fresh(at_ms) {
            return Err(None);
        }
        token::open(token, buffer, &self.keys, self.rules.scope_bit, at_ms)
    }

    /// Whether a key has not expired.
    fn is_fresh(&self, at_ms: i64) -> bool {
        self.rules.last_expiry_ms > i128::from(at_ms)
    }

    /// Calls `use_fields` if both layers of a token open, whatever its fields say.
    pub fn open<T>(&self, token: &[u8], use_fields: impl FnOnce(&token::Opened<'_>) -> Option<T>) -> Option<T> {
        with_buffer(base64::max_decoded_length(token.len()), |buffer| {
            use_fields(&token::open(token, buffer, &self.keys, self.rules.scope_bit, i64::MIN).ok()?)
        })
    }

    /// Remembers that `domain` passes for the site of a token, which Python has found good at `now_ms`.
    pub fn note_success(&self, token: &[u8], domain: &[u8], now_ms: i64) {
        with_buffer(base64::max_decoded_length(token.len()), |buffer| {
            let opened = token::open(token, buffer, &self.keys, self.rules.scope_bit, now_ms).ok()?;
            if self.needs_name(&opened) {
                self.note_name(opened.site_id, domain);
            }
            Some(())
        });
    }

    /// Remembers that `domain` passes for a site, as Python has found.
    pub fn note_name(&self, site_id: u32, domain: &[u8]) {
        if !self.is_registered(domain, site_id) {
            self.passed.add(site_id, domain);
        }
    }

    /// From now on leaves to Python what may have been opted out. None if that has been set before.
    pub fn set_optouts(&self, optouts: Arc<OptOuts>) -> Option<()> {
        self.optouts.set(optouts).ok()
    }

    /// Gives back what `set_optouts` was given.
    pub fn take_optouts(&mut self) -> Option<Arc<OptOuts>> {
        self.optouts.take()
    }

    /// Whether the keys are those of EUID.
    #[must_use]
    pub const fn is_of_euid(&self) -> bool {
        self.rules.scope_bit != 0
    }

    /// The ids of the keys that have opened the outer layer of a version 3 or 4 token.
    pub fn used_master_keys(&self) -> impl Iterator<Item = u32> {
        self.keys.iter().filter(|(_, key)| key.is_used_as_master()).map(|(id, _)| id)
    }

    fn is_good(&self, token: &token::Opened<'_>, domain: Option<&[u8]>, at_ms: i64, now_ms: i64) -> bool {
        self.judge(token, domain, at_ms).is_ok() && !self.may_forbid(token, now_ms)
    }

    /// The checks of `bind_judge` in `core/decrypt.py`, in their order. Err(None): Python knows.
    fn judge(&self, token: &token::Opened<'_>, domain: Option<&[u8]>, at_ms: i64) -> Result<(), Unopened> {
        if token.expires_ms < at_ms {
            return Err(Some(Reason::Expired));
        }
        if self.needs_name(token) && !self.is_registered(domain.ok_or(Some(Reason::DomainMissing))?, token.site_id) {
            return Err(None); // it may have to be normalised
        }
        let lifetime_ms = i128::from(token.expires_ms).saturating_sub(i128::from(token.generated_ms));
        if self.rules.max_lifetime_ms.is_some_and(|max_ms| lifetime_ms > max_ms) {
            return Err(Some(Reason::LifetimeTooLong));
        }
        let ahead_ms = i128::from(token.generated_ms).saturating_sub(i128::from(at_ms));
        if !token.is_v2 && ahead_ms > self.rules.clock_skew_ms {
            return Err(Some(Reason::GeneratedInFuture));
        }
        if token.privacy_bits & token::OPTED_OUT != 0 {
            return Err(Some(Reason::OptedOutAtGeneration));
        }
        Ok(())
    }

    /// Last of all, because it takes a look into memory that is not in the cache.
    fn may_forbid(&self, token: &token::Opened<'_>, now_ms: i64) -> bool {
        let scope = u8::from(self.is_of_euid());
        self.optouts.get().is_some_and(|optouts| optouts.may_forbid(scope, token.success.uid, now_ms))
    }

    const fn needs_name(&self, token: &token::Opened<'_>) -> bool {
        token.privacy_bits & token::CLIENT_SIDE_GENERATED != 0 && self.rules.checks_domains
    }

    fn is_registered(&self, name: &[u8], site_id: u32) -> bool {
        self.sites.get(site_id).is_some_and(|names| names.contain(name)) || self.passed.contain(site_id, name)
    }
}

/// Longer than any token of an operator, in bytes.
const STACK_BUFFER_LENGTH: usize = 512;

/// Calls `use_buffer` with a buffer of a length, on the stack unless it is long.
fn with_buffer<T>(length: usize, use_buffer: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut on_stack = [0; STACK_BUFFER_LENGTH];
    match on_stack.get_mut(..length) {
        Some(buffer) => use_buffer(buffer),
        None => use_buffer(&mut vec![0; length]),
    }
}
