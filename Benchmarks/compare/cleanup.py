"""Takes down what a run made: processes, mounts, network namespaces and links, scratch directories.

Whatever is made is registered at once, and taken down in reverse order at the end, on an exception and on
SIGINT, SIGTERM or SIGHUP. The register is also a file, `<work>/runs/leftovers-PID.json`, so that the next run
removes what a killed one left. Signals raise `Interrupted` in the main thread, but never between the making
of a thing and its registration."""

import atexit
import contextlib
import ctypes
import json
import os
import pathlib
import shutil
import signal
import subprocess
import threading
import time

PR_SET_CHILD_SUBREAPER = 36


class Interrupted(SystemExit):
    """A signal asked the run to end; the exit code is 128 + its number."""


class Failed(Exception):
    """A command did not do what it should; the text says which and why."""


_register = []  # (kind, value) in the order of making; a process's value is [pid, start time]
_file = None
_holders = 0
_pending = None
_ending = False
_lock = threading.RLock()


def install(work):
    """Handles signals and the end of this process, and takes down what dead runs in `work` left."""
    global _file
    runs = pathlib.Path(work) / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    remove_leftovers(work)
    _file = runs / f"leftovers-{os.getpid()}.json"
    # Orphans of what we start become our children, so that they can be found and ended.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _on_signal)
    atexit.register(take_down)
    _save()


def remove_leftovers(work):
    """Takes down what dead runs in `work` left."""
    for old in sorted((pathlib.Path(work) / "runs").glob("leftovers-*.json")):
        _take_down_leftovers(old)


def take_down():
    """Takes down all that is registered, newest first; a second signal does not stop it."""
    global _file, _ending
    _ending = True
    with held(final=True):
        while _register:
            kind, value = _register[-1]
            _undo(kind, value)
            _drop(kind, lambda other: other is value)
        for pid in reversed(descendants(os.getpid())):
            _kill_process(pid, start_time(pid))
        if _file:
            _file.unlink(missing_ok=True)
            _file = None


@contextlib.contextmanager
def held(final=False):
    """Delays signals until the block is left (for ever with `final`); only the main thread gets any."""
    global _holders, _pending
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _holders += 1
    try:
        yield
    finally:
        if not final:
            _holders -= 1
            if _holders == 0 and _pending:
                number, _pending = _pending, None
                raise Interrupted(128 + number)


# Processes.


def start(command, netns=None, **options):
    """Starts a process as the leader of a session of its own; with `netns` inside that network namespace."""
    with held():
        if _ending:
            raise Failed(f"{_name(command)}: not started: the run ends")
        process = subprocess.Popen(inside(netns, command), start_new_session=True, **options)
        _add("process", [process.pid, start_time(process.pid)])
    return process


def stop(process, grace=10, number=signal.SIGTERM):
    """Ends a started process and its group: asks first, kills after `grace` seconds."""
    if process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            pass
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)  # One that hangs in a mount ends when that mount's daemon does.
    _drop("process", lambda value: value[0] == process.pid)


