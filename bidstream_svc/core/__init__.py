"""Pure functions and data: no clock, no I/O, no event loop, no logging."""
