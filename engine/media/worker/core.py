"""The media tick: every leg that is due, treated at once as rows of a matrix.

Sans-IO apart from the `PacketIo` it is given: no clock, no event loop. `step` is called every 2 ms; a step takes
in whatever arrived on any leg and sends the 20 ms frame of the legs whose slot it is, a tenth of all. State is
one numpy array per quantity with a row per leg; only rare things (a key, a clip's end, RTCP) are Python per leg.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import numpy as np
from numpy.typing import NDArray

from engine.errors import MediaError
from engine.ids import Ids
from engine.media import protocol as p
from engine.media.worker import dtmf, g711, rtp, tones
from engine.media.worker.arena import Arena
from engine.media.worker.jitter import JitterBuffers
from engine.media.worker.playout import Players
from engine.media.worker.reception import Reception
from engine.media.worker.recorder import Recorder
from engine.media.worker.reports import Reporter
from engine.media.worker.sockets import BATCH, Batch, PacketIo, is_numeric

MAX_LEGS = 4096  # twice what one core can carry, so that the tick and not this number is the limit
SLOTS = 10
SLOT_SECONDS = 0.002
MAX_BATCHES = 8  # packets taken in one step are bounded, so that a flood delays nobody's frame
HOUSEKEEPING_STEPS = 50  # RTCP and timeouts are looked at every 100 ms
NO_PAYLOAD_TYPE = 255
FRAME_OCTETS = 2 * p.FRAME_SAMPLES  # of line PCM

Legs = NDArray[np.int64]


class MediaCore:
    """All legs of one worker. `handle` takes a command, `step` a moment; `events` collects what happened."""

    def __init__(self, io: PacketIo, ids: Ids, wall: Callable[[], float], capacity: int = MAX_LEGS) -> None:
        self.events: list[p.Event] = []
        self.packets_received = 0
        self.packets_sent = 0
        self._io = io
        self._ids = ids
        self._rows: dict[int, int] = {}  # call control's leg number → our row
        self._legs: dict[int, int] = {}
        self._free = list(range(capacity - 1, -1, -1))
        self._batch = Batch()
        self._slots: list[Legs] = [np.empty(0, np.int64) for _ in range(SLOTS)]
        self._steps = 0

        self.reception = Reception(capacity)
        self.jitter = JitterBuffers(capacity)
        self.players = Players(capacity, Arena())
        self.reports = Reporter(capacity, self.reception, io, ids, wall)
        self._recorders: dict[int, Recorder] = {}
        self._digits_in: dict[int, dtmf.DigitReceiver] = {}
        self._digits_out: dict[int, tuple[int, dtmf.DigitSender]] = {}

        self._sending = np.zeros(capacity, np.bool_)
        self._listening = np.zeros(capacity, np.bool_)
        self._keying = np.zeros(capacity, np.bool_)
        self._awaiting = np.zeros(capacity, np.bool_)  # to send, once we have heard from where
        self._payload_type = np.zeros(capacity, np.uint8)
        self._payload_type_in = np.full(capacity, NO_PAYLOAD_TYPE, np.uint8)
        self._event_type = np.full(capacity, NO_PAYLOAD_TYPE, np.uint8)
        self._event_type_in = np.full(capacity, NO_PAYLOAD_TYPE, np.uint8)
        self._law = np.zeros(capacity, np.uint8)
        self._marker = np.zeros(capacity, np.uint8)
        self._sequence = np.zeros(capacity, np.uint16)
        self._timestamp = np.zeros(capacity, np.uint32)
        self._ssrc = np.zeros(capacity, np.uint32)
        self._heard_at = np.zeros(capacity, np.float64)
        self._timeout = np.zeros(capacity, np.float64)
        self._out = np.zeros(capacity, rtp.FRAME)
        self._out["first"] = rtp.VERSION_2

    @property
    def leg_count(self) -> int:
        return len(self._rows)

    # --- commands --------------------------------------------------------------------------------------------

    def handle(self, command: p.Command, now: float) -> None:
        """Do what call control asks. A command for a leg that is gone is late, not wrong."""
        if isinstance(command, p.Open):
            self._open(command)
        elif isinstance(command, p.Shutdown):
            for leg in list(self._rows):
                self._close(leg, self._rows[leg])
        elif (row := self._rows.get(command.leg)) is not None:
            self._handle_leg(command, row, now)

    def _handle_leg(self, command: p.Command, row: int, now: float) -> None:
        match command:
            case p.Aim():
                self._aim(row, command, now)
            case p.Play():
                self._emit(self._end_digits(row) + self.players.start(row, command))
            case p.Extend():
                self._emit(self.players.extend(row, command.play, command.clips, command.last))
            case p.Stop():
                self._emit(self._end_digits(row, play=command.play) + self.players.stop(row, command.play))
            case p.SendDigits():
                self._send_digits(row, command)
            case p.Record():
                self._record(row, command.path)
            case p.StopRecord():
                self._stop_record(row)
            case p.Close():
                self._close(command.leg, row)

    def _open(self, command: p.Open) -> None:
        if not self._free:
            self.events.append(
                p.OpenFailed(command.leg, f"this worker already carries {len(self._rows)} legs")
            )
            return
        row = self._free.pop()
        try:
            port = self._io.open(row, command.host)
        except MediaError as error:
            self._free.append(row)
            self.events.append(p.OpenFailed(command.leg, str(error)))
            return
        self._rows[command.leg], self._legs[row] = row, command.leg
        self._reset(row)
        slot = min(range(SLOTS), key=lambda slot: len(self._slots[slot]))
        self._slots[slot] = np.append(self._slots[slot], row)
        self.events.append(p.Opened(command.leg, port))

    def _reset(self, row: int) -> None:
        self.reception.reset(row)
        self.jitter.reset(row)
        self._sending[row] = self._listening[row] = self._keying[row] = self._awaiting[row] = False
        self._marker[row] = rtp.MARKER
        # RFC 3550 §5.1: random starts, so that nobody can predict them
        self._sequence[row] = self._ids.number(15)
        self._timestamp[row] = self._ids.number(32)
        self._ssrc[row] = self._ids.number(32)
        self._event_type[row] = self._event_type_in[row] = self._payload_type_in[row] = NO_PAYLOAD_TYPE
        self._timeout[row] = 0
        self._digits_in[row] = dtmf.DigitReceiver()
        self.reports.open(row, int(self._ssrc[row]))

    def _aim(self, row: int, command: p.Aim, now: float) -> None:
        target = _address(command.host, command.port)
        rtcp = _address(command.rtcp_host, command.rtcp_port) if target else None
        self._io.aim(row, target, rtcp if rtcp and is_numeric(rtcp) else None)
        known = target is not None and (is_numeric(target) or self._io.source(row) is not None)
        self._awaiting[row] = command.send and target is not None and not known
        self._send_audio(row, command.send and known)
        self._payload_type[row] = command.payload_type
        self._payload_type_in[row] = command.receive_type
        self._law[row] = g711.A_LAW if command.codec == p.PCMA else g711.MU_LAW
        self._event_type[row] = _or_none(command.dtmf_payload_type)
        self._event_type_in[row] = _or_none(command.dtmf_receive_type)
        self._timeout[row] = command.timeout if command.receive else 0
        self._heard_at[row] = now

    def _send_audio(self, row: int, send: bool) -> None:
        if send and not self._sending[row]:
            self._marker[row] = rtp.MARKER  # RFC 3551 §4.1: sound begins again, after a hold for instance
        self._sending[row] = send

    def _send_digits(self, row: int, command: p.SendDigits) -> None:
        self._emit(self._end_digits(row) + self.players.stop(row))
        try:
            if self._event_type[row] == NO_PAYLOAD_TYPE:
                play = p.Play(command.leg, command.play, tones.clips(command.digits))
                self._emit(self.players.start(row, play))
            else:
                self._digits_out[row] = (command.play, dtmf.DigitSender(command.digits))
                self._keying[row] = True
        except ValueError as error:
            self.events.append(p.Trouble(command.leg, f"cannot send {command.digits!r}: {error}"))
            self.events.append(p.PlayDone(command.leg, command.play, False, 0))

    def _end_digits(self, row: int, *, play: int | None = None, completed: bool = False) -> list[p.Event]:
        sending = self._digits_out.get(row)
        if sending is None or play not in (None, sending[0]):
            return []
        del self._digits_out[row]
        self._keying[row] = False
        return [p.PlayDone(row, sending[0], completed, 0)]

    def _record(self, row: int, path: str) -> None:
        self._stop_record(row)
        try:
            self._recorders[row] = Recorder(path)
        except OSError as error:
            self.events.append(p.Trouble(self._legs[row], f"cannot record to {path}: {error.strerror}"))
            return
        self.jitter.reset(row)
        self._listening[row] = True

    def _stop_record(self, row: int) -> None:
        recorder = self._recorders.pop(row, None)
        self._listening[row] = False
        if recorder is None:
            return
        try:
            recorder.close()
        except OSError as error:
            self.events.append(p.Trouble(self._legs[row], f"the recording lost its end: {error.strerror}"))

    def _close(self, leg: int, row: int) -> None:
        self._stop_record(row)
        self._emit(self._end_digits(row) + self.players.stop(row))
        self.reports.close(row)
        self.events.append(p.Closed(leg, self.reports.quality(row, int(self.jitter.late[row]))))
        self._io.close(row)
        self._slots = [slot[slot != row] for slot in self._slots]
        del self._rows[leg], self._legs[row], self._digits_in[row]
        self._free.append(row)

    def _emit(self, events: list[p.Event]) -> None:
        """Events of the parts speak of rows; call control knows legs."""
        for event in events:
            match event:
                case p.PlayDone():
                    self.events.append(
                        p.PlayDone(self._legs[event.leg], event.play, event.completed, event.samples)
                    )
                case p.Trouble():
                    self.events.append(p.Trouble(self._legs[event.leg], event.text))
                case _:
                    self.events.append(event)

    # --- the step --------------------------------------------------------------------------------------------

    def step(self, now: float) -> None:
        """One slot of 2 ms: receive from all, transmit to those due, and now and then the housekeeping."""
        self._receive(now)
        self.reports.receive()
        due = self._slots[self._steps % SLOTS]
        if len(due):
            self._transmit(due)
            self._listen(due)
        self._steps += 1
        if self._steps % HOUSEKEEPING_STEPS == 0 and self._rows:
            self._keep_house(now)

    def skip(self, steps: int) -> None:
        """Let time pass without sending: the worker was stopped for so long that catching up would be a flood."""
        for slot, legs in enumerate(self._slots):
            turns = (self._steps + steps - 1 - slot) // SLOTS - (self._steps - 1 - slot) // SLOTS
            self._timestamp[legs] += np.uint32(turns * p.FRAME_SAMPLES)
        self._steps += steps

    def due_count(self) -> int:
        return len(self._slots[self._steps % SLOTS])

    def _receive(self, now: float) -> None:
        for _ in range(MAX_BATCHES):
            self._io.receive(self._batch)
            if self._batch.count:
                self._take(self._batch.count, now)
            for row, (host, port) in self._io.locked():
                self.events.append(p.SourceLocked(self._legs[row], host, port))
                if self._awaiting[row]:
                    self._awaiting[row] = False
                    self._send_audio(row, True)
                self.reports.source(row, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
            if self._batch.count < BATCH:
                return

    def _take(self, count: int, now: float) -> None:
        rows, legs = self._batch.rows[:count], self._batch.legs[:count]
        lengths = self._batch.lengths[:count]
        odd = np.flatnonzero((rows[:, 0] != rtp.VERSION_2) | ((rows[:, 1] & 0xE0) == rtp.RTCP_KINDS))
        if len(odd):
            keep = np.ones(count, np.bool_)
            keep[odd] = [self._straighten(row) for row in odd.tolist()]
            rows, legs, lengths = rows[keep], legs[keep], lengths[keep]
        header = rtp.headers(rows)
        kind = header["second"] & 0x7F
        agreed = kind == self._payload_type_in[legs]
        audio = agreed | (kind == p.PCMU) | (kind == p.PCMA)
        self.packets_received += len(legs)
        began = self.reception.count(
            legs,
            header["sequence"].astype(np.uint16),
            header["timestamp"].astype(np.uint32),
            header["ssrc"].astype(np.uint32),
            now,
            audio,
        )
        self.jitter.restart(legs[began & audio])
        self._heard_at[legs] = now
        for row in np.flatnonzero(kind == self._event_type_in[legs]).tolist():
            self._take_event(
                int(legs[row]), int(header["timestamp"][row]), rows[row, 12 : lengths[row]].tobytes()
            )
        heard = audio & self._listening[legs]
        if heard.any():
            law = np.where(agreed, self._law[legs], kind == p.PCMA).astype(np.uint8)
            self._hear(legs[heard], header[heard], law[heard], rows[heard], lengths[heard])

    def _straighten(self, row: int) -> bool:
        octets = self._batch.rows[row, : self._batch.lengths[row]]
        if not rtp.plausible(octets.data) or (plain := rtp.strip(octets.tobytes())) is None:
            self._io.dropped += 1
            return False
        self._batch.rows[row, : len(plain)] = np.frombuffer(plain, np.uint8)
        self._batch.lengths[row] = len(plain)
        return True

    def _take_event(self, row: int, timestamp: int, payload: bytes) -> None:
        digit = self._digits_in[row].take(timestamp, payload)
        if digit is not None:
            self.press(row, digit)

    def press(self, row: int, digit: str) -> None:
        self._emit(self.players.interrupted(row, digit))
        self.events.append(p.Digit(self._legs[row], digit))

    def _hear(
        self,
        legs: Legs,
        header: NDArray[np.void],
        law: NDArray[np.uint8],
        rows: NDArray[np.uint8],
        lengths: NDArray[np.int64],
    ) -> None:
        timestamp = header["timestamp"].astype(np.uint32)
        whole = lengths == rtp.FRAME.itemsize
        if whole.any():
            pcm = g711.decode_rows(rows[whole, rtp.HEADER_OCTETS : rtp.FRAME.itemsize], law[whole])
            self.jitter.put(legs[whole], timestamp[whole], pcm)
        for row in np.flatnonzero(~whole).tolist():
            pcm = g711.decode(rows[row, rtp.HEADER_OCTETS : lengths[row]], law[row])
            if len(pcm):
                self.jitter.put_samples(int(legs[row]), int(timestamp[row]), pcm)

    def _transmit(self, due: Legs) -> None:
        plain = due[self._sending[due] & ~self._keying[due]]
        if len(plain):
            packets = self._frames(plain)
            self._io.send(plain, packets)
            self._sequence[plain] += 1
            self._marker[plain] = 0
            self.reports.sent(plain, p.FRAME_SAMPLES)
            self.packets_sent += len(plain)
            playing = plain[self.players.frames_left[plain] > 0]
            if len(playing):
                self._emit(self.players.advance(playing))
        for row in due[self._keying[due] & self._sending[due]].tolist():
            self._transmit_digit(row)
        self._timestamp[due] += np.uint32(p.FRAME_SAMPLES)
        self.reports.clock(due, self._timestamp[due])

    def _frames(self, legs: Legs) -> NDArray[np.void]:
        packets = self._out[: len(legs)]
        packets["second"] = self._payload_type[legs] | self._marker[legs]
        packets["sequence"] = self._sequence[legs]
        packets["timestamp"] = self._timestamp[legs]
        packets["ssrc"] = self._ssrc[legs]
        law = self._law[legs]
        packets["payload"] = g711.SILENCE[law, None]
        playing = np.flatnonzero(self.players.frames_left[legs] > 0)
        if len(playing):
            packets["payload"][playing] = self.players.frames(legs[playing], law[playing])
        return packets

    def _transmit_digit(self, row: int) -> None:
        _, sender = self._digits_out[row]
        event, now = sender.next_packet(), int(self._timestamp[row])
        if event is None:
            kind, marker, timestamp = int(self._payload_type[row]), bool(self._marker[row]), now
            payload = bytes([int(g711.SILENCE[self._law[row]])]) * p.FRAME_SAMPLES
        else:
            # Every packet of an event has the timestamp of its start, even when a hold came between.
            sender.start = now if event.marker else sender.start
            kind, marker, timestamp, payload = (
                int(self._event_type[row]),
                event.marker,
                sender.start,
                event.payload,
            )
        ssrc, sequence = int(self._ssrc[row]), int(self._sequence[row])
        self._io.send_one(row, rtp.single(kind, marker, sequence, timestamp, ssrc, payload))
        self._sequence[row] = (sequence + 1) & 0xFFFF
        self._marker[row] = 0
        self.packets_sent += 1
        self.reports.sent(np.array([row]), len(payload))
        if sender.finished:
            self._emit(self._end_digits(row, completed=True))

    def _listen(self, due: Legs) -> None:
        listening = due[self._listening[due]]
        if not len(listening):
            return
        frames = self.jitter.pull(listening, self.reception.jitter[listening])
        octets = memoryview(frames.astype("<i2", copy=False).tobytes())
        for n, row in enumerate(listening.tolist()):
            try:
                self._recorders[row].append(octets[n * FRAME_OCTETS : (n + 1) * FRAME_OCTETS])
            except OSError as error:
                self.events.append(p.Trouble(self._legs[row], f"the recording stopped: {error.strerror}"))
                self._stop_record(row)

    def _keep_house(self, now: float) -> None:
        self.reports.send_due(now)
        rows = np.fromiter(self._legs, np.int64, len(self._legs))
        silent = rows[(self._timeout[rows] > 0) & (now - self._heard_at[rows] > self._timeout[rows])]
        for row in silent.tolist():
            self.events.append(p.MediaTimeout(self._legs[row], float(self._timeout[row])))
            self._timeout[row] = 0  # said once; the next offer/answer starts the watch again


def _address(host: str, port: int) -> tuple[str, int] | None:
    """Whom to talk with, or None for hold and for a port past the last, which would stop the tick."""
    try:
        nobody = ip_address(host).is_unspecified
    except ValueError:
        nobody = not host
    return None if nobody or not 0 < port <= 0xFFFF else (host, port)


def _or_none(payload_type: int | None) -> int:
    return NO_PAYLOAD_TYPE if payload_type is None else payload_type
