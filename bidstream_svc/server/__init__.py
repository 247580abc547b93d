"""Sockets: the data plane, the admin plane, and the process around them."""
