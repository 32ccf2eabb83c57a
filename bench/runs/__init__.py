"""The folder of a run: ledger, shard files, resume, processes, manifest."""
