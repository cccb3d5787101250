"""The output folder: `opening` is how every file in it is opened, `locks` which process may write there, `folder` how
its names are resolved; `untouched` is the folder of a run that only looks.
"""
