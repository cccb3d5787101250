"""The spider's arguments: everything that can be wrong before the first byte is found here.

A `Claim` checks arguments and settings and locks the output folder, and then checks the whole list; between the two
there may be a walk that makes it. Commands do so before the reactor starts, so that a mistake ends with one clear
sentence; in a foreign project the spider does it itself (`prepare`). A `Trial` is the same for a dry run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from scrapy.settings import BaseSettings, Settings

from bulkspider.auth.named import check_auth
from bulkspider.disk.folder import PRIVATE, Folder, UntouchedFolder
from bulkspider.dispatch.freshurl import load_hook
from bulkspider.dispatch.places import Limits
from bulkspider.entries.mistakes import is_address
from bulkspider.entries.urls import redact
from bulkspider.errors import UsageError
from bulkspider.failures import load_failures
from bulkspider.handover.command import Template
from bulkspider.handover.handing import Then
from bulkspider.handover.manifests import Bag, Form, check_name, form_of, prepare_folder
from bulkspider.hosts.identity import check_contact, user_agent
from bulkspider.hosts.profiles import Profiles
from bulkspider.lists.check import SKIP_OPTION
from bulkspider.lists.formats.choose import ARGUMENTS as READING
from bulkspider.lists.formats.choose import Reading
from bulkspider.lists.formats.lines import is_url, rows_of
from bulkspider.lists.shards import Shard
from bulkspider.lists.source import ListSource, Source, check_list, folder_name
from bulkspider.options import Options, has_scheme, nearest
from bulkspider.sums.checksums import Sums, SumsFile, sums_file
from bulkspider.walk.record import NAME as WALKED
from bulkspider.walk.record import Record, Walked
from bulkspider.walk.start import Plan, parse_plan

logger = logging.getLogger(__name__)

# What says which entries of a list are meant: a queue was told that when the list was pushed.
LIST_OPTIONS = ("skip", "bad_lines", "match", "limit", *READING)
# What says which files an index has.
WALK_OPTIONS = ("accept", "reject", "depth")
OF_A_LIST = ("list", *LIST_OPTIONS, "shard", "shard_by", "verify", "failed", "status", "recurse", *WALK_OPTIONS)
ARGUMENTS = (
    *("list", "output", *LIST_OPTIONS, "recurse", *WALK_OPTIONS),
    *(
        "sums",
        "sums_sig",
        "keyring",
        "verify",
        "failed",
        "status",
        "then",
        "then_moves",
        "manifest",
        "report",
        "shard",
        "shard_by",
        "queue",
        "job",
        "contact",
    ),
)


@dataclass(frozen=True, slots=True)
class Given:
    """What only the caller can say: what stands in the place of a list, and how the folder is used.

    urls: of a command line. rows: of JSON Lines, an entry each; read once. shares: other runs like this one may use the
    same output folder at the same time. every_row: the run has a row for every entry, also for those that an earlier
    one has done. skip_option: how the command that is used asks for skip=0.
    """

    urls: tuple[str, ...] = ()
    rows: Iterable[bytes] | None = None
    shares: bool = False
    every_row: bool = False
    skip_option: str = SKIP_OPTION


@dataclass(frozen=True, slots=True)
class Prepared:
    """Entries and a locked folder (for a dry run: an untouched one). list_path: the list, "" with a queue.
    remote_sums: a checksum file that is to be fetched first. report: the page to write, an absolute path. writer: as
    whom the run writes in a folder that it shares, None when it has it to itself. walked: what the list was made from,
    None when the user gave one. every_row: as in Given. manifest: to be kept of the folder, None for none. then: what
    every proven file is handed to.
    """

    folder: Folder
    source: Source
    list_path: str
    sums: Sums | None = None
    remote_sums: SumsFile | None = None
    verify: bool = False
    report: str | None = None
    writer: str | None = None
    walked: Walked | None = None
    every_row: bool = False
    manifest: Form | None = None
    then: Then | None = None

    @property
    def needs_sha256(self) -> bool:
        """Every file is to be hashed."""
        return self.manifest is not None or (self.then is not None and self.then.template.needs_sha256)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the arguments say. plan: of the walk that makes the list, None if there is one. check: checks the list at a
    path, and copies it into a folder, as whose copy (None: the only one)."""

    list_path: str
    root: str
    plan: Plan | None
    check: Callable[[str, str | os.PathLike[str] | int, str | None], ListSource]
    bad_lines: str
    sums: Sums | None
    remote_sums: SumsFile | None
    verify: bool
    report: str | None
    shard: Shard | None
    manifest: Form | None
    then: Then | None


