"""Leases of work among processes, on one machine or on many over a shared folder, by nothing but atomic files.

SQLite's locks, and the locks of files, cannot be trusted on network file systems; that one of two who create a file of one name fails
(O_EXCL), and that a rename happens whole, can (NFS from version 3 on, SMB).

* Each process has a file in ``beats/`` whose modification time it renews. Ages are differences of times that the shared file system
  itself gave, one of them to a file that was touched just now, so that the clocks of machines do not matter.
* A lease is a file ``leases/WORK.1`` with the name of its holder. Whoever finds the holder's beat older than the limit creates
  ``WORK.2``, which one alone can do: the highest number holds. A slow process finds it before it publishes (:meth:`Crew.holds`).
* Of a process on the same machine the system itself tells whether it lives, by a lock that ends with it: what it had begun is taken over
  at once.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from pipeline.atomic import unless_gone
from pipeline.errors import ConfigError

log = logging.getLogger(__name__)

LIMIT_VARIABLE, MACHINE_VARIABLE = "OCUSEG_LEASE_S", "OCUSEG_MACHINE"
"""Environment variables: seconds without a beat after which a process counts as dead; the name of this machine, where machines that are
not one have one boot id (clones)."""
_LIMIT_S, _ASK_AGAIN_S = 60.0, 0.05
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Crew:
    """This process among those that share ``folder``; a context manager whose thread keeps its leases alive.

    Raises
    ------
    OSError: the folder cannot be written. ConfigError: the limit in the environment is no number.
    """

    def __init__(self, folder: Path, *, limit_s: float | None = None, machine: str | None = None) -> None:
        self.me = uuid4().hex[:16]
        self._beats, self._leases = folder / "beats", folder / "leases"
        self._limit = _limit() if limit_s is None else limit_s
        self._machine = machine or this_machine()
        self._held: dict[str, int] = {}
        for path in (self._beats, self._leases):
            path.mkdir(parents=True, exist_ok=True)
        self._beat, self._open = self._beats / self.me, ExitStack()
        self._sign_on()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, name="ocuseg-beat", daemon=True)
        self._thread.start()

    def _sign_on(self) -> None:
        lock = FileLock(self._lock_of(self.me), thread_local=False)
        with suppress(OSError):  # a file system without locks: what ends is then known by its beat alone
            lock.acquire(blocking=False)
            self._open.callback(lock.release)
        self._beat.write_text(self._machine, encoding="utf-8")

    def take(self, work: str) -> bool:
        """Have the lease of ``work``, unless somebody else who lives has it."""
        if self.holds(work):
            return True
        number = 1
        while True:
            try:
                with self._lease(work, number).open("x", encoding="utf-8") as file:
                    file.write(self.me)
            except FileExistsError:
                if not self._lease(work, number + 1).exists() and self._is_held(self._lease(work, number)):
                    return False
                number += 1
                continue
            if number > 1:
                log.info("a block of files of a process that ended before its end is taken over")
            self._held[work] = number
            return True

    def holds(self, work: str) -> bool:
        """Whether the lease is still this process's: nobody took it over meanwhile."""
        number = self._held.get(work, 0)
        return number > 0 and self._lease(work, number).exists() and not self._lease(work, number + 1).exists()

    def give_back(self, work: str) -> None:
        number = self._held.pop(work, 0)
        for one in range(number, 0, -1):  # the highest first: an old one alone would be free to be taken over
            self._lease(work, one).unlink(missing_ok=True)

    @contextmanager
    def turn(self, work: str) -> Iterator[None]:
        """Wait for the lease of ``work``, and have it inside the block."""
        while not self.take(work):
            time.sleep(_ASK_AGAIN_S)
        try:
            yield
        finally:
            self.give_back(work)

    def living(self) -> list[str]:
        """Names of the processes that are at work now, this one among them; what is left of dead ones is removed."""
        names = {path.name.partition(".")[0] for path in self._beats.iterdir()}
        living = {name for name in names if name == self.me or self._lives(name)}
        for name in names - living:
            with unless_gone():
                if (self._beats / name).exists() or self._age(self._lock_of(name)) > self._limit:  # else it is just signing on
                    self._bury(name)
        return sorted(living)

    def clear_up(self) -> list[str]:
        """Remove leases of the dead; names of the living, as of :meth:`living`."""
        living = self.living()
        for lease in self._leases.iterdir():
            with unless_gone():
                if lease.read_text(encoding="utf-8") not in living:
                    lease.unlink()
        return living

    def _bury(self, name: str) -> None:
        for path in (self._beats / name, self._lock_of(name)):
            path.unlink(missing_ok=True)

    def _lease(self, work: str, number: int) -> Path:
        return self._leases / f"{work}.{number}"

    def _lock_of(self, name: str) -> Path:
        return self._beats / f"{name}.lock"

    def _is_held(self, lease: Path) -> bool:
        held = True  # should it be given back just now: with it comes what it was for
        with unless_gone():
            holder = lease.read_text(encoding="utf-8")
            held = self._lives(holder) if holder else self._age(lease) <= self._limit  # nothing in it: it is being made
        return held

    def _lives(self, name: str) -> bool:
        lives = False
        with unless_gone():
            machine = (self._beats / name).read_text(encoding="utf-8")
            lives = self._age(self._beats / name) <= self._limit and (machine != self._machine or not self._has_ended(name))
        return lives

    def _has_ended(self, name: str) -> bool:
        """Of a process on this machine."""
        lock = FileLock(self._lock_of(name), thread_local=False)
        try:
            lock.acquire(blocking=False)
        except (Timeout, OSError):
            return False
        self._bury(name)
        lock.release()
        return True

    def _age(self, path: Path) -> float:
        """Seconds, by the shared file system's clock. A file that is opened tells its true time, also where attributes are cached."""
        self._renew()
        return _modified(self._beat) - _modified(path)

    def _renew(self) -> None:
        try:
            os.utime(self._beat)
        except FileNotFoundError:  # somebody took this process for dead: its leases are gone, new ones are good
            self._sign_on()

    def _keep_alive(self) -> None:
        while not self._over.wait(self._limit / 4):
            try:
                self._renew()
            except OSError as error:
                log.debug("no beat: %s", error)

    def close(self) -> None:
        """Give back every lease and leave."""
        self._over.set()
        self._thread.join()
        with suppress(OSError):
            for work in list(self._held):
                self.give_back(work)
            self._beat.unlink(missing_ok=True)
        self._open.close()
        with suppress(OSError):
            self._lock_of(self.me).unlink(missing_ok=True)


def _modified(path: Path) -> float:
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.fstat(handle).st_mtime
    finally:
        os.close(handle)


def this_machine() -> str:
    """What processes share that see each other's locks."""
    if given := os.environ.get(MACHINE_VARIABLE):
        return given
    with suppress(OSError):
        return _BOOT_ID.read_text(encoding="ascii").strip()
    return socket.gethostname()


def _limit() -> float:
    text = os.environ.get(LIMIT_VARIABLE, str(_LIMIT_S))
    try:
        value = float(text)
        if not value >= 0.1:
            raise ValueError
    except ValueError:
        raise ConfigError(f"{LIMIT_VARIABLE}={text!r}: must be a number of seconds, such as 60") from None
    return value
