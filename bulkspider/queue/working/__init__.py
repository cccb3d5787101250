"""What one worker needs of the queue: `link` is its connection to Redis, `lease` the right to work on an entry,
`claims` asks for entries, `connections` for further connections of a file, `outcomes` tells how entries ended.
"""
