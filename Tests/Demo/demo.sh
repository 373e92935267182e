#!/usr/bin/env bash
# Shows crfs at work: puts an image into a real registry, mounts it without pulling it, and runs Python out of it.
# Called by `make demo`, which builds crfs first. Everything it starts is private to it (free loopback ports, a temporary
# directory) and is gone afterwards; any failure makes it exit with 1.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
crfs=${CRFS_BINARY:?set CRFS_BINARY to the crfs program (make demo does)}
work=$(mktemp -d "${TMPDIR:-/tmp}/crfs-demo.XXXXXX")
mount=$work/crfs
registry_pid=

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
note() { printf '   %s\n' "$*"; }
# Paths are shown from the temporary directory on.
show() {
    printf '   $ %s\n' "${*//$work\//}"
    "$@" 2>&1 | sed "s|$work/||g; s/^/     /"
}
fail() {
    printf 'demo: %s\n' "$*" >&2
    exit 1
}

clean_up() {
    status=$?
    trap - EXIT
    set +e
    if grep -qsF " $mount " /proc/self/mountinfo; then "$crfs" umount "$mount" || umount -l "$mount"; fi
    [ -z "$registry_pid" ] || { kill "$registry_pid" && wait "$registry_pid"; } 2>/dev/null
    if [ "$status" -ne 0 ] && [ -s "$work/crfs.log" ]; then
        printf '\ndemo failed; the end of the log of crfs:\n' >&2
        tail -n 20 "$work/crfs.log" >&2
    fi
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        grep -qsF " $work/" /proc/self/mountinfo || break
        sleep 0.2
    done
    # --one-file-system: what could not be unmounted is left alone.
    rm -rf --one-file-system "$work"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
wait_for() { # WHAT COMMAND…: up to 30 seconds
    local what=$1 try
    shift
    for ((try = 0; try < 300; try++)); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.1
    done
    fail "$what did not come up"
}
mib() { awk -v bytes="$1" 'BEGIN {printf "%.1f MiB", bytes / 1048576}'; }

[ "$(id -u)" = 0 ] || fail "needs root: chroot, and a mount that root's programs may use"
[ -e /dev/fuse ] || fail "needs /dev/fuse, which this machine does not have"
[ -x "$crfs" ] || fail "$crfs is not there; run make build"
[ -x /usr/bin/python3 ] || fail "needs Debian's python3 in /usr/bin"

say "1. An image with Python in it, made of this machine's own files"
python3 "$here/mkroot.py" "$work/root.tar"
mkdir -p "$work/app/srv"
cat >"$work/app/srv/hello.py" <<'PYTHON'
import json, os, platform, sqlite3

table = sqlite3.connect(":memory:")
table.execute("create table squares (n, square)")
table.executemany("insert into squares values (?, ?)", ((n, n * n) for n in range(10)))
total, = table.execute("select sum(square) from squares").fetchone()
print(json.dumps({"python": platform.python_version(), "root": sorted(os.listdir("/")), "sum of squares": total}))
PYTHON
tar -C "$work/app" --owner=0 --group=0 -cf "$work/app.tar" .
for layer in root app; do
    "$crfs" convert "file:$work/$layer.tar" "file:$work/$layer.tar.gz" | sed -n "s/^\(size\|toc-digest\): /   $layer layer, \1 /p"
done
python3 "$here/../TestSupport/mklayout.py" "$work/layout" latest "$work/root.tar.gz" "$work/app.tar.gz" >/dev/null
image_bytes=$(($(stat -c %s "$work/root.tar.gz") + $(stat -c %s "$work/app.tar.gz")))
note "two eStargz layers, $(mib "$image_bytes")"

say "2. A registry on loopback (Debian's docker-registry), and the image in it"
for attempt in 1 2 3; do
    port=$(free_port)
    cat >"$work/registry.yml" <<YAML
version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: "127.0.0.1:$port", secret: demo}
YAML
    docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
    registry_pid=$!
    if wait_for "the registry" curl -fs "http://127.0.0.1:$port/v2/" && kill -0 "$registry_pid"; then break; fi
    [ "$attempt" -lt 3 ] || fail "docker-registry does not start: $(tail -n 1 "$work/registry.log")"
done
skopeo --insecure-policy copy --quiet --preserve-digests --dest-tls-verify=false \
    "oci:$work/layout:latest" "docker://127.0.0.1:$port/demo:latest"
note "127.0.0.1:$port/demo:latest"

say "3. The mount: nothing is pulled"
mkdir -p "$mount" "$work/local"
mark=$(wc -l <"$work/registry.log")
# What the registry has sent to anybody since then, from its access log: the size stands behind the status.
fetched() {
    tail -n "+$((mark + 1))" "$work/registry.log" |
        awk 'match($0, /" [0-9][0-9][0-9] [0-9]+ /) {split(substr($0, RSTART, RLENGTH), part, " "); sum += part[3]}
             END {print sum + 0}'
}
# Without the background fetch, so that what is fetched is what was read and its neighbours.
"$crfs" mount --foreground --no-background --cache-dir "$work/cache" --local-dir "$work/local" "$mount" >"$work/crfs.log" 2>&1 &
wait_for "the mount" grep -qF " $mount " /proc/self/mountinfo
host=$mount/images/127.0.0.1:$port
image=$host/demo/latest
show ls "$mount" "$host/demo"
show readlink "$image"
show ls "$image/"
show ls "$mount/layers/127.0.0.1:$port/demo/latest/"
note "the registry has sent $(mib "$(fetched)") of $(mib "$image_bytes") so far"

say "4. Python out of the mounted image"
printf '   $ chroot %s /usr/bin/python3 -c …\n' "${image#"$work"/}"
answer=$(chroot "$image" /usr/bin/python3 -c 'print("sum:", sum(range(101)))')
note "  $answer"
[ "$answer" = "sum: 5050" ] || fail "Python in the chroot answered: $answer"
answer=$(chroot "$image" /usr/bin/python3 /srv/hello.py)
note "  $answer"
grep -q '"sum of squares": 285' <<<"$answer" || fail "hello.py in the chroot answered: $answer"
bytes=$(fetched)
note "the registry has sent $(mib "$bytes") of $(mib "$image_bytes"): only what was read, and its neighbours"
[ "$bytes" -gt 0 ] || fail "the registry's log shows no bytes sent"

if command -v podman >/dev/null && command -v runc >/dev/null; then
    say "5. The same image under Podman, writable on top"
    # The limits and the runtime are those that also work where root itself runs in a container.
    answer=$(podman --root "$work/podman" --runroot "$work/podman-run" run --rm --runtime runc --network none \
        --ulimit nofile=1024:4096 --ulimit nproc=1024:2048 --rootfs "$image:O" \
        /bin/sh -c 'echo written >/srv/new; cat /srv/new; exec python3 /srv/hello.py')
    sed 's/^/     /' <<<"$answer"
    grep -q '"sum of squares": 285' <<<"$answer" || fail "hello.py under Podman answered: $answer"
    [ ! -e "$image/srv/new" ] || fail "the container wrote into the image"
else
    say "5. Left out: no podman here"
fi

say "6. The end"
"$crfs" umount "$mount"
wait_for "the end of the mount" bash -c '! grep -qF " $0 " /proc/self/mountinfo' "$mount"
printf '\ndemo: it works: Python ran out of an image that was never pulled (%s of %s fetched)\n' \
    "$(mib "$bytes")" "$(mib "$image_bytes")"
