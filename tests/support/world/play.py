"""Plays worlds and says what broke; makes a failing one smaller."""

from __future__ import annotations

import gc
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from support.world.engine import Broken, World
from support.world.plans import WorldPlan, draw, smaller
from support.world.rules import check_world

SHRINKS_MAX = 400
# Worlds that are forgotten together.
COLLECT_EVERY = 20


def play(plan: WorldPlan) -> World:
    """Raises Broken, or what the engine raises."""
    world = World(plan)
    world.play()
    check_world(world)
    return world


def broken(plan: WorldPlan) -> str | None:
    """Which rule a world breaks, None for none. What the engine raises is a rule of its own."""
    try:
        play(plan)
    except Broken as found:
        return found.rule
    except Exception as error:
        return type(error).__name__
    return None


def shrink(plan: WorldPlan) -> WorldPlan:
    """The smallest plan found that breaks the same rule."""
    rule, tries = broken(plan), 0
    going_on = rule is not None
    while going_on:
        going_on = False
        for one in smaller(plan):
            tries += 1
            if tries > SHRINKS_MAX:
                return plan
            if broken(one) == rule:
                plan, going_on = one, True
                break
    return plan


def report(plan: WorldPlan) -> str:
    """What happened in it."""
    world = World(plan)
    try:
        world.play()
        check_world(world)
        said = "all rules hold"
    except Broken as error:
        said = f"BROKEN {error}"
    return "\n".join([*world.trace, said])


def show(seed: int) -> int:
    logging.disable(logging.CRITICAL)
    plan = draw(seed)
    print(plan)
    print(report(plan))
    return broken(plan) is not None


@contextmanager
def _collecting_seldom() -> Iterator[Callable[[], object]]:
    """Worlds are full of cycles: collecting them once for many costs a fifth less than Python's own way. What was there
    before, modules above all, is not looked at each time."""
    gc.collect()
    gc.disable()
    gc.freeze()
    try:
        yield gc.collect
    finally:
        gc.unfreeze()
        gc.enable()


def run_many(seeds: Iterable[int], *, shrinks: bool = False) -> int:
    """Every failing seed on a line. shrinks: the first of each rule is made smaller, and told at length."""
    logging.disable(logging.CRITICAL)
    found: Counter[str] = Counter()
    played = 0
    with _collecting_seldom() as collect:
        for seed in seeds:
            played += 1
            rule = broken(draw(seed))
            if played % COLLECT_EVERY == 0:
                collect()
            if rule is None:
                continue
            found[rule] += 1
            if shrinks and found[rule] == 1:
                plan = shrink(draw(seed))
                print(f"seed {seed} breaks: {rule}; the smallest world found:\n{plan}\n{report(plan)}\n", flush=True)
            else:
                print(f"seed {seed} breaks: {rule}", flush=True)
    print(f"{played} worlds, broken: {dict(found) or 'none'}")
    return bool(found)
