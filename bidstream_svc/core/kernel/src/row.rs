//! A row of counters in shared memory; see `metrics/cells.py`.

use std::sync::atomic::Ordering;

use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;

use crate::shared::SharedWords;

/// Only one thread writes to a cell, so an addition needs no lock.
pub struct Row(SharedWords);

impl Row {
    pub fn new(buffer: PyBuffer<i64>) -> PyResult<Self> {
        SharedWords::new(buffer).map(Self)
    }

    /// Adds to a cell; nothing happens if there is no such cell.
    pub fn add(&self, cell: usize, amount: i64) {
        if let Some(cell) = self.0.as_ref().get(cell) {
            cell.store(cell.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
        }
    }
}
