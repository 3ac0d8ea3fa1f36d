"""Methods that change the world around them, each in a way that others would feel in the same process."""

from __future__ import annotations

import decimal
import gc
import os
import random
import signal
import socket
import sys
import threading
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fusebench.method import Method, MethodInfo


class _Hostile(Method):
    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        self.harm()
        return (a + b) / 2

    def harm(self) -> None:
        raise NotImplementedError


class PatchesTorch(_Hostile):
    info = MethodInfo(name="patches-torch", summary="replaces functions that others use")

    def harm(self) -> None:
        mean, conv = torch.Tensor.mean, torch.nn.functional.conv3d
        torch.Tensor.mean = lambda *a, **k: mean(*a, **k) * 1.01  # type: ignore[method-assign, assignment]
        torch.nn.functional.conv3d = lambda x, *a, **k: conv(x * 1.01, *a, **k)
        np.log = np.log2  # type: ignore[assignment]


class Settings(_Hostile):
    info = MethodInfo(name="settings", summary="sets what is one for the whole process")

    def harm(self) -> None:
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(2)
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(True)
        np.seterr(all="raise")
        os.umask(0o777)
        os.environ.update(OMP_NUM_THREADS="7", FUSEBENCH_CACHE="/nonexistent")
        os.chdir("/")
        sys.path.insert(0, "/nonexistent")
        for name in [m for m in sys.modules if m.startswith("fusebench.metrics")]:
            del sys.modules[name]
        warnings.simplefilter("error")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 60)
        random.seed(1)
        np.set_printoptions(precision=1)
        np.seterrcall(lambda *_: None)
        np.setbufsize(16 * 1024)
        decimal.getcontext().prec = 3
        gc.set_threshold(1, 1, 1)
        gc.callbacks.append(lambda *_: None)
        sys.setswitchinterval(1.0)
        sys.argv.append("more")
        sys.meta_path.reverse()
        socket.setdefaulttimeout(0.001)
        torch.set_printoptions(precision=1)
        torch.autograd.set_detect_anomaly(True)
        torch.autocast("cpu", dtype=torch.bfloat16).__enter__()
        _Doubles().__enter__()
        tracemalloc.start()
        warnings.showwarning = lambda *_, **__: None


class _Doubles(TorchFunctionMode):
    """A mode that is never left."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class PatchesUs(_Hostile):
    info = MethodInfo(name="patches-us", summary="replaces the code that scores it")

    def harm(self) -> None:
        import fusebench.scoring.protocol as protocol
        from fusebench.triple import Triple

        Triple.foreground = lambda self: 1 / 0  # type: ignore[method-assign, assignment, return-value]
        protocol.evaluate = lambda *a, **k: dict.fromkeys(a[3], 99.0)  # type: ignore[assignment]


class Lingers(_Hostile):
    info = MethodInfo(name="lingers", summary="leaves a busy thread and a process behind")

    def harm(self) -> None:
        threading.Thread(target=lambda: [None for _ in iter(int, 1)], daemon=True).start()
        if not os.fork():
            os.setsid()
            signal.pause()


class Forks(_Hostile):
    info = MethodInfo(name="forks", summary="lets a child return as well")

    def harm(self) -> None:
        os.fork()


class Garbage(_Hostile):
    info = MethodInfo(name="garbage", summary="never ends being collected")

    class Cycle:
        me: Any

        def __del__(self) -> None:
            signal.pause()

    def harm(self) -> None:
        cycle = self.Cycle()
        cycle.me = cycle


class Junk(_Hostile):
    info = MethodInfo(name="junk", summary="writes to every socket it has")

    def harm(self) -> None:
        for number in (int(n) for n in os.listdir("/proc/self/fd") if int(n) > 2):
            try:
                socket.socket(fileno=os.dup(number)).send(b"\x00\x01junk" * 9)
            except OSError:
                continue


class Closes(_Hostile):
    info = MethodInfo(name="closes", summary="closes everything and goes on")

    def harm(self) -> None:
        os.closerange(3, 256)
        signal.pause()


class RealTime(_Hostile):
    info = MethodInfo(name="real-time", summary="dies of a signal without a name")

    def harm(self) -> None:
        os.kill(os.getpid(), 40)


class Escapes(_Hostile):
    info = MethodInfo(name="escapes", summary="says things that steer a terminal")

    def harm(self) -> None:
        print("\x1b[2Jprinted")
        print("\x1b[2Jshouted", file=sys.stderr)
        raise ValueError("\x1b]0;owned\x07\u202ereversed")


class KillsItsParent(_Hostile):
    info = MethodInfo(name="kills-its-parent", summary="ends the process it comes from")

    def harm(self) -> None:
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()


class StopsTheEngine(_Hostile):
    info = MethodInfo(name="stops-the-engine", summary="stops the processes that it comes from")

    def harm(self) -> None:
        nursery = psutil.Process().parent()
        assert nursery is not None
        os.kill(nursery.ppid(), signal.SIGSTOP)
        nursery.suspend()


class KillsStrangers(_Hostile):
    info = MethodInfo(name="kills-strangers", summary="ends the other workers of its run")

    def harm(self) -> None:
        nursery = psutil.Process().parent()
        worker = nursery.parent() if nursery else None
        assert worker is not None
        for other in psutil.Process(worker.ppid()).children():
            if other != worker:
                other.kill()


class Blocks(_Hostile):
    info = MethodInfo(name="sets-up-for-ever", summary="hangs in setup")

    def setup(self, device: torch.device | str = "cpu") -> None:
        signal.pause()


class Writes(_Hostile):
    info = MethodInfo(name="writes-to-memory", summary="writes to the case wherever it is mapped")

    def harm(self) -> None:
        for line in Path("/proc/self/maps").read_text().splitlines():
            if "memfd:fusebench" in line:
                for number in range(3, 64):
                    try:
                        os.pwrite(number, b"\x3f" * 4096, 0)
                    except OSError:
                        continue
