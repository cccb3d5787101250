"""The words of the command line: our options (`options`), those of other tools (`foreign`), and what a shell offers
(`completion`).
"""
