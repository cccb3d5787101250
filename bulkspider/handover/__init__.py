"""Handover: what is done with proven files: manifests, and the command of `--then`.

`handing` gives each file to the command, `command` runs it, `stage` limits the bytes in the folder, `manifests` makes
lists of files with their hashes, which `writing` does now and then during a run. The ledger says which files are proven
and handed on.
"""
