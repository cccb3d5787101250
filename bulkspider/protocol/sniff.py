"""What the first bytes of a file say about its name.

A server that has no file to give sometimes answers 200 with a login page, an error in XML or JSON, or one sentence, and
calls it application/octet-stream. Where the name says that the file is binary (`x.tar.gz`) and the bytes are such a
text, it is not the file. Bytes of any other kind are accepted: old tars, HDF5 with a user block and a png called .jpg
are good files, and a server may have decompressed what it sent. Pure.
"""

from __future__ import annotations

import enum
import re

from bulkspider.regex import regex

# The bytes from the beginning of a file that are looked at.
FIRST_BYTES = 4096
# An error in JSON or XML is shorter; a longer document is data.
ERROR_MAX_BYTES = 64 * 1024
# One short sentence, or two.
SENTENCE_MAX_BYTES = 400
SENTENCE_LINES_MAX = 3
# Of a sentence in Latin-1 no more than one letter of so many is not of ASCII.
LATIN_1_PART = 4


class Content(enum.Enum):
    """What a file holds, as far as its first bytes tell."""

    AS_NAMED = "as named"  # or nothing shows that it is not
    OTHER_TYPE = "other type"  # not what the name says, perhaps a good file all the same
    ANSWER = "answer"  # the text of an answer: a page, an error, a sentence


_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_GZIP = (b"\x1f\x8b",)
_BZIP2 = (b"BZh",)
_XZ = (b"\xfd7zXZ\x00",)
# A frame, or one of those that a decoder skips (RFC 8878 §3.1).
_ZSTD = (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + n]) + b"\x2a\x4d\x18" for n in range(16)))
_HDF5 = (b"\x89HDF\r\n\x1a\n",)
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_TAR_AT = 257

# Ending of a name -> how such files begin. Only types that are always binary: .bin, .dat and .img may hold anything.
_BEGINNINGS: dict[str, tuple[bytes, ...]] = {
    **dict.fromkeys(("gz", "tgz", "bgz", "bam"), _GZIP),
    **dict.fromkeys(("bz2", "tbz", "tbz2"), _BZIP2),
    **dict.fromkeys(("xz", "txz"), _XZ),
    **dict.fromkeys(("zst", "tzst"), _ZSTD),
    **dict.fromkeys(("zip", "jar", "whl", "npz", "docx", "xlsx", "pptx", "odt", "ods", "epub", "apk", "kmz"), _ZIP),
    **dict.fromkeys(("h5", "hdf5", "he5", "h5ad"), _HDF5),
    **dict.fromkeys(("nc", "nc4", "cdf"), (b"CDF\x01", b"CDF\x02", b"CDF\x05", *_HDF5)),
    **dict.fromkeys(("hdf", "hdf4", "h4"), (b"\x0e\x03\x13\x01", *_HDF5)),
    **dict.fromkeys(("tif", "tiff", "gtiff"), _TIFF),
    **dict.fromkeys(("jpg", "jpeg"), (b"\xff\xd8\xff",)),
    "lz4": (b"\x04\x22\x4d\x18",),
    "7z": (b"7z\xbc\xaf\x27\x1c",),
    "rar": (b"Rar!\x1a\x07",),
    "parquet": (b"PAR1", b"PARE"),
    "orc": (b"ORC",),
    "avro": (b"Obj\x01",),
    "arrow": (b"ARROW1",),
    "feather": (b"ARROW1", b"FEA1"),
    "cram": (b"CRAM",),
    "bcf": (*_GZIP, b"BCF"),
    "fits": (b"SIMPLE",),
    "bai": (b"BAI\x01",),
    "npy": (b"\x93NUMPY",),
    "png": (b"\x89PNG\r\n\x1a\n",),
    "gif": (b"GIF8",),
    "pdf": (b"%PDF",),
    "grib": (b"GRIB",),
    "grib2": (b"GRIB",),
    "grb": (b"GRIB",),
    "grb2": (b"GRIB",),
    "flac": (b"fLaC",),
    "gguf": (b"GGUF",),
    "sqlite": (b"SQLite format 3\x00",),
    "deb": (b"!<arch>",),
    "rpm": (b"\xed\xab\xee\xdb",),
    "cab": (b"MSCF",),
    "sra": (b"NCBI.sra",),
}
# Also binary, but without a fixed beginning.
_TAR = "tar"
_BINARY = frozenset(_BEGINNINGS) | {_TAR} | {"iso", "mp4", "mov", "m4a", "mkv", "webm", "mp3", "ogg", "safetensors"}

