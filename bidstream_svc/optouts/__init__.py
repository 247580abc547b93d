"""Opt-outs: the store of raw uids that are never answered, and how opt-outs get into it.

`optout_records` and `webhook` are pure. `optout_store` holds the ids in LMDB, `optout_reader` looks them up, and
`group_commit` adds those of the webhook. `stream_link` exchanges them with other hosts. `sender` and `sending` play the
programme's service against a receiver. docs/optouts.md describes what is guaranteed.
"""
