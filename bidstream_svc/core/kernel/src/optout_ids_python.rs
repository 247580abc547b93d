//! Opt-outs from lines of text, as Python has them. Their description is in `_native.pyi`.

use std::mem;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::optout_ids::Run;

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
    fn take<'py>(&mut self, py: Python<'py>, splits: bool) -> PyResult<[Bound<'py, PyList>; 3]> {
        let mut run = mem::take(&mut self.0);
        py.detach(|| run.sort());
        let (short, [without_bit, with_bit]) = run.take(splits);
        Ok([list(py, &short)?, list(py, &without_bit)?, list(py, &with_bit)?])
    }
}

fn list<'py, const LENGTH: usize>(py: Python<'py>, records: &[[u8; LENGTH]]) -> PyResult<Bound<'py, PyList>> {
    PyList::new(py, records.iter().map(|record| PyBytes::new(py, record)))
}
