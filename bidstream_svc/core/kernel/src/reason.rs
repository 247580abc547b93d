//! Why a token fails.

/// The reasons of `core/status.py` of which the kernel can be certain.
///
/// Their numbers are indices into `STATUS_NAMES` of `bulk/verdict_columns.py`; those below are in [`columns`](crate::columns).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    NotAToken = 3,
    BadEncoding,
    VersionUnknown,
    MasterKeyUnknown,
    MasterLayer,
    Expired,
    SiteKeyUnknown,
    SiteLayer,
    DomainMissing,
    LifetimeTooLong,
    GeneratedInFuture,
    OptedOutAtGeneration,
}
