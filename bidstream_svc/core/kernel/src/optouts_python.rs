//! The filter of opt-outs, as Python has it. Its description is in `_native.pyi`.

use std::sync::Arc;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::optout_ids::KEY_LENGTH;
use crate::optouts::{NotAdded, OptOuts};
use crate::shared::SharedWords;

#[pyclass(name = "OptOutFilter", module = "bidstream_svc.core.kernel._native", frozen)]
pub struct PyOptOutFilter(Arc<OptOuts>);

impl PyOptOutFilter {
    pub fn optouts(&self) -> Arc<OptOuts> {
        Arc::clone(&self.0)
    }
}

#[pymethods]
impl PyOptOutFilter {
    #[new]
    #[pyo3(signature = (control, *, withholds))]
    fn new(control: PyBuffer<i64>, withholds: bool) -> PyResult<Self> {
        let optouts = OptOuts::new(Box::new(SharedWords::new(control)?), withholds);
        optouts.map(|optouts| Self(Arc::new(optouts))).ok_or_else(|| PyValueError::new_err("too few control words"))
    }

    #[getter]
    fn generation(&self) -> Option<i64> {
        self.0.generation()
    }

    fn map(&self, words: PyBuffer<i64>, key: [u8; 16], generation: i64) -> PyResult<()> {
        let is_mapped = self.0.map(Box::new(SharedWords::new(words)?), key, generation);
        is_mapped.ok_or_else(|| PyValueError::new_err("not blocks of a filter"))
    }

    fn unmap(&self) {
        self.0.unmap();
    }

    #[allow(clippy::needless_pass_by_value)] // a list cannot be borrowed
    fn add(&self, py: Python<'_>, ids: Vec<Bound<'_, PyBytes>>) -> PyResult<()> {
        let ids: Vec<_> = ids.iter().map(PyBytesMethods::as_bytes).collect();
        py.detach(|| self.0.add(&ids)).map_err(not_added)
    }

    fn add_pairs(&self, py: Python<'_>, scope: u8, pairs: &[u8], pair_length: usize) -> PyResult<()> {
        if pairs.len().checked_rem(pair_length) != Some(0) {
            return Err(not_added(NotAdded::NotAnId));
        }
        let records: Vec<_> =
            pairs.chunks_exact(pair_length).map(|pair| pair.get(KEY_LENGTH..).unwrap_or(&[])).collect();
        py.detach(|| self.0.add_records(scope, &records)).map_err(not_added)
    }

    fn may_contain(&self, scope: u8, raw_uid: &[u8]) -> bool {
        self.0.may_contain(scope, raw_uid)
    }
}

fn not_added(reason: NotAdded) -> PyErr {
    match reason {
        NotAdded::NothingMapped => PyRuntimeError::new_err("no filter is mapped"),
        NotAdded::NotAnId => PyValueError::new_err("not a programme and a raw uid"),
    }
}
