"""The files of one entry: `entryfiles` knows their names, `partfile` is the open part, `changes` notices what other
programs do to it, `space` reserves room and finds holes, `filesystem` says what kind of disk it is; `statefile` is the
state beside the part, and `checkpoints` decides when it is written and when the bytes are made durable.
"""
