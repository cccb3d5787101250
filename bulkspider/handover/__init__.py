"""What is done with files that are proven: manifests of them, and the command that each is handed to.

It asks the ledger, which alone knows what is proven, and writes back to it what was handed on. Nothing here fetches.
"""