class Claim:
    """The output folder, locked, and a list that is on its way into it. `prepare` or `give_up` ends it.

    plan: of the walk that makes the list first; None when there is one. whole: of such a walk no page may be missing.
    """

    def __init__(
        self,
        arguments: Mapping[str, str],
        settings: Mapping[str, Any],
        given: Given = Given(),
        own: tuple[str, ...] = (),
    ) -> None:
        """Raises UsageError, ListError or DiskError, each of which says what to do; nothing is left open then. own:
        arguments of a subclass of the spider."""
        wanted = self._wanted = _read(arguments, settings, given, own)
        self.plan = wanted.plan
        self.whole = wanted.bad_lines == "stop"
        self._every_row = given.every_row
        self._alone = wanted.shard is None and not given.shares
        self._writer: str | None = None
        self._made = _missing(wanted.root)
        self._folder = Folder(wanted.root)
        try:
            if wanted.shard is not None:
                self._writer = wanted.shard.writer
                self._folder.lock_shard(self._writer)
            elif given.shares:
                self._writer = self._folder.lock_as_one_of_many("fetch")
            else:
                self._folder.lock(exclusive=True)
        except BaseException:
            self.give_up()
            raise

    def record(self) -> Record:
        """What a walk writes its list with."""
        return Record(self._folder.private_fd, str(self._folder.private))

    def prepare(self, walked: Walked | None = None) -> Prepared:
        """Checks the list, or what a walk has made. Raises as the constructor does."""
        wanted, folder = self._wanted, self._folder
        path = wanted.list_path if walked is None else walked.list_path
        try:
            source = wanted.check(path, folder.private_fd, self._writer)
            if wanted.manifest is not None:
                prepare_folder(wanted.manifest, folder)
        except BaseException:
            self.give_up()
            raise
        return Prepared(
            folder,
            source,
            path,
            wanted.sums,
            wanted.remote_sums,
            verify=wanted.verify,
            report=wanted.report,
            writer=self._writer,
            walked=walked,
            every_row=self._every_row,
            manifest=wanted.manifest,
            then=wanted.then,
        )

    def give_up(self) -> None:
        """Nothing is begun: a bad list leaves no trace."""
        self._folder.close()
        # Beside a run that shares the folder, others may have begun already.
        if self._made and self._alone:
            shutil.rmtree(self._folder.private, ignore_errors=True)
            with contextlib.suppress(OSError):
                for path in self._made:
                    os.rmdir(path)


class Trial:
    """The same for a dry run, which neither makes nor locks anything: the list's copy lives on without a name."""

    def __init__(self, arguments: Mapping[str, str], settings: Mapping[str, Any], given: Given = Given()) -> None:
        """Raises UsageError or ListError."""
        if "queue" in arguments or "job" in arguments:
            raise UsageError("a dry run is for lists; `scrapy bulkqueue status` shows a queue")
        wanted = self._wanted = _read(arguments, settings, given)
        if wanted.verify:
            raise UsageError("a dry run asks the servers, verify asks nobody; choose one of the two")
        self.plan = wanted.plan
        self.whole = wanted.bad_lines == "stop"
        self._folder = tempfile.TemporaryDirectory(prefix="bulkspider.")
        self._fd = os.open(self._folder.name, os.O_RDONLY | os.O_DIRECTORY)

    def record(self) -> Record:
        return Record(self._fd, self._folder.name)

    def prepare(self, walked: Walked | None = None) -> Prepared:
        wanted = self._wanted
        path = wanted.list_path if walked is None else walked.list_path
        try:
            source = wanted.check(path, self._fd, None)
        finally:
            self.give_up()
        folder = UntouchedFolder(wanted.root)
        if wanted.then is not None:
            folder.stage_max = wanted.then.stage_max
        return Prepared(folder, source, wanted.list_path, wanted.sums, wanted.remote_sums, walked=walked)

    def give_up(self) -> None:
        os.close(self._fd)
        self._folder.cleanup()


def own_arguments(spider: type, base: type) -> tuple[str, ...]:
    """The arguments of a subclass of the spider `base`: what its `__init__` names, and its public attributes that are
    no methods. Ours come first: an argument of both is ours."""
    own: dict[str, None] = {}
    for cls in spider.__mro__:
        if cls is base:
            break
        attributes = {**vars(cls), **inspect.get_annotations(cls)}
        own.update(dict.fromkeys(name for name in attributes if _is_data(vars(cls).get(name)) and name[:1] != "_"))
        if "__init__" in vars(cls):
            named = inspect.signature(vars(cls)["__init__"]).parameters.values()
            kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
            own.update(dict.fromkeys(parameter.name for parameter in list(named)[1:] if parameter.kind in kinds))
    return tuple(name for name in own if name not in ARGUMENTS)