def run(command, timeout=None, check=True, netns=None, input=None, **options):
    """Runs a command to its end; returns a CompletedProcess. Its whole group is ended at `timeout`."""
    options.setdefault("stdin", subprocess.DEVNULL if input is None else subprocess.PIPE)
    options.setdefault("stdout", subprocess.PIPE)
    options.setdefault("stderr", subprocess.PIPE)
    process = start(command, netns=netns, text=True, errors="replace", **options)
    try:
        output, error = process.communicate(input, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise Failed(f"{_name(command)}: not done after {timeout:.0f} s") from None
    finally:
        stop(process, grace=0)
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()
    if check and process.returncode != 0:
        text = " ".join(((error or "") + (output or "")).split())[-400:]
        raise Failed(f"{_name(command)}: exit {process.returncode}: {text}")
    return subprocess.CompletedProcess(command, process.returncode, output, error)


def inside(netns, command):
    """The command for a network namespace. Not `ip netns exec`: its mounts would be invisible outside."""
    return ["nsenter", f"--net=/run/netns/{netns}", *command] if netns else list(command)


# Mounts, directories, network.


def tree(path):
    """Makes a directory; it goes with every mount at or below it when the run ends."""
    path = pathlib.Path(path)
    with held():
        _add("tree", str(path))
        path.mkdir(parents=True, exist_ok=True)
    return path


def remove_tree(path):
    """Unmounts what is mounted at or below a directory and removes it."""
    _undo("tree", str(path))
    _drop("tree", lambda value: value == str(path))


def namespace(name):
    """Makes a network namespace."""
    with held():
        _add("namespace", name)
        subprocess.run(["ip", "netns", "add", name], check=True)


def remove_namespace(name):
    """Removes a network namespace, with the links that are in it."""
    _undo("namespace", name)
    _drop("namespace", lambda value: value == name)


def link(name):
    """Registers a network link of ours, before it is made."""
    _add("link", name)


def unmount(path):
    """Unmounts one mount point, lazily when it stays busy for a second; False when nothing is there."""
    if str(path) not in mounts():
        return False
    for _ in range(20):
        done = subprocess.run(["umount", str(path)], capture_output=True)
        if done.returncode == 0 or str(path) not in mounts():
            return True
        time.sleep(0.05)
    subprocess.run(["umount", "-l", str(path)], capture_output=True)
    return True


def mounts(below=""):
    """The mount points at or below a directory, newest first."""
    with open("/proc/self/mountinfo") as table:
        points = [line.split(" ", 5)[4].encode().decode("unicode_escape") for line in table]
    return [
        point for point in reversed(points) if not below or point == below or point.startswith(below + "/")
    ]


def descendants(pid):
    """Pids of the children of a process and of their children, the eldest first."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    parents.setdefault(int(file.read().rpartition(")")[2].split()[1]), []).append(int(name))
            except OSError:
                continue
    found, front = [], [pid]
    while front:
        children = parents.get(front.pop(), [])
        found += children
        front += children
    return found


def start_time(pid):
    """When a process started, in clock ticks since boot: with the pid its name for good. None if gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


# Inside.


def _on_signal(number, _frame):
    global _pending
    if _holders:
        _pending = number
    else:
        raise Interrupted(128 + number)


def _add(kind, value):
    with _lock:
        _register.append((kind, value))
        _save()


def _drop(kind, matches):
    with _lock:
        for index in reversed(range(len(_register))):
            if _register[index][0] == kind and matches(_register[index][1]):
                del _register[index]
                break
        _save()


def _save():
    if _file:
        text = json.dumps({"pid": os.getpid(), "start": start_time(os.getpid()), "made": _register})
        temporary = _file.with_suffix(".new")
        temporary.write_text(text)
        temporary.rename(_file)


def _take_down_leftovers(path):
    try:
        left = json.loads(path.read_text())
    except ValueError:
        left = {"pid": 0, "start": 0, "made": []}
    if left["pid"] and start_time(left["pid"]) == left["start"]:
        return  # That run goes on.
    for kind, value in reversed(left["made"]):
        _undo(kind, value)
    path.unlink(missing_ok=True)


def _undo(kind, value):
    if kind == "process":
        _kill_process(*value)
    elif kind == "tree":
        for point in mounts(value):
            unmount(point)
        if not mounts(value):
            shutil.rmtree(value, ignore_errors=True)
    elif kind == "namespace":
        subprocess.run(["ip", "netns", "del", value], capture_output=True)
    elif kind == "link":
        subprocess.run(["ip", "link", "del", value], capture_output=True)


def _kill_process(pid, started):
    """Ends a session leader and its group, first politely; never another process with the same number."""
    for number, seconds in ((signal.SIGTERM, 2), (signal.SIGKILL, 5)):
        if started is None or start_time(pid) != started:
            break
        with contextlib.suppress(OSError):
            # The group only where the process leads it.
            os.killpg(pid, number) if os.getpgid(pid) == pid else os.kill(pid, number)
        deadline = time.monotonic() + seconds
        while start_time(pid) == started and time.monotonic() < deadline:
            time.sleep(0.01)
    with contextlib.suppress(OSError):
        os.waitpid(pid, os.WNOHANG)


def _name(command):
    return " ".join(str(word) for word in command)[:160]
