"""The HTTP server: the data plane, the admin plane, and the processes that run them."""