def _is_data(attribute: object) -> bool:
    return not callable(attribute) and not isinstance(attribute, (classmethod, staticmethod, property))


def prepare_given(
    source: Source, arguments: Mapping[str, str], settings: Mapping[str, Any], *, own: tuple[str, ...], folder: str
) -> Prepared:
    """For entries that a program gives: `source`. folder: where their files go unless `output` says otherwise. Raises
    UsageError or DiskError, and nothing is left open then."""
    _options(arguments, settings, own)
    if of_a_list := [name for name in (*OF_A_LIST, "queue", "job") if name in arguments]:
        raise UsageError(f"argument {of_a_list[0]}: of a list or a queue, and the entries come from entries=")
    report = _report(arguments.get("report"))
    sums, sums_url = _sums(arguments)
    output = Folder(_output(arguments) or os.path.join("output", folder))
    try:
        output.lock(exclusive=True)
    except BaseException:
        output.close()
        raise
    return Prepared(output, source, "", sums, sums_url, report=report)


def prepare(
    arguments: Mapping[str, str], settings: Mapping[str, Any], given: Given = Given(), *, own: tuple[str, ...] = ()
) -> Prepared:
    """For a crawl that cannot be preceded by a walk. Raises as `Claim` does. own: arguments of a subclass of the
    spider, which are its own business."""
    if "queue" in arguments or "job" in arguments:
        return _prepare_worker(arguments, _options(arguments, settings, own), given)
    if arguments.get("status", "0") != "0":
        raise UsageError("argument status: only `scrapy bulk LIST --status` can tell it")
    if arguments.get("recurse", "0") != "0" and arguments.get("verify", "0") == "0":
        raise UsageError("argument recurse: only `scrapy bulk URL --recurse` can walk an index before it fetches")
    return Claim(arguments, settings, given, own).prepare()


def _prepare_worker(arguments: Mapping[str, str], options: Options, given: Given) -> Prepared:
    """Asks Redis first: a worker of a job that nobody has pushed would end at once, as if all were done."""
    # Imported late: lists, and every other command of Scrapy, start sooner.
    from bulkspider.hosts.outage import STRANGER_PATIENCE_SECONDS
    from bulkspider.queue.address import VARIABLE, check_address, find_address
    from bulkspider.queue.job import Job
    from bulkspider.queue.worker import RedisQueue

    url, name = find_address(arguments.get("queue")), arguments.get("job")
    if not url:
        raise UsageError(f"job={name}: on which Redis? Say queue=redis://HOST/0, or set {VARIABLE} in the environment")
    if not name:
        raise UsageError(f"queue={redact(url)}: which job on it? Say job=NAME")
    check_address(url, name)
    if of_a_list := ["the URLs"] * bool(given.urls) + [f"argument {n}" for n in OF_A_LIST if n in arguments]:
        raise UsageError(
            f"{of_a_list[0]}: of a list, and the entries come from a queue; lists go to `scrapy bulkqueue push`"
        )
    output = _output(arguments)
    report = _report(arguments.get("report"))
    sums, remote_sums = _sums(arguments)
    manifest = _manifest(arguments, options)
    if isinstance(manifest, Bag):
        raise UsageError("argument manifest=bagit: what a bag holds is known before; it is for lists, not for a queue")
    then = _then(arguments, options)
    with Job(url, name) as job:
        left = job.wait_until_there(logger.warning)
    queue = RedisQueue(
        *(url, name),
        entries=left,
        lease=options.lease,
        delay=options.retry_delay_max,
        patience=options.origin_patience,
        stranger_patience=STRANGER_PATIENCE_SECONDS,
    )
    folder = Folder(output or os.path.join("output", name))
    try:
        folder.lock(exclusive=False)
    except BaseException:
        folder.close()
        raise
    return Prepared(
        *(folder, queue, "", sums, remote_sums), report=report, writer=queue.worker, manifest=manifest, then=then
    )


def introduce(settings: BaseSettings, contact: str | None) -> None:
    """Says to hosts who we are, and how to reach the user. A User-Agent that somebody chose stands as it is."""
    if settings.getpriority("USER_AGENT") == 0:
        settings.set("USER_AGENT", user_agent(), "spider")
    if contact is None:
        return
    if settings["USER_AGENT"] != user_agent():
        logger.warning("contact=%s: not sent, because USER_AGENT is your own; write it there", contact)
        return
    settings.set("USER_AGENT", user_agent(contact), settings.getpriority("USER_AGENT") or "spider")


