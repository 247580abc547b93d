//! Columns in the Python module. Their description is in `_native.pyi`.

use std::str;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};

use crate::columns::{Columns, Layout, LeftRow, Malformed, OpenedRow, Scopes, Texts, Times, Validity, decrypt};
use crate::python::{PyKernel, PyOpened};
use crate::shared::ReadBytes;
use crate::{Kernel, unless_it_panics};

/// An array of texts, `TextBuffers` in Python.
#[derive(FromPyObject)]
pub struct PyTexts {
    validity: Option<ReadBytes>,
    offsets: ReadBytes,
    data: Option<ReadBytes>,
    first: usize,
    is_large: bool,
}

impl PyTexts {
    fn texts(&self) -> Texts<'_> {
        Texts {
            validity: Validity { bits: self.validity.as_ref().map(AsRef::as_ref), first: self.first },
            is_large: self.is_large,
            offsets: self.offsets.as_ref(),
            data: self.data.as_ref().map(AsRef::as_ref).unwrap_or_default(),
        }
    }
}

/// An array of numbers, `NumberBuffers` in Python.
#[derive(FromPyObject)]
pub struct PyNumbers {
    validity: Option<ReadBytes>,
    values: ReadBytes,
    first: usize,
}

/// A column, or the same number for all rows.
#[derive(FromPyObject)]
pub enum PyColumn {
    Same(i64),
    Each(PyNumbers),
}

impl PyColumn {
    fn times(&self) -> Times<'_> {
        match self {
            Self::Same(number) => Times::Same(*number),
            Self::Each(numbers) => {
                let bits = numbers.validity.as_ref().map(AsRef::as_ref);
                Times::Each(Validity { bits, first: numbers.first }, numbers.values.as_ref())
            }
        }
    }

    fn scopes(&self) -> Option<Scopes<'_>> {
        match self {
            Self::Same(number) => u8::try_from(*number).ok().map(Scopes::Same),
            Self::Each(numbers) => numbers.values.as_ref().get(numbers.first..).map(Scopes::Each),
        }
    }
}

/// (block, lengths of its parts, rows that are left although their tokens open, other rows that are left)
type PyVerdicts<'py> = (Bound<'py, PyBytes>, [usize; 5], Bound<'py, PyList>, Bound<'py, PyList>);

/// (row, place of the kernel, what the token contains, domain, time)
type PyOpenedRow<'py> = (usize, usize, PyOpened<'py>, Option<Bound<'py, PyString>>, i64);

/// (row, token, domain, programme, time)
type PyLeftRow<'py> = (usize, Option<Bound<'py, PyString>>, Option<Bound<'py, PyString>>, u8, i64);

fn opened_row<'py>(py: Python<'py>, opened: &OpenedRow<'_>) -> PyResult<PyOpenedRow<'py>> {
    let OpenedRow { expires_ms, generated_ms, site_id, privacy_bits, established_ms, uid, .. } = opened;
    let uid = PyString::new(py, uid);
    let fields = (*expires_ms, *generated_ms, *site_id, *privacy_bits, *established_ms, uid);
    Ok((opened.row, opened.kernel, fields, text(py, opened.domain)?, opened.at_ms))
}

fn left_row<'py>(py: Python<'py>, left: &LeftRow<'_>) -> PyResult<PyLeftRow<'py>> {
    Ok((left.row, text(py, left.token)?, text(py, left.domain)?, left.scope, left.at_ms))
}

/// Bytes that are not UTF-8 are no token and no name; they become a text that is neither.
fn text<'py>(py: Python<'py>, bytes: Option<&[u8]>) -> PyResult<Option<Bound<'py, PyString>>> {
    let to_text = |bytes| match str::from_utf8(bytes) {
        Ok(text) => Ok(PyString::new(py, text)),
        Err(_) => PyString::from_encoded_object(&PyBytes::new(py, bytes), Some(c"utf-8"), Some(c"surrogateescape")),
    };
    bytes.map(to_text).transpose()
}

#[pyfunction]
#[pyo3(signature = (kernels, count, *, tokens, domains, scopes, times, now_ms))]
#[allow(clippy::needless_pass_by_value)] // what Python gives is owned
#[allow(clippy::too_many_arguments)]
pub fn decrypt_columns(
    py: Python<'_>,
    kernels: Vec<Py<PyKernel>>,
    count: usize,
    tokens: PyTexts,
    domains: Option<PyTexts>,
    scopes: PyColumn,
    times: PyColumn,
    now_ms: i64,
) -> PyResult<PyVerdicts<'_>> {
    let columns = Columns {
        count,
        tokens: tokens.texts(),
        domains: domains.as_ref().map(PyTexts::texts),
        scopes: scopes.scopes().ok_or_else(malformed)?,
        times: times.times(),
    };
    let kernels: Vec<&Kernel> = kernels.iter().filter_map(|kernel| kernel.get().kernel()).collect();
    let layout = Layout::new(count).ok_or_else(|| PyValueError::new_err("too many rows"))?;
    let mut written = None;
    let block = PyBytes::new_with(py, layout.length(), |block| {
        let work = || unless_it_panics(|| Some(decrypt(&columns, &kernels, now_ms, &layout, block)));
        let done = py.detach(work).ok_or_else(|| PyRuntimeError::new_err("a fault of the kernel"))?;
        written = Some(done.map_err(|Malformed| malformed())?);
        Ok(())
    })?;
    let written = written.ok_or_else(|| PyRuntimeError::new_err("nothing is written"))?;
    let mut lengths = layout.lengths();
    if let Some(uids) = lengths.last_mut() {
        *uids = written.uid_bytes;
    }
    let opened = written.opened.iter().map(|opened| opened_row(py, opened)).collect::<PyResult<Vec<_>>>()?;
    let left = written.left.iter().map(|left| left_row(py, left)).collect::<PyResult<Vec<_>>>()?;
    Ok((block, lengths, PyList::new(py, opened)?, PyList::new(py, left)?))
}

fn malformed() -> PyErr {
    PyValueError::new_err("malformed columns")
}
