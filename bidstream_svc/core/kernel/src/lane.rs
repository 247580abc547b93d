//! The fast path for the plain case: from the bytes of a request to those of the response.
//!
//! It has no rules of its own. Python has checked the heads whose shapes it knows, and the [kernel](crate) decrypts the
//! tokens. Where the kernel is not certain of one, Python gives the verdict, and all that is not plain, Python answers.

use std::str::from_utf8;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};

use crate::answer::{Success, put};
use crate::bid_python::PyBidRequests;
use crate::json::{self, Request};
use crate::openrtb::{Answered, BidRequests};
use crate::python::PyKernel;
use crate::row::Row;
use crate::shape::{Shape, Value};
use crate::unless_it_panics;

const END_OF_HEAD: &[u8] = b"\r\n\r\n";
const MAX_SHAPES: usize = 16;
/// The header of `server/answers.py`, with the end of the line before it.
const STATUSES: &[u8] = b"\r\nBidstream-Statuses: ";
const SUCCESS: &[u8] = b"SUCCESS";

struct Known {
    shape: Shape,
    route: Py<PyAny>,
    max_body_length: usize,
    content: Content,
    /// The cell that counts its answers.
    requests: usize,
}

/// What the bodies of a route are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    /// Left to Python.
    Other,
    /// A request for a token.
    Token,
    /// A bid request; the ids in it are answered.
    BidRequest,
    /// A bid request that is answered with its ids in the place of tokens.
    BidRequestToRewrite,
}

impl Content {
    /// The one with this number in Python.
    const fn of(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Other),
            1 => Some(Self::Token),
            2 => Some(Self::BidRequest),
            3 => Some(Self::BidRequestToRewrite),
            _ => None,
        }
    }
}

/// The numbers of the cells that count an answer.
#[derive(Clone, Copy, FromPyObject)]
struct Cells {
    success_uid2: usize,
    success_euid: usize,
    bid_request_success: usize,
    bid_request_no_token: usize,
    first_bucket: usize,
    last_bucket: usize,
    sum_ns: usize,
}

/// What `bind` returns for the keys in use.
#[derive(FromPyObject)]
struct BoundKeys {
    kernels: Vec<Py<PyKernel>>,
    decrypt_to_json: Py<PyAny>,
    native_bid_requests: Option<Py<PyBidRequests>>,
}

#[pyclass(name = "Lane", module = "bidstream_svc.core.kernel._native")]
pub struct PyLane {
    /// The one that was used last comes first.
    known: Vec<Known>,
    /// The head of the response up to the value of Content-Length; empty while Python must answer.
    response_start: Vec<u8>,
    counters: Counters,
    bind: Py<PyAny>,
    /// The keys of the last request, and what `bind` has returned for them.
    bound: Option<(Py<PyAny>, BoundKeys)>,
}

#[pymethods]
impl PyLane {
    #[new]
    fn new(row: PyBuffer<i64>, cells: Cells, bind: Py<PyAny>) -> PyResult<Self> {
        let counters = Counters { row: Row::new(row)?, cells };
        Ok(Self { known: Vec::new(), response_start: Vec::new(), counters, bind, bound: None })
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
        content: u8,
        requests: usize,
    ) -> PyResult<()> {
        let content = Content::of(content).ok_or_else(|| PyValueError::new_err("no such content"))?;
        let parts: Option<_> = parts.into_iter().map(|(fixed, kind)| Some((fixed, Value::of(kind)?))).collect();
        let shape = Shape { parts: parts.ok_or_else(|| PyValueError::new_err("no such value"))?, end };
        self.known.retain(|known| known.shape != shape);
        self.known.insert(0, Known { shape, route, max_body_length, content, requests });
        self.known.truncate(MAX_SHAPES);
        Ok(())
    }

    fn forget(&mut self) {
        self.known.clear();
    }

    pub fn take<'py>(
        &mut self,
        py: Python<'py>,
        data: &[u8],
        keys: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let began = Instant::now();
        let Some((known, body)) = find(&mut self.known, data) else { return Ok(None) };
        if known.content != Content::Other && !self.response_start.is_empty() {
            let bound = bind(&mut self.bound, &self.bind, keys)?;
            let answer = Answer { py, start: &self.response_start, counters: &self.counters };
            let response = match known.content {
                Content::Other => None,
                Content::Token => answer.token(body, bound)?,
                Content::BidRequest => answer.bid_request(bound, b"", |all, now_ms| all.find(body, now_ms))?,
                Content::BidRequestToRewrite => {
                    answer.bid_request(bound, STATUSES, |all, now_ms| all.rewrite(body, now_ms))?
                }
            };
            if let Some(response) = response {
                self.counters.count_request(known.requests, began);
                return Ok(Some(response.into_any()));
            }
        }
        let request: [Bound<'py, PyAny>; 2] = [known.route.bind(py).clone(), PyBytes::new(py, body).into_any()];
        Ok(Some(PyTuple::new(py, request)?.into_any()))
    }
}

struct Counters {
    row: Row,
    cells: Cells,
}

impl Counters {
    fn count_success(&self, is_of_euid: bool) {
        self.row.add(if is_of_euid { self.cells.success_euid } else { self.cells.success_uid2 }, 1);
    }