def _missing(root: str) -> list[str]:
    """The folders that must be made for `root`, the innermost first."""
    path, missing = os.path.abspath(root), []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    return missing


def _options(arguments: Mapping[str, str], settings: Mapping[str, Any], own: tuple[str, ...] = ()) -> Options:
    # What begins with "_" is a runner's own business: Scrapyd's `_job`, for one.
    known = (*ARGUMENTS, *own)
    unknown = [
        f"unknown argument {name}{nearest(name, known)}" for name in arguments if name not in known and name[:1] != "_"
    ]
    if unknown:
        raise UsageError("\n".join([*unknown, f"known arguments: {', '.join(known)}"]))
    options = Options.from_settings(settings)
    Limits.of(settings if isinstance(settings, BaseSettings) else Settings(settings))
    check_auth(options)
    Profiles.load(options.hosts)
    if "contact" in arguments:
        check_contact(arguments["contact"])
    if options.fresh_url:
        load_hook(options.fresh_url)
    if options.metrics_port and importlib.util.find_spec("prometheus_client") is None:
        raise UsageError("BULK_METRICS_PORT needs the package prometheus-client: pip install 'bulkspider[metrics]'")
    return options


def _sums(arguments: Mapping[str, str]) -> tuple[Sums | None, SumsFile | None]:
    """A checksum file, or one that is to be fetched."""
    file = sums_file(*(arguments.get(name) for name in ("sums", "sums_sig", "keyring")))
    if file is None or file.is_remote:
        return None, file
    return file.read(), None


def _read(
    arguments: Mapping[str, str], settings: Mapping[str, Any], given: Given, own: tuple[str, ...] = ()
) -> _Wanted:
    options = _options(arguments, settings, own)
    path = "the command line" if given.urls else "entries" if given.rows is not None else arguments.get("list")
    if not path:
        raise UsageError("which list? Say -a list=FILE (`name url` a line), for example -a list=input/tmp")
    options_of_list = list_options({name: arguments[name] for name in LIST_OPTIONS if name in arguments})
    if given.urls and (of_a_list := [name for name in READING if name in arguments]):
        raise UsageError(f"argument {of_a_list[0]}: it is for lists; leave it out with URLs")
    verify = _choice(arguments, "verify", "0", {"0": "downloads", "1": "re-reads the output instead"})
    failed = _choice(arguments, "failed", "0", {"0": "does all", "1": "does only what failed last time"}) == "1"
    shard = _shard(arguments)
    plan = _plan(path, arguments, shard)
    rows = rows_of(given.urls) if given.urls else given.rows
    if path != "-" and rows is None and plan is None and not os.path.exists(path):
        # Before the folder is made: a mistyped name leaves no trace.
        cure = "give the path of a file with a line `name url` for each file"
        if is_address(path):
            cure += f", or a URL with its scheme: https://{path.lstrip('/')}"
        raise UsageError(f"{redact(path)}: no such list; {cure}")
    report = _report(arguments.get("report"))
    sums, remote_sums = _sums(arguments)
    named = "urls" if given.urls else folder_name(path) if plan is None else plan.start.folder_name
    root = _output(arguments) or os.path.join("output", named)
    manifest = _manifest(arguments, options)
    if plan is not None and (verify == "1" or failed or arguments.get("status", "0") != "0"):
        # What the last walk has found.
        path, plan = os.path.join(root, PRIVATE, WALKED), None
        if not os.path.exists(path):
            raise UsageError(
                f"{root}: no walk has left a list there yet, and this would not walk; run it without first"
            )
    names = load_failures(root) if failed else None
    if names is not None and not names:
        raise UsageError(f"{root}: nothing failed there last time; leave out --failed (-a failed=1) to do what is left")
    check = partial(
        check_list,
        **options_of_list,
        names=names,
        order=options.order,
        shard=shard,
        root=root,
        rows=rows,
        skip_option=given.skip_option,
        check_name=check_name(manifest) if manifest is not None else None,
    )
    return _Wanted(
        *(path, root, plan, check, options_of_list["bad_lines"], sums, remote_sums),
        verify=verify == "1",
        report=report,
        shard=shard,
        manifest=manifest,
        then=_then(arguments, options),
    )


