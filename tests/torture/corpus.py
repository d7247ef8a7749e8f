"""The RFC 4475 torture messages: which files there are, what the parser owes each, and their raw octets.

The messages lie in a sibling folder of the checkout, not in it; without them `raw` skips the test. What the
*stack* owes a message that parses (405, 415, 416, 420, 406, 501 …) is not listed here: see `Case.what`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
FOLDER = SHARED / "rfc4475"

Outcome = Literal["request", "response", "malformed"]


@dataclass(frozen=True, slots=True)
class Case:
    """One message: `status` is the answer the parser names for a malformed one (0: drop in silence)."""

    file: str
    section: str
    outcome: Outcome
    what: str
    status: int = 0

    def raw(self) -> bytes:
        """The message's octets; skips the running test when the corpus is not there."""
        path = FOLDER / self.file
        if not path.exists():
            pytest.skip("RFC 4475 corpus is not beside the checkout")
        return path.read_bytes()


def _request(file: str, section: str, what: str) -> Case:
    return Case(file, section, "request", what)


def _response(file: str, section: str, what: str) -> Case:
    return Case(file, section, "response", what)


def _malformed(file: str, section: str, what: str, status: int = 400) -> Case:
    return Case(file, section, "malformed", what, status)


CASES = (
    _request("wsinv.dat", "3.1.1.1", "a short tortuous INVITE"),
    _request("intmeth.dat", "3.1.1.2", "wide range of valid characters; 501 or 405"),
    _request("esc01.dat", "3.1.1.3", "valid % escaping"),
    _request("escnull.dat", "3.1.1.4", "escaped nulls in URIs"),
    _request("esc02.dat", "3.1.1.5", "% that is no escape; 501 or 405"),
    _request("lwsdisp.dat", "3.1.1.6", "no white space between display name and <"),
    _request("longreq.dat", "3.1.1.7", "long values"),
    _request("dblreq.dat", "3.1.1.8", "octets after the body: the second message is ignored"),
    _request("semiuri.dat", "3.1.1.9", "semicolon in the user part"),
    _request("transports.dat", "3.1.1.10", "unknown transports in Via"),
    _request("mpart01.dat", "3.1.1.11", "multipart body; 200 or 415"),
    _response("unreason.dat", "3.1.1.12", "UTF-8 reason phrase"),
    _response("noreason.dat", "3.1.1.13", "empty reason phrase"),
    _malformed("badinv01.dat", "3.1.2.1", "stray separators"),
    _malformed("clerr.dat", "3.1.2.2", "Content-Length larger than the message"),
    _malformed("ncl.dat", "3.1.2.3", "negative Content-Length"),
    _malformed("scalar02.dat", "3.1.2.4", "overlarge numbers in a request"),
    _malformed("scalarlg.dat", "3.1.2.5", "overlarge numbers in a response", 0),
    _malformed("quotbal.dat", "3.1.2.6", "unterminated quoted string"),
    _malformed("ltgtruri.dat", "3.1.2.7", "<> around the Request-URI"),
    _malformed("lwsruri.dat", "3.1.2.8", "white space in the Request-URI"),
    _malformed("lwsstart.dat", "3.1.2.9", "several spaces in the request line"),
    _malformed("trws.dat", "3.1.2.10", "space at the end of the request line"),
    _malformed("escruri.dat", "3.1.2.11", "headers in the Request-URI"),
    _malformed("baddate.dat", "3.1.2.12", "Date with a zone other than GMT"),
    _malformed("regbadct.dat", "3.1.2.13", "URI with ? outside <>"),
    _malformed("badaspec.dat", "3.1.2.14", "spaces inside <>"),
    _malformed("baddn.dat", "3.1.2.15", "comma in an unquoted display name"),
    _malformed("baddn-archive.dat", "3.1.2.15", "the same as the RFC's archive has it: no blank line"),
    _malformed("badvers.dat", "3.1.2.16", "unknown version", 505),
    _malformed("mismatch01.dat", "3.1.2.17", "CSeq method differs"),
    _malformed("mismatch02.dat", "3.1.2.18", "CSeq method differs, method unknown"),
    _malformed("bigcode.dat", "3.1.2.19", "status code past 32 bits", 0),
    _request("badbranch.dat", "3.2.1", "branch of the bare cookie: RFC 2543 matching"),
    _malformed("insuf.dat", "3.3.1", "no Call-ID, From or To"),
    _request("unkscm.dat", "3.3.2", "unknown scheme; 416"),
    _request("novelsc.dat", "3.3.3", "known scheme, not SIP; 416"),
    _request("unksm2.dat", "3.3.4", "unknown schemes in headers; 400 from a registrar"),
    _request("bext01.dat", "3.3.5", "unknown option tags; 420"),
    _request("invut.dat", "3.3.6", "unknown Content-Type; 415"),
    _request("regaut01.dat", "3.3.7", "unknown Authorization scheme; 401"),
    _malformed("multi01.dat", "3.3.8", "single-value headers repeated"),
    _malformed("mcl01.dat", "3.3.9", "two Content-Lengths"),
    _response("bcast.dat", "3.3.10", "top Via is a broadcast address: not ours"),
    _request("zeromf.dat", "3.3.11", "Max-Forwards of zero: 200 from an endpoint"),
    _request("cparam01.dat", "3.3.12", "a Contact parameter"),
    _request("cparam02.dat", "3.3.13", "a URI parameter"),
    _request("regescrt.dat", "3.3.14", "an escaped header in a Contact URI"),
    _request("sdp01.dat", "3.3.15", "Accept we cannot meet; 406"),
    _request("inv2543.dat", "3.4.1", "RFC 2543 syntax"),
)
