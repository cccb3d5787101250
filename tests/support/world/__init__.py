"""A simulator of worlds: the engine runs on a clock, hosts and a disk that exist in memory only.

A world is drawn from a seed (`plans`): a few hosts that restart, fall silent, throttle, drip, lie about ranges or let
links expire; a list of a few dozen entries; a disk that may fill; stops and kills, after which the same list is run
again. `engine` runs it: Dispatcher, Fetcher, Slots, Segments, Origins, Stopping and the plan of resume are the real
ones, one event after the other in one thread; `transfers` asks the `hosts` in the place of sockets, and counts bytes
instead of moving them. `rules` says what must hold whatever happens.

    PYTHONPATH=tests python -m support.world 1234          replays the world of a seed and tells what happened
    PYTHONPATH=tests python -m support.world 0-2000        runs many; a failing one is shrunk and printed
"""
