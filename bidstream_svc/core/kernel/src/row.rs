//! A row of counters in memory that Python has mapped; see `metrics/cells.py`. The only module with unsafe code.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicI64, Ordering};

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Only one thread writes to a cell, so an addition needs no lock.
pub struct Row(PyBuffer<i64>);

impl Row {
    pub fn new(buffer: PyBuffer<i64>) -> PyResult<Self> {
        let is_usable =
            !buffer.readonly() && buffer.as_slice_ptr().is_some_and(|cells| cells.cast::<AtomicI64>().is_aligned());
        if is_usable { Ok(Self(buffer)) } else { Err(PyValueError::new_err("not a row of counters")) }
    }

    /// Adds to a cell; nothing happens if there is no such cell.
    pub fn add(&self, cell: usize, amount: i64) {
        let Some(cells) = self.0.as_slice_ptr() else { return };
        if cell < cells.len() {
            // SAFETY: the cell is one of the buffer's, which is contiguous, writable, aligned and, while `self.0` holds
            // it, not freed. Python and other processes access it by loads and stores of 8 bytes, none of them here
            // through a reference.
            let cell = unsafe { AtomicI64::from_ptr(cells.cast::<i64>().as_ptr().add(cell)) };
            cell.store(cell.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
        }
    }
}
