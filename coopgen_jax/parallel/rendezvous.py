"""The processes of a job find each other before JAX does.

JAX's own start ends every process that has waited too long, without a word about who was missing.
Here process 0 calls the roll on the port that JAX is going to use, and names who did not answer.
"""

import socket
import time
from contextlib import ExitStack, suppress

from coopgen_jax.errors import UserError

HELLO, GO = "coopgen", b"go\n"
# Seconds that an answer may come after the time for waiting is over.
GRACE = 5.0


def meet(coordinator: str, count: int, number: int, *, patience: float) -> None:
    """Returns once all processes are there; the others are waited for `patience` seconds.

    Raises:
      UserError: somebody did not come, two came as the same one, or the address cannot be used.
    """
    host, port = _address(coordinator)
    deadline = time.monotonic() + patience
    try:
        socket.getaddrinfo(host, port)
    except OSError as error:
        raise UserError(
            f"the coordinator's name {host!r} leads nowhere ({error.strerror})"
        ) from error
    if number == 0:
        _call_the_roll(port, count, deadline, patience)
    else:
        _answer(host, port, count, number, deadline, patience)


def _address(coordinator: str) -> tuple[str, int]:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"the coordinator {coordinator!r} must be HOST:PORT, such as 10.0.0.1:8476")
    return host.strip("[]"), int(port)


def _call_the_roll(port: int, count: int, deadline: float, patience: float) -> None:
    with ExitStack() as stack:
        try:
            server = stack.enter_context(socket.create_server(("", port)))
        except OSError as error:
            raise UserError(
                f"port {port} cannot be used ({error.strerror or error}): choose another one"
            ) from error
        there: dict[int, socket.socket] = {}
        while missing := [number for number in range(1, count) if number not in there]:
            server.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                peer = stack.enter_context(server.accept()[0])
            except TimeoutError as error:
                names = ", ".join(map(str, missing))
                sentence = f"process {names} of {count} did not come within {patience:g} s"
                for peer in there.values():
                    _send(peer, f"{sentence}\n".encode())
                raise UserError(
                    f"{sentence}: start all of them with the same coordinator and count"
                ) from error
            peer.settimeout(5.0)
            number = _roll_entry(peer, count)
            if number is not None and number not in there:
                there[number] = peer
            elif number is not None:
                _send(peer, f"process {number} has been started twice\n".encode())
        for peer in there.values():
            _send(peer, GO)
            # Whoever hangs up first keeps the port busy for a while: let it be the others.
            _receive(peer)


def _roll_entry(peer: socket.socket, count: int) -> int | None:
    """Returns the number that a process gives, None where it is none of this job's."""
    words = _receive(peer).split()
    if len(words) != 3 or words[0] != HELLO or not (words[1] + words[2]).isdecimal():
        return None
    number, counted = int(words[1]), int(words[2])
    if counted != count or not 0 < number < count:
        _send(peer, f"process 0 counts {count} processes, not {counted}\n".encode())
        return None
    return number


def _answer(
    host: str, port: int, count: int, number: int, deadline: float, patience: float
) -> None:
    said = ""
    while not said and time.monotonic() < deadline:
        try:
            with socket.create_connection((host, port), timeout=5.0) as peer:
                _send(peer, f"{HELLO} {number} {count}\n".encode())
                # Process 0 is there now: within its own patience it says go, or who is missing.
                peer.settimeout(patience + GRACE)
                said = _receive(peer)
        except OSError:
            pass
        if not said:
            time.sleep(0.2)
    if not said:
        raise UserError(
            f"process 0 did not answer at {host}:{port} within {patience:g} s: see whether it runs "
            "and whether the port can be reached from here"
        )
    if said.encode() != GO:
        raise UserError(f"{said.strip()}: start each process once, with the same count")


def _send(peer: socket.socket, line: bytes) -> None:
    with suppress(OSError):  # gone, which is found out soon enough
        peer.sendall(line)


def _receive(peer: socket.socket) -> str:
    """Returns one line, "" where none comes."""
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < 65536 and (more := peer.recv(4096)):
            line += more
    except OSError:
        return ""
    return line.decode("ascii", errors="replace")
