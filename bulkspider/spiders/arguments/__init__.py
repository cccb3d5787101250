"""The spider's arguments: everything that can be wrong before the first byte is found here.

`reading` judges what they say, `prepare` checks the list and locks the output folder, `subclass` tells which arguments
are not ours.
"""
