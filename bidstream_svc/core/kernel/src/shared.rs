//! Memory of Python: shared with other processes, or of Arrow arrays. The only module with unsafe code.

#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::AtomicI64;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// 64-bit words, which Python and other processes may read and write at the same time.
pub struct SharedWords {
    /// Those of the buffer. They are lent only as long as `self` is borrowed.
    words: &'static [AtomicI64],
    _buffer: PyBuffer<i64>,
}

impl SharedWords {
    /// Takes a buffer that is contiguous, writable and aligned.
    pub fn new(buffer: PyBuffer<i64>) -> PyResult<Self> {
        let words = buffer.as_slice_ptr().map(NonNull::cast::<AtomicI64>);
        let Some(start) = words.filter(|start| !buffer.readonly() && start.is_aligned()) else {
            return Err(PyValueError::new_err("not words of shared memory"));
        };
        // SAFETY: the words are the buffer's, which is contiguous, writable, aligned and, as long as `self` holds it,
        // neither freed nor unmapped. Python and other processes access them by loads and stores of 8 bytes, and Rust
        // only as atomics. A file behind them is never truncated.
        let words = unsafe { slice::from_raw_parts(start.as_ptr(), buffer.item_count()) };
        Ok(Self { words, _buffer: buffer })
    }
}

impl AsRef<[AtomicI64]> for SharedWords {
    fn as_ref(&self) -> &[AtomicI64] {
        self.words
    }
}

/// Bytes that are only read: a buffer of an Arrow array, whose elements Python describes as signed.
pub struct ReadBytes {
    /// Those of the buffer. They are lent only as long as `self` is borrowed.
    bytes: &'static [u8],
    _buffer: PyBuffer<i8>,
}

impl ReadBytes {
    /// Takes a buffer that is contiguous and does not change.
    fn new(buffer: PyBuffer<i8>) -> PyResult<Self> {
        let Some(start) = buffer.as_slice_ptr().map(NonNull::cast::<u8>) else {
            return Err(PyValueError::new_err("not contiguous bytes"));
        };
        // SAFETY: the bytes are the buffer's, which is contiguous and, as long as `self` holds it, not freed. A byte is
        // valid whatever its sign. Arrow's arrays are immutable, and so is memory that they share with others.
        let bytes = unsafe { slice::from_raw_parts(start.as_ptr(), buffer.item_count()) };
        Ok(Self { bytes, _buffer: buffer })
    }
}

impl FromPyObject<'_, '_> for ReadBytes {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        Self::new(PyBuffer::get(&object)?)
    }
}

impl AsRef<[u8]> for ReadBytes {
    fn as_ref(&self) -> &[u8] {
        self.bytes
    }
}
