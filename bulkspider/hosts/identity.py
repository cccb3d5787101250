"""Identity: our User-Agent. Some hosts serve only one that names a program and a contact (Wikimedia since June 2026,
Zenodo; RFC 9110 §10.1.5)."""

from __future__ import annotations

from importlib import metadata

from bulkspider import __version__
from bulkspider.errors import UsageError


def user_agent(contact: str | None = None) -> str:
    """`bulkspider/VERSION (+project URL; contact)`, each part only if there is one."""
    comment = [part for part in (_project_url(), contact) if part]
    return f"bulkspider/{__version__}" + (f" ({'; '.join(comment)})" if comment else "")


def check_contact(contact: str) -> str:
    """Raises UsageError for text that is neither a mail address nor a URL, or that would end the comment in the
    User-Agent."""
    is_one = "@" in contact.strip("@") or contact.startswith(("http://", "https://"))
    if not is_one or not contact.isascii() or not contact.isprintable() or set(contact) & set(' ()\\;"'):
        raise UsageError(f"argument contact={contact}: say how a host's owner reaches you, by mail or a URL")
    return contact


def _project_url() -> str | None:
    """The project's URL in the metadata of the installed package; None when it has none."""
    try:
        urls = metadata.metadata("bulkspider").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        return None
    return next((f"+{url.partition(',')[2].strip()}" for url in urls), None)
