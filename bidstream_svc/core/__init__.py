"""The pure part: bytes, numbers and time in, a value out; no clock, no I/O, no event loop, no log."""