def _plan(path: str, arguments: Mapping[str, str], shard: Shard | None) -> Plan | None:
    """The walk that makes the list, if one is asked for. Raises UsageError."""
    wanted = _choice(arguments, "recurse", "0", {"0": "takes a list", "1": "walks the index below a URL"}) == "1"
    if wanted and not is_url(path):
        raise UsageError(f"{path}: recurse walks the index below a URL; give one, such as https://example.org/data/")
    if not wanted:
        if of_a_walk := [name for name in WALK_OPTIONS if name in arguments]:
            raise UsageError(f"argument {of_a_walk[0]}: it is for a walk; say --recurse (-a recurse=1)")
        if is_url(path):
            raise UsageError(f"{redact(path)}: a list is a file; --recurse (-a recurse=1) walks the index below a URL")
        return None
    if shard is not None:
        raise UsageError("argument shard: every shard would walk by itself; walk once, and give them its list")
    if of_a_list := [name for name in READING if name in arguments]:
        raise UsageError(f"argument {of_a_list[0]}: it is for lists; a walk names files by their path below its start")
    return parse_plan(path, arguments)


def _output(arguments: Mapping[str, str]) -> str | None:
    """The folder that was asked for. Raises UsageError for a service: a local folder `s3:` is not what was meant."""
    output = arguments.get("output")
    if output and has_scheme(output):
        raise UsageError(
            f"argument output={output}: files are written to a folder of this machine only; give its path, and copy "
            "them from there with a tool of that service"
        )
    return output


def _then(arguments: Mapping[str, str], options: Options) -> Then | None:
    moves = _choice(arguments, "then_moves", "0", {"0": "the file stays", "1": "the command takes the file away"})
    text = arguments.get("then") or options.then
    if not text:
        if moves == "1" or options.stage_max:
            what = "argument then_moves" if moves == "1" else "setting BULK_STAGE_MAX"
            raise UsageError(f"{what}: what takes the files away? Say --then COMMAND (-a then=COMMAND)")
        return None
    if options.stage_max and moves == "0":
        raise UsageError("setting BULK_STAGE_MAX: nothing takes the files away; say --then-moves (-a then_moves=1)")
    template = Template.parse(text)
    if template.needs_sha256 and options.digest == "off":
        raise UsageError("the command has {sha256}; leave out BULK_DIGEST=off")
    return Then(template, moves == "1", options.then_at_once, options.stage_max)


def _manifest(arguments: Mapping[str, str], options: Options) -> Form | None:
    form = form_of(arguments["manifest"]) if "manifest" in arguments else None
    if form is not None and options.digest == "off":
        raise UsageError("argument manifest: it is made of hashes; leave out BULK_DIGEST=off")
    return form


def _report(path: str | None) -> str | None:
    """Checked now: after a day of downloads it is too late to say that there is no such folder."""
    if not path:
        return None
    if not path.lower().endswith((".html", ".htm")):
        raise UsageError(f"argument report={path}: it is an HTML page, say report=NAME.html; rows are -O report.jsonl")
    path = os.path.abspath(path)
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise UsageError(f"argument report={path}: there is no folder {folder}; make it, or choose another")
    if os.path.isdir(path) or not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"argument report={path}: it cannot be written; choose another place")
    return path


def list_options(arguments: Mapping[str, str]) -> dict[str, Any]:
    """What `check_list` is to be told of LIST_OPTIONS. Raises UsageError."""
    if unknown := [name for name in arguments if name not in LIST_OPTIONS]:
        raise UsageError(f"unknown argument {unknown[0]}{nearest(unknown[0], LIST_OPTIONS)}")
    skip = _choice(arguments, "skip", "1", {"0": "reads the first line too", "1": "ignores it"})
    bad_lines = _choice(arguments, "bad_lines", "stop", {"stop": "ends before the first byte", "skip": "goes on"})
    limit = arguments.get("limit")
    if limit is not None and not limit.isdecimal():
        raise UsageError(f"argument limit={limit}: must be a number of entries")
    return {
        "skip": int(skip),
        "bad_lines": bad_lines,
        "match": arguments.get("match"),
        "limit": int(limit) if limit is not None else None,
        "reading": Reading.parse(arguments),
    }


def _shard(arguments: Mapping[str, str]) -> Shard | None:
    if "shard" in arguments:
        return Shard.parse(arguments["shard"], arguments.get("shard_by", "entry"))
    if "shard_by" in arguments:
        raise UsageError("argument shard_by: it divides the list among shards; say which one, for example shard=3/16")
    return None


def _choice(arguments: Mapping[str, str], name: str, default: str, allowed: Mapping[str, str]) -> str:
    value = arguments.get(name, default)
    if value not in allowed:
        meanings = ", ".join(f"{choice} {meaning}" for choice, meaning in allowed.items())
        raise UsageError(f"argument {name}={value}: {meanings}")
    return value
