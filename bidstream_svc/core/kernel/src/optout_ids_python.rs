//! Opt-outs from lines of text, as Python has them. Their description is in `_native.pyi`.

use std::mem;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::optout_ids::{KEY_LENGTH, Run};

#[pyclass(name = "OptOutRun", module = "bidstream_svc.core.kernel._native")]
#[derive(Default)]
pub struct PyOptOutRun(Run);

#[pymethods]
impl PyOptOutRun {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    fn __len__(&self) -> usize {
        self.0.record_count()
    }

    fn add_lines(&mut self, py: Python<'_>, lines: &[u8], arrived_s: u32) -> (Vec<usize>, usize) {
        py.detach(|| self.0.add_lines(lines, arrived_s))
    }

    fn add_record(&mut self, record: &[u8]) -> PyResult<()> {
        self.0.add_made(record).ok_or_else(|| PyValueError::new_err("not a record"))
    }

    #[pyo3(signature = (*, splits))]
    fn take<'py>(&mut self, py: Python<'py>, splits: bool) -> PyResult<[Bound<'py, PyBytes>; 3]> {
        let mut run = mem::take(&mut self.0);
        let (short, [without_bit, with_bit]) = py.detach(|| {
            run.sort();
            run.take(splits)
        });
        Ok([pairs(py, &short)?, pairs(py, &without_bit)?, pairs(py, &with_bit)?])
    }
}

/// The key and a record, one behind the other, of all records.
fn pairs<'py, const LENGTH: usize>(py: Python<'py>, records: &[[u8; LENGTH]]) -> PyResult<Bound<'py, PyBytes>> {
    let pair_length = LENGTH.saturating_add(KEY_LENGTH);
    PyBytes::new_with(py, records.len().saturating_mul(pair_length), |bytes| {
        for (pair, record) in bytes.chunks_exact_mut(pair_length).zip(records) {
            if let Some(behind_key) = pair.get_mut(KEY_LENGTH..) {
                behind_key.copy_from_slice(record);
            }
        }
        Ok(())
    })
}
