"""The words of the command line: those of other tools (`foreign`), and what a shell offers (`completion`)."""
