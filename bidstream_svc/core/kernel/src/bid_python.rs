//! Bid requests in the Python module.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::openrtb::{Answered, BidRequests, PROGRAMMES, Sources};
use crate::python::PyKernel;
use crate::unless_it_panics;

#[pyclass(name = "BidRequests", module = "bidstream_svc.core.kernel._native", frozen)]
pub struct PyBidRequests {
    kernels: [Option<Py<PyKernel>>; PROGRAMMES],
    sources: Sources,
}

/// (body, number of entries, number of tokens by programme)
type PyAnswered<'py> = (Bound<'py, PyBytes>, usize, (usize, usize));

#[pymethods]
impl PyBidRequests {
    #[new]
    #[allow(clippy::needless_pass_by_value)] // what Python gives is owned
    fn new(kernels: Vec<Py<PyKernel>>, sources: Vec<(String, usize)>) -> PyResult<Self> {
        if sources.iter().any(|(_, programme)| *programme >= PROGRAMMES) {
            return Err(PyValueError::new_err("no such programme"));
        }
        let of = |is_euid: bool| {
            let is_it = |kernel: &&Py<PyKernel>| kernel.get().kernel().is_some_and(|it| it.is_of_euid() == is_euid);
            Python::attach(|py| kernels.iter().find(is_it).map(|kernel| kernel.clone_ref(py)))
        };
        Ok(Self { kernels: [of(false), of(true)], sources: Sources(sources) })
    }

    fn find<'py>(&self, py: Python<'py>, body: &[u8], now_ms: i64) -> Option<PyAnswered<'py>> {
        unless_it_panics(|| self.bid_requests().find(body, now_ms)).map(|answered| to_python(py, &answered))
    }

    fn rewrite<'py>(&self, py: Python<'py>, body: &[u8], now_ms: i64) -> Option<PyAnswered<'py>> {
        unless_it_panics(|| self.bid_requests().rewrite(body, now_ms)).map(|answered| to_python(py, &answered))
    }
}

impl PyBidRequests {
    pub fn bid_requests(&self) -> BidRequests<'_> {
        let kernels = self.kernels.each_ref().map(|kernel| kernel.as_ref().and_then(|kernel| kernel.get().kernel()));
        BidRequests { kernels, sources: &self.sources }
    }
}

fn to_python<'py>(py: Python<'py>, answered: &Answered) -> PyAnswered<'py> {
    let [uid2, euid] = answered.tokens;
    (PyBytes::new(py, &answered.body), answered.entries, (uid2, euid))
}
