"""The engine's own error families.

A peer's breach (malformed SIP, a dead webhook, bad XML) never escapes as an exception of ours from the
layer that met it: it becomes a value or an event. The errors here are for what *we* or our operator did.
"""

from __future__ import annotations


class SwitchhookError(Exception):
    """Base of every error the command line shows as one plain sentence instead of a traceback."""


class ConfigError(SwitchhookError):
    """A setting is wrong: the text names the setting, the value and what to write instead."""


class AddressInUseError(ConfigError):
    """Another program has the address we were to listen on."""


class MediaError(SwitchhookError):
    """A media worker could not do what call control asked of it (no free port, worker gone)."""
