//! The receiving end of a connection: it writes the responses of a lane, and leaves everything else to Python.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::lane::PyLane;

/// A connection that Python has opened, and the function that writes to it.
struct Open {
    connection: Py<PyAny>,
    write: Py<PyAny>,
}

impl Open {
    fn clone_ref(&self, py: Python<'_>) -> Self {
        Self { connection: self.connection.clone_ref(py), write: self.write.clone_ref(py) }
    }
}

#[pyclass(name = "Receiver", module = "bidstream_svc.core.kernel._native")]
pub struct PyReceiver {
    lane: Py<PyLane>,
    stores: Py<PyAny>,
    /// The garbage collector does not look into this object, so Python closes it.
    open: Option<Open>,
    is_ready: bool,
}

#[pymethods]
impl PyReceiver {
    #[new]
    const fn new(lane: Py<PyLane>, stores: Py<PyAny>) -> Self {
        Self { lane, stores, open: None, is_ready: true }
    }

    fn open(&mut self, connection: Py<PyAny>, write: Py<PyAny>) {
        self.open = Some(Open { connection, write });
    }

    fn close(&mut self) {
        self.open = None;
    }

    /// This object is not borrowed while Python runs, which may close it.
    fn receive(slf: &Bound<'_, Self>, data: &Bound<'_, PyBytes>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.borrow();
        let Some(Open { connection, write }) = this.open.as_ref().map(|open| open.clone_ref(py)) else { return Ok(()) };
        let asked = this.is_ready.then(|| (this.lane.clone_ref(py), this.stores.clone_ref(py)));
        drop(this);
        let mut found = None;
        if let Some((lane, stores)) = asked {
            let keys = stores.bind(py).getattr(intern!(py, "current"))?;
            // An error is a bug in the decryption. Python meets it again, logs it and answers 500.
            found = lane.borrow_mut(py).take(py, data.as_bytes(), &keys).unwrap_or(None);
        }
        if let Some(response) = found.as_ref().filter(|found| found.is_instance_of::<PyBytes>()) {
            connection.setattr(py, intern!(py, "quiet_sweeps"), 0)?;
            write.call1(py, (response,))?;
            return Ok(());
        }
        let is_ready = connection.call_method1(py, intern!(py, "receive"), (data, found))?.is_truthy(py)?;
        slf.borrow_mut().is_ready = is_ready;
        Ok(())
    }
}
