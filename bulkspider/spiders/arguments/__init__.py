"""The spider's arguments: all mistakes that can be found before the first byte are found here.

`reading` checks the values, `prepare` checks the list and locks the output folder, `inputs` protects the files that the
run reads, `subclass` finds the arguments that a subclass defines.
"""
