//! The fast path for the plain case: from the bytes of a request for a good token to those of the response.
//!
//! It has no rules of its own. Python has checked the heads whose shapes it knows, and the [kernel](crate) answers the
//! body. Where either is not certain, Python decides.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::answer::{Success, put};
use crate::python::PyKernel;
use crate::row::Row;
use crate::shape::{Shape, Value};
use crate::unless_it_panics;

const END_OF_HEAD: &[u8] = b"\r\n\r\n";
const MAX_SHAPES: usize = 16;

struct Known {
    shape: Shape,
    route: Py<PyAny>,
    max_body_length: usize,
    is_answered_here: bool,
}

/// The numbers of the cells that count an answer.
#[derive(Clone, Copy, FromPyObject)]
struct Cells {
    success_uid2: usize,
    success_euid: usize,
    request: usize,
    first_bucket: usize,
    last_bucket: usize,
    sum_ns: usize,
}

#[pyclass(name = "Lane", module = "bidstream_svc.core.kernel._native")]
pub struct PyLane {
    /// The one that was used last comes first.
    known: Vec<Known>,
    /// The head of the response up to the value of Content-Length; empty while Python must answer.
    response_start: Vec<u8>,
    row: Row,
    cells: Cells,
}

#[pymethods]
impl PyLane {
    #[new]
    fn new(row: PyBuffer<i64>, cells: Cells) -> PyResult<Self> {
        Ok(Self { known: Vec::new(), response_start: Vec::new(), row: Row::new(row)?, cells })
    }

    fn set_response_start(&mut self, start: &[u8]) {
        self.response_start = start.to_vec();
    }

    fn learn(
        &mut self,
        route: Py<PyAny>,
        parts: Vec<(Vec<u8>, u8)>,
        end: Vec<u8>,
        max_body_length: usize,
        is_answered_here: bool,
    ) -> PyResult<()> {
        let parts: Option<_> = parts.into_iter().map(|(fixed, kind)| Some((fixed, Value::of(kind)?))).collect();
        let shape = Shape { parts: parts.ok_or_else(|| PyValueError::new_err("no such value"))?, end };
        self.known.retain(|known| known.shape != shape);
        self.known.insert(0, Known { shape, route, max_body_length, is_answered_here });
        self.known.truncate(MAX_SHAPES);
        Ok(())
    }

    fn forget(&mut self) {
        self.known.clear();
    }

    fn take<'py>(
        &mut self,
        py: Python<'py>,
        data: &[u8],
        kernels: &Bound<'py, PyTuple>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let began = Instant::now();
        let Some((known, body)) = find(&mut self.known, data) else { return Ok(None) };
        if known.is_answered_here && !self.response_start.is_empty() {
            for kernel in kernels.iter_borrowed() {
                let Some(kernel) = kernel.cast::<PyKernel>()?.get().kernel() else { continue };
                let response = unless_it_panics(|| {
                    kernel.answer(body, now_ms()?, |success| respond(py, &self.response_start, success))
                });
                if let Some(response) = response {
                    self.count(began, kernel.is_of_euid());
                    return Ok(Some(response.into_any()));
                }
            }
        }
        let request: [Bound<'py, PyAny>; 2] = [known.route.bind(py).clone(), PyBytes::new(py, body).into_any()];
        Ok(Some(PyTuple::new(py, request)?.into_any()))
    }
}

impl PyLane {
    fn count(&self, began: Instant, is_of_euid: bool) {
        let duration_ns = i64::try_from(began.elapsed().as_nanos()).unwrap_or(i64::MAX);
        let bit_length = usize::try_from(i64::BITS.saturating_sub(duration_ns.leading_zeros())).unwrap_or(usize::MAX);
        let bucket = self.cells.first_bucket.saturating_add(bit_length).min(self.cells.last_bucket);
        let success = if is_of_euid { self.cells.success_euid } else { self.cells.success_uid2 };
        for (cell, amount) in [(success, 1), (self.cells.request, 1), (bucket, 1), (self.cells.sum_ns, duration_ns)] {
            self.row.add(cell, amount);
        }
    }
}

/// Returns what is known about the head of the request that these bytes are, and its body.
fn find<'known, 'data>(all: &'known mut [Known], data: &'data [u8]) -> Option<(&'known Known, &'data [u8])> {
    let (place, body) =
        all.iter().enumerate().find_map(|(place, known)| known.shape.body(data).map(|body| (place, body)))?;
    if place > 0 {
        all.get_mut(..=place)?.rotate_right(1);
    }
    all.first().filter(|known| body.len() <= known.max_body_length).map(|known| (known, body))
}

fn respond<'py>(py: Python<'py>, start: &[u8], success: &Success<'_>) -> Option<Bound<'py, PyBytes>> {
    success.encode(|body_length, write_body| {
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(body_length).as_bytes();
        let head = [start, digits, END_OF_HEAD];
        let length = head.iter().fold(body_length, |length, part| length.saturating_add(part.len()));
        PyBytes::new_with(py, length, |mut out| {
            for part in head {
                out = put(out, part).ok_or_else(no_room)?;
            }
            write_body(out).ok_or_else(no_room)
        })
        .ok()
    })
}

fn no_room() -> PyErr {
    PyRuntimeError::new_err("length")
}

fn now_ms() -> Option<i64> {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}
