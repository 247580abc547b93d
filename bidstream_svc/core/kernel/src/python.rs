//! The Python module. Its description is in `_native.pyi`.

use std::thread;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::answer::Success;
use crate::optouts_python::PyOptOutFilter;
use crate::{Builder, Kernel, Rules, openrtb, unless_it_panics};

/// It has its kernel until it is dropped.
#[pyclass(name = "Kernel", module = "bidstream_svc.core.kernel._native", frozen)]
pub struct PyKernel(Option<Kernel>);

impl PyKernel {
    pub const fn kernel(&self) -> Option<&Kernel> {
        self.0.as_ref()
    }
}

impl Drop for PyKernel {
    /// Frees the kernel in a thread of its own. With thousands of keys that takes milliseconds, and the thread that
    /// gives up the last reference may be the one that serves.
    fn drop(&mut self) {
        let mut kernel = self.0.take();
        drop(kernel.as_mut().map(Kernel::take_optouts)); // its buffers are Python's, and this thread holds the GIL
        // Where no thread can be started, the closure is dropped here, and the kernel with it.
        drop(thread::Builder::new().stack_size(64 * 1024).spawn(move || drop(kernel)));
    }
}

/// (answer, number of verdicts in it, the rest as (gap in the answer, start and end in the body))
type PyBatchAnswer<'py> = (Bound<'py, PyBytes>, usize, Vec<(usize, usize, usize)>);

/// (`expires_ms`, `generated_ms`, site id, privacy bits, `established_ms`, raw uid)
pub type PyOpened<'py> = (i64, Option<i64>, u32, u32, i64, Bound<'py, PyString>);

#[pymethods]
impl PyKernel {
    fn answer<'py>(&self, py: Python<'py>, body: &[u8], now_ms: i64) -> Option<Bound<'py, PyBytes>> {
        let kernel = self.kernel()?;
        unless_it_panics(|| kernel.answer(body, now_ms, |success| encode(py, success)))
    }

    fn answer_batch<'py>(&self, py: Python<'py>, body: &[u8], now_ms: i64) -> Option<PyBatchAnswer<'py>> {
        let kernel = self.kernel()?;
        let answer = py.detach(|| unless_it_panics(|| kernel.answer_batch(body, now_ms)))?;
        let left = answer.left.into_iter().map(|left| (left.gap, left.request.start, left.request.end)).collect();
        Some((PyBytes::new(py, &answer.json), answer.answered, left))
    }

    fn decrypt<'py>(
        &self,
        py: Python<'py>,
        token: &Bound<'py, PyAny>,
        domain: &Bound<'py, PyAny>,
        now_ms: i64,
    ) -> Option<(Bound<'py, PyString>, i64)> {
        let kernel = self.kernel()?;
        let token = text(token)?;
        let domain = text(domain).map(str::as_bytes);
        unless_it_panics(|| kernel.decrypt(token.as_bytes(), domain, now_ms, |success| uid_and_time(py, success)))
    }

    fn open<'py>(&self, py: Python<'py>, token: &Bound<'py, PyAny>) -> Option<PyOpened<'py>> {
        let kernel = self.kernel()?;
        let token = text(token)?;
        unless_it_panics(|| {
            kernel.open(token.as_bytes(), |opened| {
                let generated_ms = (!opened.is_v2).then_some(opened.generated_ms);
                let (uid, established_ms) = uid_and_time(py, &opened.success)?;
                Some((opened.expires_ms, generated_ms, opened.site_id, opened.privacy_bits, established_ms, uid))
            })
        })
    }

    fn note_success(&self, token: &Bound<'_, PyAny>, domain: &Bound<'_, PyAny>, now_ms: i64) {
        if let (Some(kernel), Some(token), Some(domain)) = (self.kernel(), text(token), text(domain)) {
            unless_it_panics(|| {
                kernel.note_success(token.as_bytes(), domain.as_bytes(), now_ms);
                Some(())
            });
        }
    }

    fn note_name(&self, site_id: u32, name: &str) {
        if let Some(kernel) = self.kernel() {
            kernel.note_name(site_id, name.as_bytes());
        }
    }

    fn set_optouts(&self, optouts: &Bound<'_, PyOptOutFilter>) -> PyResult<()> {
        let is_set = self.kernel().and_then(|kernel| kernel.set_optouts(optouts.get().optouts()));
        is_set.ok_or_else(|| PyRuntimeError::new_err("the kernel has a filter of opt-outs"))
    }

    fn used_master_keys(&self) -> Vec<u32> {
        self.kernel().map(|kernel| kernel.used_master_keys().collect()).unwrap_or_default()
    }
}