_HTML = regex(
    rb"(?:<\?xml[^>]*\?>\s*)?(?:<!--.*?-->\s*)*"
    rb"<(?:!doctype\s+html|html|head|body|title|meta|script|style|link|h[1-6]|p|div|span|center|table|form|pre)\b",
    re.IGNORECASE | re.DOTALL,
)
# The root of an error: <Error> of S3 and Azure, <ServiceExceptionReport> of OGC, <soap:Fault>, …
_XML_ERROR = regex(
    rb"(?:<\?xml[^>]*\?>\s*)?(?:<!--.*?-->\s*|<!DOCTYPE[^>]*>\s*|<\?[^>]*\?>\s*)*"
    rb"<(?:[\w.-]+:)?(?:\w*(?:error|exception|failure)\w*|fault|envelope|response|status|message)\b",
    re.IGNORECASE | re.DOTALL,
)
_JSON_ERROR = regex(
    rb'"(?:errors?|error[_ -]?\w+|messages?|msg|details?|fault\w*|exception\w*|reason|code|status\w*|success|title)"'
    rb"\s*:",
    re.IGNORECASE,
)
# A pointer file of Git LFS, which some servers send instead of the file (its specification, "The Pointer").
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_MARKS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
# Letters and signs of Latin-1 beside those of ASCII; a binary file so short has other bytes, too.
_LATIN_1 = regex(rb"[\t\r\n\x20-\x7e\xa0-\xff]*")
_WORDS = regex(r"[\w'\"(\[*¡¿-].*\w\W+\w.*")
_WORD = regex(r"[^\W\d_]{2,}[.!]?")


def says_binary(name: str) -> bool:
    """True when the end of the name is that of a type which is never text."""
    return _ending(name) in _BINARY


def look(name: str, first: bytes, size: int, *, pages: bool = False) -> Content:
    """What a file of `size` bytes that begins with `first` (its first FIRST_BYTES, or all of it) is, given its name.

    pages: a web page may be what is wanted, so it is of another type than the name says, and no answer.
    """
    ending = _ending(name)
    if ending not in _BINARY or not first or _begins_as(ending, first):
        return Content.AS_NAMED
    text = _in_utf8(first).lstrip()
    if _HTML.match(text):
        return Content.OTHER_TYPE if pages else Content.ANSWER
    if _is_answer(text, len(first), size):
        return Content.ANSWER
    # Types without a fixed beginning cannot be told from others.
    return Content.OTHER_TYPE if ending in _BEGINNINGS or ending == _TAR else Content.AS_NAMED


def _ending(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[2].lower() if "." in name else ""


def _in_utf8(first: bytes) -> bytes:
    """Without its byte order mark; text in UTF-16, as servers of some systems send it, is told by that mark."""
    for mark, charset in _MARKS.items():
        if first.startswith(mark):
            return first[len(mark) :].decode(charset, "replace").encode("utf-8", "replace")
    return first


def _begins_as(ending: str, first: bytes) -> bool:
    if ending == _TAR:
        return first[_TAR_AT : _TAR_AT + 5] == b"ustar"
    return first.startswith(_BEGINNINGS.get(ending, ()))


def _is_answer(text: bytes, looked_at: int, size: int) -> bool:
    """text: the beginning of the file, of which `looked_at` bytes were read."""
    if text.startswith(_LFS_POINTER):
        return True
    if size > ERROR_MAX_BYTES:
        return False
    if text.startswith(b"<"):
        return _XML_ERROR.match(text) is not None
    if text.startswith((b"{", b"[")):
        return _JSON_ERROR.search(text) is not None
    return size == looked_at and _is_sentence(text)


def _is_sentence(text: bytes) -> bool:
    """One to three lines of words, nothing else."""
    if len(text) > SENTENCE_MAX_BYTES:
        return False
    try:
        told = text.decode("utf-8")
    except UnicodeDecodeError:
        if _LATIN_1.fullmatch(text) is None or sum(byte > 0x7E for byte in text) * LATIN_1_PART > len(text):
            return False
        told = text.decode("latin-1").replace("\xa0", " ")
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    if not 1 <= len(lines) <= SENTENCE_LINES_MAX or not all(line.isprintable() for line in lines):
        return False
    if len(lines) == 1 and _WORD.fullmatch(lines[0]):
        return True
    return all(_WORDS.fullmatch(line) and _has_a_word(line) for line in lines)


def _has_a_word(line: str) -> bool:
    return any(_WORD.fullmatch(word.strip(".,:;!?\"'()[]")) for word in line.split())
