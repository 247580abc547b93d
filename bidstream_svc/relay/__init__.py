"""The relay: fetches keys once for a cluster, and answers the key endpoints of its sidecars from what it holds."""