fn uid_and_time<'py>(py: Python<'py>, success: &Success<'_>) -> Option<(Bound<'py, PyString>, i64)> {
    let uid = crate::with_buffer(success.uid.length(), |buffer| {
        success.uid.write(buffer);
        std::str::from_utf8(buffer).ok().map(|uid| PyString::new(py, uid))
    });
    Some((uid?, success.established_ms))
}

fn encode<'py>(py: Python<'py>, success: &Success<'_>) -> Option<Bound<'py, PyBytes>> {
    success.encode(|length, write| {
        PyBytes::new_with(py, length, |out| write(out).ok_or_else(|| PyRuntimeError::new_err("length"))).ok()
    })
}

/// None if it is not a string, or not one that is UTF-8.
fn text<'object>(object: &'object Bound<'_, PyAny>) -> Option<&'object str> {
    object.cast::<PyString>().ok()?.to_str().ok()
}

#[pyclass(name = "KernelBuilder", module = "bidstream_svc.core.kernel._native")]
struct PyBuilder(Option<Builder>);

#[pymethods]
impl PyBuilder {
    #[new]
    #[pyo3(signature = (*, scope_bit, checks_domains, max_lifetime_ms, clock_skew_ms, last_expiry_ms))]
    fn new(
        scope_bit: u8,
        checks_domains: bool,
        max_lifetime_ms: Option<i128>,
        clock_skew_ms: i128,
        last_expiry_ms: i128,
    ) -> Self {
        Self(Some(Builder::new(Rules { scope_bit, checks_domains, max_lifetime_ms, clock_skew_ms, last_expiry_ms })))
    }

    fn add_keys(&mut self, keys: Vec<(i64, Bound<'_, PyBytes>)>) -> PyResult<()> {
        let builder = self.get()?;
        keys.into_iter()
            .try_for_each(|(id, secret)| builder.add_key(id, secret.as_bytes()))
            .ok_or_else(|| PyValueError::new_err("AES key is not 16, 24 or 32 bytes long"))
    }

    #[allow(clippy::needless_pass_by_value)] // a list cannot be borrowed
    fn add_sites(&mut self, py: Python<'_>, sites: Vec<(i64, Bound<'_, PyBytes>)>) -> PyResult<()> {
        let builder = self.get()?;
        let sites: Vec<_> = sites.iter().map(|(id, raw_names)| (*id, raw_names.as_bytes())).collect();
        // A site may have any number of names.
        py.detach(|| sites.into_iter().for_each(|(id, raw_names)| builder.add_site(id, raw_names)));
        Ok(())
    }

    fn build(&mut self, py: Python<'_>) -> PyResult<PyKernel> {
        self.get()?;
        let kernel = py.detach(|| self.0.take().map(Builder::build));
        kernel.map(|kernel| PyKernel(Some(kernel))).ok_or_else(is_built)
    }
}

impl PyBuilder {
    fn get(&mut self) -> PyResult<&mut Builder> {
        self.0.as_mut().ok_or_else(is_built)
    }
}

fn is_built() -> PyErr {
    PyRuntimeError::new_err("the kernel is built")
}

#[pyfunction]
fn is_usual_text(json: &[u8], max_depth: u32) -> bool {
    unless_it_panics(|| openrtb::is_usual_text(json, max_depth).then_some(())).is_some()
}

#[pyfunction]
fn count(text: &[u8], part: &[u8]) -> usize {
    openrtb::count(text, part)
}

#[pymodule]
mod _native {
    #[pymodule_export]
    use super::{PyBuilder, PyKernel, count, is_usual_text};
    #[pymodule_export]
    use crate::bid_python::PyBidRequests;
    #[pymodule_export]
    use crate::columns_python::decrypt_columns;
    #[pymodule_export]
    use crate::lane::PyLane;
    #[pymodule_export]
    use crate::optout_ids_python::PyOptOutRun;
    #[pymodule_export]
    use crate::optouts_python::PyOptOutFilter;
    #[pymodule_export]
    use crate::receiver::PyReceiver;
}