    fn count_bid_request(&self, answered: &Answered) {
        let is_empty = answered.entries == 0;
        self.row.add(if is_empty { self.cells.bid_request_no_token } else { self.cells.bid_request_success }, 1);
        for (cell, tokens) in [self.cells.success_uid2, self.cells.success_euid].into_iter().zip(answered.tokens) {
            self.row.add(cell, i64::try_from(tokens).unwrap_or(i64::MAX));
        }
    }

    fn count_request(&self, requests: usize, began: Instant) {
        let duration_ns = i64::try_from(began.elapsed().as_nanos()).unwrap_or(i64::MAX);
        let bit_length = usize::try_from(i64::BITS.saturating_sub(duration_ns.leading_zeros())).unwrap_or(usize::MAX);
        let bucket = self.cells.first_bucket.saturating_add(bit_length).min(self.cells.last_bucket);
        for (cell, amount) in [(requests, 1), (bucket, 1), (self.cells.sum_ns, duration_ns)] {
            self.row.add(cell, amount);
        }
    }
}

/// Returns what is bound to these keys. They are replaced as a whole, never modified.
fn bind<'bound>(
    bound: &'bound mut Option<(Py<PyAny>, BoundKeys)>,
    bind: &Py<PyAny>,
    keys: &Bound<'_, PyAny>,
) -> PyResult<&'bound BoundKeys> {
    let (_, bound) = match bound.take() {
        Some(last) if last.0.is(keys) => bound.insert(last),
        _ => bound.insert((keys.clone().unbind(), bind.call0(keys.py())?.extract(keys.py())?)),
    };
    Ok(bound)
}

/// Makes the response to one request. Each method returns None if Python has to.
struct Answer<'py, 'lane> {
    py: Python<'py>,
    start: &'lane [u8],
    counters: &'lane Counters,
}

type Response<'py> = Option<Bound<'py, PyBytes>>;

impl<'py> Answer<'py, '_> {
    /// Lets the kernels decrypt a token, or else Python.
    fn token(&self, body: &[u8], bound: &BoundKeys) -> PyResult<Response<'py>> {
        let Some((request, now_ms)) = unless_it_panics(|| Some((json::read_request(body)?, now_ms()?))) else {
            return Ok(None);
        };
        for kernel in &bound.kernels {
            let Some(kernel) = kernel.get().kernel() else { continue };
            let response = unless_it_panics(|| {
                kernel.decrypt(request.token, request.domain, now_ms, |success| self.success(success))
            });
            if response.is_some() {
                self.counters.count_success(kernel.is_of_euid());
                return Ok(response);
            }
        }
        self.verdict_of_python(&request, now_ms, bound)
    }

    fn verdict_of_python(&self, request: &Request<'_>, now_ms: i64, bound: &BoundKeys) -> PyResult<Response<'py>> {
        if !json::is_plain(request.token) {
            return Ok(None);
        }
        let (Ok(token), Ok(domain)) = (from_utf8(request.token), request.domain.map(from_utf8).transpose()) else {
            return Ok(None);
        };
        let py = self.py;
        let domain = domain.map(|domain| PyString::new(py, domain));
        let verdict = bound.decrypt_to_json.call1(py, (PyString::new(py, token), domain, py.None(), now_ms))?;
        self.body(verdict.cast_bound::<PyBytes>(py)?.as_bytes(), &[]).map(Some)
    }

    /// Answers a bid request in which every token is good; `statuses` is the name of a header with their statuses.
    fn bid_request(
        &self,
        bound: &BoundKeys,
        statuses: &[u8],
        work: impl FnOnce(&BidRequests<'_>, i64) -> Option<Answered>,
    ) -> PyResult<Response<'py>> {
        let Some(all) = &bound.native_bid_requests else { return Ok(None) };
        let Some(answered) = unless_it_panics(|| work(&all.get().bid_requests(), now_ms()?)) else { return Ok(None) };
        let mut header = Vec::new();
        if !statuses.is_empty() && answered.entries > 0 {
            header.extend_from_slice(statuses);
            header.extend_from_slice(&[SUCCESS].repeat(answered.entries).join(&b','));
        }
        let response = self.body(&answered.body, &header)?;
        self.counters.count_bid_request(&answered);
        Ok(Some(response))
    }

    fn success(&self, success: &Success<'_>) -> Response<'py> {
        success.encode(|body_length, write_body| self.respond(body_length, &[], write_body).ok())
    }

    fn body(&self, body: &[u8], header: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        self.respond(body.len(), header, |out| put(out, body).map(drop))
    }

    /// `header` is one more header, with the end of the line before it.
    fn respond(
        &self,
        body_length: usize,
        header: &[u8],
        write_body: impl Fn(&mut [u8]) -> Option<()>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(body_length).as_bytes();
        let head = [self.start, digits, header, END_OF_HEAD];
        let length = head.iter().fold(body_length, |length, part| length.saturating_add(part.len()));
        PyBytes::new_with(self.py, length, |mut out| {
            for part in head {
                out = put(out, part).ok_or_else(no_room)?;
            }
            write_body(out).ok_or_else(no_room)
        })
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

fn no_room() -> PyErr {
    PyRuntimeError::new_err("length")
}

fn now_ms() -> Option<i64> {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}
